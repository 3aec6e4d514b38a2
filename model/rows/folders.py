"""Folders of files with a `metadata` table; and which paths a row may name.

`datasets` gives up the whole table at the first row that it does not like: a path that leads out of the folder, a line
that is no JSON. Here that costs the row.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..modality import MODALITIES, Modality
from ..text import one_line
from .columns import NAME_COLUMNS, content_and_name, plain_name
from .shards import BROKEN_FILE, ParquetPart
from .tables import BROKEN_TABLE, raw_name, table_rows

log = logging.getLogger(__name__)

FILE_COLUMN = "file_name"  # or one that ends so, as in `datasets`: video_file_name
_TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet", ".tsv", ".json", ".ndjson")


def is_metadata(file: Path) -> bool:
    """Whether the file's name is that of a metadata table, in `datasets` or as people write it (`Metadata.tsv`)."""
    return file.stem.lower() == "metadata" and file.suffix.lower() in _TABLE_SUFFIXES


def file_column(columns: Sequence[str], modality: Modality | None = None) -> str | None:
    """The column that names the files: `file_name`, `video_file_name` or a near name; None if there is none."""
    plain = {plain_name(name): name for name in reversed(columns)}
    names = [one for kind in ([modality] if modality else MODALITIES.values()) for one in kind.column_names]
    for wanted in ("filename", *(f"{name}filename" for name in names)):
        if wanted in plain:
            return plain[wanted]
    ending = next((name for name in columns if plain_name(name).endswith("filename")), None)
    near = (*NAME_COLUMNS, *names, *(f"{name}{word}" for name in names for word in ("file", "path", "name")))
    return ending or next((plain[name] for name in near if name in plain), None)


class TablePart:
    """A metadata table as rows of text. Raises, when made: ValueError: it has no row, or no column for files."""

    def __init__(self, path: str, modality: Modality | None = None) -> None:
        self.path = path
        self.num_rows = 0
        names: dict[str, None] = {}
        for values in self._read():
            self.num_rows += 1
            names.update(dict.fromkeys(values))
        self.columns = list(names)
        self.schema = pa.schema([(name, pa.string()) for name in names])
        named = file_column(self.columns, modality)
        if named is None:
            raise ValueError(f"no column file_name in {path}: the columns are {self.columns[:20]}")
        self.file_column: str = named

    def _read(self) -> Iterator[Any]:
        path = Path(self.path)
        try:
            if path.suffix.lower() == ".parquet":
                part = ParquetPart(self.path)
                yield from (values for _, values in part.rows([(name,) for name in part.schema.names]))
            else:
                yield from table_rows(path, lambda names: file_column(names) is not None)
        except (*BROKEN_FILE, *BROKEN_TABLE) as error:
            log.error("%s breaks off: %s", path, one_line(error))

    def rows(self, paths: Sequence[tuple[str, ...]], start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """See `Part.rows`."""
        for number, values in enumerate(self._read()):
            if number >= start:
                yield number, {path[0]: values.get(path[0]) for path in paths}


def path_inside(root: Path, folder: Path, name: str) -> str | None:
    """The path of the file called `name` in `folder`; None if the name leads out of the dataset's folder `root`.

    Names are what the dataset's author wrote, and may not point at this machine's other files. Links are followed,
    though: the hub's cache is made of links to files elsewhere, and nobody else but its owner makes links on a machine.
    """
    path = os.path.normpath(os.path.join(os.path.abspath(folder), name))
    inside = any(path.startswith(os.path.join(real, "")) for real in {os.path.abspath(root), os.path.realpath(root)})
    return path if inside else None


def find_file(root: Path, folders: Sequence[Path], cell: Any) -> tuple[str | None, str]:
    """(path, "") of the file that a cell names, or (None, why there is none).

    The first of `folders` that has it counts; where none has, its path in the first, for the reader to tell. Names
    written on Windows, with backslashes or in its encoding, are understood.
    """
    _, name = content_and_name(cell)
    if not name or not name.strip():
        return None, "the row names no file"
    spellings = [name, name.strip(), name.strip().replace("\\", "/"), raw_name(name)]
    paths = [path_inside(root, folder, one) for one in dict.fromkeys(spellings) for folder in folders]
    inside = [path for path in paths if path is not None]
    if not inside:
        return None, f"the row names a file outside the dataset: {name[:200]}"
    return next((path for path in inside if _exists(path)), inside[0]), ""


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:  # a NUL in the name
        return False
