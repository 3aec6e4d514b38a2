"""The challenge's dataset, or a folder of one's own, as (id, video) rows.

Parquet shards, webdataset tars and video folders with a `metadata` file are read here, so that a damaged or ill-meaning
row costs itself: `datasets` refuses the whole where the README has two configurations or a script lies about, and gives
up a file at its first bad row. It opens `save_to_disk` folders and arrow files. A plain folder of videos, or a list of
files, needs no metadata; the id is then the path relative to the folder.

No row and no setting may name a file outside the dataset's folder, and nothing in it is run.

The ids are read first, without the videos where the format allows it, so that the result file can be complete before
the first video is scored.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..modality import VIDEO, Modality
from ..text import one_line
from .folders import METADATA_NAMES, file_column, metadata_rows, path_inside
from .shards import parquet_positions, parquet_rows, parquet_schema, tar_keys, tar_rows

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset(
    (
        ".mp4",
        ".m4v",
        ".mov",
        ".webm",
        ".mkv",
        ".avi",
        ".ts",
        ".mts",
        ".m2ts",
        ".mpg",
        ".mpeg",
        ".wmv",
        ".asf",
        ".flv",
        ".f4v",
        ".3gp",
        ".ogv",
        ".gif",
        ".y4m",
        ".mxf",
        ".vob",
    )  # fmt: skip
)
ID_COLUMNS = ("id", "__key__", "uuid", "video_id", "file_name", "name")  # tried in this order; else the row number
PREFERRED_SPLIT = "test"
_SPLIT_WORDS = frozenset({"test", "testing", "eval", "evaluation"})  # in a path; as `datasets` has them


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

    def without(self, done: Collection[str]) -> ClipDataset:
        """The rows that are left when those of some ids need no more work."""
        return replace(self, ids=[clip_id for clip_id in self.ids if clip_id not in done])

    def rows(self) -> Iterator[Row]:
        """Every row once; a repeated id is passed over. A shard that breaks costs its own rest only."""
        waiting = set(self.ids)
        for row in self._iterate():
            if row.id in waiting:
                waiting.remove(row.id)
                yield row
        if waiting:
            log.error("%d rows could not be read from the dataset, e.g. %s", len(waiting), sorted(waiting)[:3])


def open_dataset(path: str | os.PathLike[str], modality: Modality | None = None) -> ClipDataset:
    """Open whatever stands at `path`: a folder in one of the formats above, or a single video file.

    modality: what to look for; None: the dataset tells, and the result knows.
    Raises: DatasetError: nothing there, nothing usable in it, or no row.
    """
    root = Path(path)
    if not root.exists():
        raise DatasetError(
            f"no dataset at {root}: the evaluation puts it at /tmp/data;"
            " elsewhere give --dataset DIR or set DATASET_PATH"
        )
    if root.is_file():
        return open_files([root], root.parent)
    files = [file for file in _visible_files(root) if file.suffix.lower() in VIDEO_SUFFIXES or file.is_file()]
    if not files:
        raise DatasetError(f"the dataset folder {root} is empty: the download failed, or the path is wrong")
    names = {file.name for file in files}
    if names & {"dataset_dict.json", "state.json"}:
        return _open_saved(root)
    shards = Counter(file.suffix.lower() for file in files if file.name not in METADATA_NAMES)
    if shards[".parquet"] or shards[".tar"]:
        return _open_shards(root, files, ".parquet" if shards[".parquet"] >= shards[".tar"] else ".tar")
    if names & METADATA_NAMES:
        return _open_video_folder(root, [file for file in files if file.name in METADATA_NAMES])
    if shards[".arrow"]:
        return _open_arrow(root, [file for file in files if file.suffix.lower() == ".arrow"])
    videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
    if not videos:
        raise DatasetError(
            f"no dataset and no video in {root}: looked for parquet, arrow and tar files, metadata.csv or .jsonl, and"
            f" files ending in {' '.join(sorted(VIDEO_SUFFIXES))}; found {', '.join(sorted(names)[:5])}"
        )
    return open_files(videos, root)


def open_files(files: list[Path], root: Path) -> ClipDataset:
    """A list of video files; the id of each is its path relative to `root`."""
    paths = {file.relative_to(root).as_posix(): str(file.absolute()) for file in files}

    def iterate() -> Iterator[Row]:
        for clip_id, file in paths.items():
            yield Row(clip_id, file)

    return ClipDataset(list(paths), f"{len(paths)} video files in {root}", iterate)


def _visible_files(root: Path) -> Iterator[Path]:
    """Files below `root` in a fixed order, without hidden files and folders (.cache, .git, .gitattributes)."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(folder, name)


