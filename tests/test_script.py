"""script.py as the evaluation starts it: a process of its own, real files, the sandbox's filter where it matters."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import script
from debug.sandbox import run_sandboxed
from model.rows.submission import read_results
from tests.clip_folder import make_clip_folder
from tests.toy_clips import clip

NUM_CLIPS = 10


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain folder: ten clips that decode and two files that do not."""
    root = make_clip_folder(tmp_path_factory.mktemp("clips"))
    assert len(list(root.rglob("*.mkv"))) == NUM_CLIPS
    (root / "garbage.mp4").write_bytes(b"this is not a video " * 500)
    (root / "empty.mp4").write_bytes(b"")
    return root


def _script(repository: Path, *arguments: str | Path) -> list[str]:
    return [sys.executable, str(repository / "script.py"), *map(str, arguments)]


def _read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _environment(**extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "DATASET_PATH"}
    return kept | extra


@pytest.fixture(scope="module")
def sandboxed_rows(clips: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """One run under the filter, dataset by environment variable, result in the working directory."""
    folder = tmp_path_factory.mktemp("run")
    done = run_sandboxed(
        _script(repository, "--device", "cpu", "--time"),
        timeout=3600,
        cwd=folder,
        env=_environment(DATASET_PATH=str(clips)),
    )
    assert done.returncode == 0, done.stderr
    assert "12 rows: 10 scored" in done.stderr
    assert "2 fell back" in done.stderr
    assert str(folder / "submission.csv") in done.stderr
    return _read(folder / "submission.csv")


def test_every_id_once_and_only_broken_files_unscored(sandboxed_rows: list[dict[str, str]], clips: Path) -> None:
    expected = {path.relative_to(clips).as_posix() for path in clips.rglob("*") if path.is_file()}
    assert len(sandboxed_rows) == len(expected)
    assert {row["id"] for row in sandboxed_rows} == expected
    assert {row["id"] for row in sandboxed_rows if not row["score"]} == {"garbage.mp4", "empty.mp4"}
    for row in sandboxed_rows:
        assert row["pred"] in {"generated", "real"}
        if row["score"]:
            assert (float(row["score"]) > 0) == (row["pred"] == "generated")
            assert float(row["time"]) > 0


def test_same_scores_with_other_batches_and_workers(
    sandboxed_rows: list[dict[str, str]], clips: Path, repository: Path, tmp_path: Path
) -> None:
    output = tmp_path / "other.csv"
    command = _script(repository, "--dataset", clips, "--output", output, "--device", "cpu")
    command += ["--batch-size", "5", "--workers", "1", "--columns", "challenge"]
    done = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    scores = {row["id"]: row["score"] for row in _read(output)}
    for row in sandboxed_rows:
        if row["score"]:
            assert float(scores[row["id"]]) == pytest.approx(float(row["score"]), abs=2e-3), row["id"]
    assert list(_read(output)[0]) == ["id", "pred", "score"]


def test_strict_turns_fallbacks_into_an_exit_code(clips: Path, repository: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    folder.mkdir()
    (folder / "good.mkv").write_bytes(next(clips.rglob("*.mkv")).read_bytes())
    (folder / "broken.mp4").write_bytes(b"\0" * 1000)
    command = _script(repository, "--dataset", folder, "--device", "cpu", "--strict")
    done = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert "broken.mp4: not scored" in done.stderr
    assert len(_read(tmp_path / "submission.csv")) == 2


@pytest.mark.parametrize("num_scored", [0, 1])
def test_sigterm_keeps_what_was_scored(clips: Path, repository: Path, tmp_path: Path, num_scored: int) -> None:
    """The signal comes once the file is there, and once it has a score."""
    process = subprocess.Popen(
        _script(repository, "--dataset", clips, "--device", "cpu"),
        cwd=tmp_path, env=_environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    output = tmp_path / "submission.csv"
    scored: dict[str, str] = {}
    while not output.exists() or len(scored) < num_scored:
        assert process.poll() is None
        time.sleep(0.01)
        rows = _read(output) if output.exists() else []
        scored = {row["id"]: row["score"] for row in rows if row["score"]}
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate()
    over = "INFO wrote " in log  # then nothing is left to keep, and the signal ends it as it ends any process
    assert process.returncode in (0, 128 + signal.SIGTERM, *([-signal.SIGTERM] if over else ())), log
    kept = {row["id"]: row["score"] for row in _read(output)}
    assert len(kept) == NUM_CLIPS + 2
    assert scored.items() <= kept.items()


def test_message_without_a_dataset(repository: Path, tmp_path: Path) -> None:
    command = _script(repository, "--dataset", tmp_path / "nowhere")
    done = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 2
    assert "no dataset at" in done.stderr
    assert "/tmp/data" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "submission.csv").exists()


def test_damaged_weights_still_leave_a_complete_file(clips: Path, repository: Path, tmp_path: Path) -> None:
    command = _script(repository, "--dataset", clips, "--weights", tmp_path / "nothing")
    done = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 2
    assert "no weights: cannot read" in done.stderr
    assert len(_read(tmp_path / "submission.csv")) == NUM_CLIPS + 2


def test_help_explains_the_options(repository: Path) -> None:
    done = subprocess.run(_script(repository, "--help"), capture_output=True, text=True)
    assert done.returncode == 0
    for option in ("--dataset", "--output", "--device", "--batch-size", "--workers", "--time", "--strict", "--resume"):
        assert option in done.stdout


def test_single_videos_are_told_and_no_file_is_written(clips: Path, repository: Path, tmp_path: Path) -> None:
    video = clips / "real" / "phone" / "0.mkv"
    command = _script(repository, video, clips / "garbage.mp4", "--device", "cpu", "--html", tmp_path / "page.html")
    done = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    verdict, broken = (line for line in done.stdout.splitlines() if not line.startswith("wrote"))
    assert verdict.split()[0] in {"generated", "real", "inconclusive"}
    assert str(video) in verdict
    assert broken.startswith("no score")
    assert "<figure><img" in (tmp_path / "page.html").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_single_files_as_json(clips: Path, repository: Path, tmp_path: Path) -> None:
    command = _script(
        repository, clips / "generated", clips / "empty.mp4", "--device", "cpu", "--json", "--prior", "0.1"
    )
    done = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["status"] for one in told] == ["scored"] * 6 + ["unreadable"]
    assert told[-1]["score"] is None and "empty" in told[-1]["reason"]
    for one in told[:-1]:
        assert one["label"] == ("generated" if one["score"] > 0 else "real")
        assert one["probability"] == pytest.approx(1 / (1 + 9 * math.exp(-one["score"])), abs=1e-3)
        assert one["frames"] > 0 and one["duration"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.long
def test_a_folder_of_one_s_own_survives_two_kills(clips: Path, repository: Path, tmp_path: Path) -> None:
    """Mixed files, nested, with odd names: killed twice and resumed, the result is that of an undisturbed run."""
    folder = tmp_path / "own"
    for part in ("one", "two", "three"):  # enough for three runs to have something left to do
        shutil.copytree(clips, folder / part)
    odd = folder / 'a, "b"' / "c\td é.mkv"
    odd.parent.mkdir()
    odd.write_bytes(next(clips.rglob("*.mkv")).read_bytes())
    for name in ("notes.txt", "cover.png", "song.mp3"):
        (folder / name).write_bytes(b"something else")
    command = _script(repository, "--dataset", folder, "--device", "cpu")
    undisturbed = subprocess.run(
        [*command, "--output", tmp_path / "whole.csv", "--stats", tmp_path / "stats.json"],
        cwd=tmp_path, env=_environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert "left out: 3 files (1 ." in undisturbed.stderr
    stats = json.loads((tmp_path / "stats.json").read_text())
    assert (stats["rows"], stats["scored"]) == (37, 31)
    output = tmp_path / "scores.csv"
    kept: dict[str, str] = {}
    for kill in range(2):
        process = subprocess.Popen(
            [*command, "--output", output, "--resume"], cwd=tmp_path, env=_environment(), stderr=subprocess.DEVNULL
        )
        while process.poll() is None and len(_scores(output)) <= len(kept):
            time.sleep(0.01)
        process.kill()
        process.wait()
        before, kept = kept, _scores(output)
        assert len(kept) > len(before) and before.items() <= kept.items(), kill
    refused = subprocess.run(
        [*command, "--output", output], cwd=tmp_path, env=_environment(), capture_output=True, text=True
    )
    assert refused.returncode == 2 and f"{len(kept)} scores: --resume goes on with it" in refused.stderr
    resumed = subprocess.run(
        [*command, "--output", output, "--resume", "--stats", tmp_path / "rest.json"],
        cwd=tmp_path, env=_environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads((tmp_path / "rest.json").read_text())["rows"] == 37 - len(kept), "nothing is scored twice"
    assert kept.items() <= _scores(output).items()
    rows, expected = _read(output), _read(tmp_path / "whole.csv")
    assert list(rows[0]) == ["id", "pred", "score", "probability", "status", "reason", "seconds", "duration", "frames"]
    for row, other in zip(rows, expected, strict=True):
        assert float(row.pop("score") or 9) == pytest.approx(float(other.pop("score") or 9), abs=2e-3)
        assert float(row.pop("probability") or 9) == pytest.approx(float(other.pop("probability") or 9), abs=2e-3)
        assert float(row.pop("seconds")) > 0 < float(other.pop("seconds"))
        assert row == other
        assert row["status"] == "scored" or not row["pred"], "a file that cannot be read is not called real"


@pytest.mark.parametrize("suffix", [".csv", pytest.param(".jsonl", marks=pytest.mark.long)])
def test_windows_and_sound_of_a_folder_go_on_after_a_stop(repository: Path, tmp_path: Path, suffix: str) -> None:
    """A row a window, or an entry; what is scored is not scored again; the challenge's columns know neither."""
    folder, output = tmp_path / "films", tmp_path / f"scores{suffix}"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(clip("h264_audio"))
    command = _script(
        repository, "--device", "cpu", "--dataset", folder, "--output", output, "--segments", "1", "--sound"
    )
    first = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    before = read_results(output)["a.mp4"]
    (folder / "b.mp4").write_bytes(clip("h264_one_key"))
    edited = output.read_text()
    output.write_text(edited + _waiting(edited, suffix))
    stats = tmp_path / "stats.json"
    resumed = [*command, "--resume", "--stats", str(stats)]
    done = subprocess.run(resumed, cwd=tmp_path, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(stats.read_text())["rows"] == 1 and "1 sound tracks" in done.stderr
    rows = read_results(output)
    assert rows["a.mp4"] == before and len(before.segments) == 2 and before.sound is not None
    assert [one.score is not None for one in rows["b.mp4"].segments] == [True] * 3
    assert before.sound.score is not None and rows["b.mp4"].sound.status == "refused"  # type: ignore[union-attr]


def _waiting(text: str, suffix: str) -> str:
    """The line of b.mp4, as it stands before it is scored."""
    if suffix == ".jsonl":
        return json.dumps({"id": "b.mp4", "score": None, "status": "waiting"}) + "\n"
    columns = text.splitlines()[0].split(",")
    return ",".join({"id": "b.mp4", "segment": "whole", "status": "waiting"}.get(name, "") for name in columns) + "\n"


def _scores(path: Path) -> dict[str, str]:
    return {row["id"]: row["score"] for row in _read(path) if row["score"]} if path.exists() else {}


def test_the_challenge_s_own_call_asks_nothing(repository: Path, clips: Path, tmp_path: Path) -> None:
    """No options: an earlier file with scores is replaced at once, and a plain folder gives the contract's columns."""
    (tmp_path / "data").mkdir()
    for name in ("a.mkv", "b.mkv"):
        (tmp_path / "data" / name).write_bytes(next(clips.rglob("*.mkv")).read_bytes())
    (tmp_path / "submission.csv").write_text("id,pred,score\nother,real,-1.5\n")
    environment = _environment(DATASET_PATH=str(tmp_path / "data"))
    done = run_sandboxed(_script(repository), timeout=300, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    rows = _read(tmp_path / "submission.csv")
    assert [row["id"] for row in rows] == ["a.mkv", "b.mkv"] and all(row["score"] for row in rows)
    assert list(rows[0]) == ["id", "pred", "score"]


def _within_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What script.main changes for its whole process stays as it is."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    monkeypatch.setenv("HF_HOME", os.environ.get("HF_HOME", ""))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["clip.mp4", "--device", "banana"], 2, "no device is called 'banana'; give cpu, cuda or cuda:N"),
        (["--dataset", ".", "--device", "banana"], 2, "no device is called 'banana'"),
        (["--dataset", ".", "--output", "absent/s.csv"], 1, "cannot write absent/s.csv: its folder does not exist"),
        (["--dataset", ".", "--stats", "."], 1, "cannot write .: it is a folder; name a file"),
        (["clip.mp4", "--html", "absent/p.html"], 1, "cannot write absent/p.html: its folder does not exist"),
        (["absent.mp4"], 2, "absent.mp4 does not exist"),
        (["https://example.org/clip.mp4"], 2, "is a URL, and nothing here uses the network: download the file first"),
        (["--dataset", "s3://bucket/data"], 2, "is a URL, and nothing here uses the network: download the dataset"),
        (["empty"], 2, "no video or audio file in empty: looked for names ending in"),
        (["--dataset", "empty"], 2, "the dataset folder empty is empty"),
        (["--dataset", ".", "--workers", "-1"], 2, "workers must be 0 (automatic) or more, got -1"),
        (["--dataset", ".", "--segments", "2", "--columns", "challenge"], 2, "add --columns detailed"),
        (["--dataset", ".", "--sound", "--columns", "challenge"], 2, "--sound goes with videos and detailed columns"),
        (["--dataset", ".", "--output", "notes.csv"], 2, "notes.csv cannot be read as a result file"),
    ],
)  # fmt: skip
def test_messages_before_a_run(
    arguments: list[str], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """One plain line that names the thing and the remedy, before anything is scored or written."""
    monkeypatch.chdir(tmp_path)
    _within_this_process(monkeypatch)
    (tmp_path / "clip.mp4").write_bytes(b"not looked at")
    (tmp_path / "notes.csv").write_text("something else")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.iterdir())
    assert script.main(arguments) == code
    [line] = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert message in line and "\n" not in line
    assert sorted(tmp_path.iterdir()) == before


def test_a_page_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As after `pip install -r requirements.txt`."""
    _within_this_process(monkeypatch)
    monkeypatch.setattr("debug.inspect_files.find_spec", lambda name: None)
    (tmp_path / "clip.mp4").write_bytes(b"not looked at")
    assert script.main([str(tmp_path / "clip.mp4"), "--html", str(tmp_path / "page.html")]) == 2
    assert "pip install matplotlib==" in caplog.text
