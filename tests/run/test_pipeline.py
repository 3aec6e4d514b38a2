"""model.run: batches do not change scores, memory is bounded, devices that fail are left."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from model.config import LimitsConfig, PipelineConfig, SamplingConfig
from model.modality import Detector
from model.rows.dataset import ClipDataset, Row, open_files
from model.rows.submission import ResultFile
from model.run import scoring
from model.run.pipeline import Scored, run
from model.run.pool import DecodePool
from model.run.scoring import BatchScorer, score_clip
from model.video.detector import VideoDetector, load_detector
from model.video.prepare import VideoPreparation
from tests.toy_clips import clip

CPU = torch.device("cpu")
NAMES = ("h264", "h264_one_key", "mpeg4", "vp9", "h264_portrait", "h264_grey", "h264_two_frames")
TOLERANCE = 2e-3  # of a log-likelihood ratio: float32 kernels differ with the batch size


@pytest.fixture(scope="module")
def detector(repository: Path) -> VideoDetector:
    return load_detector(repository / "weights" / "video", CPU)


@pytest.fixture(scope="module")
def preparation(detector: VideoDetector) -> VideoPreparation:
    return VideoPreparation(SamplingConfig(), LimitsConfig(), detector.view_config)


@pytest.fixture(scope="module")
def views(preparation: VideoPreparation) -> dict[str, np.ndarray]:
    return {name: preparation(clip(name)).content for name in NAMES}


@pytest.fixture(scope="module")
def expected(detector: Detector, views: dict[str, np.ndarray]) -> dict[str, float]:
    """The plain way: one clip after the other."""
    return {name: score_clip(detector, value) for name, value in views.items()}


def score_all(scorer: BatchScorer, views: dict[str, np.ndarray]) -> dict[str, float]:
    scores = [scored for name, value in views.items() for scored in scorer.add(name, value)]
    scores += scorer.flush()
    assert [scored.id for scored in scores] == list(views), "each clip once, in order"
    return {scored.id: scored.score for scored in scores}


def test_clips_score_differently(expected: dict[str, float]) -> None:
    assert len({round(score, 3) for score in expected.values()}) > 1, "or the tests below would show nothing"


@pytest.mark.parametrize("clips_per_batch", [1, 3, 7, 100])
def test_scores_do_not_depend_on_the_batch(
    clips_per_batch: int, detector: Detector, views: dict[str, np.ndarray], expected: dict[str, float]
) -> None:
    """Seven clips in batches of 1, of 3 (the last one ragged), of 7, and one never full."""
    size = clips_per_batch * detector.views_per_clip
    assert score_all(BatchScorer(lambda _: detector, CPU, batch_views=size), views) == pytest.approx(
        expected, abs=TOLERANCE
    )


@pytest.mark.parametrize("batch_views", [1, 4])
def test_a_batch_may_be_smaller_than_a_clip(
    batch_views: int, detector: Detector, views: dict[str, np.ndarray], expected: dict[str, float]
) -> None:
    few = {name: views[name] for name in NAMES[:2]}
    scores = score_all(BatchScorer(lambda _: detector, CPU, batch_views=batch_views), few)
    assert scores == pytest.approx({name: expected[name] for name in few}, abs=TOLERANCE)


class _Limited:
    """A detector whose device has room for `most` views."""

    def __init__(self, detector: Detector, most: int) -> None:
        self._detector, self._most, self.device = detector, most, CPU
        self.split, self.score, self.views_per_clip = detector.split, detector.score, detector.views_per_clip

    def features(self, views: torch.Tensor, kind: str) -> torch.Tensor:
        if len(views) > self._most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate too much")
        return self._detector.features(views, kind)


def test_out_of_memory_halves_the_batch(
    detector: Detector, views: dict[str, np.ndarray], expected: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    limited = _Limited(detector, 1)
    scorer = BatchScorer(lambda _: limited, CPU, batch_views=24)  # type: ignore[arg-type,return-value]
    assert score_all(scorer, views) == pytest.approx(expected, abs=TOLERANCE)
    assert scorer.batch_views == 1
    assert "out of GPU memory: batches of 12 views from here on" in caplog.text


class _DyingEvent:
    def synchronize(self) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_a_gpu_that_dies_hands_its_batches_to_the_cpu(
    detector: Detector,
    views: dict[str, np.ndarray],
    expected: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The error shows when results are waited for; the batches in flight are computed again."""

    class OnGpu(_Limited):
        def __init__(self) -> None:
            super().__init__(detector, 0)
            self.device = torch.device("cuda")

    launched = []

    def launch(self: BatchScorer, groups: dict[scoring.Group, list[np.ndarray]]) -> tuple[dict, tuple]:
        launched.append(len(groups))
        empty = {group: torch.full((sum(map(len, views)), 1), float("nan")) for group, views in groups.items()}
        return empty, (_DyingEvent(), _DyingEvent())

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: object())
    monkeypatch.setattr(scoring, "choose_batch_size", lambda device: 12)
    monkeypatch.setattr(BatchScorer, "_features_cuda", launch)
    scorer = BatchScorer(lambda on: detector if on == CPU else OnGpu(), torch.device("cuda"))  # type: ignore[arg-type,return-value]
    assert score_all(scorer, views) == pytest.approx(expected, abs=TOLERANCE)
    assert len(launched) == 2, "two batches were in flight when it died"
    assert "CUDA failed (CUDA error: an illegal memory access" in caplog.text


