"""A dataset cut into pieces: so many rows of a dataset on a path that every node sees, or one shard of a store."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from pyarrow import fs

from ..modality import Modality
from ..rows.dataset import ClipDataset, open_dataset
from ..rows.splits import files_of_split
from .store import FleetError, open_filesystem

_SHARDS = frozenset({".parquet", ".tar", ".arrow"})


@dataclass(frozen=True)
class Piece:
    """A share of the dataset's rows. Pickles; holds no row's media."""

    number: int
    open: Callable[[Path], ClipDataset]  # what it takes to read it, in a scratch folder


@dataclass(frozen=True)
class CutDataset:
    """fingerprint: equal if, as far as can be told without reading the media, the rows and the cuts are."""

    description: str
    fingerprint: str
    modality: Modality
    num_pieces: int
    pieces: Callable[[], Iterator[Piece]]


def cut_dataset(uri: str, modality: Modality | None, rows_per_piece: int) -> CutDataset:
    """Raises: FleetError, DatasetError: nothing there, or nothing usable in it."""
    if "://" in uri and not uri.startswith("file://"):
        return _cut_store(uri, modality)
    return _cut_local(uri.removeprefix("file://"), modality, rows_per_piece)


def _cut_local(path: str, modality: Modality | None, rows_per_piece: int) -> CutDataset:
    dataset = open_dataset(Path(path).absolute(), modality)
    digest = hashlib.sha256(f"{rows_per_piece}\0{dataset.modality.name}".encode())
    for clip_id in dataset.ids:
        digest.update(clip_id.encode(errors="backslashreplace") + b"\0")
    parts = dataset.cut(rows_per_piece)

    def pieces() -> Iterator[Piece]:
        for number, part in enumerate(parts):
            yield Piece(number, partial(_as_it_is, part))

    return CutDataset(dataset.description, digest.hexdigest(), dataset.modality, len(parts), pieces)


def _as_it_is(dataset: ClipDataset, _scratch: Path) -> ClipDataset:
    return dataset


def _cut_store(uri: str, modality: Modality | None) -> CutDataset:
    """A piece for each shard of a store, which the actor fetches; ids must stand in the shards."""
    filesystem, root = open_filesystem(uri)
    infos = {info.path: info for info in _visible_files(filesystem, root)}
    shards = [Path(path) for path in sorted(infos) if PurePosixPath(path).suffix.lower() in _SHARDS]
    if not shards:
        raise FleetError(
            f"no parquet, tar or arrow file in {uri} ({len(infos)} files): single clips and tables of file names are"
            " read from a path that every node sees, not from a store"
        )
    chosen = [str(path) for path in files_of_split(Path(root), shards)]
    digest = hashlib.sha256()
    for path in chosen:
        digest.update(f"{path}\0{infos[path].size}\0{infos[path].mtime_ns}\0".encode())

    with scratch_folder() as scratch:
        first = _fetch_and_open(uri, chosen[0], modality, scratch)

    def pieces() -> Iterator[Piece]:
        for number, path in enumerate(chosen):
            yield Piece(number, partial(_fetch_and_open, uri, path, first.modality))

    return CutDataset(
        f"{len(chosen)} shards in {_without_secrets(uri)}", digest.hexdigest(), first.modality, len(chosen), pieces
    )


def _without_secrets(uri: str) -> str:
    """Scheme, bucket and path: a URI may hold keys."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"


def _visible_files(filesystem: fs.FileSystem, root: str) -> Iterator[fs.FileInfo]:
    """Files below `root` without hidden ones."""
    for info in filesystem.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True)):
        below = PurePosixPath(info.path).parts[len(PurePosixPath(root).parts) :]
        if info.type is fs.FileType.File and not any(part.startswith(".") for part in below):
            yield info


def _fetch_and_open(uri: str, path: str, modality: Modality | None, scratch: Path) -> ClipDataset:
    filesystem, _ = open_filesystem(uri)
    local = scratch / PurePosixPath(path).name
    with filesystem.open_input_stream(path) as source, open(local, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 22)
    dataset = open_dataset(local, modality)
    if dataset.numbered:
        raise FleetError(f"{path} has no column of ids: rows of several shards would be called the same")
    return dataset


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder on this node, gone afterwards."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="fleet-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
