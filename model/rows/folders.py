"""Rows of a video folder from its `metadata.csv`, `.jsonl` or `.parquet`; and which paths a row may name.

`datasets` gives up the whole file at the first row that it does not like: a path that leads out of the folder, a line
that is no JSON. Here that costs the row.
"""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .shards import parquet_rows

log = logging.getLogger(__name__)

METADATA_NAMES = frozenset({"metadata.csv", "metadata.jsonl", "metadata.parquet"})
FILE_COLUMN = "file_name"  # or one that ends so, as in `datasets`: video_file_name
_MAX_LINE = 1 << 20


def metadata_rows(files: Sequence[Path]) -> Iterator[tuple[str, Path, Mapping[str, Any]]]:
    """(position, folder of the metadata file, values) of every row; a line that cannot be read is logged.

    position: `<file>-<row>`, counted from 0.
    """
    for number, path in enumerate(files):
        if path.suffix == ".parquet":
            for position, values in parquet_rows([str(path)]):
                yield f"{number}-{position.partition('-')[2]}", path.parent, values
            continue
        read = _csv_rows if path.suffix == ".csv" else _jsonl_rows
        try:
            # Names of files may hold bytes that are no text.
            with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
                for row, values in enumerate(read(file, path)):
                    yield f"{number}-{row}", path.parent, values
        except (OSError, csv.Error) as error:
            log.error("%s breaks off: %s", path, error)


def _csv_rows(file: Any, path: Path) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(_MAX_LINE)
    yield from csv.DictReader(file)


def _jsonl_rows(file: Any, path: Path) -> Iterator[Mapping[str, Any]]:
    passed_over = 0
    while line := file.readline(_MAX_LINE):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        if isinstance(values, dict):
            yield values
        else:
            passed_over += 1
    if passed_over:
        log.error("%d lines of %s are no JSON objects: passed over", passed_over, path)


def file_column(columns: Sequence[str]) -> str | None:
    """The column that names the video file, if there is one."""
    return next((name for name in columns if name == FILE_COLUMN or name.endswith(f"_{FILE_COLUMN}")), None)


def path_inside(root: Path, folder: Path, name: str) -> str | None:
    """The path of the file called `name` in `folder`; None if the name leads out of the dataset's folder `root`.

    Names are what the dataset's author wrote, and may not point at this machine's other files. Links are followed,
    though: the hub's cache is made of links to files elsewhere, and nobody else but its owner makes links on a machine.
    """
    path = os.path.normpath(os.path.join(os.path.abspath(folder), name))
    inside = any(path.startswith(os.path.join(real, "")) for real in {os.path.abspath(root), os.path.realpath(root)})
    return path if inside else None
