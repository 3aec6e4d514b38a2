"""A folder of 400 mixed files through script.py, killed twice and resumed."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.mixed_folder import DAMAGED, FILES, GOOD, MISNAMED, make_mixed_folder

pytestmark = pytest.mark.long
_VIDEOS = GOOD + DAMAGED + MISNAMED


def _rows(path: Path) -> dict[str, dict[str, str]]:
    """id -> row of a result file; nothing where there is none yet."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({row["id"] for row in rows}) == len(rows), "one row a file"
    return {row["id"]: row for row in rows}


def _scored(path: Path) -> dict[str, dict[str, str]]:
    return {name: row for name, row in _rows(path).items() if row["score"]}


def _changed(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> list[tuple[object, object]]:
    return [(row, after.get(name)) for name, row in before.items() if row != after.get(name)]


def _command(repository: Path, folder: Path, *arguments: str | Path) -> list[str]:
    script = [sys.executable, str(repository / "script.py"), "--dataset", str(folder), "--device", "cpu"]
    return [*script, *map(str, arguments)]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    folder = tmp_path_factory.mktemp("mixed")
    videos = make_mixed_folder(folder)
    assert sum(path.is_file() for path in folder.rglob("*")) == FILES and len(videos) == _VIDEOS
    return folder, videos


@pytest.fixture(scope="module")
def undisturbed(
    mixed: tuple[Path, set[str]], repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, dict[str, str]], str, dict[str, Any]]:
    """Rows, log and stats of a run that is left alone."""
    place = tmp_path_factory.mktemp("undisturbed")
    command = _command(repository, mixed[0], "--output", place / "whole.csv", "--stats", place / "stats.json")
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return _rows(place / "whole.csv"), done.stderr, json.loads((place / "stats.json").read_text())


def test_one_row_a_video_and_the_others_are_counted(
    mixed: tuple[Path, set[str]], undisturbed: tuple[dict[str, dict[str, str]], str, dict[str, Any]]
) -> None:
    rows, log, stats = undisturbed
    assert f"left out: {FILES - _VIDEOS} files" in log, "images, sounds and text"
    assert set(rows) == mixed[1]
    scored = [row for row in rows.values() if row["score"]]
    assert GOOD <= len(scored) < GOOD + DAMAGED
    assert (stats["rows"], stats["scored"]) == (_VIDEOS, len(scored))
    assert all(row["reason"] and not row["pred"] for row in rows.values() if not row["score"])


def test_killed_twice_and_resumed_the_result_is_the_same(
    mixed: tuple[Path, set[str]], undisturbed: tuple[dict[str, dict[str, str]], str, dict[str, Any]],
    repository: Path, tmp_path: Path,
) -> None:  # fmt: skip
    """Nothing is scored twice, and the file is that of the run that was left alone, but for the seconds."""
    (folder, videos), expected, output = mixed, undisturbed[0], tmp_path / "scores.csv"
    scored = sum(bool(row["score"]) for row in expected.values())
    command = _command(repository, folder, "--output", output, "--resume")
    kept: dict[str, dict[str, str]] = {}
    for share in (0.3, 0.6):
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(_scored(output)) < share * scored:
            time.sleep(0.05)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it was still at work"
        before, kept = kept, _scored(output)
        assert set(_rows(output)) == videos, "complete at any moment"
        assert len(before) < len(kept) < scored
        assert not _changed(before, kept), "down to the seconds that they took: not scored again"
    done = subprocess.run(
        [*command, "--stats", str(tmp_path / "rest.json")], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(kept)} of them have a score already" in done.stderr
    rest = json.loads((tmp_path / "rest.json").read_text())
    assert (rest["rows"], rest["scored"]) == (_VIDEOS - len(kept), scored - len(kept))
    rows = _rows(output)
    assert not _changed(kept, rows)
    assert list(rows) == list(expected), "in the same order"
    moved = 0.0
    for name, row in rows.items():
        other = dict(expected[name])
        for column in ("score", "probability"):
            moved = max(moved, abs(float(row.pop(column) or 0) - float(other.pop(column) or 0)))
        del row["seconds"], other["seconds"]
        assert row == other
    print(f"{_VIDEOS} rows, {scored} scored; {len(kept)} were kept at the second kill; scores moved by {moved:g}")
    assert moved < 1e-4
