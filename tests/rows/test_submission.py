"""The result file: exact columns, complete at once, atomic, and a full disk costs nothing that was there."""

from __future__ import annotations

import csv
import json
import logging
import math
import subprocess
import sys
from pathlib import Path

import pytest

from model.modality import AUDIO
from model.rows.submission import (
    DETAILED_COLUMNS,
    SEGMENT_COLUMNS,
    SOUND_COLUMNS,
    ResultError,
    ResultFile,
    count_scores,
    read_results,
)
from model.verdict import Segment


def _read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_complete_before_anything_is_scored(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    ResultFile(path, ["b", "a", "c"]).write()
    assert path.read_text() == "id,pred,score\nb,real,\na,real,\nc,real,\n"


@pytest.mark.parametrize(("score", "pred"), [(0.25, "generated"), (-0.25, "real"), (0.0, "real"), (1e-9, "generated")])
def test_pred_follows_the_sign_of_the_score(tmp_path: Path, score: float, pred: str) -> None:
    result = ResultFile(tmp_path / "submission.csv", ["a"])
    result.set_score("a", score)
    result.write()
    (row,) = _read(tmp_path / "submission.csv")
    assert row["pred"] == pred
    assert (float(row["score"]) > 0) == (pred == "generated")


def test_time_column_is_optional_and_last(tmp_path: Path) -> None:
    result = ResultFile(tmp_path / "submission.csv", ["a", "b"], with_time=True)
    result.set_score("a", 1.5, seconds=0.125)
    result.write()
    rows = _read(tmp_path / "submission.csv")
    assert list(rows[0]) == ["id", "pred", "score", "time"]
    assert (rows[0]["time"], rows[1]["time"]) == ("0.1250", "")


@pytest.mark.parametrize(
    "clip_id", ["with,comma", 'with "quotes"', "line\nbreak", "carriage\rreturn", "ünïcode-视频", " spaces "]
)
def test_ids_come_back_as_they_were(tmp_path: Path, clip_id: str) -> None:
    result = ResultFile(tmp_path / "submission.csv", [clip_id])
    result.set_score(clip_id, -2.0)
    result.write()
    assert [row["id"] for row in _read(tmp_path / "submission.csv")] == [clip_id]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_no_numbers_are_refused(tmp_path: Path, score: float) -> None:
    result = ResultFile(tmp_path / "submission.csv", ["a"])
    with pytest.raises(ValueError, match="score of a is"):
        result.set_score("a", score)


def test_unknown_and_repeated_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 ids occur more than once"):
        ResultFile(tmp_path / "submission.csv", ["a", "a"])
    with pytest.raises(KeyError, match="'z' is not in the result file"):
        ResultFile(tmp_path / "submission.csv", ["a"]).set_score("z", 1.0)


def test_last_good_file_stays_when_the_folder_goes_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    result = ResultFile(folder / "submission.csv", ["a"])
    assert result.write()
    folder.rename(tmp_path / "moved")
    with caplog.at_level(logging.ERROR):
        assert not result.write()
        assert not result.write()
    assert len(caplog.records) == 1, "the trouble is told once, not at every write"
    (tmp_path / "moved").rename(folder)
    result.set_score("a", 3.0)
    assert result.write()
    assert _read(folder / "submission.csv")[0]["score"] == "3"


_FULL_DISK = """
import signal, resource, sys
from pathlib import Path
from model.rows.submission import ResultFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit then fails as on a full disk
path = Path(sys.argv[1])
result = ResultFile(path, [f"clip-{number}" for number in range(2000)])
assert result.write()
before = path.read_bytes()
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
result.set_score("clip-7", 1.0)
assert not result.write(), "the write should have failed"
assert path.read_bytes() == before, "the last good file was touched"
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert result.write()
assert b"clip-7,generated,1\\n" in path.read_bytes()
assert [file.name for file in path.parent.iterdir()] == [path.name], "a partial file was left behind"
"""


def test_full_disk_keeps_the_last_good_file(tmp_path: Path, repository: Path) -> None:
    path = tmp_path / "submission.csv"
    done = subprocess.run([sys.executable, "-c", _FULL_DISK, path], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "the last good file stays" in done.stderr


def test_a_file_name_that_is_no_text(tmp_path: Path) -> None:
    """Linux names are bytes: the id of clip_\\xff.mp4 holds a lone surrogate, which UTF-8 has no place for."""
    result = ResultFile(tmp_path / "submission.csv", ["clip_\udcff.mp4", "b"])
    assert result.write()
    assert [row["id"] for row in _read(tmp_path / "submission.csv")] == ["clip_\\udcff.mp4", "b"]


def test_pandas_reads_every_id_back(tmp_path: Path) -> None:
    """The competition joins on id with pandas."""
    import pandas

    ids = ["a\rb", "a\nb", 'a"b', "a,b", " a", "", "None", "1", "007", "視"]
    result = ResultFile(tmp_path / "submission.csv", ids)
    result.write()
    frame = pandas.read_csv(tmp_path / "submission.csv", dtype=str, keep_default_na=False)
    assert list(frame["id"]) == ids and list(frame.columns) == ["id", "pred", "score"]


def test_a_leftover_of_a_killed_run_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".submission.csv.partial").write_text("id,pred,sc")
    assert ResultFile(tmp_path / "submission.csv", ["a"]).write()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["submission.csv"]


def test_a_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Said once, and the run goes on; a later write tries again."""
    path = tmp_path / "missing" / "submission.csv"
    result = ResultFile(path, ["a"])
    assert not result.write() and not result.write()
    assert "No such file or directory" in caplog.text and len(caplog.records) == 1
    path.parent.mkdir()
    assert result.write()


def test_the_labels_and_the_time_column_are_the_challenge_s(tmp_path: Path) -> None:
    result = ResultFile(tmp_path / "submission.csv", ["a", "b", "c"], AUDIO)
    result.set_score("a", 2.0, seconds=0.5)
    result.set_score("b", -2.0, seconds=0.25)
    assert result.write()
    expected = "id,pred,score,time\na,generated,2,0.5000\nb,pristine,-2,0.2500\nc,pristine,,\n"
    assert (tmp_path / "submission.csv").read_text() == expected


def detailed_file(path: Path, *, prior: float = 0.5) -> ResultFile:
    result = ResultFile(path, ["a.mp4", "b.mp4", "c.mp4", 'd "x",\n.mp4', "e"], detailed=True, prior=prior)
    result.set_score("a.mp4", 1.25, reason="3 of 4 frames decoded", seconds=0.5, duration_seconds=12.5, num_frames=8)
    result.set_score("b.mp4", -700.0, duration_seconds=float("nan"))
    result.set_unscored("c.mp4", "no frame can be decoded", seconds=0.125)
    result.set_unscored('d "x",\n.mp4', "no video stream", refused=True)
    assert result.write()
    return result


def test_detailed_columns_as_csv(tmp_path: Path) -> None:
    """A file that cannot be read gets no verdict; the challenge's file needs one."""
    detailed_file(tmp_path / "scores.csv")
    rows = _read(tmp_path / "scores.csv")
    assert tuple(rows[0]) == DETAILED_COLUMNS
    assert rows[0] == {
        "id": "a.mp4", "pred": "generated", "score": "1.25", "probability": f"{1 / (1 + math.exp(-1.25)):.6g}",
        "status": "scored", "reason": "3 of 4 frames decoded", "seconds": "0.5000", "duration": "12.500", "frames": "8",
    }  # fmt: skip
    assert [row["status"] for row in rows] == ["scored", "scored", "unreadable", "refused", "waiting"]
    assert [row["pred"] for row in rows] == ["generated", "real", "", "", ""]
    assert [row["score"] for row in rows[2:]] == [row["probability"] for row in rows[2:]] == ["", "", ""]
    assert rows[1]["duration"] == "" and float(rows[1]["probability"]) == pytest.approx(0, abs=1e-300)


def test_detailed_rows_as_json_lines(tmp_path: Path) -> None:
    detailed_file(tmp_path / "scores.jsonl", prior=0.1)
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert all(tuple(row) == DETAILED_COLUMNS for row in rows)
    odds = math.exp(1.25) * 0.1 / 0.9
    assert rows[0]["probability"] == pytest.approx(odds / (1 + odds), rel=1e-5)
    assert (rows[0]["score"], rows[0]["frames"], rows[0]["duration"], rows[0]["pred"]) == (1.25, 8, 12.5, "generated")
    assert (rows[2]["pred"], rows[2]["score"], rows[2]["reason"]) == (None, None, "no frame can be decoded")
    assert rows[3]["id"] == 'd "x",\n.mp4'


@pytest.mark.parametrize("prior", [0.0, 1.0, -0.1, float("nan")])
def test_a_prior_is_between_0_and_1(prior: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"prior is .*between 0 and 1"):
        ResultFile(tmp_path / "scores.csv", ["a"], prior=prior)


@pytest.mark.parametrize("name", ["scores.csv", "scores.jsonl"])
def test_a_file_is_taken_up_where_it_was_left(name: str, tmp_path: Path) -> None:
    first = detailed_file(tmp_path / name)
    before = (tmp_path / name).read_bytes()
    second = ResultFile(tmp_path / name, ["a.mp4", "b.mp4", "c.mp4", 'd "x",\n.mp4', "e"], detailed=True)
    assert second.resume(read_results(tmp_path / name)) == {"a.mp4", "b.mp4"}
    second.set_unscored("c.mp4", "no frame can be decoded", seconds=0.125)
    second.set_unscored('d "x",\n.mp4', "no video stream", refused=True)
    assert second.write()
    assert (tmp_path / name).read_bytes() == before, "what was scored stands as it stood"
    assert len(first.rows) == 5


@pytest.mark.parametrize("clip_id", ["clip_\udcff.mp4", "007", "NA", "", 'a"b,\r\nc', "\ufeffmark", "視", " a "])
@pytest.mark.parametrize("name", ["scores.csv", "scores.jsonl"])
def test_ids_are_known_again(clip_id: str, name: str, tmp_path: Path) -> None:
    for detailed in (False, True):
        result = ResultFile(tmp_path / name, [clip_id, "other"], detailed=detailed)
        result.set_score(clip_id, 1.0)
        result.write()
        again = ResultFile(tmp_path / name, [clip_id, "other"], detailed=detailed)
        assert again.resume(read_results(tmp_path / name)) == {clip_id}


@pytest.mark.parametrize(
    ("ids", "message"), [(["a", "b", "c"], "1 ids stand in the dataset alone, e.g. 'c'"),
                         (["a"], "1 ids stand in the file alone, e.g. 'b'")],
)  # fmt: skip
def test_another_dataset_s_file_is_not_taken_up(ids: list[str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    earlier = ResultFile(path, ["a", "b"])
    earlier.set_score("a", 1.0)
    earlier.write()
    with pytest.raises(ResultError, match=message):
        ResultFile(path, ids).resume(read_results(path))


def test_scores_that_a_new_run_would_lose_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    assert count_scores(path) == 0
    path.write_bytes(b"")
    assert count_scores(path) == 0
    result = ResultFile(path, ["a", "b"])
    result.write()
    assert count_scores(path) == 0
    result.set_score("a", -1e-7)
    result.write()
    assert count_scores(path) == 1
    assert read_results(path)["a"].score == -1e-7


@pytest.mark.parametrize(
    "content", [b"name;x\n1;2\n", b"\xff\xfe\x00", b"id,score\na,much\n", b"id,name\n1,x\n", b"[1, 2]"]
)
@pytest.mark.parametrize("name", ["scores.csv", "scores.jsonl"])
def test_a_file_that_is_no_result_is_not_written_over(content: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ResultError, match="cannot be read as a result file"):
        count_scores(tmp_path / name)


SEGMENTS = (
    Segment(0.0, 2.0, -2.5, "", 4), Segment(2.0, 4.0, 3.25, "", 8), Segment(4.0, 5.5, None, "one colour all over", 0)
)  # fmt: skip


def segmented_file(path: Path, seconds: float = 2.0) -> ResultFile:
    result = ResultFile(path, ["a.mp4", 'b "x",\n.mp4', "c.mp4"], detailed=True, segments=seconds)
    result.set_segments("a.mp4", SEGMENTS, 3.25, reason="", seconds=1.5)
    result.set_unscored('b "x",\n.mp4', "no video stream", refused=True)
    result.write()
    return result


def test_a_window_is_a_row_behind_its_file(tmp_path: Path) -> None:
    segmented_file(tmp_path / "scores.csv")
    rows = _read(tmp_path / "scores.csv")
    assert tuple(rows[0]) == SEGMENT_COLUMNS
    assert [(row["id"], row["segment"], row["start"], row["end"], row["pred"], row["status"]) for row in rows] == [
        ("a.mp4", "whole", "", "", "generated", "scored"),
        ("a.mp4", "1", "0.000", "2.000", "real", "scored"),
        ("a.mp4", "2", "2.000", "4.000", "generated", "scored"),
        ("a.mp4", "3", "4.000", "5.500", "", "unreadable"),
        ('b "x",\n.mp4', "whole", "", "", "", "refused"),
        ("c.mp4", "whole", "", "", "", "waiting"),
    ]
    assert (rows[0]["generated"], rows[0]["frames"], rows[0]["duration"]) == ("from 0:02 to 0:04", "12", "5.500")
    assert rows[3]["reason"] == "one colour all over"


def test_a_window_is_an_entry_of_its_file(tmp_path: Path) -> None:
    segmented_file(tmp_path / "scores.jsonl")
    first, second, _ = (json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines())
    assert first["generated"] == [{"start": 2.0, "end": 4.0, "score": 3.25}]
    assert [one["score"] for one in first["segments"]] == [-2.5, 3.25, None]
    assert second["segments"] == [] and second["status"] == "refused"


@pytest.mark.parametrize("name", ["scores.csv", "scores.jsonl"])
def test_windows_are_taken_up_again(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    ids = list(segmented_file(path).rows)
    before = path.read_bytes()
    again = ResultFile(path, ids, detailed=True, segments=2.0)
    assert again.resume(read_results(path)) == {"a.mp4"}
    again.set_unscored(ids[1], "no video stream", refused=True)
    assert again.write() and path.read_bytes() == before
    with pytest.raises(ResultError, match="was made with --segments 2; give the same option"):
        ResultFile(path, ids, detailed=True, segments=5.0).resume(read_results(path))
    with pytest.raises(ResultError, match="was made with --segments; give"):
        ResultFile(path, ids, detailed=True).resume(read_results(path))


def test_windows_never_stand_in_the_challenge_s_columns(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="detailed columns alone"):
        ResultFile(tmp_path / "submission.csv", ["a"], segments=2.0)


@pytest.mark.parametrize("name", ["scores.csv", "scores.jsonl"])
def test_sound_stands_beside_the_picture(name: str, tmp_path: Path) -> None:
    path, ids = tmp_path / name, ["a.mp4", "b.mp4", "c.mp4"]
    result = ResultFile(path, ids, detailed=True, sound=True)
    result.set_score("a.mp4", -2.0)
    result.set_score("b.mp4", 1.5)
    tracks = result.of_sound()
    tracks.set_score("a.mp4", 3.0, num_frames=16_000)
    tracks.set_unscored("b.mp4", "the file holds no sound track that can be decoded", refused=True)
    result.write()
    if name.endswith("csv"):
        rows = _read(path)
        assert tuple(rows[0]) == DETAILED_COLUMNS + SOUND_COLUMNS
        told = [(row["pred"], row["sound_pred"], row["sound_score"], row["sound_status"]) for row in rows]
    else:
        objects = [json.loads(line) for line in path.read_text().splitlines()]
        assert objects[0]["sound"]["score"] == 3.0 and objects[1]["sound"]["score"] is None
        told = [
            tuple("" if value is None else str(value) for value in
                  (one["pred"], one["sound"]["pred"], one["sound"]["score"] and "3", one["sound"]["status"]))
            for one in objects
        ]  # fmt: skip
    assert told == [("real", "generated", "3", "scored"), ("generated", "", "", "refused"), ("", "", "", "waiting")]
    before = path.read_bytes()
    again = ResultFile(path, ids, detailed=True, sound=True)
    assert again.resume(read_results(path)) == {"a.mp4", "b.mp4"}
    assert again.rows["a.mp4"].sound is not None and again.rows["a.mp4"].sound.score == 3.0
    assert again.write() and path.read_bytes() == before


def test_windows_and_sound_together(tmp_path: Path) -> None:
    for name in ("scores.csv", "scores.jsonl"):
        result = ResultFile(tmp_path / name, ["a.mp4"], detailed=True, segments=2.0, sound=True)
        result.set_segments("a.mp4", SEGMENTS, 3.25, reason="", seconds=1.5)
        result.of_sound().set_segments("a.mp4", SEGMENTS[:1], -2.5, reason="", seconds=0.5)
        result.write()
    whole, *windows = _read(tmp_path / "scores.csv")
    assert (whole["sound_pred"], whole["sound_score"]) == ("pristine", "-2.5")
    assert len(windows) == 3 and not any(window["sound_pred"] for window in windows)
    told = json.loads((tmp_path / "scores.jsonl").read_text())
    assert len(told["segments"]) == 3 and [one["verdict"] for one in told["sound"]["segments"]] == ["pristine"]
