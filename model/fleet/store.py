"""The output folder of a fleet's run, on any filesystem of pyarrow or fsspec.

    run.json                     what the run is of: its id, the weights, how the dataset was cut
    shards/RUN-0000012.parquet   the rows of a finished piece
    journal/0000012.json         of a piece that was begun and is not finished: how often, and which rows ended it
    submission.csv               all shards in the dataset's order, when every one is there

Whatever stands here is whole: files are written under another name and moved.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ..modality import Modality
from ..rows.submission import Result, ResultFile, as_written

_SHARD = pa.schema(
    [
        ("id", pa.string()),
        ("status", pa.string()),
        ("score", pa.float64()),
        ("reason", pa.string()),
        ("seconds", pa.float64()),
        ("duration_seconds", pa.float64()),
        ("num_frames", pa.int64()),
    ]
)


class FleetError(Exception):
    """The run cannot start or go on. The message says why and what to do."""


@dataclass(frozen=True)
class RunRecord:
    """What every shard of an output folder has in common; two runs with the same record are one run."""

    run_id: str
    dataset: str
    weights_sha256: str
    modality: str
    pieces: int


@dataclass
class Journal:
    """Of one piece. deaths: row -> how often the actor died over it. current: the row that it works on, if it says so.

    Rows are counted within the piece, from 0.
    """

    attempts: int = 0
    current: int | None = None
    deaths: dict[int, int] = field(default_factory=dict)


def open_filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """(filesystem, path in it) of a local path or a URI; what pyarrow does not know is left to fsspec.

    An S3-compatible store: s3://BUCKET/FOLDER?endpoint_override=HOST:PORT&scheme=http, keys in the environment.
    Raises: FleetError.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).absolute())
    try:
        return fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as arrow_error:
        import fsspec

        try:
            filesystem, path = fsspec.core.url_to_fs(uri)
        except (ValueError, ImportError) as error:
            raise FleetError(f"neither pyarrow nor fsspec opens {uri}: {arrow_error}; {error}") from error
        return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path
    except OSError as error:
        raise FleetError(f"cannot open {uri}: {error}") from error


