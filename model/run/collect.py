"""Windows of several files on their way through the network, gathered until a file is complete."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..modality import Prepared
from ..segments import clock, score_of_whole
from ..verdict import Segment
from .pool import DecodedClip

_NOTHING = np.empty(0, np.uint8)


def segment_of(window: Prepared, score: float | None, note: str = "") -> Segment:
    """A window as it is told. score: None or nan if it has none."""
    if score is not None and not math.isfinite(score):
        score, note = None, note or "the network gives no finite score"
    note = "; ".join(filter(None, [window.note, note]))
    return Segment(window.start_seconds, window.end_seconds, score, note, window.num_frames)


def reason_of(end: DecodedClip, segments: Sequence[Segment], score: float | None) -> str:
    """Why a file has no score, or not the whole of it was read."""
    if score is not None or end.reason:
        return end.reason
    return next((one.note for one in segments if one.note), "no window has a score")


@dataclass(frozen=True)
class Collected:
    """A file of which every window is there. score: of the whole; None: `reason` says why."""

    id: str
    segments: tuple[Segment, ...]
    score: float | None
    reason: str
    seconds: float  # of work on all windows


@dataclass
class _File:
    segments: list[Segment | None] = field(default_factory=list)  # None while its score is awaited
    seconds: float = 0.0
    end: DecodedClip | None = None  # what came of the file, after all its windows


class SegmentCollector:
    """Takes windows as they come from the pool, and their scores as they come from the network."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}
        self._waiting: dict[str, tuple[str, int, Prepared]] = {}  # a window's name -> file, place, what it is

    def add(self, clip: DecodedClip) -> str:
        """Returns the name under which the window's score is to come; empty if it has nothing to score."""
        file = self._files.setdefault(clip.id, _File())
        if not clip.more:
            file.end = clip
            return ""
        window = clip.prepared
        assert window is not None
        file.seconds += clip.seconds
        if not window.content.size:
            file.segments.append(segment_of(window, None))
            return ""
        name = f"{clip.id} at {clock(window.start_seconds)}"
        self._waiting[name] = clip.id, len(file.segments), replace(window, content=_NOTHING)
        file.segments.append(None)
        return name

    def put(self, name: str, score: float, seconds: float) -> str:
        """Take a window's score. Returns the file's id; empty: the name is no window's."""
        if name not in self._waiting:
            return ""
        clip_id, place, window = self._waiting.pop(name)
        self._files[clip_id].segments[place] = segment_of(window, score)
        self._files[clip_id].seconds += seconds
        return clip_id

    def take(self, clip_id: str) -> Collected | None:
        """The file, if all of it is there; it is forgotten then."""
        file = self._files[clip_id]
        segments = tuple(one for one in file.segments if one is not None)
        if file.end is None or len(segments) < len(file.segments):
            return None
        del self._files[clip_id]
        score = score_of_whole(segments)
        return Collected(clip_id, segments, score, reason_of(file.end, segments, score), file.seconds)
