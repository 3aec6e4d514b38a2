"""Small datasets to read: media stand-ins, and what a dataset gives of them."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import wave
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.modality import Modality
from model.rows.dataset import ClipDataset, open_dataset

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def video(number: int) -> bytes:
    """Starts like an MP4 file; which row gets which is what counts, not what it shows."""
    return b"\0\0\0\x18ftypisom" + bytes([65 + number]) * 200


def sound(number: int) -> bytes:
    """A WAV file of a tenth of a second."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, 16000, 1600, "NONE", ""))  # one channel of two bytes at 16 kHz
        samples = np.sin(np.arange(1600) * (0.05 + 0.01 * number)) * 8000
        out.writeframes(samples.astype("<i2").tobytes())
    return file.getvalue()


def cell(content: bytes | None, name: str | None = "name.mp4") -> dict[str, Any]:
    return {"bytes": content, "path": name}


def structs(contents: Iterable[bytes | None], suffix: str = ".mp4") -> pa.Array:
    return pa.array([cell(content, f"{number}{suffix}") for number, content in enumerate(contents)], STRUCT)


def write_table(path: Path, columns: Mapping[str, Any], types: Mapping[str, str] | None = None, **options: Any) -> Path:
    """A parquet file; types: column -> type that `datasets` would note."""
    table = pa.table(dict(columns))
    if types:
        features = {name: {"_type": kind} for name, kind in types.items()}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def write_files(folder: Path, contents: Sequence[bytes], suffix: str = ".mp4") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(contents):
        (folder / f"{number}{suffix}").write_bytes(content)


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_csv(path: Path, rows: Iterable[Sequence[object]], **dialect: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, **dialect).writerows(rows)


def content_of(dataset: ClipDataset) -> dict[str, bytes | None]:
    """id -> the file's bytes, in the order of the ids; every row comes once."""
    rows = list(dataset.rows())
    assert len({row.id for row in rows}) == len(rows) and {row.id for row in rows} == set(dataset.ids)
    by_id = {row.id: Path(row.media).read_bytes() if isinstance(row.media, str) else row.media for row in rows}
    return {clip_id: by_id[clip_id] for clip_id in dataset.ids}


def read(root: Path, modality: Modality | None = None) -> dict[str, bytes | None]:
    return content_of(open_dataset(root, modality))
