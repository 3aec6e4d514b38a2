"""The result file: complete from the first seconds, replaced atomically, valid whenever the run is killed."""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

GENERATED = "generated"
REAL = "real"
UNSCORED_PRED = REAL  # a row that is never scored; either label is right half of the time, on average over sources
_NEEDS_QUOTES = re.compile('[",\r\n]')


class ResultFile:
    """Rows in the dataset's order; `write` replaces the file on disk by a complete new one.

    A full or read-only disk never ends the run: the last good file stays, the trouble is logged once,
    and every later write tries again.
    """

    def __init__(self, path: Path, ids: Sequence[str], *, with_time: bool = False, write_seconds: float = 2.0) -> None:
        self.path = path
        self._rows: dict[str, tuple[str, float | None, float | None]] = dict.fromkeys(ids, (UNSCORED_PRED, None, None))
        if len(self._rows) != len(ids):
            raise ValueError(f"{len(ids) - len(self._rows)} ids occur more than once; the file is joined on id")
        self._with_time = with_time
        self._write_seconds = write_seconds
        self._next_write = 0.0
        self._trouble = ""
        self._unwritten = True

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def trouble(self) -> str:
        """Why the last write failed; empty if it did not."""
        return self._trouble

    def set_score(self, clip_id: str, score: float, *, seconds: float | None = None) -> None:
        """score: calibrated log-likelihood ratio, finite; > 0 means generated."""
        if not math.isfinite(score):
            raise ValueError(f"score of {clip_id} is {score}; scores are finite")
        self._set(clip_id, (GENERATED if score > 0 else REAL, score, seconds))

    def set_unscored(self, clip_id: str, *, seconds: float | None = None) -> None:
        """The clip could not be scored: a valid pred, an empty score."""
        self._set(clip_id, (UNSCORED_PRED, None, seconds))

    def _set(self, clip_id: str, row: tuple[str, float | None, float | None]) -> None:
        if clip_id not in self._rows:
            raise KeyError(f"id {clip_id!r} is not in the result file")
        self._rows[clip_id] = row
        self._unwritten = True

    def write_if_due(self) -> None:
        if self._unwritten and time.monotonic() >= self._next_write:
            self.write()

    def write(self) -> bool:
        """Replace the file. Returns whether it is on disk now."""
        try:
            _replace_file(self.path, self._header(), self._lines())
        except OSError as error:
            if not self._trouble:
                log.error("cannot write %s: %s; the last good file stays, trying again", self.path, error.strerror)
            self._trouble = error.strerror or str(error)
        else:
            self._trouble = ""
            self._unwritten = False
        self._next_write = time.monotonic() + self._write_seconds
        return not self._trouble

    def _header(self) -> list[str]:
        return ["id", "pred", "score", "time"] if self._with_time else ["id", "pred", "score"]

    def _lines(self) -> Iterable[list[str]]:
        for clip_id, (pred, score, seconds) in self._rows.items():
            line = [clip_id, pred, "" if score is None else f"{score:.6g}"]
            if self._with_time:
                line.append("" if seconds is None else f"{seconds:.4f}")
            yield line


def _field(text: str) -> str:
    """As csv.writer has it, but for a lone carriage return, which that leaves bare when lines end in a newline."""
    return '"' + text.replace('"', '""') + '"' if _NEEDS_QUOTES.search(text) else text


def _replace_file(path: Path, header: list[str], lines: Iterable[list[str]]) -> None:
    """Write under a temporary name in the same folder, then rename: readers see the old file or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        # A file name may hold bytes that are no text; the result must be UTF-8 for those who read it.
        with open(partial, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(",".join(map(_field, line)) + "\n" for line in [header, *lines])
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
