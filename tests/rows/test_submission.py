"""The result file: exact columns, complete at once, atomic, and a full disk costs nothing that was there."""

from __future__ import annotations

import csv
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from model.rows.submission import UNSCORED_PRED, ResultFile


def _read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_complete_before_anything_is_scored(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    ResultFile(path, ["b", "a", "c"]).write()
    assert path.read_text() == f"id,pred,score\nb,{UNSCORED_PRED},\na,{UNSCORED_PRED},\nc,{UNSCORED_PRED},\n"


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
    assert result.trouble
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
    assert result.trouble == "No such file or directory" and len(caplog.records) == 1
    path.parent.mkdir()
    assert result.write() and result.trouble == ""
