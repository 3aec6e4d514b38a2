"""What the detector saw in one clip: its frames, its views, the evidence of each, and where in a frame it lies.

Everything here is measured with the detector itself: the same reading, the same views, the same scores as script.py.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from model.video.clip import Clip
from model.video.detector import VideoDetector
from model.video.views import PATCHES, RESIZED, ViewPosition, cut_views, split_views, view_positions

_MAX_HEAT_VIEWS = 30  # for the heat map of one frame
_MIN_HEAT_VIEWS = 6  # fewer make no map
_MOMENTS_SHARE = 0.5  # of the time left, for the curve over time; heat maps get the rest
_BATCH = 4


@dataclass(frozen=True)
class FrameLook:
    """One frame that the detector used.

    pixels: uint8 RGB (H, W, 3). boxes: the views that hold this frame, each with its evidence: the score that the clip
    would have if all its views of that kind were this one; > 0 speaks for generated.
    """

    pixels: np.ndarray
    seconds: float
    run: int
    frame: int
    boxes: tuple[tuple[ViewPosition, float], ...]


@dataclass(frozen=True)
class ClipLook:
    """Score of a clip as script.py gives it, and the frames behind it in order of time."""

    clip: Clip
    score: float
    frames: tuple[FrameLook, ...]
    features: dict[str, np.ndarray]  # kind of view -> float32 (V, D)


@dataclass(frozen=True)
class Moment:
    """As many consecutive frames as a view holds, scored as if they were the whole clip."""

    run: int
    seconds: float
    score: float
    behind_score: bool  # whether the clip's own score rests on these frames


class Budget:
    """Seconds that the networks may work for a page on one clip, of this thread's processor time.

    Not of the clock: a busy machine gives the same page, later. Infinite ones allow everything.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        self._left = seconds
        self._unit_seconds = 0.0  # the last piece of work, per unit

    @contextlib.contextmanager
    def spend(self, units: int, *, free: bool = False) -> Iterator[None]:
        """Around work that consists of `units` equal parts. free: it is measured, and does not count."""
        started = time.thread_time()
        yield
        seconds = time.thread_time() - started
        self._left -= 0.0 if free else seconds
        self._unit_seconds = seconds / max(1, units)

    def affords(self, share: float) -> float:
        """How many parts like those of the last piece of work `share` of what is left pays for; 0 at least."""
        if math.isinf(self._left):
            return math.inf
        return max(0.0, share * self._left / max(self._unit_seconds, 1e-9))


def look_at_clip(clip: Clip, detector: VideoDetector) -> ClipLook:
    """Score a clip and share the evidence out to the frames its views were cut from.

    clip: as `VideoPreparation.read` gives it, without black bars.
    """
    config = detector.view_config
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
        FrameLook(clip.runs[run][frame], float(clip.pts_seconds[run][frame]), run, frame, tuple(boxes))
        for (run, frame), boxes in sorted(by_frame.items())
    )
    return ClipLook(clip, detector.score(features), frames, features)


