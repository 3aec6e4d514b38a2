"""model.fleet without a cluster: the output folder, pieces of datasets, cores."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install -r model/fleet/requirements.txt")
from ray import cloudpickle

from debug.layouts import MediaFile, write_parquet
from model.fleet.pieces import cut_dataset, scratch_folder
from model.fleet.store import FleetError, Journal, RunRecord, Store
from model.modality import VIDEO
from model.rows.dataset import open_dataset
from model.rows.submission import REFUSED, SCORED, UNREADABLE, Result
from tests.conftest import ROOT

RECORD = RunRecord("0123456789ab", "a dataset", "aa", "video", 2)
ROWS = {
    "a": Result(SCORED, 1.23456789, "", 0.5, 3.0, 8),
    'b,"': Result(UNREADABLE, None, "no frame", 0.1),
    "c\ud800": Result(REFUSED, None, "no video"),
}


def test_a_shard_gives_back_what_was_written(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"))
    store.begin(RECORD)
    assert store.finished(RECORD) == set()
    rows = {name: row for name, row in ROWS.items() if name.isascii()}
    store.write_shard(RECORD, 1, rows)
    assert store.finished(RECORD) == {1}
    assert store.read_shard(RECORD, 1) == rows
    metadata = pq.read_schema(tmp_path / "out/shards/0123456789ab-0000001.parquet").metadata
    assert metadata[b"run_id"] == b"0123456789ab"
    assert [path.name for path in (tmp_path / "out").rglob("*.partial")] == []


def test_ids_that_are_no_text_are_written_as_script_writes_them(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.begin(RECORD)
    store.write_shard(RECORD, 0, ROWS)
    store.write_shard(RECORD, 1, {"a": Result(SCORED, -9.0), "d": Result(SCORED, -0.5)})
    assert store.merge(RECORD, VIDEO) == 4
    with open(tmp_path / "submission.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["id", "pred", "score"], ["a", "generated", "1.23457"], ['b,"', "real", ""], ["c\\ud800", "real", ""],
        ["d", "real", "-0.5"],
    ]  # fmt: skip


def test_a_merge_waits_for_every_piece(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.begin(RECORD)
    store.write_shard(RECORD, 1, {"d": Result(SCORED, -0.5)})
    with pytest.raises(FleetError, match=r"1 of 2 pieces are not finished, e\.g\. 0"):
        store.merge(RECORD, VIDEO)
    assert not (tmp_path / "submission.csv").exists()


def test_an_output_folder_belongs_to_one_run(tmp_path: Path) -> None:
    Store(str(tmp_path)).begin(RECORD)
    Store(str(tmp_path)).begin(RECORD)
    with pytest.raises(FleetError, match="holds run 0123456789ab of a dataset, not run ffff"):
        Store(str(tmp_path)).begin(RunRecord("ffff", "another", "bb", "video", 2))
    with pytest.raises(FleetError, match=r"no run\.json"):
        Store(str(tmp_path / "elsewhere")).record()


def test_a_journal_ends_with_its_piece(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.begin(RECORD)
    assert store.read_journal(0) == Journal()
    store.write_journal(0, Journal(3, 5, {5: 2}))
    assert store.read_journal(0) == Journal(3, 5, {5: 2})
    assert store.deaths() == 3
    store.write_shard(RECORD, 0, {})
    assert store.read_journal(0) == Journal()


def test_what_fsspec_alone_knows_is_a_store_too() -> None:
    store = Store("memory://fleet-test/out")
    store.begin(RECORD)
    store.write_shard(RECORD, 0, {"a": Result(SCORED, 1.0)})
    assert store.finished(RECORD) == {0}
    with pytest.raises(FleetError, match="neither pyarrow nor fsspec"):
        Store("nonsense://x")


@pytest.mark.parametrize("rows_per_piece", [1, 7, 20, 1000])
def test_pieces_hold_every_row_once(dataset: Path, rows_per_piece: int) -> None:
    whole = open_dataset(dataset)
    expected = {row.id: row.media for row in whole.rows()}
    cut = cut_dataset(str(dataset), None, rows_per_piece)
    assert cut.modality is VIDEO
    found: list[tuple[str, object]] = []
    pieces = [cloudpickle.loads(cloudpickle.dumps(piece)) for piece in cut.pieces()]
    assert [piece.number for piece in pieces] == list(range(cut.num_pieces))
    with scratch_folder() as scratch:
        for piece in pieces:
            part = piece.open(scratch)
            assert len(part.ids) <= rows_per_piece
            rows = [(row.id, row.media) for row in part.rows()]
            assert [name for name, _ in rows] == part.ids
            found += rows
    assert [name for name, _ in found] == whole.ids
    assert dict(found) == expected


def test_a_folder_of_files_is_cut(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.mp4").write_bytes(b"x")
    cut = cut_dataset(str(tmp_path), None, 2)
    with scratch_folder() as scratch:
        ids = [piece.open(scratch).ids for piece in cut.pieces()]
    assert ids == [["0.mp4", "1.mp4"], ["2.mp4", "3.mp4"], ["4.mp4"]]


def test_other_rows_make_another_run(dataset: Path, tmp_path: Path) -> None:
    first = cut_dataset(str(dataset), None, 7)
    assert cut_dataset(str(dataset), None, 7).fingerprint == first.fingerprint
    assert cut_dataset(str(dataset), None, 8).fingerprint != first.fingerprint
    write_parquet([MediaFile("x", "x.mp4", b"x")], tmp_path / "data", VIDEO)
    assert cut_dataset(str(tmp_path / "data"), None, 7).fingerprint != first.fingerprint


def test_two_actors_claim_cores_of_their_own(tmp_path: Path) -> None:
    """Each in a process of its own, as actors are; the second one asks while the first one lives."""
    code = (
        "import sys; from pathlib import Path; from model.fleet.actor import claim_cores\n"
        "print(*claim_cores(1, Path(sys.argv[1])), flush=True); sys.stdin.read()"
    )
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    first, second = (
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, text=True,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    )  # fmt: skip
    cores = []
    for process in (first, second):
        assert process.stdout is not None
        cores.append(process.stdout.readline())
    for process in (first, second):
        process.communicate("")
    assert cores[0] != cores[1]