def test_a_gpu_that_cannot_be_used_is_left_at_the_start(
    detector: Detector, views: dict[str, np.ndarray], expected: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    def load(device: torch.device) -> Detector:
        if device.type == "cuda":
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
        return detector

    assert score_all(BatchScorer(load, torch.device("cuda")), views) == pytest.approx(expected, abs=TOLERANCE)
    assert "cannot use cuda" in caplog.text


def test_run_scores_what_can_be_scored(
    detector: Detector, preparation: VideoPreparation, expected: dict[str, float], tmp_path: Path
) -> None:
    for name in NAMES:
        (tmp_path / name).write_bytes(clip(name))
    (tmp_path / "broken").write_bytes(b"no video " * 100)
    dataset = open_files([tmp_path / name for name in [*NAMES[:3], "broken", *NAMES[3:]]], tmp_path)
    result = ResultFile(tmp_path / "submission.csv", dataset.ids, with_time=True)
    stats = run(
        dataset, result, preparation, lambda: BatchScorer(lambda _: detector, CPU),
        config=PipelineConfig(workers=2), show_progress=False,
    )  # fmt: skip
    assert result.write()
    assert (stats.rows, stats.scored, stats.unscored, sum(stats.fallbacks.values())) == (8, 7, 1, 1)
    stats.write(tmp_path / "stats.json")
    told = json.loads((tmp_path / "stats.json").read_text())
    assert (told["rows"], told["scored"], told["unscored"]) == (8, 7, 1)
    assert told["fallbacks"] == {told["reasons"]["broken"]: 1} == stats.fallbacks
    assert 0 < told["first_decode_seconds"] < told["first_score_seconds"] < told["wall_seconds"]
    with (tmp_path / "submission.csv").open(newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert list(rows) == dataset.ids
    assert rows["broken"]["score"] == ""
    assert {name: float(rows[name]["score"]) for name in NAMES} == pytest.approx(expected, abs=TOLERANCE)
    assert all(float(row["time"]) > 0 for row in rows.values())
    for stage in ("decode", "transform", "transfer", "network", "write"):
        assert getattr(stats, f"{stage}_seconds") > 0, stage


def test_rows_are_read_no_further_than_the_queues_hold(preparation: VideoPreparation) -> None:
    """Back-pressure: while nobody takes results, reading stops."""
    read = []

    def rows() -> Iterator[Row]:
        for number in range(60):
            read.append(number)
            yield Row(str(number), clip("h264"))

    pipeline = PipelineConfig(jobs_ahead=2)
    with DecodePool(rows(), preparation, num_workers=1, pipeline=pipeline) as pool:
        results = (clip for clip in pool.results() if clip is not None)
        next(results)
        before = -1
        while before < len(read) or len(read) < 5:
            before = len(read)
            time.sleep(1)
        # taken 1, waiting results 2, one done that finds no room, waiting jobs 2, one read that finds no room
        assert 5 <= len(read) <= 7
        assert 1 + sum(1 for _ in results) == 60
    assert len(read) == 60


def test_the_first_clip_is_scored_alone(detector: Detector, preparation: VideoPreparation, tmp_path: Path) -> None:
    calls: list[str] = []

    class Recorded(BatchScorer):
        def add(self, clip_id: str, content: np.ndarray) -> Iterator[Scored]:
            calls.append("add")
            return super().add(clip_id, content)

        def flush(self) -> Iterator[Scored]:
            calls.append("flush")
            return super().flush()

    ids = [f"{number}" for number in range(4)]
    dataset = ClipDataset(ids, "four clips", lambda: (Row(name, clip("h264")) for name in ids))
    stats = run(
        dataset, ResultFile(tmp_path / "submission.csv", ids), preparation,
        lambda: Recorded(lambda _: detector, CPU, batch_views=1000),
        config=PipelineConfig(workers=1), show_progress=False,
    )  # fmt: skip
    assert stats.scored == 4 and calls.count("add") == 4
    first = calls.index("add")
    assert calls[first + 1] == "flush", "or it waits for a batch"


HEAVY = ("torch", "timm", "torchvision", "pandas", "datasets", "pyarrow", "safetensors")


def test_the_modules_of_a_decode_worker_are_light(repository: Path) -> None:
    """What a worker imports: its own module, the preparation, and the decoders."""
    code = f"""
import sys
import model.run.worker, model.video.prepare, model.video.reading_pyav, model.video.reading_decord
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_heavy_is_mapped_into_running_workers(repository: Path, tmp_path: Path) -> None:
    """The same, seen from outside, on the workers of a real run."""
    for number in range(4):
        (tmp_path / f"{number}.mp4").write_bytes(clip("h264"))
    arguments = ["--dataset", str(tmp_path), "--output", str(tmp_path / "s.csv"), "--workers", "2"]
    process = subprocess.Popen([sys.executable, "script.py", *arguments], cwd=repository, stderr=subprocess.DEVNULL)
    workers: dict[int, str] = {}
    while process.poll() is None:
        for child in _children(process.pid):
            mapped = _mapped(child)
            if "libavcodec" in mapped:  # a worker that has finished its imports, no helper of multiprocessing
                workers[child] = mapped
        time.sleep(0.02)
    assert process.returncode == 0
    assert len(workers) == 2
    for mapped in workers.values():
        assert not [name for name in ("libtorch", "libarrow", "pandas", "safetensors") if name in mapped]


def _children(pid: int) -> list[int]:
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            found += [int(child) for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
        except OSError:
            continue
    return found


def _mapped(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except OSError:  # it has ended
        return ""


@pytest.mark.gpu
@pytest.mark.parametrize("clips_per_batch", [1, 3, 100])
def test_cuda_scores_as_the_cpu_does(
    clips_per_batch: int, repository: Path, views: dict[str, np.ndarray], expected: dict[str, float]
) -> None:
    size = clips_per_batch * next(len(value) for value in views.values())
    scorer = BatchScorer(
        lambda on: load_detector(repository / "weights/video", on), torch.device("cuda"), batch_views=size
    )
    assert scorer.detector.device.type == "cuda"
    many = {f"{name} {k}": value for k in range(5) for name, value in views.items()}
    scores = score_all(scorer, many)
    assert scores == pytest.approx({key: expected[key.split()[0]] for key in many}, abs=0.02)


def test_datasets_without_rows_leave_an_empty_run(
    detector: Detector, preparation: VideoPreparation, tmp_path: Path
) -> None:
    dataset = ClipDataset(["never"], "one row that cannot be read", lambda: iter(()))
    result = ResultFile(tmp_path / "submission.csv", dataset.ids)
    stats = run(
        dataset, result, preparation, lambda: BatchScorer(lambda _: detector, CPU),
        config=PipelineConfig(workers=1), show_progress=False,
    )  # fmt: skip
    assert (stats.rows, stats.scored, stats.unscored) == (1, 0, 1)
