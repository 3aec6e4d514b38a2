"""Windows over the length of a file: where they lie, and what their scores say of the whole. Standard library only.

A stretch is generated if its windows lie side by side, all score above 0, and one of them is beyond the inconclusive
band. A border between real and generated is where the score changes its sign; one clear window is asked for, so that
doubt alone marks nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .verdict import INCONCLUSIVE, Segment, probability, words_of

_ROUNDING = 1e-6  # of windows: 18 frames at 12 a second end at 1.5 s, or just before


@dataclass(frozen=True)
class Stretch:
    """Windows side by side. score: the highest of theirs."""

    start_seconds: float
    end_seconds: float
    score: float


def window_edges(duration_seconds: float, window_seconds: float, max_windows: int) -> list[float]:
    """Where windows begin, and where the last one ends; a rest of less than half a window belongs to the last one.

    Windows of 2 s: of 5.5 s -> 0 2 4 5.5, of 4.9 s -> 0 2 4.9, of 0.5 s -> 0 0.5; at most two of 5.5 s -> 0 2 4.
    """
    count = max(1, int(min(duration_seconds / window_seconds + 0.5 + _ROUNDING, max_windows + 1)))
    if count > max_windows:
        return [number * window_seconds for number in range(max_windows + 1)]
    return [*(number * window_seconds for number in range(count)), duration_seconds]


def not_looked_at(max_windows: int) -> str:
    """Why a file's rest has no score."""
    return f"not looked at: a file gives at most {max_windows} windows; longer ones reach further"


def generated_stretches(segments: Sequence[Segment]) -> list[Stretch]:
    """In order of time. A window without a score ends a stretch."""
    stretches = []
    for above, group in itertools.groupby(segments, key=lambda one: one.score is not None and one.score > 0):
        if above:
            windows = list(group)
            highest = max(one.score for one in windows if one.score is not None)
            if highest >= INCONCLUSIVE:
                stretches.append(Stretch(windows[0].start_seconds, windows[-1].end_seconds, highest))
    return stretches


def score_of_whole(segments: Sequence[Segment]) -> float | None:
    """The highest score of the generated stretches; where there is none, the mean of all windows.

    So one stretch makes the whole generated, and real is a file whose windows say so together. None without a score.
    """
    scores = [one.score for one in segments if one.score is not None]
    if not scores:
        return None
    stretches = generated_stretches(segments)
    return max(one.score for one in stretches) if stretches else sum(scores) / len(scores)


def in_stretches(segments: Sequence[Segment]) -> str:
    """Example: `generated from 1:40 to 2:10 and from 3:00 to 3:05`; empty where no stretch is."""
    spans = [f"from {clock(one.start_seconds)} to {clock(one.end_seconds)}" for one in generated_stretches(segments)]
    return f"generated {' and '.join(spans)}" if spans else ""


def clock(seconds: float) -> str:
    """Example: `1:40`, `0:07.5`, `1:02:03`; `the end` where it is not known."""
    if not math.isfinite(seconds):
        return "the end"
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths // 10, 60)
    start = f"{minutes // 60}:{minutes % 60:02}" if minutes >= 60 else f"{minutes}"
    return f"{start}:{rest:02}" + (f".{tenths % 10}" if tenths % 10 else "")


def segments_json(segments: Sequence[Segment], genuine: str, prior: float = 0.5) -> dict[str, Any]:
    """For `json.dumps`: the generated stretches, and each window. Times in seconds; null where not known."""
    stretches = [
        {"start": _rounded(one.start_seconds), "end": _rounded(one.end_seconds), "score": round(one.score, 4)}
        for one in generated_stretches(segments)
    ]
    windows = [
        {
            "start": _rounded(one.start_seconds),
            "end": _rounded(one.end_seconds),
            "verdict": words_of(one.score, genuine),
            "score": None if one.score is None else round(one.score, 4),
            "probability": None if one.score is None else round(probability(one.score, prior), 4),
            "reason": one.note,
            "frames": one.num_frames,
        }
        for one in segments
    ]
    return {"generated": stretches, "segments": windows}


def _rounded(seconds: float) -> float | None:
    return round(seconds, 3) if math.isfinite(seconds) else None
