"""The result file: complete from the first seconds, replaced atomically, valid whenever the run is killed.

The challenge's columns are `id,pred,score`, with `time` where the challenge asks for it. For one's own files there are
`DETAILED_COLUMNS`. A path that ends in `.jsonl` makes JSON lines of them. Any of these can be taken up again.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..modality import GENERATED, VIDEO, Modality
from ..verdict import REFUSED, SCORED, UNREADABLE, prior_log_odds, probability

log = logging.getLogger(__name__)

DETAILED_COLUMNS = ("id", "pred", "score", "probability", "status", "reason", "seconds", "duration", "frames")
WAITING = "waiting"  # of the column `status`, beside those of `verdict`
_NEEDS_QUOTES = re.compile('[",\r\n]')
_LARGEST_FIELD = 1 << 24  # characters of one CSV field that is read back


class ResultError(ValueError):
    """A result file that exists cannot be taken up. The message says why and what to do."""


@dataclass(frozen=True)
class Result:
    """What is known of one row. score: calibrated log-likelihood ratio; None until there is one."""

    status: str = WAITING
    score: float | None = None
    reason: str = ""  # why there is no score, or what was lost on the way to it
    seconds: float | None = None  # of work on this row
    duration_seconds: float | None = None  # of the file
    num_frames: int | None = None  # that were looked at


class ResultFile:
    """Rows in the dataset's order; `write` replaces the file on disk by a complete new one.

    A full or read-only disk never ends the run: the last good file stays, the trouble is logged once,
    and every later write tries again.
    """

    def __init__(
        self,
        path: Path,
        ids: Sequence[str],
        modality: Modality = VIDEO,
        *,
        with_time: bool = False,
        detailed: bool = False,
        prior: float = 0.5,
        write_seconds: float = 2.0,
    ) -> None:
        """with_time: the column `time` also where the challenge does not ask for it. detailed: `DETAILED_COLUMNS`,
        in which a row without a score has no `pred`. prior: share of generated files, for `probability` alone.
        """
        self.path = path
        self._rows: dict[str, Result] = dict.fromkeys(ids, Result())
        if len(self._rows) != len(ids):
            raise ValueError(f"{len(ids) - len(self._rows)} ids occur more than once; the file is joined on id")
        self._genuine = modality.genuine
        self._with_time = with_time or modality.with_time
        self._detailed = detailed
        prior_log_odds(prior)  # raises for a value that is none
        self._prior = prior
        self._write_seconds = write_seconds
        self._next_write = 0.0
        self._trouble = ""
        self._unwritten = True

    @property
    def rows(self) -> Mapping[str, Result]:
        """id -> what is known of the row, in the dataset's order."""
        return self._rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def trouble(self) -> str:
        """Why the last write failed; empty if it did not."""
        return self._trouble

    def set_score(
        self,
        clip_id: str,
        score: float,
        *,
        reason: str = "",
        seconds: float | None = None,
        duration_seconds: float | None = None,
        num_frames: int | None = None,
    ) -> None:
        """score: calibrated log-likelihood ratio, finite; > 0 means generated. reason: what was lost on the way."""
        if not math.isfinite(score):
            raise ValueError(f"score of {clip_id} is {score}; scores are finite")
        self.put(clip_id, Result(SCORED, score, reason, seconds, duration_seconds, num_frames))

    def set_unscored(
        self, clip_id: str, reason: str = "", *, refused: bool = False, seconds: float | None = None
    ) -> None:
        """The row cannot be scored. refused: it holds nothing of the kind, or more than a file may cost."""
        self.put(clip_id, Result(REFUSED if refused else UNREADABLE, None, reason, seconds))

    def put(self, clip_id: str, row: Result) -> None:
        """What is known of a row now. Raises: KeyError: there is no such row."""
        if clip_id not in self._rows:
            raise KeyError(f"id {clip_id!r} is not in the result file")
        self._rows[clip_id] = row
        self._unwritten = True

    def resume(self, earlier: Mapping[str, Result]) -> set[str]:
        """Take over every row that has a score. Returns their ids: the rows that need no more work.

        earlier: what `read_results` gives. Raises: ResultError: it is the result of another dataset.
        """
        by_text = {as_written(clip_id): clip_id for clip_id in self._rows}
        for some, others, what in ((earlier, by_text, "file"), (by_text, earlier, "dataset")):
            if alone := [clip_id for clip_id in some if clip_id not in others]:
                raise ResultError(
                    f"{self.path} belongs to another dataset: {len(alone)} ids stand in the {what} alone, e.g."
                    f" {alone[0]!r}; give the folder that it was made from, another --output, or --overwrite"
                )
        done = {by_text[text]: row for text, row in earlier.items() if row.score is not None}
        self._rows.update(done)
        self._unwritten = True
        return set(done)

    def write_if_due(self) -> None:
        if self._unwritten and time.monotonic() >= self._next_write:
            self.write()

    def write(self) -> bool:
        """Replace the file. Returns whether it is on disk now."""
        try:
            _replace_file(self.path, self.lines())
        except OSError as error:
            if not self._trouble:
                log.error("cannot write %s: %s; the last good file stays, trying again", self.path, error.strerror)
            self._trouble = error.strerror or str(error)
        else:
            self._trouble = ""
            self._unwritten = False
        self._next_write = time.monotonic() + self._write_seconds
        return not self._trouble

    def lines(self) -> Iterator[str]:
        """What the file holds, line by line; the header first where it has one."""
        rows = (self._values(clip_id, row) for clip_id, row in self._rows.items())
        if _is_json(self.path):
            yield from (json.dumps(values, ensure_ascii=False) + "\n" for values in rows)
            return
        columns = DETAILED_COLUMNS if self._detailed else ("id", "pred", "score", *["time"] * self._with_time)
        yield ",".join(columns) + "\n"
        for values in rows:
            yield ",".join("" if value is None else _field(str(value)) for value in values.values()) + "\n"

    def _values(self, clip_id: str, row: Result) -> dict[str, object]:
        """One row's values by column, rounded as they are written."""
        clip_id = as_written(clip_id)
        scored = row.score is not None
        pred = GENERATED if scored and row.score > 0 else self._genuine  # type: ignore[operator]
        seconds = None if row.seconds is None else f"{row.seconds:.4f}"
        score = row.score if row.score is None else f"{row.score:.6g}"
        if not self._detailed:  # either label is right half of the time, on average over sources
            values: dict[str, object] = {"id": clip_id, "pred": pred, "score": score}
            return self._numbers(values | {"time": seconds} if self._with_time else values)
        share = None if row.score is None else f"{probability(row.score, self._prior):.6g}"
        duration = row.duration_seconds
        known = duration is not None and math.isfinite(duration)
        return self._numbers(
            {"id": clip_id, "pred": pred if scored else None, "score": score, "probability": share}
            | {"status": row.status, "reason": as_written(row.reason), "seconds": seconds}
            | {"duration": f"{duration:.3f}" if known else None, "frames": row.num_frames}
        )

    def _numbers(self, values: dict[str, object]) -> dict[str, object]:
        """For JSON, the numbers as numbers."""
        if not _is_json(self.path):
            return values
        numeric = {"score", "probability", "seconds", "duration", "time"}
        return {name: float(str(value)) if name in numeric and value else value for name, value in values.items()}


