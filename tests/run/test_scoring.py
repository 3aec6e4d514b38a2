"""Scoring when the network fails: on one clip, on memory, on the device. See test_pipeline.py for equal scores."""

from __future__ import annotations

import csv
import math
import time
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from model.config import LimitsConfig, PipelineConfig, SamplingConfig
from model.rows.dataset import ClipDataset, Row
from model.rows.submission import ResultFile
from model.run import scoring
from model.run.pipeline import Scored, run
from model.run.scoring import BatchScorer, choose_device
from model.video.prepare import VideoPreparation
from model.video.views import ViewConfig
from tests.toy_clips import clip

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BAD, NOT_A_NUMBER, ENDLESS = 251, 252, 253  # pixel values that make the network below fail


class MeanDetector:
    """In the network's place: the mean of a clip's views, of which there may be any number. Some values make it fail.

    A clip has one long view of eight values, and short ones of four for all that follows.
    """

    views_per_clip = 3

    def __init__(self, device: torch.device = CPU) -> None:
        self.device = device

    def split(self, content: np.ndarray) -> dict[str, np.ndarray]:
        return {"long": content[:8].reshape(1, 8), "short": content[8:].reshape(-1, 4)}

    def features(self, views: torch.Tensor, kind: str) -> torch.Tensor:
        assert views.shape[1:] == {"long": (8,), "short": (4,)}[kind]
        if (views == BAD).any():
            raise RuntimeError("shape '[7]' is invalid for input of size 8")
        means = views.float().mean(dim=1)
        means[(views == NOT_A_NUMBER).any(dim=1)] = math.nan
        means[(views == ENDLESS).any(dim=1)] = math.inf
        return means[:, None].expand(-1, 2 if kind == "long" else 3)

    def score(self, features: Mapping[str, np.ndarray]) -> float:
        assert features["long"].shape == (1, 2)
        rows = np.concatenate([values[:, 0] for values in features.values()])
        if np.isinf(rows).any():
            raise OverflowError("math range error")
        return float(rows.mean())


def content_of(value: int, short_views: int = 2) -> np.ndarray:
    return np.full(8 + 4 * short_views, value, dtype=np.uint8)


def score_all(scorer: BatchScorer, values: list[int]) -> dict[str, float]:
    scores = [
        scored for position, value in enumerate(values) for scored in scorer.add(f"{position}", content_of(value))
    ] + list(scorer.flush())
    assert [scored.id for scored in scores] == [f"{position}" for position in range(len(values))], "in order, once"
    return {scored.id: scored.score for scored in scores}


@pytest.mark.parametrize("batch_views", [1, 7, 100])
def test_clips_of_any_length_get_the_features_of_their_own_views(batch_views):
    """Short and long sounds in one batch; one clip has no view of the second kind at all."""
    lengths = [2, 0, 5, 1, 30, 2]
    scorer = BatchScorer(lambda _: MeanDetector(), CPU, batch_views=batch_views)
    scores: list[Scored] = []
    for position, length in enumerate(lengths):
        scores += scorer.add(f"{position}", content_of(position, length))
    scores += scorer.flush()
    assert [(scored.id, scored.score) for scored in scores] == [(f"{number}", number) for number in range(6)]


def test_content_that_is_none_of_a_clip_costs_itself(caplog):
    scorer = BatchScorer(lambda _: MeanDetector(), CPU, batch_views=6)
    scores = [*scorer.add("bad", np.zeros(9, np.uint8)), *scorer.add("good", content_of(3)), *scorer.flush()]
    assert math.isnan(scores[0].score) and scores[1].score == 3
    assert "the content of clip bad cannot be split" in caplog.text


class SlowDetector(MeanDetector):
    """Adds up its own time."""

    seconds = 0.0

    def features(self, views: torch.Tensor, kind: str) -> torch.Tensor:
        started = time.perf_counter()
        try:
            time.sleep(0.05)
            return super().features(views, kind)
        finally:
            self.seconds += time.perf_counter() - started


def test_network_seconds_are_counted_once_after_an_error(monkeypatch):
    """The bug: after an error on a batch its clips' seconds were added again, the consumer's own time with them."""
    monkeypatch.setattr(scoring, "available_cores", lambda: 1)
    detector = SlowDetector()
    scorer = BatchScorer(lambda _: detector, CPU, batch_views=12)
    consumer, started = 0.0, time.perf_counter()
    for position, value in enumerate([1, 2, BAD, 4, 5, 6]):
        for _ in scorer.add(f"{position}", content_of(value)):
            time.sleep(0.2)
            consumer += 0.2
    assert len(list(scorer.flush())) == 2 and consumer
    assert 0 < scorer.network_seconds <= time.perf_counter() - started - consumer


def test_the_network_s_time_is_shared_out_to_the_clips_of_a_batch(monkeypatch):
    monkeypatch.setattr(scoring, "available_cores", lambda: 1)
    detector = SlowDetector()
    scorer = BatchScorer(lambda _: detector, CPU, batch_views=9)
    scores = [scored for n in range(5) for scored in scorer.add(f"{n}", content_of(n))] + list(scorer.flush())
    shares = [scored.network_seconds for scored in scores]
    assert detector.seconds <= sum(shares) <= scorer.network_seconds
    assert shares[0] == shares[1] == shares[2] and shares[3] == shares[4]


