"""script.py as the evaluation starts it: a process of its own, real files, the sandbox's filter where it matters."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from debug.sandbox import run_sandboxed
from tests.clip_folder import make_clip_folder

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
    command += ["--batch-size", "5", "--workers", "1"]
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
    assert process.returncode in (0, 128 + signal.SIGTERM), log
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
    for option in ("--dataset", "--output", "--device", "--batch-size", "--workers", "--time", "--strict"):
        assert option in done.stdout


def test_single_videos_are_told_and_no_file_is_written(clips: Path, repository: Path, tmp_path: Path) -> None:
    video = clips / "real" / "phone" / "0.mkv"
    command = _script(repository, video, clips / "garbage.mp4", "--device", "cpu", "--html", tmp_path / "page.html")
    done = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    verdict, broken = (line for line in done.stdout.splitlines() if not line.startswith("wrote"))
    assert verdict.split()[0] in {"generated", "real"}
    assert str(video) in verdict
    assert broken.startswith("no score")
    assert "<figure><img" in (tmp_path / "page.html").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