class Store:
    """One output folder. Makes no difference between filesystems."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._filesystem, self._root = open_filesystem(uri)

    def begin(self, record: RunRecord) -> None:
        """Make the folder the run's, or find that it is. Raises: FleetError: it is another run's."""
        self._filesystem.create_dir(f"{self._root}/shards", recursive=True)
        self._filesystem.create_dir(f"{self._root}/journal", recursive=True)
        content = self._read("run.json")
        if content is None:
            self._write("run.json", json.dumps(asdict(record), indent=1).encode())
        elif (found := RunRecord(**json.loads(content))) != record:
            raise FleetError(
                f"{self.uri} holds run {found.run_id} of {found.dataset}, not run {record.run_id} of {record.dataset}:"
                " other rows, other weights or pieces of another size; give another --output"
            )

    def record(self) -> RunRecord:
        """Raises: FleetError: no run was begun here."""
        content = self._read("run.json")
        if content is None:
            raise FleetError(f"no run.json in {self.uri}: nothing was begun there")
        return RunRecord(**json.loads(content))

    def finished(self, record: RunRecord) -> set[int]:
        """Numbers of the pieces whose shards are there."""
        prefix = f"{record.run_id}-"
        names = (info.base_name for info in self._list("shards"))
        whole = [name for name in names if name.startswith(prefix) and name.endswith(".parquet")]
        return {int(name.removeprefix(prefix).removesuffix(".parquet")) for name in whole}

    def write_shard(self, record: RunRecord, piece: int, rows: dict[str, Result]) -> None:
        """A finished piece: id -> result, in the dataset's order. Its journal ends."""
        values = [
            asdict(row) | {"id": as_written(name), "reason": as_written(row.reason)} for name, row in rows.items()
        ]
        table = pa.Table.from_pylist(values, _SHARD)
        table = table.replace_schema_metadata({"run_id": record.run_id, "piece": str(piece)})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        self._write(_shard_name(record, piece), sink.getvalue().to_pybytes())
        self._remove(_journal_name(piece))

    def read_shard(self, record: RunRecord, piece: int) -> dict[str, Result]:
        """What `write_shard` wrote."""
        with self._filesystem.open_input_file(f"{self._root}/{_shard_name(record, piece)}") as file:
            rows = pq.read_table(file).to_pylist()
        return {row.pop("id"): Result(**row) for row in rows}

    def read_journal(self, piece: int) -> Journal:
        content = self._read(_journal_name(piece))
        if content is None:
            return Journal()
        values = json.loads(content)
        return Journal(values["attempts"], values["current"], {int(row): n for row, n in values["deaths"].items()})

    def write_journal(self, piece: int, journal: Journal) -> None:
        self._write(_journal_name(piece), json.dumps(asdict(journal)).encode())

    def deaths(self) -> int:
        """Of actors, over pieces that are not finished, as far as they were noted."""
        names = [info.base_name for info in self._list("journal") if info.base_name.endswith(".json")]
        journals = [self.read_journal(int(name.removesuffix(".json"))) for name in names if not name.startswith(".")]
        return sum(journal.attempts for journal in journals)

    def merge(self, record: RunRecord, modality: Modality) -> int:
        """Write submission.csv from all shards, one at a time in memory. Returns its rows.

        Of an id that several shards of a store have, the first row counts. Raises: FleetError: a piece is missing.
        """
        missing = set(range(record.pieces)) - self.finished(record)
        if missing:
            raise FleetError(f"{len(missing)} of {record.pieces} pieces are not finished, e.g. {min(missing)}")
        partial = self._partial("submission.csv")
        written: set[str] = set()
        with self._filesystem.open_output_stream(partial) as file:
            for piece in range(record.pieces):
                shard = {name: row for name, row in self.read_shard(record, piece).items() if name not in written}
                lines = _lines(shard, modality)
                if piece > 0:
                    next(lines)  # the header
                file.write("".join(lines).encode())
                written.update(shard)
        self._filesystem.move(partial, f"{self._root}/submission.csv")
        return len(written)

    def _list(self, folder: str) -> Iterator[fs.FileInfo]:
        yield from self._filesystem.get_file_info(fs.FileSelector(f"{self._root}/{folder}", allow_not_found=True))

    def _read(self, name: str) -> bytes | None:
        path = f"{self._root}/{name}"
        if self._filesystem.get_file_info(path).type is not fs.FileType.File:
            return None
        with self._filesystem.open_input_file(path) as file:
            return file.read()

    def _partial(self, name: str) -> str:
        folder, _, base = name.rpartition("/")
        return f"{self._root}/{folder}{'/' * bool(folder)}.{base}.{uuid.uuid4().hex}.partial"

    def _write(self, name: str, content: bytes) -> None:
        """Whole or not at all: an object store has no half objects, other filesystems rename."""
        partial = self._partial(name)
        with self._filesystem.open_output_stream(partial) as file:
            file.write(content)
        self._filesystem.move(partial, f"{self._root}/{name}")

    def _remove(self, name: str) -> None:
        path = f"{self._root}/{name}"
        if self._filesystem.get_file_info(path).type is fs.FileType.File:
            self._filesystem.delete_file(path)


def _lines(rows: Mapping[str, Result], modality: Modality) -> Iterator[str]:
    """As script.py writes them."""
    result = ResultFile(Path("submission.csv"), list(rows), modality)
    for clip_id, row in rows.items():
        result.put(clip_id, row)
    return result.lines()


def _shard_name(record: RunRecord, piece: int) -> str:
    return f"shards/{record.run_id}-{piece:07d}.parquet"


def _journal_name(piece: int) -> str:
    return f"journal/{piece:07d}.json"
