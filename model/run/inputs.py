"""What a person asks for, checked before a run: each problem is one line that names the thing and the remedy."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..modality import MODALITIES, Modality
from .parts import modality_of_file

_NOT_FOR_LONG = {errno.ENOSPC, errno.EDQUOT}  # a full disk may have room again when the result comes


class InputError(ValueError):
    """Something that was named cannot be used."""


class OutputError(ValueError):
    """A result could not be written where it is asked for."""


@dataclass(frozen=True)
class Found:
    """Files to score, and how many others stand beside them, by suffix."""

    files: list[Path]
    left_out: Counter[str] = field(default_factory=Counter)


def find_files(names: Sequence[str], modality: Modality | None = None) -> Found:
    """Files as named; of folders what has a suffix of the modality (None: of any), sorted, without hidden ones.

    Raises: InputError: something is not there, is a URL, or is a folder that cannot be read or has no such file.
    """
    files: list[Path] = []
    left_out: Counter[str] = Counter()
    for name in names:
        if "://" in name:
            raise InputError(f"{name} is a URL, and nothing here uses the network: download the file first")
        path = Path(name)
        if path.is_dir():
            files += _files_below(path, modality, left_out)
        elif os.path.lexists(path):
            files.append(path)
        else:
            raise InputError(f"{name} does not exist")
    return Found(files, left_out)


def _files_below(folder: Path, modality: Modality | None, left_out: Counter[str]) -> list[Path]:
    files, others = [], Counter[str]()
    for path, below, names in os.walk(folder, onerror=_raise_unreadable):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in (name for name in names if not name.startswith(".")):
            kind = modality_of_file(name)
            if kind is not None and modality in (None, kind):
                files.append(Path(path, name))
            else:
                others[Path(name).suffix.lower() or "no suffix"] += 1
    if not files:
        kinds = [modality] if modality else list(MODALITIES.values())
        suffixes = " ".join(sorted(set().union(*(kind.suffixes for kind in kinds))))
        held = f"; what it holds: {describe(others)}" if others else "; it is empty"
        what = " or ".join(kind.name for kind in kinds)
        raise InputError(f"no {what} file in {folder}: looked for names ending in {suffixes}{held}")
    left_out += others
    return sorted(files)


def _raise_unreadable(error: OSError) -> None:
    raise InputError(
        f"cannot read the folder {error.filename}: {error.strerror}; change its permissions, or name files"
    )


def check_folder(name: str) -> None:
    """Raises: InputError: a URL, or a folder whose content cannot be listed."""
    if "://" in name:
        raise InputError(f"{name} is a URL, and nothing here uses the network: download the dataset first")
    try:
        if os.path.isdir(name):
            os.scandir(name).close()
    except OSError as error:
        _raise_unreadable(error)


def check_output(path: Path) -> None:
    """Raises: OutputError: no file can be written at `path`."""
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder; name a file")
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "w", encoding="utf-8"):
            pass
        partial.unlink()
    except OSError as error:
        if error.errno in _NOT_FOR_LONG:
            return
        reason = "its folder does not exist" if error.errno == errno.ENOENT else error.strerror
        raise OutputError(f"cannot write {path}: {reason}; make it possible, or name another file") from error


def describe(left_out: Mapping[str, int]) -> str:
    """Example: 3 files (2 .txt, 1 .png)"""
    total = sum(left_out.values())
    kinds = ", ".join(f"{number} {suffix}" for suffix, number in Counter(left_out).most_common(8))
    more = ", ..." if len(left_out) > 8 else ""
    return f"{total} file{'s' * (total != 1)} ({kinds}{more})"
