"""A run of frames as a decoder delivers it, whichever decoder."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ..config import LimitsConfig
from .clip import max_frames_in_memory

_MAX_BLANK_FRAMES = 60  # passed over at the start of a run: two seconds of black before a clip fades in
_BLANK_DEVIATION = 4.0  # grey levels, of the pixels of a frame that shows nothing


@dataclass
class Run:
    """The first `wanted` of the frames that are added, from the first one that is not blank on."""

    wanted: int
    limits: LimitsConfig
    end: int | None = None  # the stamp from which on frames belong to the next run
    frames: list[np.ndarray] = field(default_factory=list)  # uint8 RGB, (H, W, 3), all of one size
    seconds: list[float] = field(default_factory=list)
    stamps: list[int | None] = field(default_factory=list)
    first_stamp: int | None = None  # of the first frame, blank or not
    done: bool = False
    _num_blank: int = 0

    def is_over(self, stamp: int | None) -> bool:
        """Whether the next frame, of this stamp, is another run's; then this one is done."""
        self.done = self.done or (self.end is not None and stamp is not None and stamp >= self.end)
        return self.done

    def add(self, pixels: np.ndarray, stamp: int | None, seconds: float | None) -> None:
        """Take the next frame, unless its size differs: then the run is done."""
        if self.frames and pixels.shape != self.frames[0].shape:
            self.done = True
            return
        if not self.frames:
            self.first_stamp = stamp
        wanted = min(self.wanted, max_frames_in_memory(pixels.shape[1], pixels.shape[0], self.limits))
        if len(self.frames) >= wanted:  # the first of them is blank
            del self.frames[0], self.seconds[0], self.stamps[0]
        self.frames.append(pixels)
        self.seconds.append(math.nan if seconds is None else seconds)
        self.stamps.append(stamp)
        if len(self.frames) >= wanted:
            self.done = self._num_blank == _MAX_BLANK_FRAMES or not is_blank(self.frames[0])
            self._num_blank += 1

    def cut(self, num_frames: int, end: int | None) -> Run:
        """Leave out what is beyond `num_frames`, or belongs to the next run."""
        keep = sum(stamp is None or end is None or stamp < end for stamp in self.stamps[:num_frames])
        del self.frames[keep:], self.seconds[keep:], self.stamps[keep:]
        return self


def is_blank(pixels: np.ndarray) -> bool:
    """One colour all over."""
    return bool((pixels[::8, ::8].std(axis=(0, 1)) < _BLANK_DEVIATION).all())
