"""The challenge's dataset, or a folder of one's own, as (id, media) rows.

What stands in the folder is read in this order, until a reading gives rows: a `save_to_disk` folder; parquet shards;
webdataset tars; files with a `metadata` table; arrow files; a plain folder of files, whose ids are their paths in it.
`datasets` comes first for all but the last (streamed.py); what it refuses or gives up is read by the modules here, so
that a damaged or ill-meaning row costs itself.

No row and no setting may name a file outside the dataset's folder, and nothing in it is run or unpacked.

The ids are read first, without the media where the format allows it, so that the result file can be complete before
the first file is scored.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ..config import LimitsConfig
from ..modality import MODALITIES, VIDEO, Modality
from ..text import one_line
from .columns import find_media, id_columns, is_text, value_at
from .folders import TablePart, find_file, is_metadata
from .saved import saved_parts
from .shards import BROKEN_FILE, ArrowPart, ParquetPart, Part
from .sources import ClipDataset, DatasetError, Row, Source, build_dataset
from .splits import files_of_split, has_splits, visible_files
from .streamed import Resolved, front_of, resolve
from .tars import TarPart, count_members, merge_examples, modality_of, read_index

log = logging.getLogger(__name__)

_SHARDS = (".parquet", ".tar", ".arrow")
_PEEKED_ROWS = 3


def open_dataset(
    path: str | os.PathLike[str],
    modality: Modality | None = None,
    *,
    limits: LimitsConfig | None = None,
    streamed: bool = True,
) -> ClipDataset:
    """Open whatever stands at `path`: a folder in one of the formats above, or a single file.

    modality: what to look for; None: the dataset tells, and the result knows. streamed: `datasets` in front.
    Raises: DatasetError: nothing there, nothing usable in it, or no row.
    """
    root = Path(path)
    if not root.exists():
        raise DatasetError(
            f"no dataset at {root}: the evaluation puts it at /tmp/data;"
            " elsewhere give --dataset DIR or set DATASET_PATH"
        )
    if root.is_file() and root.suffix.lower() not in _SHARDS:
        return open_files([root], root.parent, modality or _modality_of_names([root.name]))
    folder, files = (root.parent, [root]) if root.is_file() else (root, visible_files(root))
    if not files:
        raise DatasetError(f"the dataset folder {root} is empty: the download failed, or the path is wrong")
    problems: list[str] = []
    for name, reading in _readings(_Folder(folder, files, modality, limits or LimitsConfig(), streamed)):
        try:
            dataset = reading()
        except DatasetError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            log.warning("%s; reading it as %s instead", problem, name)
        return dataset
    raise DatasetError("; ".join(problems))


@dataclass(frozen=True)
class _Folder:
    """What every reading needs to know."""

    root: Path
    files: list[Path]  # all that is visible below root, or the one file that was named
    modality: Modality | None
    limits: LimitsConfig
    streamed: bool  # `datasets` in front

    @cached_property
    def resolved(self) -> Resolved | None:
        """What `datasets` makes of the whole folder; asked for once, by the first reading that needs it."""
        return resolve(self.root, self.files) if self.streamed else None

    def of_split(self, files: Sequence[Path]) -> list[Path]:
        """Those of the split: as `datasets` found them, else by the same rules."""
        found = [file for file in self.resolved.files if file in files] if self.resolved else []
        return found or files_of_split(self.root, files)

    def source(self, part: Part, media: tuple[str, ...], modality: Modality, **others: Any) -> Source:
        front = front_of(part, media, modality) if self.streamed else None
        return Source(part, media, front=front, **others)


def _readings(folder: _Folder) -> Iterator[tuple[str, Callable[[], ClipDataset]]]:
    """(name, function) of every reading that the files' names allow, the likeliest first."""
    root = folder.root
    plain = [file for file in folder.files if file.is_file()]  # on a pipe or a device, opening may wait for ever
    parquet, tars, arrow = ([file for file in plain if file.suffix.lower() == suffix and not is_metadata(file)]
                            for suffix in _SHARDS)  # fmt: skip
    if any(file in plain for file in (root / "dataset_dict.json", root / "state.json")):
        yield "a save_to_disk folder", partial(_open_saved, folder, [root])
    readings = [
        (parquet, "parquet files", partial(_open_columns, folder, parquet, ParquetPart)),
        (tars, "webdataset tars", partial(_open_tars, folder, tars)),
    ]
    for files, name, reading in sorted(readings, key=lambda one: -len(one[0])):
        if files:
            yield name, reading
    if tables := [file for file in plain if is_metadata(file)]:
        yield "a folder with metadata", partial(_open_tables, folder, tables)
    below = [file.parent for file in plain if file.name == "state.json" and file.parent != root]
    if below and arrow:
        yield "save_to_disk folders", partial(_open_saved, folder, below)
    if arrow:
        yield "arrow files", partial(_open_columns, folder, arrow, ArrowPart)
    yield "a plain folder", partial(_open_plain, folder)


