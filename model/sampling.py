"""Which frames to read: index arithmetic on key-frame positions, pure.

frames      0 1 2 3 4 5 6 7 8 9 10 11 12 13 14
key frames  K . . . . K . . . . K  .  .  .  .
max_frames=6, max_runs=3  ->  [0 1] [5 6] [10 11]
max_frames=6, one key     ->  [0 1 2 3 4 5]
"""

from __future__ import annotations

from collections.abc import Sequence

from .config import SamplingConfig


def choose_runs(
    key_frames: Sequence[int], num_frames: int, config: SamplingConfig, *, max_frames: int | None = None
) -> list[range]:
    """Choose runs of consecutive frame indices, each starting at a key frame.

    key_frames: ascending frame indices; an empty one means frame 0 only. num_frames: frames in the clip.
    max_frames: a smaller frame budget than the configuration's, for very large frames.

    A run may reach past the next key frame (that costs no seek), but runs never overlap. Runs are
    spread evenly over the key frames that leave room for `min_run_frames`; the first is always
    included. Returns ascending, non-empty ranges; empty if num_frames is 0.
    """
    if num_frames <= 0:
        return []
    budget = max(1, min(config.max_frames, max_frames or config.max_frames))
    keys = sorted({key for key in key_frames if 0 <= key < num_frames} or {0})
    # A key frame in the last frames leaves too short a run to be worth its seek.
    starts = [key for key in keys if num_frames - key >= config.min_run_frames] or keys[:1]
    wanted_runs = max(1, min(config.max_runs, len(starts), budget // config.min_run_frames))
    chosen = _spread(starts, wanted_runs)
    share = budget // len(chosen)
    runs = []
    for position, start in enumerate(chosen):
        end = chosen[position + 1] if position + 1 < len(chosen) else num_frames
        runs.append(range(start, min(start + share, end)))
    return _spend_rest(runs, budget - sum(len(run) for run in runs), num_frames)


def _spread(values: Sequence[int], count: int) -> list[int]:
    """`count` values at even ranks, the first included: of 7, three are ranks 0, 2 and 4."""
    return [values[rank * len(values) // count] for rank in range(count)]


def _spend_rest(runs: list[range], rest: int, num_frames: int) -> list[range]:
    """Lengthen the last runs with frames that earlier, cut-off runs could not use."""
    for position in reversed(range(len(runs))):
        end = runs[position + 1].start if position + 1 < len(runs) else num_frames
        extra = min(rest, end - runs[position].stop)
        runs[position] = range(runs[position].start, runs[position].stop + extra)
        rest -= extra
    return runs
