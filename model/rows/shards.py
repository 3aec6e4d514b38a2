"""Rows straight out of parquet and tar files, one video at a time.

The parquet reader of `datasets` holds row groups several times over (2,000 rows of 1 MB in groups of 10, 100, 1000:
1.1, 1.5, 4.3 GB more; here 0.03, 0.2, 1.9 GB, two pages at a time) and gives up a whole file where one row group is
damaged. Tars are read uncompressed alone, as `datasets` finds no others either: a small one could grow without end.
"""

from __future__ import annotations

import io
import itertools
import logging
import operator
import os
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..config import LimitsConfig
from ..text import one_line

log = logging.getLogger(__name__)

_BUFFER_BYTES = 1 << 20  # a column is read through a window of this size, not fetched whole
_MAX_MEMBER_BYTES = LimitsConfig().max_file_bytes
_MAX_HEADER_BYTES = 1 << 20  # of a long name, say
_BROKEN_PARQUET = (pa.ArrowException, OSError, ValueError, MemoryError)
_BROKEN_TAR = (tarfile.TarError, OSError, EOFError, ValueError, MemoryError)


def parquet_schema(files: Sequence[str]) -> pa.Schema:
    """Schema of the first file that has one. Raises: ValueError: none has."""
    for file in files:
        try:
            return pq.read_schema(file)
        except _BROKEN_PARQUET as error:
            log.error("parquet file %s cannot be read: %s", file, one_line(error))
    raise ValueError(f"none of {len(files)} parquet files can be read")


def parquet_rows(files: Sequence[str], columns: Sequence[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(position, values of `columns`, or of all) of every row; a damaged row group is logged and passed over.

    position: `<file>-<row>`, counted from 0, the same whatever columns are read.
    """
    for number, file in enumerate(files):
        try:
            with pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES) as shard:
                first_row = 0
                for group in range(shard.num_row_groups):
                    for offset, values in enumerate(_group_rows(shard, group, columns, file)):
                        yield f"{number}-{first_row + offset}", values
                    first_row += shard.metadata.row_group(group).num_rows
        except _BROKEN_PARQUET as error:
            log.error("parquet file %s cannot be read: %s", file, one_line(error))


def parquet_positions(files: Sequence[str]) -> Iterator[str]:
    """The positions that `parquet_rows` gives, from the footers alone."""
    for number, file in enumerate(files):
        try:
            rows = pq.read_metadata(file).num_rows
        except _BROKEN_PARQUET as error:
            log.error("parquet file %s cannot be read: %s", file, one_line(error))
            continue
        for row in range(rows):
            yield f"{number}-{row}"


def _group_rows(
    shard: pq.ParquetFile, group: int, columns: Sequence[str] | None, file: str
) -> Iterator[dict[str, Any]]:
    try:
        for batch in shard.iter_batches(batch_size=1, row_groups=[group], columns=columns, use_threads=False):
            yield from batch.to_pylist()
    except _BROKEN_PARQUET as error:
        log.error("row group %d of %s breaks off: %s", group, file, one_line(error))


def tar_keys(files: Sequence[str]) -> Iterator[str]:
    """Example keys of webdataset tars, from their headers alone."""
    for key, _ in itertools.groupby(_tar_members(files, frozenset()), key=operator.itemgetter(0)):
        yield key


def tar_rows(files: Sequence[str], suffixes: frozenset[str]) -> Iterator[tuple[str, bytes | None]]:
    """(key, video bytes) of every example: its first member with one of `suffixes`; None without one."""
    for key, members in itertools.groupby(_tar_members(files, suffixes), key=operator.itemgetter(0)):
        yield key, next((content for _, content in members if content is not None), None)


def _tar_members(files: Sequence[str], suffixes: frozenset[str]) -> Iterator[tuple[str, bytes | None]]:
    """(example key, content if the member's suffix is among `suffixes`); members of one example are neighbours.

    The key is the path up to the first dot of the file name; hidden files and names without a dot belong to none.
    """
    for path in files:
        try:
            with _HeaderReader(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    folder, name = os.path.split(member.name)
                    stem, dot, _ = name.partition(".")
                    if member.isfile() and stem and dot:
                        wanted = os.path.splitext(name)[1].lower() in suffixes
                        if wanted and member.size > _MAX_MEMBER_BYTES:  # a sparse member of terabytes costs a few bytes
                            log.error("%s in %s has %d bytes: passed over", member.name, path, member.size)
                            wanted = False
                        yield os.path.join(folder, stem), file.content(archive, member) if wanted else None
                    archive.members = []  # type: ignore[attr-defined]  # it would remember every header
        except _BROKEN_TAR as error:
            log.error("tar file %s breaks off: %s", path, one_line(error))


class _HeaderReader(io.BufferedReader):
    """A tar file that gives no more at once than a header has: one may say that the next name takes gigabytes."""

    def __init__(self, path: str) -> None:
        super().__init__(io.FileIO(path))
        self._most = _MAX_HEADER_BYTES

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= self._most:
            raise tarfile.ReadError(f"a header of {size} bytes; the limit is {self._most}")
        return super().read(size)

    def content(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
        content = archive.extractfile(member)
        assert content is not None  # a regular file has content
        self._most = member.size
        try:
            with content:
                return content.read()
        finally:
            self._most = _MAX_HEADER_BYTES
