"""`datasets` in front: it says which files belong to the split, and streams their rows with the media undecoded.

What it refuses, gives up in the middle, or would not read as promised goes to the modules beside this one. These are,
and stay with them:
- folders with settings that name files elsewhere, pipes, devices or links to folders, and settings with YAML anchors;
- row groups and record batches over 128 MiB, of which it holds two at a time and more: in one trial 400 rows of 1 MB in
  groups of 10, 100 and 400 took 0.1, 0.3 and 0.8 GB with the options below, 0.4, 0.7 and 0.8 GB without;
- tars with anything but one file of the modality an example: it would decode or unpack what stands beside;
- tables whose ids it turns into numbers (`007`) or takes for missing (`NA`), or that only their folder's name tells
  apart; media in lists or in structs within structs, which it would decode.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from ..config import torch_import
from ..modality import VIDEO, Modality
from ..text import one_line
from .columns import is_as_datasets_stores
from .folders import FILE_COLUMN, TablePart, path_inside
from .shards import BROKEN_FILE, ArrowPart, ParquetPart, Part
from .splits import SPLIT, choose_splits, is_test_name
from .tars import KEY, TarPart

log = logging.getLogger(__name__)

MAX_GROUP_BYTES = 128 << 20
_MAX_FILES = 1000  # it looks through a folder about thirty times: 6,000 files took 4 s before there was a result file
_MAX_SETTINGS = 1 << 16  # bytes of README.md's YAML
_BUFFER_BYTES = 1 << 20
# What it raises on damaged or odd files, besides BROKEN_FILE: missing packages, and what it does not expect itself.
_ERRORS = (*BROKEN_FILE, ImportError, RuntimeError, AttributeError, EOFError, AssertionError, tarfile.TarError)

Paths = Sequence[tuple[str, ...]]
# Columns -> values of every row of one file, from the first on. It pickles.
Front = Callable[[Paths], Iterator[dict[str, Any]]]


@dataclass(frozen=True)
class Resolved:
    """What `datasets` makes of a folder. module: how it reads files, e.g. `parquet`. files: of the split, in order."""

    module: str
    files: list[Path]


def resolve(root: Path, files: Sequence[Path]) -> Resolved | None:
    """The files of the split by the folder's names and README.md; None where `datasets` is not asked, or refuses.

    files: all that is visible below root.
    """
    if len(files) > _MAX_FILES:
        log.info("%d files: the split is found without `datasets`", len(files))
        return None
    if reason := _unsafe(root):
        log.warning("`datasets` is not asked for the split: %s", reason)
        return None
    try:
        builder = _library().load_dataset_builder(str(root))
        named = {str(split): list(map(str, names)) for split, names in (builder.config.data_files or {}).items()}
        module = type(builder).__module__.rpartition(".")[2]
    except (*_ERRORS, *_yaml_errors()) as error:
        log.warning("`datasets` cannot find the split: %s", one_line(error))
        return None
    if not any(map(is_test_name, named)):
        return None  # where it finds none, all is read, or what is named so in capitals
    chosen = [Path(name) for split in choose_splits(list(named)) for name in named[split]]
    known = {os.path.realpath(file): file for file in files}
    inside = [known.get(os.path.realpath(file)) for file in chosen if path_inside(root, root, str(file))]
    plain = [file for file in inside if file is not None and file.is_file()]
    if len(plain) < len(chosen) or len(set(plain)) < len(plain):
        log.warning("`datasets` names files twice or outside %s: the split is found without it", root)
        return None
    return Resolved(module, plain)


def front_of(part: Part, media: tuple[str, ...], modality: Modality) -> Front | None:
    """How `datasets` streams one file; None where it does not, or not as promised."""
    if isinstance(part, TarPart):
        return partial(_examples, part) if _one_file_an_example(part) else None
    if isinstance(part, TablePart):
        named = Path(part.path).name in {"metadata.csv", "metadata.jsonl", "metadata.parquet"}
        ends = part.file_column == FILE_COLUMN or part.file_column.endswith(f"_{FILE_COLUMN}")
        return partial(_table, part) if named and ends else None
    if len(media) > 1 or not is_as_datasets_stores(part.schema, media[0]):
        return None
    if isinstance(part, ParquetPart) and part.largest_group([media]) <= MAX_GROUP_BYTES:
        return partial(_columns, "parquet", part.path, media, modality)
    if isinstance(part, ArrowPart) and part.largest_batch <= MAX_GROUP_BYTES:
        return partial(_columns, "arrow", part.path, media, modality)
    return None


def rows_of(
    part: Part,
    front: Front | None,
    paths: Paths,
    start: int = 0,
    fits: Callable[[int, dict[str, Any]], bool] = lambda *_: True,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file from `start` on: by `datasets` as far as it gets, by the part's own reader from there on.

    `datasets` would read all that stands before `start`: it is asked where that is nothing. fits: whether number and
    values belong together; where they do not, the own reader takes over.
    """
    number = start
    if front is not None and start == 0:
        try:
            for values in _started(front(paths)):
                if not fits(number, values):
                    raise ValueError("its ids differ from those in the file")
                yield number, values
                number += 1
            if number != part.num_rows:
                raise ValueError(f"it gives {number} of {part.num_rows} rows")
            return
        except _ERRORS as error:
            log.warning(
                "`datasets` gives up %s at row %d: %s; reading on without it", part.path, number, one_line(error)
            )
    yield from part.rows(paths, start=number)


