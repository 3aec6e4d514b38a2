"""The one writer of parquet files: shards and row groups end where they are asked to."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from debug import layouts
from debug.layouts import MediaFile, write_parquet
from model.modality import AUDIO, MODALITIES, VIDEO


def _shapes(folder: Path) -> list[list[int]]:
    """Rows of each row group of each shard."""
    files = [pq.ParquetFile(file) for file in sorted(folder.iterdir())]
    return [[f.metadata.row_group(g).num_rows for g in range(f.metadata.num_row_groups)] for f in files]


def test_memory_does_not_follow_the_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups stay near their limit, whatever the shard's size."""
    monkeypatch.setattr(layouts, "_GROUP_BYTES", 3000)
    rows = (MediaFile(f"id{k}", f"id{k}.mp4", b"x" * 1000) for k in range(25))
    assert write_parquet(rows, tmp_path, VIDEO, shard_bytes=10_000) == 3
    assert [file.name for file in sorted(tmp_path.iterdir())] == [f"test-{k:05d}-of-00003.parquet" for k in range(3)]
    assert _shapes(tmp_path) == [[3, 3, 3, 1], [3, 3, 3, 1], [3, 2]]


@pytest.mark.parametrize(("num_rows", "shapes"), [(0, []), (1, [[1]]), (4, [[2, 2]]), (9, [[2, 2], [2, 2], [1]])])
def test_rows_of_shards_and_groups(num_rows: int, shapes: list[list[int]], tmp_path: Path) -> None:
    rows = [MediaFile(str(k), f"{k}.wav", b"abc") for k in range(num_rows)]
    assert write_parquet(rows, tmp_path, AUDIO, shard_rows=4, group_rows=2) == len(shapes)
    assert _shapes(tmp_path) == shapes
    tables = [pq.read_table(file).to_pylist() for file in sorted(tmp_path.iterdir())]
    read = [row for table in tables for row in table]
    assert read == [{"id": str(k), "audio": {"bytes": b"abc", "path": f"{k}.wav"}} for k in range(num_rows)]


@pytest.mark.parametrize("modality", MODALITIES.values(), ids=MODALITIES)
def test_datasets_takes_it_for_the_modality(modality, tmp_path: Path) -> None:
    import datasets

    write_parquet([MediaFile("a", "a.bin", b"x")], tmp_path, modality)
    data = datasets.load_dataset(str(tmp_path), streaming=True)
    assert list(data) == ["test"]
    assert list(data["test"].features) == ["id", modality.name]
    assert type(data["test"].features[modality.name]).__name__ == modality.column_type
