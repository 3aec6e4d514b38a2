"""The result file: complete from the first seconds, replaced atomically, valid whenever the run is killed.

The challenge's columns are `id,pred,score`, with `time` where the challenge asks for it. For one's own files there are
`DETAILED_COLUMNS`. A path that ends in `.jsonl` makes JSON lines of them. Any of these can be taken up again.
"""

from __future__ import annotations

import copy
import csv
import json
import logging
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..atomic import replace_file
from ..modality import AUDIO, GENERATED, VIDEO, Modality
from ..segments import in_stretches, segments_json
from ..verdict import REFUSED, SCORED, UNREADABLE, Segment, prior_log_odds, probability

log = logging.getLogger(__name__)

DETAILED_COLUMNS = ("id", "pred", "score", "probability", "status", "reason", "seconds", "duration", "frames")
_WHOLE = "whole"  # of the column `segment`; windows are numbered from 1
SEGMENT_COLUMNS = (
    "id", "segment", "start", "end", "pred", "score", "probability", "status", "reason", "seconds", "duration",
    "frames", "generated",
)  # fmt: skip
_OF_SOUND = ("pred", "score", "probability", "status", "reason")
SOUND_COLUMNS = tuple(f"sound_{name}" for name in _OF_SOUND)  # of a video's sound track, behind the others
WAITING = "waiting"  # of the column `status`, beside those of `verdict`
_SAME_LENGTH_SECONDS = 0.05  # windows of sound end with a whole sample
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
    segments: tuple[Segment, ...] = ()  # windows, if they were asked for; the score is then that of the whole
    sound: Result | None = None  # of a video's sound track, if it was asked for


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
        segments: float | None = None,
        sound: bool = False,
        write_seconds: float = 2.0,
    ) -> None:
        """with_time: the column `time` also where the challenge does not ask for it. detailed: `DETAILED_COLUMNS`,
        in which a row without a score has no `pred`. prior: share of generated files, for `probability` alone.
        segments: seconds of a window; a file's row is then followed by one for each of its windows. sound: with
        `SOUND_COLUMNS`, which `of_sound` fills.
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
        if (sound or segments is not None) and not detailed:
            raise ValueError("windows and sound go with the detailed columns alone")
        self._segments, self._sound = segments, sound
        self._write_seconds = write_seconds
        self._next_write = 0.0
        self._trouble = ""
        self._unwritten = True
        self._of_sound = False  # what is put are sound tracks

    @property
    def rows(self) -> Mapping[str, Result]:
        """id -> what is known of the row, in the dataset's order."""
        return self._rows

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

    def set_segments(
        self, clip_id: str, segments: Sequence[Segment], score: float | None, *, reason: str, seconds: float
    ) -> None:
        """A file in windows. score: of the whole; None if no window has one."""
        status = UNREADABLE if score is None else SCORED
        frames = sum(one.num_frames for one in segments)
        self.put(clip_id, Result(status, score, reason, seconds, segments[-1].end_seconds, frames, tuple(segments)))

    def put(self, clip_id: str, row: Result) -> None:
        """What is known of a row now. Raises: KeyError: there is no such row."""
        if clip_id not in self._rows:
            raise KeyError(f"id {clip_id!r} is not in the result file")
        known = self._rows[clip_id]
        is_track = self._of_sound
        self._rows[clip_id] = replace(known, sound=row) if is_track else replace(row, sound=row.sound or known.sound)
        self._unwritten = True

    def of_sound(self) -> ResultFile:
        """Takes results of the videos' sound tracks, beside those of their pictures, into the same file."""
        tracks = copy.copy(self)  # the rows are the same ones
        tracks._of_sound = True
        return tracks

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
        if other := next((_other_windows(row, self._segments) for row in done.values()), ""):
            raise ResultError(f"{self.path} {other}; give the same option, another --output, or --overwrite")
        self._rows.update(done)
        self._unwritten = True
        return set(done)

    def write_if_due(self) -> None:
        if self._unwritten and time.monotonic() >= self._next_write:
            self.write()

    def write(self) -> bool:
        """Replace the file. Returns whether it is on disk now."""
        try:
            replace_file(self.path, (line.encode() for line in self.lines()))
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
        if _is_json(self.path):
            for clip_id, row in self._rows.items():
                values = self._values(clip_id, row)
                if self._segments is not None:
                    values |= segments_json(row.segments, self._genuine, self._prior)
                if self._sound:
                    values["sound"] = self._sound_values(row, values)
                yield json.dumps(values, ensure_ascii=False) + "\n"
            return
        columns = DETAILED_COLUMNS if self._detailed else ("id", "pred", "score", *["time"] * self._with_time)
        columns = columns if self._segments is None else SEGMENT_COLUMNS
        columns += SOUND_COLUMNS if self._sound else ()
        yield ",".join(columns) + "\n"
        for clip_id, row in self._rows.items():
            values = self._values(clip_id, row)
            if self._sound:
                values |= {f"sound_{name}": value for name, value in self._sound_values(row, values).items()}
            for one in [values] if self._segments is None else [*self._segment_rows(values, row)]:
                yield (
                    ",".join("" if (value := one.get(name)) is None else _field(str(value)) for name in columns) + "\n"
                )

    def _segment_rows(self, values: dict[str, object], row: Result) -> Iterator[dict[str, object]]:
        """The file, then its windows."""
        yield values | {"segment": _WHOLE, "generated": in_stretches(row.segments).removeprefix("generated ")}
        for number, one in enumerate(row.segments, start=1):
            told = Result(UNREADABLE if one.score is None else SCORED, one.score, one.note, num_frames=one.num_frames)
            window = {"segment": number, "start": _text(one.start_seconds), "end": _text(one.end_seconds)}
            yield self._values(str(values["id"]), told) | window

    def _sound_values(self, row: Result, values: dict[str, object]) -> dict[str, object]:
        """values: of the picture. Windows of the sound stand in JSON alone."""
        sound = row.sound or Result()
        told = self._values(str(values["id"]), sound, AUDIO.genuine)
        windows = segments_json(sound.segments, AUDIO.genuine, self._prior) if self._segments is not None else {}
        return {name: told[name] for name in _OF_SOUND} | (windows if _is_json(self.path) else {})

    def _values(self, clip_id: str, row: Result, genuine: str = "") -> dict[str, object]:
        """One row's values by column, rounded as they are written."""
        clip_id = as_written(clip_id)
        scored = row.score is not None
        pred = GENERATED if scored and row.score > 0 else genuine or self._genuine  # type: ignore[operator]
        seconds = None if row.seconds is None else f"{row.seconds:.4f}"
        score = row.score if row.score is None else f"{row.score:.6g}"
        if not self._detailed:  # either label is right half of the time, on average over sources
            values: dict[str, object] = {"id": clip_id, "pred": pred, "score": score}
            return self._numbers(values | {"time": seconds} if self._with_time else values)
        # Of the score as it is written, so that a resumed file has the same.
        share = None if score is None else f"{probability(float(score), self._prior):.6g}"
        return self._numbers(
            {"id": clip_id, "pred": pred if scored else None, "score": score, "probability": share}
            | {"status": row.status, "reason": as_written(row.reason), "seconds": seconds}
            | {"duration": _text(row.duration_seconds), "frames": row.num_frames}
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
                rows = _with_segments(table) if "segment" in (table.fieldnames or ()) else list(table)
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
    segments = tuple(_segment(one) for one in row.get("segments") or ())  # type: ignore[attr-defined]
    sound = row.get("sound")
    if "sound_score" in row:
        sound = {name: row[f"sound_{name}"] for name in _OF_SOUND}
    track = _result(sound) if isinstance(sound, dict) else None
    return Result(status, score, str(row.get("reason") or ""), seconds, duration, frames, segments, track)


def _segment(row: Mapping[str, object]) -> Segment:
    start, end = (_number(row[name]) for name in ("start", "end"))
    return Segment(
        math.nan if start is None else start, math.nan if end is None else end, _number(row["score"]),
        str(row.get("reason") or ""), int(_number(row.get("frames")) or 0),
    )  # fmt: skip


def _with_segments(table: Iterable[dict[str, object]]) -> list[dict[str, object]]:
    """Rows of files, each with those of its windows."""
    files: list[dict[str, object]] = []
    for row in table:
        if row["segment"] == _WHOLE:
            files.append(row | {"segments": []})
        else:
            files[-1]["segments"].append(row)  # type: ignore[attr-defined]
    return files


def _other_windows(row: Result, seconds: float | None) -> str:
    """How a row's windows differ from those of `seconds` that are asked for; empty if they do not."""
    if seconds is None:
        return "was made with --segments" if row.segments else ""
    if not row.segments:
        return "was made without --segments"
    length = row.segments[0].end_seconds - row.segments[0].start_seconds
    differs = len(row.segments) > 1 and abs(length - seconds) > _SAME_LENGTH_SECONDS
    return f"was made with --segments {length:g}" if differs else ""


def _text(seconds: float | None) -> str | None:
    return f"{seconds:.3f}" if seconds is not None and math.isfinite(seconds) else None


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