def _started(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same rows. At its start `datasets` imports a part of torch if torch is there: it must not be half there."""
    with torch_import:
        first = next(rows, None)
    if first is not None:
        yield first
        yield from rows


def _library() -> ModuleType:
    """`datasets`, without network, and without torch, which it imports for a base class that is not used here."""
    before = os.environ.get("USE_TORCH")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["USE_TORCH"] = "0"
    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # what it gives up is told in one line, above
    try:
        import datasets
    finally:
        del os.environ["USE_TORCH"]
        if before is not None:
            os.environ["USE_TORCH"] = before
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    return datasets


def _yaml_errors() -> tuple[type[Exception], ...]:
    """What README.md's settings may raise; nothing where neither YAML nor `datasets` is installed."""
    try:
        import yaml
    except ImportError:
        return ()
    return (yaml.YAMLError,)


def _unsafe(root: Path) -> str:
    """Why `datasets` must not look through the folder; "" if it may."""
    for folder, subfolders, names in os.walk(root):
        for name in subfolders + names:
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):  # gone, or a link to nothing: it is passed over there as well
                if name in names and not stat.S_ISREG(os.stat(path).st_mode):
                    return f"{path} is not a plain file"
                if name in subfolders and os.path.islink(path):
                    return f"{path} is a link to a folder"
    for name in ("README.md", ".huggingface.yaml"):
        settings = root / name
        text = settings.read_bytes()[: _MAX_SETTINGS + 1].decode(errors="replace") if settings.is_file() else ""
        head = text.partition("\n---")[0] if name == "README.md" else text
        if len(head) > _MAX_SETTINGS:
            return f"the settings in {settings} are longer than {_MAX_SETTINGS} bytes"
        if "configs" in head and re.search(r"\.\.|://|[\s:\[,\"'][/~]", head):
            return f"{settings} names files elsewhere"
        if re.search(r"(?:^|[\s\[{,:-])[&*]\w", head):
            return f"{settings} holds YAML anchors"
    return ""


def _stream(module: str, path: str, **options: Any) -> Any:
    return _library().load_dataset(module, data_files={SPLIT: [path]}, split=SPLIT, streaming=True, **options)


def _undecoded(data: Any, column: str, modality: Modality) -> Any:
    feature = {"Video": _library().Video, "Audio": _library().Audio}[modality.column_type]
    return data.cast_column(column, feature(decode=False))


def _columns(
    module: str, path: str, media: tuple[str, ...], modality: Modality, paths: Paths
) -> Iterator[dict[str, Any]]:
    """Rows of a file with columns: of those asked for alone."""
    columns = [one[0] for one in paths]
    if module == "parquet":
        import pyarrow.dataset as pads

        buffered = pads.ParquetFragmentScanOptions(
            use_buffered_stream=True, buffer_size=_BUFFER_BYTES, pre_buffer=False
        )
        rows = 1 if media in paths else 1000
        data = _stream(module, path, columns=columns, batch_size=rows, fragment_scan_options=buffered)
    else:
        data = _stream(module, path).select_columns(columns)
    yield from _undecoded(data, media[0], modality) if media in paths else data


def _one_file_an_example(part: TarPart) -> bool:
    members = [one for example in part.index.examples.values() for one in example]
    return (
        part.index.whole
        and _looks_unpacked(part.path)
        and part.index.neighbours
        and len(members) == len(part.index.examples)
        and len({one.field for one in members}) == 1
        and all(one.suffix in part.modality.suffixes and "." not in one.field for one in members)
        and all(0 < one.size <= part.limits.max_file_bytes and not one.sparse for one in members)
    )


def _looks_unpacked(path: str) -> bool:
    """Whether the first file's name, which stands first in the tar, cannot be taken for the mark of a packed file."""
    with open(path, "rb") as file:
        return re.match(rb"(?!BZh)[A-Za-z0-9._/-]", file.read(8)) is not None


def _examples(part: TarPart, paths: Paths) -> Iterator[dict[str, Any]]:
    """Examples of a tar."""
    if (part.modality.name,) not in paths:  # the keys: it would read every byte for them
        yield from (values for _, values in part.rows(paths))
        return
    column = next(iter(part.index.examples.values()))[0].field
    value = _library().Value
    types = {column: value("binary"), KEY: value("string"), "__url__": value("string")}  # bytes, not sound to decode
    for example in _stream("webdataset", part.path, features=_library().Features(types)):
        yield {KEY: example[KEY], part.modality.name: example[column]}


def _table(part: TablePart, paths: Paths) -> Iterator[dict[str, Any]]:
    """Rows of a metadata table. Ids are read first without `datasets`: it would take some for numbers."""
    ids = [path[0] for path in paths if path != (part.file_column,)]
    if (part.file_column,) not in paths or not ids:
        yield from (values for _, values in part.rows(paths))
        return
    data = _stream("videofolder", part.path)  # of sound too: `audiofolder` needs torchcodec where nothing is decoded
    column = part.file_column.removesuffix(FILE_COLUMN).removesuffix("_") or VIDEO.name
    for example in _undecoded(data.select_columns([*ids, column]), column, VIDEO):
        yield {name: example[name] for name in ids} | {part.file_column: example[column]["path"]}
