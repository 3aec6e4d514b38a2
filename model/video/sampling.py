"""Which frames to read: index arithmetic on key-frame positions, pure.

frames      0 1 2 3 4 5 6 7 8 9 10 11 12 13 14
key frames  K . . . . K . . . . K  .  .  .  .
max_runs=3, max_run_frames=2  ->  [0 1] [5 6] [10 11]
max_runs=2, max_run_frames=3  ->  [0 1 2] [5 6 7]
"""

from __future__ import annotations

from collections.abc import Sequence

from ..config import SamplingConfig


def choose_runs(
    key_frames: Sequence[int], num_frames: int, config: SamplingConfig, *, max_frames: int | None = None
) -> list[range]:
    """Choose runs of consecutive frame indices, each starting at a key frame.

    key_frames: ascending frame indices; an empty one means frame 0 only. num_frames: frames in the clip.
    max_frames: over all runs, for very large frames: fewer runs then, before shorter ones.

    A run may reach past the next key frame (that costs no seek), but runs never overlap. Runs are
    spread evenly over the key frames that leave room for `min_run_frames`; the first is always
    included. Returns ascending, non-empty ranges; empty if num_frames is 0.
    """
    if num_frames <= 0:
        return []
    budget = config.max_runs * config.max_run_frames if max_frames is None else max(1, max_frames)
    keys = sorted({key for key in key_frames if 0 <= key < num_frames} or {0})
    # A key frame in the last frames leaves too short a run to be worth its seek.
    starts = [key for key in keys if num_frames - key >= config.min_run_frames] or keys[:1]
    chosen = _spread(starts, max(1, min(config.max_runs, len(starts), budget // config.min_run_frames)))
    length = min(config.max_run_frames, budget // len(chosen))
    ends = [*chosen[1:], num_frames]
    return [range(start, min(start + length, end)) for start, end in zip(chosen, ends, strict=True)]


def _spread(values: Sequence[int], count: int) -> list[int]:
    """`count` values at even ranks, the first included: of 7, three are ranks 0, 2 and 4."""
    return [values[rank * len(values) // count] for rank in range(count)]
