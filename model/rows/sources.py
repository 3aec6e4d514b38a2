"""Rows of the files that make up a dataset, and the ids by which they go into the result."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..modality import VIDEO, Modality
from .columns import SURE_IDS, content_and_name, id_columns, id_text, plain_name, value_at
from .folders import find_file
from .shards import Part
from .streamed import Front, rows_of
from .tars import PROBLEM

log = logging.getLogger(__name__)

_UNREAD = ""  # in place of an id that could not be read; no id is empty


class DatasetError(Exception):
    """The dataset as a whole cannot be used. The message says what was looked for and what to do."""


@dataclass(frozen=True)
class Row:
    """One example. media: the file's bytes or its path; None if there is neither, `problem` may then say why."""

    id: str
    media: bytes | str | None
    problem: str = ""


@dataclass(frozen=True)
class ClipDataset:
    """ids: unique, in the dataset's order. description: one line for the log."""

    ids: list[str]
    description: str
    _iterate: Callable[[], Iterator[Row]]
    modality: Modality = VIDEO  # what the rows hold
    numbered: bool = False  # the ids are numbers of rows
    left_out: Mapping[str, int] | None = None  # of a plain folder: suffix -> files of other kinds; else None
    _cut: Callable[[int], list[ClipDataset]] | None = None

    def cut(self, num_rows: int) -> list[ClipDataset]:
        """Parts of at most so many rows, in order; each is read without those before it, and pickles.

        A repeated id belongs to the part where it stands first. Raises: ValueError: this dataset cannot be cut.
        """
        if self._cut is None:
            raise ValueError(f"{self.description} cannot be cut into parts")
        return self._cut(num_rows)

    def without(self, done: Collection[str]) -> ClipDataset:
        """The rows that are left when those of some ids need no more work."""
        return replace(self, ids=[clip_id for clip_id in self.ids if clip_id not in done])

    def rows(self) -> Iterator[Row]:
        """Every row once; a repeated id is passed over. Rows that cannot be read come last, without media."""
        waiting = dict.fromkeys(self.ids)
        for row in self._iterate():
            if row.id in waiting:
                del waiting[row.id]
                yield row
        if waiting:
            log.error("%d rows could not be read from the dataset, e.g. %s", len(waiting), list(waiting)[:3])
        yield from (Row(clip_id, None, "the row cannot be read from the dataset") for clip_id in waiting)


@dataclass(frozen=True)
class Source:
    """A part of a dataset, and what of it is read."""

    part: Part
    media: tuple[str, ...]  # the media column, and from there down through structs
    folders: tuple[Path, ...]  # in which a file that a row names is looked for, in this order
    label: str  # goes in front of a file's name that two parts use
    names_are_ids: bool = False  # the ids are names of files, which other parts may use as well
    front: Front | None = None  # how `datasets` streams the part, if it does

    def id_column(self, name: str) -> str | None:
        """The column of that name here, or of a name as good as that."""
        names = self.part.schema.names
        return name if name in names else next((one for one in names if plain_name(one) == plain_name(name)), None)


def build_dataset(root: Path, sources: Sequence[Source], modality: Modality, description: str) -> ClipDataset:
    """The rows of all sources, one after the other. Raises: DatasetError: there is none."""
    column, texts, unlike = _choose_ids(sources)
    names = _name_rows(unlike, numbered=column is None)
    ids = [name for of_source in names for name in of_source if name]
    unique = list(dict.fromkeys(ids))
    if not unique:
        raise DatasetError(f"{description}: no row; the file would have nothing but a header")
    if len(unique) < len(ids):
        repeated = Counter(ids).most_common(1)[0][0]
        log.warning(
            "%d rows repeat an id, e.g. %r: the result is joined on id, so only the first row of each is scored",
            len(ids) - len(unique), repeated,
        )  # fmt: skip

    stretches = [
        Stretch(source, 0, of_source, expected, source.id_column(column) if column else None)
        for source, of_source, expected in zip(sources, names, texts, strict=True)
    ]

    streamed = sum(source.front is not None for source in sources)
    by = f", {streamed} streamed by datasets" if streamed else ""
    told = f"{description}{by}: {len(unique)} rows"
    whole = ClipDataset(unique, told, partial(_read, root, stretches), modality, numbered=column is None)

    def cut(num_rows: int) -> list[ClipDataset]:
        taken: set[str] = set()
        parts = []
        for stretch in (part for one in stretches for part in one.cut(num_rows)):
            own = [name for name in dict.fromkeys(stretch.ids) if name and name not in taken]
            taken.update(own)
            if own:
                read = partial(_read, root, [stretch])
                parts.append(replace(whole, ids=own, description=description, _iterate=read))
        return parts

    return replace(whole, _cut=cut)