def _open_saved(root: Path) -> ClipDataset:
    try:
        for file in _visible_files(root):  # on a pipe or a device, opening or reading may wait for ever
            if file.suffix in {".json", ".arrow"} and not file.is_file():
                raise ValueError(f"{file} is not a plain file")
        from datasets import DatasetDict, load_from_disk

        loaded = load_from_disk(str(root))
        split, data = _choose_split(loaded) if isinstance(loaded, DatasetDict) else ("", loaded)
        for shard in data.cache_files:
            if path_inside(root, root, shard["filename"]) is None:
                raise ValueError(f"it names {shard['filename']}, outside the dataset")
        video_column, id_column = _find_columns(data.features.arrow_schema, root)
        ids = data.select_columns([id_column])[:][id_column] if id_column else range(len(data))
    except _BROKEN_SHARD as error:
        raise DatasetError(f"cannot open the save_to_disk folder {root}: {one_line(error)}") from error
    undecoded = _undecoded(data, video_column)

    def iterate() -> Iterator[Row]:
        for position in range(len(undecoded)):
            try:
                yield _row(undecoded[position], video_column, id_column, str(position), root)
            except _BROKEN_SHARD as error:
                log.error("row %d of the dataset cannot be read: %s", position, one_line(error))

    return _finish([str(value) for value in ids], f"save_to_disk folder {root} {split}".strip(), iterate)


def _open_arrow(root: Path, files: list[Path]) -> ClipDataset:
    from datasets import load_dataset

    try:
        chosen = [str(file) for file in _of_split(root, files)]
        data = load_dataset("arrow", data_files=chosen, split="train", streaming=True)
        features = data.features or data._resolve_features().features
        video_column, id_column = _find_columns(features.arrow_schema, root)
    except _BROKEN_SHARD as error:
        raise DatasetError(f"datasets cannot load {root}: {one_line(error)}") from error
    undecoded = _undecoded(data, video_column)

    def iterate() -> Iterator[Row]:
        for position, example in _examples(undecoded):
            yield _row(example, video_column, id_column, position, root)

    ids = [str(example[id_column]) if id_column else position for position, example in _examples(undecoded)]
    return _finish(ids, f"arrow files in {root}", iterate)


def _open_video_folder(root: Path, files: list[Path]) -> ClipDataset:
    files = _of_split(root, files)
    columns = list(dict.fromkeys(name for _, _, values in metadata_rows(files) for name in values))
    name_column = file_column(columns)
    if name_column is None:
        raise DatasetError(f"no column file_name in {', '.join(map(str, files[:3]))}: the columns are {columns}")
    id_column = _find_id_column(columns)

    def rows() -> Iterator[Row]:
        for position, folder, values in metadata_rows(files):
            value = values.get(id_column) if id_column else None
            clip_id = position if value is None else str(value)
            yield _checked_row(clip_id, values.get(name_column), root, folder)

    return _finish([row.id for row in rows()], f"video folder {root}", rows)


def _open_shards(root: Path, files: list[Path], suffix: str) -> ClipDataset:
    shards = [file for file in files if file.suffix.lower() == suffix and file.name not in METADATA_NAMES]
    chosen = [str(file) for file in _of_split(root, shards)]
    try:
        return (_open_parquet if suffix == ".parquet" else _open_tars)(chosen, root)
    except _BROKEN_SHARD as error:
        raise DatasetError(f"cannot load {root}: {one_line(error)}") from error


def _of_split(root: Path, files: list[Path]) -> list[Path]:
    """Those with the split's name as a word in their path below root, else all."""
    named = [file for file in files if _SPLIT_WORDS & set(re.split("[^a-z]", str(file.relative_to(root)).lower()))]
    if not named:
        log.info("no file named for the split %r: reading all %d", PREFERRED_SPLIT, len(files))
    return named or files


def _open_parquet(files: list[str], root: Path) -> ClipDataset:
    video_column, id_column = _find_columns(parquet_schema(files), root)
    columns = [video_column, id_column] if id_column else [video_column]

    def iterate() -> Iterator[Row]:
        for position, values in parquet_rows(files, columns):
            yield _row(values, video_column, id_column, position, root)

    if id_column:
        ids = [str(values[id_column]) for _, values in parquet_rows(files, [id_column])]
    else:
        ids = list(parquet_positions(files))
    return _finish(ids, f"{len(files)} parquet files in {root}", iterate)


