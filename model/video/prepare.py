"""File -> views: read, cut off black bars, cut the views. One way for workers, training, pages and benchmark."""

from __future__ import annotations

import json
import math
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

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 1 << 20


def load_preparation(weights: Path, limits: LimitsConfig | None = None) -> VideoPreparation:
    """As the manifest in the folder `weights` says. Raises: WeightsError."""
    manifest = load_manifest(weights)
    sampling, views = manifest.configured("sampling", SamplingConfig), manifest.configured("views", ViewConfig)
    return VideoPreparation(sampling, limits or LimitsConfig(), views, manifest.configured("bars", BarConfig))


@dataclass(frozen=True)
class VideoPreparation:
    """A `modality.Preparation`. Its attempts are the decoders, in the order that `reader_order` gives for a file."""

    sampling: SamplingConfig
    limits: LimitsConfig
    views: ViewConfig
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


@dataclass(frozen=True)
class FramesPreparation:
    """A `modality.Preparation` whose content is the frames themselves, for `unpack_clip`: what a page shows."""

    video: VideoPreparation

    @property
    def limits(self) -> LimitsConfig:
        return self.video.limits

    @property
    def max_bytes(self) -> int:
        return self.video.limits.max_decoded_bytes + _MAX_HEADER_BYTES

    @property
    def attempts(self) -> int:
        return self.video.attempts

    def __call__(self, source: bytes | str, attempt: int = 0) -> Prepared:
        """Raises: Unreadable."""
        clip = self.video.read(source, attempt)
        header = json.dumps(
            {
                "shapes": [run.shape for run in clip.runs],
                "pts_seconds": [pts.tolist() for pts in clip.pts_seconds],
                "decoder": clip.decoder,
                "note": clip.note,
                "duration_seconds": clip.duration_seconds,
            }
        ).encode()
        parts = [np.frombuffer(len(header).to_bytes(_LENGTH_BYTES, "little") + header, np.uint8)]
        return Prepared(np.concatenate([*parts, *(run.reshape(-1) for run in clip.runs)]), clip.decoder, clip.note)


def unpack_clip(content: np.ndarray) -> Clip:
    """Undo the packing of `FramesPreparation`. content: uint8 (n,). Raises: ValueError, KeyError: it is none."""
    start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES].tobytes(), "little")
    header = json.loads(content[_LENGTH_BYTES:start].tobytes())
    runs = []
    for shape in header["shapes"]:
        size = math.prod(shape)
        runs.append(content[start : start + size].reshape(shape))
        start += size
    stamps = tuple(np.array(pts, np.float64) for pts in header["pts_seconds"])
    return Clip(tuple(runs), stamps, header["decoder"], header["note"], header["duration_seconds"])
