"""model.video.sampling: runs start at key frames, never overlap, and spend the budget."""

from __future__ import annotations

import numpy as np
import pytest

from model.config import SamplingConfig
from model.video.sampling import choose_runs

CONFIG = SamplingConfig(max_runs=3, max_run_frames=4, min_run_frames=2)


@pytest.mark.parametrize(
    ("key_frames", "num_frames", "expected"),
    [
        ([0], 300, [(0, 4)]),
        ([], 300, [(0, 4)]),  # a container that marks none
        ([0], 3, [(0, 3)]),
        ([0], 1, [(0, 1)]),
        ([0], 0, []),
        ([0, 250], 300, [(0, 4), (250, 254)]),
        ([0, 250, 500], 600, [(0, 4), (250, 254), (500, 504)]),
        ([0, 100, 200, 300, 400, 500, 600], 700, [(0, 4), (200, 204), (400, 404)]),
        ([0, 299], 300, [(0, 4)]),  # the last key frame leaves too short a run
        ([5], 300, [(5, 9)]),
        (list(range(300)), 300, [(0, 4), (99, 103), (199, 203)]),  # every frame is a key frame
        ([0, 2, 4], 6, [(0, 2), (2, 4), (4, 6)]),
        ([0, 2], 300, [(0, 2), (2, 6)]),  # runs do not overlap
        ([0, 297], 300, [(0, 4), (297, 300)]),
        ([0, 400, 9999], 300, [(0, 4)]),  # indices past the end are not believed
    ],
)
def test_examples(key_frames: list[int], num_frames: int, expected: list[tuple[int, int]]) -> None:
    assert [(run.start, run.stop) for run in choose_runs(key_frames, num_frames, CONFIG)] == expected


@pytest.mark.parametrize("seed", range(200))
def test_runs_keep_their_promises(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_frames = int(rng.integers(1, 400))
    keys = sorted({0, *rng.integers(0, num_frames, rng.integers(0, 20)).tolist()})
    config = SamplingConfig(max_runs=int(rng.integers(1, 5)), max_run_frames=int(rng.integers(2, 13)))
    max_frames = int(rng.integers(1, 30)) if seed % 2 else None
    runs = choose_runs(keys, num_frames, config, max_frames=max_frames)
    frames = [frame for run in runs for frame in run]
    assert frames == sorted(set(frames)), "ascending, no frame twice"
    assert all(run.start in keys and len(run) >= 1 for run in runs)
    assert frames[0] == 0, "the first key frame is always read"
    assert frames[-1] < num_frames
    assert len(runs) <= config.max_runs
    assert max(map(len, runs)) <= config.max_run_frames
    if max_frames is not None:
        assert len(frames) <= max_frames
    if len(runs) == 1:
        assert len(frames) == min(config.max_run_frames, max_frames or config.max_run_frames, num_frames)


@pytest.mark.parametrize("max_frames", [1, 2, 3, 5])
def test_a_small_budget_gives_fewer_runs_not_shorter_ones(max_frames: int) -> None:
    runs = choose_runs([0, 100, 200], 300, CONFIG, max_frames=max_frames)
    assert sum(map(len, runs)) <= max_frames
    assert len(runs) == max(1, max_frames // CONFIG.min_run_frames)


def test_runs_are_spread_over_the_clip() -> None:
    starts = [run.start for run in choose_runs(range(0, 3000, 10), 3000, CONFIG)]
    assert starts == [0, 1000, 2000]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_runs": 0}, "max_runs must be at least 1, got 0"),
        ({"max_run_frames": 1}, "min_run_frames .2. must be between 1 and max_run_frames .1."),
        ({"min_run_frames": 0}, "min_run_frames .0. must be between 1"),
    ],
)
def test_impossible_policies_are_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingConfig(**fields)