def _open_tars(files: list[str], root: Path) -> ClipDataset:
    def iterate() -> Iterator[Row]:
        for key, video in tar_rows(files, VIDEO_SUFFIXES):
            yield Row(key, video)

    return _finish(list(tar_keys(files)), f"{len(files)} webdataset tars in {root}", iterate)


def _choose_split(splits: Mapping[str, Any]) -> tuple[str, Any]:
    """The `test` split, else the only one, else the first."""
    names = list(splits)
    if not names:
        raise DatasetError("the dataset has no split")
    chosen = PREFERRED_SPLIT if PREFERRED_SPLIT in names else names[0]
    if chosen != PREFERRED_SPLIT:
        log.info("no split named %r; reading %r of %s", PREFERRED_SPLIT, chosen, names)
    return chosen, splits[chosen]


def _find_columns(schema: pa.Schema, where: object) -> tuple[str, str | None]:
    """(video column, id column or None): the video by its type, else by its {bytes, path} shape; the id by name."""
    by_type = [name for name, kind in _hub_types(schema).items() if kind == "Video" and name in schema.names]
    by_shape = [one.name for one in schema if pa.types.is_struct(one.type) and one.type.get_field_index("bytes") >= 0]
    by_name = [name for name in schema.names if name.lower() in {"video", "mp4", "webm", "mov", "avi", "mkv"}]
    candidates = by_type or by_shape or by_name
    if not candidates:
        raise DatasetError(
            f"no video column in {where}: the columns are {schema.names}; one must be of type Video, or a"
            " struct of bytes and path"
        )
    if len(candidates) > 1:
        log.info("several video columns %s; reading %r", candidates, candidates[0])
    return candidates[0], _find_id_column(schema.names)


def _hub_types(schema: pa.Schema) -> dict[str, str]:
    """Column -> type, as `datasets` notes them in a schema's metadata."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: feature["_type"] for name, feature in features.items() if "_type" in feature}
    except (ValueError, KeyError, TypeError, AttributeError):  # no such note, or one of another shape
        return {}


def _find_id_column(columns: Sequence[str]) -> str | None:
    id_column = next((name for name in ID_COLUMNS if name in columns), None)
    if id_column is None:
        log.warning("no id column among %s (looked for %s); ids are row numbers", columns, ", ".join(ID_COLUMNS))
    return id_column


def _undecoded(data: Any, video_column: str) -> Any:
    from datasets import Video

    return data.cast_column(video_column, Video(decode=False))


def _examples(data: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """(position, example) of every shard in turn; a shard that cannot be read to its end is logged and left."""
    for shard in range(data.num_shards):
        try:
            for offset, example in enumerate(data.shard(num_shards=data.num_shards, index=shard)):
                yield f"{shard}-{offset}", example
        except _BROKEN_SHARD as error:
            log.error("shard %d of the dataset breaks off: %s", shard, one_line(error))


def _row(example: Mapping[str, Any], video_column: str, id_column: str | None, position: str, root: Path) -> Row:
    value = example[video_column]
    content, name = (value.get("bytes"), value.get("path")) if isinstance(value, Mapping) else (value, value)
    clip_id = str(example[id_column]) if id_column else position
    return Row(clip_id, content) if isinstance(content, bytes) and content else _checked_row(clip_id, name, root, root)


def _checked_row(clip_id: str, name: object, root: Path, folder: Path) -> Row:
    """A row whose video is the file called `name` in `folder`."""
    if not isinstance(name, str) or not name:
        return Row(clip_id, None)
    path = path_inside(root, folder, name)
    return Row(clip_id, path, "" if path else f"the row names a file outside the dataset: {name[:200]}")


def _finish(ids: list[str], description: str, iterate: Callable[[], Iterator[Row]]) -> ClipDataset:
    unique = list(dict.fromkeys(ids))
    if not unique:
        raise DatasetError(f"{description}: no row; the file would have nothing but a header")
    if len(unique) < len(ids):
        repeated = Counter(ids).most_common(1)[0][0]
        log.warning(
            "%d rows repeat an id, e.g. %r: the result is joined on id, so only the first row of each is scored",
            len(ids) - len(unique), repeated,
        )  # fmt: skip
    return ClipDataset(unique, f"{description}: {len(unique)} rows", iterate)


# What a broken file makes pyarrow (ArrowInvalid is a ValueError), fsspec and datasets raise.
_BROKEN_SHARD = (OSError, ValueError, TypeError, LookupError, AttributeError, EOFError, RuntimeError, MemoryError)