def _modality_of_names(names: Sequence[str]) -> Modality:
    """The modality of most suffixes; the first one if as many."""
    counts = Counter(Path(name).suffix.strip().lower() for name in names)
    return max(MODALITIES.values(), key=lambda kind: sum(counts[suffix] for suffix in kind.suffixes))


def _open_plain(folder: _Folder) -> ClipDataset:
    wanted = [folder.modality] if folder.modality else list(MODALITIES.values())
    chosen = folder.modality or _modality_of_names([file.name for file in folder.files])
    media = [file for file in folder.files if file.suffix.lower() in chosen.suffixes]
    if not media:
        raise DatasetError(
            f"no dataset and no {' or '.join(kind.name for kind in wanted)} file in {folder.root}: looked for parquet,"
            f" arrow and tar files, metadata.csv or .jsonl, and files ending in {_usual_suffixes(wanted)};"
            f" found {', '.join(file.name for file in folder.files[:5])}"
        )
    if has_splits(folder.root):
        all_media, media = media, files_of_split(folder.root, media)
        log.warning("%s has splits: reading %d of %d files, those for testing; name a folder below it to read that one",
                    folder.root, len(media), len(all_media))  # fmt: skip
    left_out = Counter(file.suffix.lower() or "no suffix" for file in set(folder.files).difference(media))
    return open_files(media, folder.root, chosen, left_out=left_out)


def _usual_suffixes(modalities: Sequence[Modality]) -> str:
    """Such as `.mp4 .webm and 51 more`."""
    usual = [f".{name}" for kind in modalities for name in kind.column_names if f".{name}" in kind.suffixes]
    return f"{' '.join(usual)} and {sum(len(kind.suffixes) for kind in modalities) - len(usual)} more"


def open_files(
    files: list[Path], root: Path, modality: Modality = VIDEO, *, left_out: Mapping[str, int] | None = None
) -> ClipDataset:
    """A list of files; the id of each is its path relative to `root`. left_out: suffix -> other files there."""
    rows = [Row(file.relative_to(root).as_posix(), str(file.absolute())) for file in files]

    def part(chosen: list[Row]) -> ClipDataset:
        ids = [row.id for row in chosen]
        return ClipDataset(ids, f"{len(ids)} {modality.name} files in {root}", partial(iter, chosen), modality)

    def cut(num_rows: int) -> list[ClipDataset]:
        return [part(rows[start : start + num_rows]) for start in range(0, len(rows), num_rows)]

    return replace(part(rows), _cut=cut, left_out=dict(left_out or {}))


def _open_columns(folder: _Folder, files: Sequence[Path], kind: Callable[[str], Part]) -> ClipDataset:
    parts: list[Part] = []
    for file in folder.of_split(files):
        try:
            parts.append(kind(str(file)))
        except BROKEN_FILE as error:
            log.error("%s cannot be read: %s", file, one_line(error))
    what = f"{files[0].suffix.lower()[1:]} files in {folder.root}"
    if not parts:
        raise DatasetError(f"none of {len(files)} {what} can be read")
    return _open_parts(folder, parts, what)


def _open_saved(folder: _Folder, folders: Sequence[Path]) -> ClipDataset:
    try:
        parts = saved_parts(folder.root, folders)
    except BROKEN_FILE as error:
        raise DatasetError(f"cannot open the save_to_disk folder {folders[0]}: {one_line(error)}") from error
    return _open_parts(folder, parts, f"files of the save_to_disk folder {folder.root}")


