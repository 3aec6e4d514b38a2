"""What the detector saw in one clip: its frames, its views, the evidence of each, and where in a frame it lies.

Everything here is measured with the detector itself: the same reading, the same views, the same scores as script.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from model.config import LimitsConfig, SamplingConfig
from model.video.detector import VideoDetector
from model.video.reading import Clip, read_clip
from model.video.views import PATCHES, RESIZED, ViewPosition, cut_views, split_views, trim_bars, view_positions

_MAX_HEAT_VIEWS = 30  # for the heat map of one frame: some seconds on two cores
_BATCH = 4


@dataclass(frozen=True)
class FrameLook:
    """One frame that the detector used.

    pixels: uint8 RGB (H, W, 3). evidence: mean over the views that hold the frame, each worth the score that the clip
    would have if all its views of that kind were this one; > 0 speaks for generated.
    """

    pixels: np.ndarray
    seconds: float
    run: int
    frame: int
    evidence: float
    boxes: tuple[tuple[ViewPosition, float], ...]  # the views that hold this frame, each with its evidence


@dataclass(frozen=True)
class ClipLook:
    """Score of a clip as script.py gives it, and the frames behind it in order of time."""

    clip: Clip
    score: float
    frames: tuple[FrameLook, ...]
    features: dict[str, np.ndarray]  # kind of view -> float32 (V, D)


def patch_features(patches: np.ndarray, detector: VideoDetector) -> np.ndarray:
    """uint8 (P, K, S, S, 3) -> float32 (P, D), a few at a time."""
    parts = [
        detector.features(torch.from_numpy(patches[start : start + _BATCH]), PATCHES).cpu().numpy()
        for start in range(0, len(patches), _BATCH)
    ]
    return np.concatenate(parts)


def look_at_clip(clip: Clip, detector: VideoDetector) -> ClipLook:
    """Score a clip and share the evidence out to the frames its views were cut from, shown without black bars."""
    config = detector.view_config
    clip = replace(clip, runs=trim_bars(clip.runs))
    features = detector.clip_features(cut_views(clip.runs, config))
    scores = detector.view_scores(features)
    evidence = np.concatenate([scores[kind] for kind in (PATCHES, RESIZED) if kind in scores])
    positions = view_positions([run.shape[:3] for run in clip.runs], config)
    by_frame: dict[tuple[int, int], list[tuple[ViewPosition, float]]] = {}
    for position, value in zip(positions, evidence.tolist(), strict=True):
        length = 1 if position.resized else config.num_frames
        for frame in range(position.frame, min(position.frame + length, len(clip.runs[position.run]))):
            by_frame.setdefault((position.run, frame), []).append((position, value))
    frames = tuple(
        FrameLook(
            pixels=clip.runs[run][frame],
            seconds=float(clip.pts_seconds[run][frame]),
            run=run,
            frame=frame,
            evidence=sum(value for _, value in boxes) / len(boxes),
            boxes=tuple(boxes),
        )
        for (run, frame), boxes in sorted(by_frame.items())
    )
    return ClipLook(clip, detector.score(features), frames, features)


def look_at_video(
    source: bytes | str,
    detector: VideoDetector,
    *,
    sampling: SamplingConfig | None = None,
    limits: LimitsConfig | None = None,
) -> ClipLook:
    """Raises: VideoReadError: no frame can be decoded."""
    return look_at_clip(read_clip(source, sampling or SamplingConfig(), limits or LimitsConfig()), detector)


def grid_positions(height: int, width: int, size: int, *, max_views: int = _MAX_HEAT_VIEWS) -> list[tuple[int, int]]:
    """Top-left corners of a dense grid of views that covers the frame, the far edges included.

    Steps are a quarter of a view, longer where that would take more than `max_views`.

    Example, one axis: 10 pixels, views of 4, step 4 -> 0 3 6.
    """
    free = max(0, height - size), max(0, width - size)
    step = max(1, size // 4)
    while True:
        counts = [math.ceil(side / step) + 1 for side in free]
        if counts[0] * counts[1] <= max_views or step >= size:
            break
        step += max(1, size // 16)
    rows, columns = (
        np.unique(np.linspace(0, side, count).round().astype(int)) for side, count in zip(free, counts, strict=True)
    )
    return [(int(top), int(left)) for top in rows for left in columns]


def heat_map(look: ClipLook, at: FrameLook, detector: VideoDetector) -> np.ndarray:
    """Evidence by place: a dense grid of patches of one frame is scored, and each pixel takes the mean of its patches.

    A patch is worth the score that the clip would have if all its patches were this one, its resized views staying.
    Patches weigh more at their centre than at their rim, which sharpens the map; a frame no larger than a patch has
    one value. Returns float32 (H, W), in units of the score: > 0 speaks for generated.
    """
    config = detector.view_config
    run = look.clip.runs[at.run][at.frame : at.frame + config.num_frames]
    height, width = run.shape[1:3]
    corners = grid_positions(height, width, config.size)
    single = replace(config, num_patches=1, num_resized=0)
    patches = [
        split_views(cut_views([run[:, top : top + config.size, left : left + config.size]], single), single)[PATCHES][0]
        for top, left in corners
    ]
    ramp = 1.0 - np.abs(np.linspace(-1, 1, config.size + 2)[1:-1])  # (S,), positive, highest in the middle
    window = np.outer(ramp, ramp).astype(np.float32)
    total, mass = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    for (top, left), features in zip(corners, patch_features(np.stack(patches), detector), strict=True):
        value = detector.score({**look.features, PATCHES: features[None]})
        part = window[: height - top, : width - left]
        total[top : top + config.size, left : left + config.size] += part * value
        mass[top : top + config.size, left : left + config.size] += part
    return total / mass


def score_moments(clip: Clip, detector: VideoDetector, *, max_moments: int) -> list[tuple[int, float, float]]:
    """Scores that single moments would have alone, spread evenly over the frames read.

    A moment is as many consecutive frames as a view holds. Returns: (run, seconds, score), in order of time.
    """
    length = detector.view_config.num_frames
    starts = [
        (run, frame)
        for run, frames in enumerate(clip.runs)
        for frame in range(0, max(1, len(frames) - length + 1), length)
    ]
    kept = np.unique(np.linspace(0, len(starts) - 1, min(max_moments, len(starts))).round().astype(int))
    moments = []
    for run, frame in (starts[index] for index in kept):
        views = cut_views([clip.runs[run][frame : frame + length]], detector.view_config)
        moments.append((run, float(clip.pts_seconds[run][frame]), detector.score(detector.clip_features(views))))
    return moments
