"""A dataset in each of the challenge's layouts, of video or of sound; the one writer of parquet files here."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from model.modality import Modality

_GROUP_BYTES = 32 << 20  # rows held in memory before they are written
_SHARD_BYTES = 256 << 20


@dataclass(frozen=True)
class Example:
    """One row with its truth. content: the file's bytes; readable: whether anything of it can be decoded."""

    id: str
    label: str
    source: str
    split: str
    suffix: str
    content: bytes
    readable: bool = True


def with_spoilt(examples: Iterable[Example], damaged: Example, unfinished: Example) -> list[Example]:
    """By id; with three quarters of one file, half of another that is lost without its end, and noise in its place."""
    cut = replace(damaged, content=damaged.content[: len(damaged.content) * 3 // 4])
    half, noise = unfinished.content[: len(unfinished.content) // 2], np.random.default_rng(0).bytes(5000)
    broken = [
        replace(unfinished, id=f"{unfinished.id}-{name}", content=content, readable=False)
        for name, content in (("truncated", half), ("garbage", noise))
    ]
    return sorted([*examples, cut, *broken], key=lambda example: example.id)


@dataclass(frozen=True)
class MediaFile:
    """One row of a dataset to be: its id, its file's name and bytes."""

    id: str
    name: str
    content: bytes


def media_files(examples: Iterable[Example]) -> Iterable[MediaFile]:
    return (MediaFile(x.id, x.id + x.suffix, x.content) for x in examples)


def write_parquet(
    rows: Iterable[MediaFile], folder: Path, modality: Modality, *, shard_rows: int | None = None,
    group_rows: int | None = None, shard_bytes: int = _SHARD_BYTES,
) -> int:  # fmt: skip
    """Parquet shards of split `test` as `datasets` writes them: id, and the media as a struct of bytes and path.

    Memory holds one row group. A shard ends after `shard_bytes` or `shard_rows`. Returns: the number of shards.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = modality.name
    features = {"id": {"dtype": "string", "_type": "Value"}, column: {"_type": modality.column_type}}
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("id", pa.string()), (column, struct)],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    folder.mkdir(parents=True, exist_ok=True)
    parts: list[Path] = []
    writer: pq.ParquetWriter | None = None
    group: list[dict[str, object]] = []
    group_bytes = written_rows = written_bytes = 0

    def write_group() -> None:
        nonlocal writer, group, group_bytes, written_rows, written_bytes
        if group and writer is None:
            parts.append(folder / f".part-{len(parts):05d}.partial")
            # media do not shrink
            writer = pq.ParquetWriter(parts[-1], schema, compression="none", use_dictionary=False)
            written_rows = written_bytes = 0
        if group and writer is not None:
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
        written_rows, written_bytes = written_rows + len(group), written_bytes + group_bytes
        group, group_bytes = [], 0

    for row in rows:
        group.append({"id": row.id, column: {"bytes": row.content, "path": row.name}})
        group_bytes += len(row.content)
        full = (shard_rows is not None and written_rows + len(group) >= shard_rows) or (
            written_bytes + group_bytes >= shard_bytes
        )
        if full or len(group) == group_rows or group_bytes >= _GROUP_BYTES:
            write_group()
        if full and writer is not None:
            writer.close()
            writer, written_rows, written_bytes = None, 0, 0
    write_group()
    if writer is not None:
        writer.close()
    for index, part in enumerate(parts):
        part.rename(folder / f"test-{index:05d}-of-{len(parts):05d}.parquet")
    return len(parts)


def write_two_shards(examples: Sequence[Example], folder: Path, modality: Modality) -> None:
    """Parquet in data/, as the challenge has it."""
    half = (len(examples) + 1) // 2
    write_parquet(media_files(examples), folder / "data", modality, shard_rows=half, group_rows=4)


def write_media_folder(examples: Sequence[Example], folder: Path, modality: Modality) -> None:
    """test/<id>.<suffix> and test/metadata.csv (file_name, id)."""
    write_files(examples, folder / "test", modality)
    with (folder / "test" / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file_name", "id"), *((x.id + x.suffix, x.id) for x in examples)])


def write_webdataset(examples: Sequence[Example], folder: Path, modality: Modality) -> None:
    """Two tars; the id is `__key__`. All members have one suffix: `datasets` makes one column a suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    suffix = {"video": ".mp4", "audio": ".wav"}[modality.name]
    half = (len(examples) + 1) // 2
    for shard, part in enumerate((examples[:half], examples[half:])):
        with tarfile.open(folder / f"test-{shard:05d}.tar", "w") as archive:
            for example in part:
                member = tarfile.TarInfo(example.id + suffix)
                member.size = len(example.content)
                archive.addfile(member, io.BytesIO(example.content))


def write_saved(examples: Sequence[Example], folder: Path, modality: Modality) -> None:
    """What `Dataset.save_to_disk` writes. From a table: sound in lists would need torchcodec, though undecoded."""
    import datasets
    import pyarrow as pa

    media_type = getattr(datasets, modality.column_type)(decode=False)
    media = pa.array([{"bytes": x.content, "path": x.id + x.suffix} for x in examples], media_type.pa_type)
    table = pa.table({"id": [x.id for x in examples], modality.name: media})
    datasets.Dataset(table).cast_column(modality.name, media_type).save_to_disk(str(folder))


def write_files(examples: Sequence[Example], folder: Path, modality: Modality) -> None:
    """Media files and nothing else; script.py's ids are then the file names."""
    folder.mkdir(parents=True, exist_ok=True)
    for example in examples:
        (folder / (example.id + example.suffix)).write_bytes(example.content)


LAYOUTS: dict[str, Callable[[Sequence[Example], Path, Modality], None]] = {
    "parquet": write_two_shards,
    "mediafolder": write_media_folder,
    "webdataset": write_webdataset,
    "saved": write_saved,
    "files": write_files,
}


def write_solution(examples: Sequence[Example], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = ((x.id, x.label, x.source, x.split) for x in examples)
        csv.writer(file).writerows([("id", "pred", "source", "split"), *rows])
