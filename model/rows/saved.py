"""Folders that `save_to_disk` wrote: which arrow files belong to them, without following a path out of the dataset."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from .folders import path_inside
from .shards import ArrowPart, Part
from .splits import choose_splits, files_of_split, visible_files

log = logging.getLogger(__name__)


def saved_parts(root: Path, folders: Sequence[Path]) -> list[Part]:
    """The arrow files of the split. folders: the dataset's root, or folders below that hold a `state.json` each.

    Raises: OSError, ValueError, LookupError, TypeError: a description or a file cannot be read, or leads outside.
    """
    for file in visible_files(root):  # on a pipe or a device, opening or reading may wait for ever
        if file.suffix in {".json", ".arrow"} and not file.is_file():
            raise ValueError(f"{file} is not a plain file")
    if (root / "dataset_dict.json").is_file():
        names = [str(name) for name in json.loads((root / "dataset_dict.json").read_bytes())["splits"]]
        chosen = [_inside(root, root, name) for name in choose_splits(names)]
    else:
        states = files_of_split(root, [folder / "state.json" for folder in sorted(folders)])
        chosen = [state.parent for state in states]
    parts: list[Part] = []
    for folder in chosen:
        state = json.loads((folder / "state.json").read_bytes())
        files = [_inside(root, folder, file["filename"]) for file in state["_data_files"]]
        parts += [ArrowPart(str(file)) for file in files]
    if not parts:
        raise ValueError("it names no file")
    return parts


def _inside(root: Path, folder: Path, name: str) -> Path:
    path = path_inside(root, folder, name)
    if path is None:
        raise ValueError(f"it names {name}, outside the dataset")
    return Path(path)