@pytest.mark.parametrize("batch_views", [3, 9, 100])
def test_the_clip_that_breaks_the_network_costs_itself(batch_views, caplog):
    values = [1, 2, BAD, 4, NOT_A_NUMBER, 6, ENDLESS, 8]
    scores = score_all(BatchScorer(lambda _: MeanDetector(), CPU, batch_views=batch_views), values)
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
        def features(self, views: torch.Tensor, kind: str) -> torch.Tensor:
            if len(views) > 1:
                raise RuntimeError(message)
            return super().features(views, kind)

    scorer = BatchScorer(lambda _: Small(), CPU, batch_views=24)
    assert score_all(scorer, [1, 2, 3, 4, 5]) == {"0": 1, "1": 2, "2": 3, "3": 4, "4": 5}
    assert scorer.batch_views == 1


def test_memory_of_the_failed_attempt_is_free_before_the_next(monkeypatch):
    """An error's traceback holds what the failed attempt had allocated, for as long as it is handled."""
    held, alive = [], []

    class Greedy(MeanDetector):
        def features(self, views: torch.Tensor, kind: str) -> torch.Tensor:
            activations = views.float()
            if len(views) > 1:
                held.append(weakref.ref(activations))
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return super().features(views, kind)

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(sum(ref() is not None for ref in held)))
    scorer = BatchScorer(lambda _: Greedy(), CPU, batch_views=2)
    assert score_all(scorer, [1, 2]) == {"0": 1, "1": 2}
    assert held and alive == [0]


def test_no_memory_at_all_ends():
    """Not even one view fits: every clip is told so, instead of trying for ever."""

    class Full(MeanDetector):
        def features(self, views: torch.Tensor, kind: str) -> torch.Tensor:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    scores = score_all(BatchScorer(lambda _: Full(), CPU, batch_views=6), [1, 2, 3])
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

    assert score_all(BatchScorer(load, CUDA, batch_views=6), [1, 2, 3]) == {"0": 1, "1": 2, "2": 3}
    assert "cannot use cuda" in caplog.text


def test_weights_that_do_not_load_on_the_cpu_end_the_run():
    def load(device: torch.device) -> MeanDetector:
        raise RuntimeError("broken weights")

    with pytest.raises(RuntimeError, match="broken weights"):
        BatchScorer(load, CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without CUDA")
def test_without_cuda_the_cpu_is_chosen():
    assert choose_device() == CPU and choose_device("cuda") == CUDA


def test_a_run_goes_on_past_scores_that_are_no_numbers(tmp_path: Path):
    """Before, the first nan ended the run with every row after it unscored."""

    class Scorer:
        network_seconds = 0.0

        def add(self, clip_id: str, content: np.ndarray) -> Iterator[Scored]:
            yield Scored(clip_id, {"0": math.nan, "1": 0.5, "2": -math.inf}[clip_id])

        def flush(self) -> Iterator[Scored]:
            return iter(())

    rows = [Row(name, clip("h264")) for name in "012"]
    dataset = ClipDataset(list("012"), "three clips", lambda: iter(rows))
    result = ResultFile(tmp_path / "submission.csv", dataset.ids)
    worker = VideoPreparation(SamplingConfig(), LimitsConfig(), ViewConfig(size=32))
    stats = run(dataset, result, worker, Scorer, config=PipelineConfig(workers=1), show_progress=False)
    assert result.write() and (stats.scored, stats.unscored) == (1, 2)
    assert stats.fallbacks == {"the network gives no finite score": 2}
    text = (tmp_path / "submission.csv").read_text()
    assert text == "id,pred,score\n0,real,\n1,generated,0.5\n2,real,\n"


def test_time_includes_the_network(tmp_path: Path):
    """The bug: `time` was that of decoding alone, and the network is the slowest stage."""

    class Scorer:
        network_seconds = 0.0

        def add(self, clip_id: str, content: np.ndarray) -> Iterator[Scored]:
            yield Scored(clip_id, 1.0, network_seconds=1000.0)

        def flush(self) -> Iterator[Scored]:
            return iter(())

    rows = [Row("good", clip("h264")), Row("bad", b"no video")]
    dataset = ClipDataset(["good", "bad"], "two clips", lambda: iter(rows))
    result = ResultFile(tmp_path / "submission.csv", dataset.ids, with_time=True)
    preparation = VideoPreparation(SamplingConfig(), LimitsConfig(), ViewConfig(size=32))
    run(dataset, result, preparation, Scorer, config=PipelineConfig(workers=1), show_progress=False)
    assert result.write()
    with (tmp_path / "submission.csv").open(newline="") as file:
        seconds = {row["id"]: float(row["time"]) for row in csv.DictReader(file)}
    assert 1000 < seconds["good"] < 1100 and 0 < seconds["bad"] < 100
