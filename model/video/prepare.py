"""File -> views: read, cut off black bars, cut the views. One way for workers, training, pages and benchmark."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..config import LimitsConfig, SamplingConfig
from ..modality import Prepared
from ..weights import load_manifest
from .clip import Clip
from .reading import READERS, Reader, read_clip
from .views import BarConfig, ViewConfig, cut_views, trim_bars


def load_preparation(weights: Path, limits: LimitsConfig | None = None) -> VideoPreparation:
    """As the manifest in the folder `weights` says. Raises: WeightsError."""
    manifest = load_manifest(weights)
    sampling, views = manifest.configured("sampling", SamplingConfig), manifest.configured("views", ViewConfig)
    return VideoPreparation(sampling, limits or LimitsConfig(), views, manifest.configured("bars", BarConfig))


@dataclass(frozen=True)
class VideoPreparation:
    """A `modality.Preparation`. Its attempts are the decoders, in the order that `reader_order` gives for a file."""

    sampling: SamplingConfig = SamplingConfig()
    limits: LimitsConfig = LimitsConfig()
    views: ViewConfig = ViewConfig()
    bars: BarConfig = BarConfig()
    readers: Mapping[str, Reader] = field(default_factory=lambda: READERS)  # decoder name -> function

    @property
    def max_bytes(self) -> int:
        """Of one clip's views; every clip has as many."""
        return self.views.num_bytes

    @property
    def attempts(self) -> int:
        return len(self.readers)

    def __call__(self, source: bytes | str, attempt: int = 0) -> Prepared:
        """Views of a video, for `split_views`. Raises: Unreadable, and nothing else for a bad file."""
        started = time.perf_counter()
        clip = self.read(source, attempt)
        read = time.perf_counter()
        content = cut_views(clip.runs, self.views)
        return Prepared(
            content, clip.decoder, clip.note, read - started, time.perf_counter() - read, clip.duration_seconds,
            clip.num_frames, len(clip.runs),
        )  # fmt: skip

    def read(self, source: bytes | str, attempt: int | None = None) -> Clip:
        """The frames that views are cut from, without black bars. attempt: None tries every decoder in this process.

        Raises: Unreadable.
        """
        clip = read_clip(source, self.sampling, self.limits, attempt=attempt, readers=self.readers)
        return replace(clip, runs=trim_bars(clip.runs, self.bars))

    def cut(self, runs: Sequence[np.ndarray]) -> np.ndarray:
        """Views of frames that come from elsewhere, such as a processed copy: uint8 (max_bytes,).

        runs: uint8 RGB, (T_i, H, W, 3) each, with black bars if they have any.
        """
        return cut_views(trim_bars(runs, self.bars), self.views)