def grid_positions(height: int, width: int, size: int, *, max_views: int = _MAX_HEAT_VIEWS) -> list[tuple[int, int]]:
    """Top-left corners of a grid of at most `max_views` views, the far edges included.

    Steps are a quarter of a view, longer where that would take more views; in a large frame gaps may stay between them.

    Example, one axis: 10 pixels, views of 4, step 4 -> 0 3 6.
    """
    free = max(0, height - size), max(0, width - size)
    step = max(1, size // 4)
    while True:
        counts = [math.ceil(side / step) + 1 for side in free]
        if counts[0] * counts[1] <= max_views:
            break
        step += max(1, size // 16)
    rows, columns = (
        np.unique(np.linspace(0, side, count).round().astype(int)) for side, count in zip(free, counts, strict=True)
    )
    return [(int(top), int(left)) for top in rows for left in columns]


def heat_map(look: ClipLook, at: FrameLook, detector: VideoDetector, *, max_views: int = _MAX_HEAT_VIEWS) -> np.ndarray:
    """Evidence by place: a dense grid of patches of one frame is scored, and each pixel takes the mean of its patches.

    A patch is worth the score that the clip would have if all its patches were this one, its resized views staying.
    Patches weigh more at their centre than at their rim, which sharpens the map; a frame no larger than a patch has
    one value. Returns float32 (H, W), in units of the score: > 0 speaks for generated; NaN where no patch was.
    """
    config = detector.view_config
    run = look.clip.runs[at.run][at.frame : at.frame + config.num_frames]
    height, width = run.shape[1:3]
    corners = grid_positions(height, width, config.size, max_views=max_views)
    single = replace(config, num_patches=1, num_resized=0)
    patches = [
        split_views(cut_views([run[:, top : top + config.size, left : left + config.size]], single), single)[PATCHES][0]
        for top, left in corners
    ]
    ramp = 1.0 - np.abs(np.linspace(-1, 1, config.size + 2)[1:-1])  # (S,), positive, highest in the middle
    window = np.outer(ramp, ramp).astype(np.float32)
    total, mass = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    few = torch.from_numpy(np.stack(patches)).split(_BATCH)  # at a time
    of_patches = np.concatenate([detector.features(part, PATCHES).cpu().numpy() for part in few])
    for (top, left), features in zip(corners, of_patches, strict=True):
        value = detector.score({**look.features, PATCHES: features[None]})
        part = window[: height - top, : width - left]
        total[top : top + config.size, left : left + config.size] += part * value
        mass[top : top + config.size, left : left + config.size] += part
    return np.divide(total, mass, out=np.full_like(total, np.nan), where=mass > 0)


def heat_maps(
    look: ClipLook, detector: VideoDetector, budget: Budget, *, count: int
) -> list[tuple[FrameLook, np.ndarray]]:
    """Heat maps of up to `count` frames, spread over those behind the score; coarser or fewer where time is short.

    The list is empty where not even one coarse map can be paid for.
    """
    config = detector.view_config
    frames = list({frame.run: frame for frame in reversed(look.frames)}.values())[::-1]  # the first of each run
    picks = np.unique(np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int))
    maps: list[tuple[FrameLook, np.ndarray]] = []
    for done, index in enumerate(picks):
        affordable = budget.affords(1 / (len(picks) - done))
        if affordable < _MIN_HEAT_VIEWS:
            break
        most = int(min(_MAX_HEAT_VIEWS, affordable))
        frame = frames[index]
        height, width = frame.pixels.shape[:2]
        with budget.spend(len(grid_positions(height, width, config.size, max_views=most))):
            maps.append((frame, heat_map(look, frame, detector, max_views=most)))
    return maps


def score_moments(
    clip: Clip, detector: VideoDetector, budget: Budget | None = None, *, max_moments: int, behind_score: bool = False
) -> list[Moment]:
    """Moments spread evenly over the frames read, in order of time; fewer where the budget asks for it.

    clip: as `VideoPreparation.read` gives it, without black bars.
    """
    budget = budget or Budget()
    length, units = detector.view_config.num_frames, detector.view_config.num_views
    starts = [
        (run, frame)
        for run, frames in enumerate(clip.runs)
        for frame in range(0, max(1, len(frames) - length + 1), length)
    ]
    most = int(min(max_moments, len(starts), max(1, budget.affords(_MOMENTS_SHARE) / units)))
    kept = np.unique(np.linspace(0, len(starts) - 1, most).round().astype(int))
    moments = []
    for run, frame in (starts[index] for index in kept):
        views = cut_views([clip.runs[run][frame : frame + length]], detector.view_config)
        with budget.spend(units):
            score = detector.score(detector.clip_features(views))
        moments.append(Moment(run, float(clip.pts_seconds[run][frame]), score, behind_score))
    return moments