@dataclass(frozen=True)
class Stretch:
    """Rows of a source that follow each other."""

    source: Source
    first: int  # the number of the first one
    ids: list[str]  # of every row; "" where it could not be read
    texts: list[str | None]  # what the column of ids said then
    id_column: str | None

    def fits(self, number: int, values: Mapping[str, Any]) -> bool:
        """Whether the row of that number has the id that was read first. True of rows after this stretch."""
        place = number - self.first
        if place >= len(self.ids):
            return number < self.source.part.num_rows
        known = self.texts[place]
        return not self.id_column or known == _UNREAD or id_text(values[self.id_column]) == known

    def cut(self, num_rows: int) -> Iterator[Stretch]:
        for start in range(0, len(self.ids), num_rows):
            part = slice(start, start + num_rows)
            yield replace(self, first=self.first + start, ids=self.ids[part], texts=self.texts[part])


def _read(root: Path, stretches: Sequence[Stretch]) -> Iterator[Row]:
    for stretch in stretches:
        source, id_column = stretch.source, stretch.id_column
        paths = list(dict.fromkeys([source.media, *([(id_column,)] if id_column else [])]))
        for number, values in rows_of(source.part, source.front, paths, stretch.first, stretch.fits):
            place = number - stretch.first
            if place >= len(stretch.ids) and number < source.part.num_rows:
                break  # the next stretch begins
            if not stretch.fits(number, values):
                log.error("%s has changed since its ids were read: the rest is left", source.part.path)
                break
            if stretch.ids[place]:
                yield _row(stretch.ids[place], value_at(values, source.media), source, root)


_Texts = list[list[str | None]]  # of every source, of every row


def _choose_ids(sources: Sequence[Source]) -> tuple[str | None, _Texts, _Texts]:
    """(id column or None, its text, the id): of the likeliest column whose ids tell the rows apart.

    Id and text differ where two parts use the same names of files.
    """
    media = {source.media for source in sources if not source.names_are_ids}
    names = list(dict.fromkeys(name for one in sources for name in one.part.schema.names if (name,) not in media))
    for column in id_columns(names):
        texts = [_read_ids(source, column) for source in sources]
        if not any(filter(None, (text for of_source in texts for text in of_source))):
            continue
        if _repeats(texts) and (column not in SURE_IDS or all(source.names_are_ids for source in sources)):
            whole = [[text and f"{source.label}/{text}".lstrip("/") for text in of_source]
                     for source, of_source in zip(sources, texts, strict=True)]  # fmt: skip
            if _repeats(whole) and not all(source.names_are_ids for source in sources):
                log.info("%r repeats: no ids", column)
                continue
            return column, texts, whole
        return column, texts, texts
    log.warning("no id column among %s; ids are row numbers", names[:20])
    none: _Texts = [[None] * source.part.num_rows for source in sources]
    return None, none, none


def _read_ids(source: Source, column: str) -> list[str | None]:
    own = source.id_column(column)
    if own is None:
        return [None] * source.part.num_rows
    texts: list[str | None] = [_UNREAD] * source.part.num_rows
    for number, values in rows_of(source.part, source.front, [(own,)]):
        if number < len(texts):
            texts[number] = id_text(values[own])
    return texts


def _repeats(texts: Sequence[Sequence[str | None]]) -> bool:
    known = [text for of_source in texts for text in of_source if text]
    return len(set(known)) < len(known)


def _name_rows(texts: Sequence[Sequence[str | None]], *, numbered: bool) -> list[list[str]]:
    """The id of every row: its text, else its number over all sources; "" where its id could not be read."""
    taken = {text for of_source in texts for text in of_source if text}
    names: list[list[str]] = []
    number = 0
    for of_source in texts:
        names.append([])
        for text in of_source:
            own_number = str(number) if numbered or str(number) not in taken else f"row-{number}"
            names[-1].append(own_number if text is None else text)
            number += 1
    return names


def _row(clip_id: str, value: Any, source: Source, root: Path) -> Row:
    content, _ = content_and_name(value)
    if content:
        return Row(clip_id, content)
    if isinstance(value, Mapping) and PROBLEM in value:
        return Row(clip_id, None, value[PROBLEM])
    path, problem = find_file(root, source.folders, value)
    return Row(clip_id, path, problem)