def _open_parts(folder: _Folder, parts: Sequence[Part], what: str) -> ClipDataset:
    """Parts whose schemas tell where media and ids are; a part without media costs its own rows."""
    root, modality = folder.root, folder.modality
    found = [(part, find_media(part.schema, modality, partial(_peek, part))) for part in parts]
    sure = min((media for _, media in found if media), key=lambda media: media.rank, default=None)
    if sure is None:
        kinds = modality.name if modality else " or ".join(MODALITIES)
        raise DatasetError(
            f"no {kinds} column in {root}: the columns are {parts[0].schema.names[:20]}; one must be of type"
            f" {' or '.join(kind.column_type for kind in ([modality] if modality else MODALITIES.values()))}, or a"
            " struct of bytes and path"
        )
    sources = []
    for part, media in found:
        if media and media.modality != sure.modality:
            media = find_media(part.schema, sure.modality, partial(_peek, part))
        if media is None or media.rank > max(sure.rank, 3):
            log.error("%s has no %s column: its %d rows are left out; its columns are %s", part.path,
                      sure.modality.name, part.num_rows, part.schema.names[:20])  # fmt: skip
            continue
        places = (root, Path(part.path).parent)
        sources.append(folder.source(part, media.path, sure.modality, folders=places, label=_label(root, part)))
    _require_files(folder, sources, sure.modality, only_text=True)
    return build_dataset(root, sources, sure.modality, f"{len(sources)} {what}")


def _peek(part: Part, path: Sequence[str]) -> list[Any]:
    return [value_at(values, path) for _, values in itertools.islice(part.rows([tuple(path)]), _PEEKED_ROWS)]


def _label(root: Path, part: Part) -> str:
    return Path(os.path.relpath(part.path, root)).with_suffix("").as_posix()


def _require_files(folder: _Folder, sources: Sequence[Source], modality: Modality, *, only_text: bool = False) -> None:
    """Raises: DatasetError: no row names a file that is there, while there are files that none names."""
    named = [source for source in sources if not only_text or is_text(source.part.schema, source.media)]
    if len(named) < len(sources) or not any(file.suffix.lower() in modality.suffixes for file in folder.files):
        return
    for source in named:
        for _, values in source.part.rows([source.media]):
            path, _ = find_file(folder.root, source.folders, value_at(values, source.media))
            if path is not None and os.path.exists(path):
                return
    raise DatasetError(f"no row of {named[0].part.path} names a file that is there")


def _open_tars(folder: _Folder, files: Sequence[Path]) -> ClipDataset:
    root = folder.root
    indices = [read_index(str(file)) for file in folder.of_split(files)]
    modality = folder.modality or modality_of(indices)
    others = any(is_metadata(file) or file.suffix.lower() in modality.suffixes for file in folder.files)
    if others and not count_members(indices, modality):
        raise DatasetError(f"no {modality.name} file in the {len(indices)} tars of {root}")
    sources = []
    for index in merge_examples(indices, modality):
        part = TarPart(index, modality, folder.limits)
        label = _label(root, part)
        sources.append(
            folder.source(part, (modality.name,), modality, folders=(root,), label=label, names_are_ids=True)
        )
    return build_dataset(root, sources, modality, f"{len(sources)} webdataset tars in {root}")


def _open_tables(folder: _Folder, files: Sequence[Path]) -> ClipDataset:
    parts = []
    for file in folder.of_split(files):
        try:
            parts.append(TablePart(str(file), folder.modality))
        except ValueError as error:
            log.warning("%s", error)
    if not parts:
        raise DatasetError(f"no column file_name in {', '.join(map(str, files[:3]))}")
    modality = folder.modality or _modality_of_names(
        [str(values[part.file_column]) for part in parts for _, values in part.rows([(part.file_column,)])]
    )
    sources = []
    for part in parts:
        place = Path(part.path).parent
        label = place.relative_to(folder.root).as_posix().removeprefix(".")
        names_are_ids = not id_columns([name for name in part.columns if name != part.file_column])
        sources.append(
            folder.source(
                part, (part.file_column,), modality, folders=(place,), label=label, names_are_ids=names_are_ids
            )
        )
    _require_files(folder, sources, modality)
    return build_dataset(folder.root, sources, modality, f"{modality.name} folder {folder.root}")
