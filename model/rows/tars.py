"""Examples of webdataset tars. The headers are read first, the media then from where it stands.

Tars are read uncompressed alone, as `datasets` finds no others either: a small one could grow without end.
"""

from __future__ import annotations

import io
import logging
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from ..config import LimitsConfig
from ..modality import MODALITIES, Modality
from ..text import one_line

log = logging.getLogger(__name__)

KEY = "__key__"  # as `datasets` calls it
PROBLEM = "\0problem"  # in place of bytes: why there are none
_MAX_HEADER_BYTES = 1 << 20  # of a long name, say
_BROKEN_TAR = (tarfile.TarError, OSError, EOFError, ValueError, MemoryError)
_LAST_CHOICE = frozenset({".gif", ".webp", ".mjpeg", ".mjpg"})  # often a preview of the video beside it


@dataclass(frozen=True)
class Member:
    """One file of an example. field: what follows the key and its dot, e.g. `mp4`."""

    name: str
    field: str
    offset: int
    size: int
    sparse: bool = False

    @property
    def suffix(self) -> str:
        return os.path.splitext(self.name)[1].lower()


@dataclass
class TarIndex:
    """What the headers say. examples: key -> members, in the order in which keys first appear."""

    path: str
    examples: dict[str, list[Member]] = field(default_factory=dict)
    neighbours: bool = True  # the members of every example stand together
    whole: bool = True  # it does not break off


def read_index(path: str) -> TarIndex:
    """The headers of a tar up to where it breaks off, which is logged.

    An example's key is the path up to the first dot of the file name. Hidden files and names without a dot are no
    examples'. Example: a.mp4, a.json, sub/b.c.mp4 -> a: mp4, json; sub/b: c.mp4.
    """
    index = TarIndex(path)
    last, repeated = None, 0
    try:
        with _HeaderReader(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                folder, name = os.path.split(member.name)
                stem, dot, extension = name.partition(".")
                if member.isfile() and stem and dot and not name.startswith("__"):
                    key = os.path.join(folder, stem)
                    index.neighbours &= key == last or key not in index.examples
                    last = key
                    members = index.examples.setdefault(key, [])
                    repeated += any(one.field == extension for one in members)
                    members.append(Member(member.name, extension, member.offset_data, member.size, member.issparse()))
                archive.members = []  # type: ignore[attr-defined]  # it would remember every header
    except _BROKEN_TAR as error:
        log.error("tar file %s breaks off: %s", path, one_line(error))
        index.whole = False
    if repeated:
        log.warning("%d files in %s repeat a name: the first of each counts", repeated, path)
        index.neighbours = False
    return index


def count_members(indices: Sequence[TarIndex], modality: Modality) -> int:
    """Examples with a member of this modality."""
    return sum(_has_media(members, modality) for index in indices for members in index.examples.values())


def merge_examples(indices: Sequence[TarIndex], modality: Modality) -> list[TarIndex]:
    """Without the examples that have no media in one tar, and have it in another: their files lie apart."""
    whole = {key for one in indices for key, members in one.examples.items() if _has_media(members, modality)}
    return [
        replace(index, examples={key: members for key, members in index.examples.items()
                                 if _has_media(members, modality) or key not in whole})
        for index in indices
    ]  # fmt: skip


def _has_media(members: Sequence[Member], modality: Modality) -> bool:
    return any(member.suffix in modality.suffixes for member in members)


class TarPart:
    """The examples of one tar as rows with the columns `__key__` and the modality's name."""

    def __init__(self, index: TarIndex, modality: Modality, limits: LimitsConfig) -> None:
        self.path = index.path
        self.index = index
        self.modality = modality
        self.schema = pa.schema([(KEY, pa.string()), (modality.name, pa.struct([("bytes", pa.binary())]))])
        self.num_rows = len(index.examples)
        self.limits = limits

    def rows(self, paths: Sequence[tuple[str, ...]], start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """See `Part.rows`. Media that the tar's end cuts off is given as far as it goes."""
        try:
            with open(self.path, "rb") as file:
                for number, key in enumerate(self.index.examples):
                    if number >= start:
                        wanted = (self.modality.name,) in paths
                        yield number, {KEY: key} | ({self.modality.name: self._media(file, key)} if wanted else {})
        except _BROKEN_TAR as error:
            log.error("tar file %s breaks off: %s", self.path, one_line(error))

    def first_media(self, key: str) -> Member | None:
        """The example's first file of the modality that is not empty; previews only where there is no other."""
        of_kind = [one for one in self.index.examples[key] if one.suffix in self.modality.suffixes and one.size]
        return next((one for one in of_kind if one.suffix not in _LAST_CHOICE), of_kind[0] if of_kind else None)

    def _media(self, file: io.BufferedReader, key: str) -> dict[str, Any]:
        member = self.first_media(key)
        if member is None:
            return {PROBLEM: f"the example holds no {self.modality.name} file"}
        if member.sparse or member.size > self.limits.max_file_bytes:
            problem = f"{member.name} has {member.size} bytes, or holes; the limit is {self.limits.max_file_bytes}"
            log.error("%s in %s: passed over", problem, self.path)
            return {PROBLEM: problem}
        file.seek(member.offset)
        left = max(0, os.fstat(file.fileno()).st_size - member.offset)
        return {"bytes": file.read(min(member.size, left))}


def modality_of(indices: Sequence[TarIndex]) -> Modality:
    """The one that more examples hold; the first one if as many."""
    return max(MODALITIES.values(), key=lambda modality: count_members(indices, modality))


class _HeaderReader(io.BufferedReader):
    """A tar file that gives no more at once than a header has: one may say that the next name takes gigabytes."""

    def __init__(self, path: str) -> None:
        super().__init__(io.FileIO(path))

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes; the limit is {_MAX_HEADER_BYTES}")
        return super().read(size)
