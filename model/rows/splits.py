"""Which files of a folder belong to the split that is scored, by the rules of `datasets` (data_files.py there).

They come in its order too, so that rows have the same numbers whoever reads them.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)

SPLIT = "test"
_KEYWORDS = ("test", "testing", "eval", "evaluation")  # in this order
_OTHER_KEYWORDS = {"train", "training", "validation", "valid", "dev", "val"}
_SEPARATORS = "[-._ 0-9]"
_BEFORE, _AFTER = f"[^/]*{_SEPARATORS}", f"{_SEPARATORS}[^/]*"
_FOLDER_PATTERNS = [  # such as test/x, data/test-1/x, my_test/x, a.test.b/x
    re.compile(f"(?:.*/)?{before}{word}{after}/.*", re.IGNORECASE)
    for word in _KEYWORDS
    for before, after in (("", ""), ("", _AFTER), (_BEFORE, ""), (_BEFORE, _AFTER))
]
_FILE_PATTERNS = [  # such as test.parquet, data/test-0.parquet, my_test_0.parquet
    re.compile(f"(?:.*/)?{before}{word}{_AFTER}", re.IGNORECASE) for word in _KEYWORDS for before in ("", _BEFORE)
]
_SHARDED = re.compile(r"data/([^/]+)-\d{5}-of-\d{5}[^/]*\.[^/]*", re.IGNORECASE)


def visible_files(root: Path) -> list[Path]:
    """Files below `root`, sorted by path, without hidden ones (.cache, .git) and those of __special__ folders."""
    files: list[Path] = []
    for folder, subfolders, names in os.walk(root, onerror=_log_unreadable):
        subfolders[:] = [name for name in subfolders if not name.startswith((".", "__"))]
        files.extend(Path(folder, name) for name in names if not name.startswith("."))
    return sorted(files, key=lambda file: file.relative_to(root).as_posix())


def _log_unreadable(error: OSError) -> None:
    log.error("cannot read the folder %s: %s; what it holds is left out", error.filename, error.strerror)


def is_test_name(split: str) -> bool:
    """Whether a split's name says that it is for testing. Example: test_private -> True, latest -> False."""
    return bool(set(re.split("[^a-z]", split.lower())) & set(_KEYWORDS))


def choose_splits(names: Sequence[str]) -> list[str]:
    """`test`, else all whose name has the word, else all."""
    chosen = [SPLIT] if SPLIT in names else [name for name in names if is_test_name(name)]
    if not chosen:
        log.info("no split named %r: reading all of %s", SPLIT, ", ".join(map(str, names)) or "what is there")
    return chosen or list(names)


def has_splits(root: Path) -> bool:
    """Whether folders at the top are named for training as well as for testing: a dataset, not just any folder."""
    names = [set(re.split("[^a-z]", folder.name.lower())) for folder in root.iterdir() if folder.is_dir()]
    return any(name & set(_KEYWORDS) for name in names) and any(name & _OTHER_KEYWORDS for name in names)


def files_of_split(root: Path, files: Sequence[Path]) -> list[Path]:
    """Those of the split, in the order of `datasets`; all if none is named for it."""
    by_name = {file.relative_to(root).as_posix(): file for file in files}
    sharded = {name: match[1] for name in by_name if (match := _SHARDED.fullmatch(name))}
    if any(is_test_name(split) for split in sharded.values()):
        splits = choose_splits(list(dict.fromkeys(sharded.values())))
        return [by_name[name] for split in splits for name in by_name if sharded.get(name) == split]
    for patterns in (_FOLDER_PATTERNS, _FILE_PATTERNS):
        matching = [name for pattern in patterns for name in by_name if pattern.fullmatch(name)]
        if matching:
            return [by_name[name] for name in dict.fromkeys(matching)]
    if files:
        log.info("no file named for the split %r: reading all %d", SPLIT, len(files))
    return list(files)