def read_results(path: Path) -> dict[str, Result]:
    """id -> row of a result file that `ResultFile` wrote, whatever its columns. Raises: ResultError: it is none."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            if _is_json(path):
                rows = [json.loads(line) for line in file if line.strip()]
            else:
                csv.field_size_limit(_LARGEST_FIELD)
                table = csv.DictReader(file)
                rows = list(table)
                if not {"id", "score"} <= set(table.fieldnames or ()):
                    raise KeyError(f"no columns id and score among {table.fieldnames}")
        return {str(row["id"]): _result(row) for row in rows}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise ResultError(
            f"{path} cannot be read as a result file ({type(error).__name__}: {error}); give another --output"
        ) from error


def count_scores(path: Path) -> int:
    """Rows with a score in the file at `path`, which a new run would lose; 0 if there is no file, or an empty one.

    Raises: ResultError: there is a file, and it is no result file.
    """
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return 0
    return sum(row.score is not None for row in read_results(path).values())


def _result(row: Mapping[str, object]) -> Result:
    score, seconds, duration = _number(row["score"]), _number(row.get("seconds")), _number(row.get("duration"))
    frames = _number(row.get("frames"))
    status = str(row.get("status") or (WAITING if score is None else SCORED))
    seconds = _number(row.get("time")) if seconds is None else seconds
    frames = None if frames is None else int(frames)
    return Result(status, score, str(row.get("reason") or ""), seconds, duration, frames)


def _number(value: object) -> float | None:
    return None if value is None or value == "" else float(str(value))


def _is_json(path: Path) -> bool:
    return path.suffix.lower() == ".jsonl"


def as_written(text: str) -> str:
    """A file name may hold bytes that are no text; the result must be UTF-8 for those who read it."""
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def _field(text: str) -> str:
    """As csv.writer has it, but for a lone carriage return, which that leaves bare when lines end in a newline."""
    return '"' + text.replace('"', '""') + '"' if _NEEDS_QUOTES.search(text) else text


def _replace_file(path: Path, lines: Iterable[str]) -> None:
    """Write under a temporary name in the same folder, then rename: readers see the old file or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "w", newline="", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
