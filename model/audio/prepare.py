"""File -> windows: read, set the level, cut. One way for workers, training, pages and benchmark."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..config import LimitsConfig
from ..modality import Prepared
from ..weights import load_manifest
from .reading import Sound, read_sound
from .views import ViewConfig, cut_windows


@dataclass(frozen=True)
class AudioPreparation:
    """A `modality.Preparation`. There is one way to read a file."""

    limits: LimitsConfig = field(default_factory=LimitsConfig)
    views: ViewConfig = field(default_factory=ViewConfig)

    @property
    def max_bytes(self) -> int:
        return self.views.max_bytes

    @property
    def attempts(self) -> int:
        return 1

    def __call__(self, source: bytes | str, attempt: int = 0) -> Prepared:
        """Windows of a sound file, for `split_windows`. Raises: Unreadable, and nothing else for a bad file."""
        started = time.perf_counter()
        sound = self.read(source)
        read = time.perf_counter()
        content = self.cut(sound.samples)
        return Prepared(
            content, "pyav", sound.note, read - started, time.perf_counter() - read, sound.duration_seconds,
            sound.num_read,
        )  # fmt: skip

    def read(self, source: bytes | str) -> Sound:
        """The samples that windows are cut from. Raises: Unreadable."""
        return read_sound(source, self.limits)

    def cut(self, samples: np.ndarray) -> np.ndarray:
        """Windows of samples that may come from elsewhere, such as a processed copy: uint8 (n,), n <= max_bytes.

        samples: float32 (N,), mono at 16 kHz. Raises: Unreadable.
        """
        return cut_windows(samples, self.views).reshape(-1).view(np.uint8)


def load_preparation(weights: Path, limits: LimitsConfig | None = None) -> AudioPreparation:
    """As the manifest in the folder `weights` says. Raises: WeightsError."""
    manifest = load_manifest(weights)
    return AudioPreparation(limits or LimitsConfig(), manifest.configured("views", ViewConfig))
