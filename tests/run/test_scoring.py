"""Scoring when the network fails: on one clip, on memory, on the device. See test_pipeline.py for equal scores."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from debug.toy_clips import clip
from model.config import LimitsConfig, PipelineConfig, SamplingConfig
from model.rows.dataset import ClipDataset, Row
from model.rows.submission import ResultFile
from model.run.pipeline import run
from model.run.scoring import BatchScorer, choose_device
from model.run.worker import WorkerConfig
from model.video.detector import Kind
from model.video.views import ViewConfig

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BAD, NOT_A_NUMBER, ENDLESS = 251, 252, 253  # pixel values that make the network below fail


class MeanDetector:
    """In the network's place: the mean of a clip's views. Some pixel values make it fail."""

    def __init__(self, device: torch.device = CPU) -> None:
        self.device = device
        self.view_config = ViewConfig(num_patches=2, num_resized=1, size=8, resized_size=12)

    def outputs(self, views: torch.Tensor, kind: Kind) -> torch.Tensor:
        if (views == BAD).any():
            raise RuntimeError("shape '[7]' is invalid for input of size 8")
        means = views.float().mean(dim=(1, 2, 3, 4))
        means[(views == NOT_A_NUMBER).any(dim=-1).flatten(1).any(dim=1)] = math.nan
        means[(views == ENDLESS).any(dim=-1).flatten(1).any(dim=1)] = math.inf
        return means[:, None]

    def score(self, outputs: np.ndarray) -> float:
        if np.isinf(outputs).any():
            raise OverflowError("math range error")
        return float(outputs.mean())


def views_of(value: int) -> np.ndarray:
    return np.full(MeanDetector().view_config.num_bytes, value, dtype=np.uint8)


def score_all(scorer: BatchScorer, values: list[int]) -> dict[str, float]:
    scores = [
        scored for position, value in enumerate(values) for scored in scorer.add(f"{position}", views_of(value))
    ] + list(scorer.flush())
    assert len(dict(scores)) == len(scores) == len(values), "each clip once"
    return dict(scores)


@pytest.mark.parametrize("batch_views", [3, 9, 100])
def test_the_clip_that_breaks_the_network_costs_itself(batch_views, caplog):
    values = [1, 2, BAD, 4, NOT_A_NUMBER, 6, ENDLESS, 8]
    scores = score_all(BatchScorer(lambda _: MeanDetector(), CPU, batch_views=batch_views), values)  # type: ignore[arg-type,return-value]
    for position, value in enumerate(values):
        if value in (BAD, NOT_A_NUMBER, ENDLESS):
            assert math.isnan(scores[f"{position}"])
        else:
            assert scores[f"{position}"] == value
    assert "the network fails on clip 2: shape '[7]' is invalid" in caplog.text
    assert "clip 6: math range error" in caplog.text


@pytest.mark.parametrize(
    "message", ["CUDA out of memory. Tried to allocate", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
                "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"],
)  # fmt: skip
def test_every_kind_of_memory_shortage_halves_the_batch(message):
    class Small(MeanDetector):
        def outputs(self, views: torch.Tensor, kind: Kind) -> torch.Tensor:
            if len(views) > 1:
                raise RuntimeError(message)
            return super().outputs(views, kind)

    scorer = BatchScorer(lambda _: Small(), CPU, batch_views=24)  # type: ignore[arg-type,return-value]
    assert score_all(scorer, [1, 2, 3, 4, 5]) == {"0": 1, "1": 2, "2": 3, "3": 4, "4": 5}
    assert scorer.batch_views == 1


def test_memory_of_the_failed_attempt_is_free_before_the_next(monkeypatch):
    """An error's traceback holds what the failed attempt had allocated, for as long as it is handled."""
    held, alive = [], []

    class Greedy(MeanDetector):
        def outputs(self, views: torch.Tensor, kind: Kind) -> torch.Tensor:
            activations = views.float()
            if len(views) > 1:
                held.append(weakref.ref(activations))
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return super().outputs(views, kind)

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(sum(ref() is not None for ref in held)))
    scorer = BatchScorer(lambda _: Greedy(), CPU, batch_views=2)  # type: ignore[arg-type,return-value]
    assert score_all(scorer, [1, 2]) == {"0": 1, "1": 2}
    assert held and alive == [0]


def test_no_memory_at_all_ends():
    """Not even one view fits: every clip is told so, instead of trying for ever."""

    class Full(MeanDetector):
        def outputs(self, views: torch.Tensor, kind: Kind) -> torch.Tensor:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    scores = score_all(BatchScorer(lambda _: Full(), CPU, batch_views=6), [1, 2, 3])  # type: ignore[arg-type,return-value]
    assert len(scores) == 3 and all(map(math.isnan, scores.values()))


@pytest.mark.parametrize(
    "error",
    [RuntimeError("CUDA driver initialization failed"), AssertionError("Torch not compiled with CUDA enabled"),
     torch.cuda.DeferredCudaCallError("CUDA call failed lazily at initialization")],
)  # fmt: skip
def test_cuda_that_does_not_start(error, caplog):
    def load(device: torch.device) -> MeanDetector:
        if device.type == "cuda":
            raise error
        return MeanDetector()

    assert score_all(BatchScorer(load, CUDA, batch_views=6), [1, 2, 3]) == {"0": 1, "1": 2, "2": 3}  # type: ignore[arg-type]
    assert "cannot use cuda" in caplog.text


def test_weights_that_do_not_load_on_the_cpu_end_the_run():
    def load(device: torch.device) -> MeanDetector:
        raise RuntimeError("broken weights")

    with pytest.raises(RuntimeError, match="broken weights"):
        BatchScorer(load, CPU)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without CUDA")
def test_without_cuda_the_cpu_is_chosen():
    assert choose_device() == CPU and choose_device("cuda") == CUDA


def test_a_run_goes_on_past_scores_that_are_no_numbers(tmp_path: Path):
    """Before, the first nan ended the run with every row after it unscored."""

    class Scorer:
        network_seconds = 0.0

        def add(self, clip_id: str, views: np.ndarray) -> Iterator[tuple[str, float]]:
            yield clip_id, {"0": math.nan, "1": 0.5, "2": -math.inf}[clip_id]

        def flush(self) -> Iterator[tuple[str, float]]:
            return iter(())

    rows = [Row(name, clip("h264")) for name in "012"]
    dataset = ClipDataset(list("012"), "three clips", lambda: iter(rows))
    result = ResultFile(tmp_path / "submission.csv", dataset.ids)
    worker = WorkerConfig(SamplingConfig(), LimitsConfig(), ViewConfig(size=32))
    stats = run(dataset, result, worker, Scorer, config=PipelineConfig(workers=1), show_progress=False)  # type: ignore[arg-type]
    assert result.write() and (stats.scored, stats.unscored) == (1, 2)
    assert stats.fallbacks == {"the network gives no finite score": 2}
    text = (tmp_path / "submission.csv").read_text()
    assert text == "id,pred,score\n0,real,\n1,generated,0.5\n2,real,\n"
