"""Verdicts as people and programs read them: lines, or a JSON object."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

from ..config import MAX_SOUND_SECONDS
from ..modality import AUDIO, VIDEO, Modality
from ..segments import clock, in_stretches, segments_json
from ..verdict import Segment, Verdict, words_of


def verdict_line(name: str, verdict: Verdict, modality: Modality, *, prior: float = 0.5) -> str:
    """Example: `generated   +4.10   98%  clip.mp4: looked at 4 places of 12.0 s, 1.2 s`."""
    if verdict.score is None:
        return f"no score                {name}: {verdict.note}"
    share = f"{100 * (verdict.probability(prior) or 0):.0f}%"
    told = [in_stretches(verdict.segments), looked_at(verdict, modality), f"{verdict.seconds:.1f} s", verdict.note]
    words = "inconclusive" if verdict.in_words.startswith("inconclusive") else verdict.label
    return f"{words:<12} {verdict.score:+6.2f} {share:>4}  {name}: {', '.join(filter(None, told))}"


def segment_lines(verdict: Verdict, modality: Modality) -> Iterator[str]:
    """A line for windows side by side of which the same is said.

    Example: `    0:10 to 0:20  generated     +1.20 to  +4.10`.
    """
    for words, group in itertools.groupby(verdict.segments, lambda one: _words_of_segment(one, modality)):
        windows = list(group)
        span = f"    {clock(windows[0].start_seconds)} to {clock(windows[-1].end_seconds)}"
        scores = [one.score for one in windows if one.score is not None]
        told = f"{min(scores):+6.2f} to {max(scores):+6.2f}" if scores else ""
        notes = "; ".join(dict.fromkeys(one.note for one in windows if one.note))
        yield "  ".join(filter(None, [f"{span:<22}", f"{words:<12}", told, notes])).rstrip()


def sound_line(picture: Verdict, sound: Verdict) -> str:
    """Example: `    picture: generated +4.10; sound: pristine -2.30, if it is speech`."""
    return f"    picture: {_short(picture)}; sound: {_short(sound)}" + (", if it is speech" if sound.label else "")


def _short(verdict: Verdict) -> str:
    told = f"{verdict.in_words} {verdict.score:+.2f}" if verdict.score is not None else f"no score ({verdict.note})"
    return ", ".join(filter(None, [told, in_stretches(verdict.segments)]))


def _words_of_segment(segment: Segment, modality: Modality) -> str:
    """`inconclusive` on whichever side."""
    return words_of(segment.score, modality.genuine).partition(",")[0]


def looked_at(verdict: Verdict, modality: Modality) -> str:
    """How much of the file the verdict rests on. Example: `looked at 4 places of 2 min 10 s`."""
    if not verdict.num_frames:
        return ""
    known = math.isfinite(verdict.duration_seconds)
    whole = _length(verdict.duration_seconds) if known else "unknown length"
    count = len(verdict.segments)
    windows = f" in {count} window{'s' * (count != 1)}" if count else ""
    if modality == VIDEO:
        return f"looked at {verdict.num_places} place{'s' * (verdict.num_places != 1)} of {whole}{windows}"
    if not known or windows or verdict.duration_seconds <= MAX_SOUND_SECONDS:
        return f"listened to {whole}{windows}"
    return f"listened to the first {MAX_SOUND_SECONDS:.0f} s of {whole}"


def _length(seconds: float) -> str:
    """Example: `12.0 s`, `2 min 10 s`, `1 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def verdict_json(name: str, verdict: Verdict, modality: Modality, *, prior: float = 0.5) -> dict[str, Any]:
    """For `json.dumps`; numbers that are not known are null. Windows and sound, if they were asked for."""
    share = verdict.probability(prior)
    told: dict[str, Any] = {
        "file": name,
        "modality": modality.name,
        "label": verdict.label or None,
        "verdict": verdict.in_words,
        "score": None if verdict.score is None else round(verdict.score, 4),
        "probability": None if share is None else round(share, 4),
        "prior": prior,
        "status": verdict.status,
        "reason": verdict.note,
        "seconds": round(verdict.seconds, 3),
        "duration": _rounded(verdict.duration_seconds),
        "frames": verdict.num_frames,
        "places": verdict.num_places,
    }
    if verdict.segments:
        told |= segments_json(verdict.segments, modality.genuine, prior)
    if verdict.sound is not None:
        told["sound"] = verdict_json(name, verdict.sound, AUDIO, prior=prior)
    return told


def _rounded(seconds: float) -> float | None:
    return round(seconds, 3) if math.isfinite(seconds) else None
