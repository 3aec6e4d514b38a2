"""File -> windows: read, set the level, cut. One way for workers, training, pages and benchmark."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..config import LimitsConfig, SegmentConfig
from ..modality import Prepared, Unreadable
from ..segments import not_looked_at
from ..weights import load_manifest
from .reading import Sound, read_parts, read_sound
from .views import ViewConfig, cut_windows

_NOTHING = np.empty(0, np.uint8)


@dataclass(frozen=True)
class AudioPreparation:
    """A `modality.Preparation`. There is one way to read a file."""

    attempts: ClassVar[int] = 1
    limits: LimitsConfig = LimitsConfig()
    views: ViewConfig = ViewConfig()

    @property
    def max_bytes(self) -> int:
        return self.views.max_bytes

    def __call__(self, source: bytes | str, attempt: int = 0) -> Prepared:
        """Windows of a sound file, for `split_windows`. Raises: Unreadable, and nothing else for a bad file."""
        started = time.perf_counter()
        sound = self.read(source)
        read = time.perf_counter()
        content = self.cut(sound.samples)
        return Prepared(
            content, "pyav", sound.note, read - started, time.perf_counter() - read, sound.duration_seconds,
            sound.num_read, content.nbytes // (2 * self.views.window_samples),
        )  # fmt: skip

    def read(self, source: bytes | str, attempt: int = 0) -> Sound:
        """The samples that windows are cut from. Raises: Unreadable."""
        return read_sound(source, self.limits)

    def cut(self, samples: np.ndarray) -> np.ndarray:
        """Windows of samples that may come from elsewhere, such as a processed copy: uint8 (n,), n <= max_bytes.

        samples: float32 (N,), mono at 16 kHz. Raises: Unreadable.
        """
        _, windows = cut_windows(samples, self.views)
        return windows.reshape(-1).view(np.uint8)


@dataclass(frozen=True)
class AudioSegments:
    """A `modality.Preparation` that gives windows of the whole track, each treated as a short clip of its own."""

    attempts: ClassVar[int] = 1
    audio: AudioPreparation
    config: SegmentConfig

    @property
    def limits(self) -> LimitsConfig:
        return self.config.limits(self.audio.limits)

    @property
    def max_bytes(self) -> int:
        return self.audio.max_bytes

    def __call__(self, source: bytes | str, attempt: int = 0) -> Iterator[Prepared]:
        """Raises: Unreadable, while it is iterated over."""
        start, duration, config = 0.0, math.nan, self.config
        parts = read_parts(source, config.seconds, self.limits, config.total_seconds)
        started = time.perf_counter()
        for number, sound in enumerate(parts):
            read = time.perf_counter()
            duration = sound.duration_seconds
            if number == config.max_windows:
                parts.close()
                left = Prepared(_NOTHING, "pyav", not_looked_at(config.max_windows))
                yield replace(left, start_seconds=start, end_seconds=duration if duration > start else math.nan)
                return
            end = start + sound.num_read / sound.rate
            window = self._cut(sound, start, end)
            cut = time.perf_counter() - read
            yield replace(window, duration_seconds=duration, read_seconds=read - started, cut_seconds=cut)
            start, started = end, time.perf_counter()
        if duration > start + max(1.0, config.seconds / 2):
            yield Prepared(_NOTHING, "pyav", "no sound can be read here", start_seconds=start, end_seconds=duration)

    def _cut(self, sound: Sound, start: float, end: float) -> Prepared:
        try:
            content, note = self.audio.cut(sound.samples), sound.note
        except Unreadable as error:
            content, note = _NOTHING, str(error)
        return Prepared(
            content, "pyav", note, num_frames=sound.num_read if len(content) else 0,
            num_places=content.nbytes // (2 * self.audio.views.window_samples), start_seconds=start, end_seconds=end,
        )  # fmt: skip


def load_preparation(weights: Path, limits: LimitsConfig | None = None) -> AudioPreparation:
    """As the manifest in the folder `weights` says. Raises: WeightsError."""
    manifest = load_manifest(weights)
    return AudioPreparation(limits or LimitsConfig(), manifest.configured("views", ViewConfig))
