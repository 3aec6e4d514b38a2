"""Rows straight out of parquet and arrow files, one at a time: of the columns asked for, the others are not touched.

This is what reads on where `datasets` refuses or gives up. A damaged row group costs itself; of a column, two pages are
in memory at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from ..text import one_line

log = logging.getLogger(__name__)

_BUFFER_BYTES = 1 << 20  # a column is read through a window of this size, not fetched whole
BROKEN_FILE = (pa.ArrowException, OSError, ValueError, TypeError, LookupError, MemoryError)


class Part(Protocol):
    """One file of a dataset. Its rows are counted from 0, whichever columns are read and whatever is damaged."""

    @property
    def path(self) -> str: ...
    @property
    def schema(self) -> pa.Schema: ...
    @property
    def num_rows(self) -> int: ...
    def rows(self, paths: Sequence[tuple[str, ...]], start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """(number, values by column) from row `start` on; what cannot be read is logged and passed over.

        paths: which columns, or which fields of structs: names from the column down. No other is touched.
        """


class ParquetPart:
    """A parquet file. Raises, when made: one of BROKEN_FILE: it has no footer that can be read."""

    def __init__(self, path: str) -> None:
        self.path = path
        with pq.ParquetFile(path) as file:
            self.schema: pa.Schema = file.schema_arrow
            self._group_rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        self.num_rows = sum(self._group_rows)

    def largest_group(self, paths: Sequence[tuple[str, ...]]) -> int:
        """Bytes of the largest row group's columns, unpacked."""
        names = tuple(".".join(path) for path in paths)
        with pq.ParquetFile(self.path) as file:
            groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
            chunks = [[group.column(number) for number in range(group.num_columns)] for group in groups]
            sizes = [sum(one.total_uncompressed_size for one in group
                         if one.path_in_schema in names or one.path_in_schema.startswith(tuple(f"{n}." for n in names)))
                     for group in chunks]  # fmt: skip
        return max(sizes, default=0)

    def rows(self, paths: Sequence[tuple[str, ...]], start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """See `Part.rows`. Two pages of a column are in memory at a time."""
        try:
            with pq.ParquetFile(self.path, pre_buffer=False, buffer_size=_BUFFER_BYTES) as file:
                first = 0
                for group, num_rows in enumerate(self._group_rows):
                    if first + num_rows > start:
                        yield from self._rows_of_group(file, group, [".".join(path) for path in paths], first, start)
                    first += num_rows
        except BROKEN_FILE as error:
            log.error("parquet file %s cannot be read: %s", self.path, one_line(error))

    def _rows_of_group(
        self, file: pq.ParquetFile, group: int, columns: list[str], first: int, start: int
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        number = first
        try:
            for batch in file.iter_batches(batch_size=1, row_groups=[group], columns=columns, use_threads=False):
                for offset in range(batch.num_rows):
                    if number >= start:
                        yield number, _values(batch, offset)
                    number += 1
        except BROKEN_FILE as error:
            log.error("row group %d of %s breaks off: %s", group, self.path, one_line(error))


class ArrowPart:
    """An arrow file, or a stream of the same batches. Raises, when made: one of BROKEN_FILE: it is neither."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.schema: pa.Schema = self._open().schema
        sizes = [(batch.num_rows, batch.nbytes) for batch in self._batches()]
        self.num_rows = sum(num_rows for num_rows, _ in sizes)
        self.largest_batch = max((num_bytes for _, num_bytes in sizes), default=0)

    def _open(self) -> Any:
        source = pa.memory_map(self.path)
        try:
            return pa.ipc.open_stream(source)
        except pa.ArrowInvalid:
            return pa.ipc.open_file(source)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        """Nothing is copied: the file is mapped into memory."""
        try:
            reader = self._open()
            if isinstance(reader, pa.RecordBatchFileReader):
                yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
            else:
                yield from reader
        except BROKEN_FILE as error:
            log.error("arrow file %s breaks off: %s", self.path, one_line(error))

    def rows(self, paths: Sequence[tuple[str, ...]], start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """See `Part.rows`."""
        first = 0
        for batch in self._batches():
            try:
                chosen = batch.select(list(dict.fromkeys(path[0] for path in paths)))
                chosen.validate(full=True)  # offsets that lead out of the buffers would crash the process
                for offset in range(max(0, start - first), batch.num_rows):
                    yield first + offset, _values(chosen, offset)
            except BROKEN_FILE as error:
                log.error("rows %d to %d of %s cannot be read: %s", first, first + batch.num_rows - 1, self.path,
                          one_line(error))  # fmt: skip
            first += batch.num_rows


def _values(batch: pa.RecordBatch, row: int) -> dict[str, Any]:
    """One row's values by column, as Python has them."""
    return {name: _python(batch.column(name)[row]) for name in batch.schema.names}


def _python(value: pa.Scalar) -> Any:
    """A value as Python has it. Text that is not UTF-8 keeps its bytes as escapes instead of ending the reading."""
    try:
        return value.as_py()
    except UnicodeDecodeError:
        if isinstance(value, pa.StructScalar):
            return {name: _python(value[name]) for name in value}
        if isinstance(value, pa.ListScalar):
            return [_python(one) for one in value.values]
        return value.as_buffer().to_pybytes().decode(errors="backslashreplace")
