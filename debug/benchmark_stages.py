"""What the benchmark measures: each stage alone, all of them together, and what most submissions do."""

from __future__ import annotations

import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from debug.kills import process_tree
from debug.layouts import MediaFile, write_parquet
from model.config import PipelineConfig, SamplingConfig, available_cores
from model.modality import VIDEO, Detector, Modality, Preparation
from model.rows.dataset import ClipDataset, Row
from model.rows.submission import ResultFile
from model.run.pipeline import RunStats, Scored, Scorer, run
from model.run.pool import DecodePool
from model.run.scoring import BatchScorer, score_clip
from model.video.detector import load_network
from model.video.prepare import VideoPreparation
from model.video.views import ViewConfig, split_views
from model.weights import load_manifest

ROOT = Path(__file__).resolve().parent.parent
NAIVE_FRAMES = 16
_SAMPLE_SECONDS = 0.2
_WAITING_CLIPS, _WAITING_BATCHES = 2, 2  # of `WaitingScorer`: clips of a batch, batches in flight


@dataclass(frozen=True)
class Naive:
    """Seconds for `clips` clips, one after the other, and the processor seconds of their decoding.

    plain_network_seconds: of the network as PyTorch runs it.
    """

    clips: int
    decode_seconds: float
    network_seconds: float
    decode_processor_seconds: float = 0.0
    plain_network_seconds: float = 0.0

    @property
    def decode_rate(self) -> float:
        return self.clips / self.decode_seconds

    @property
    def rate(self) -> float:
        return self.clips / (self.decode_seconds + self.network_seconds)

    @property
    def plain_rate(self) -> float:
        return self.clips / (self.decode_seconds + self.plain_network_seconds)


@dataclass
class Process:
    """One run of script.py. seconds: to the first decoded clip, to the first score, to the end."""

    exit_code: int
    first_decode_seconds: float = float("nan")
    first_score_seconds: float = float("nan")
    wall_seconds: float = float("nan")
    peak_megabytes: float = 0.0  # proportional set size of script.py and its workers together
    peak_main_megabytes: float = 0.0
    log: list[str] = field(default_factory=list)


Plain = Callable[[np.ndarray], Mapping[str, np.ndarray]]  # a clip's content -> its features by kind


def build_plain_network(weights: Path, device: torch.device) -> Plain:
    """The network as a submission would take it from timm, nothing folded or fused."""
    manifest = load_manifest(weights)
    network, _ = load_network(manifest)
    network.eval().to(device)

    def features(content: np.ndarray) -> dict[str, np.ndarray]:
        parts = split_views(content, manifest.configured("views", ViewConfig))
        return {kind: network(torch.from_numpy(part).to(device), kind).cpu().numpy() for kind, part in parts.items()}

    return features


@torch.inference_mode()
def naive(clips: Sequence[bytes], worker: VideoPreparation, detector: Detector, plain: Plain) -> Naive:
    """The serial submission: decord with its default threads, 16 frames spread evenly, then the same network.

    torch runs as it does by default too, all threads inside each operator. plain: see `build_plain_network`; it is
    timed on the same views.
    """
    import decord
    from decord._ffi.base import DECORDError

    decoded_clips = 0
    threads = torch.get_num_threads()
    torch.set_num_threads(available_cores())

    decode_seconds = network_seconds = plain_seconds = busy_seconds = 0.0
    for content in clips:
        started, busy = time.perf_counter(), processor_seconds()
        try:
            reader = decord.VideoReader(io.BytesIO(content))
            frames = reader.get_batch(np.linspace(0, len(reader) - 1, NAIVE_FRAMES).round().astype(int)).asnumpy()
        except DECORDError as error:  # decord2 refuses some frame widths
            print(f"naive: passed over a clip: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        decoded = time.perf_counter()
        busy_seconds += processor_seconds() - busy
        views = worker.cut((frames,))
        cut = time.perf_counter()
        score_clip(detector, views)
        scored = time.perf_counter()
        detector.score(plain(views))
        decoded_clips += 1
        decode_seconds += decoded - started
        network_seconds += scored - decoded
        plain_seconds += time.perf_counter() - scored + cut - decoded
    torch.set_num_threads(threads)
    return Naive(decoded_clips, decode_seconds, network_seconds, busy_seconds, plain_seconds)


def decoding(dataset: ClipDataset, worker: Preparation, num_workers: int) -> tuple[float, float]:
    """(clips a second of reading, decoding and cutting alone, from the first decoded clip on; processor seconds)."""
    first, busy = None, processor_seconds()
    with DecodePool(dataset.rows(), worker, num_workers=num_workers) as pool:
        for clip in pool.results():
            if clip is not None and first is None:
                first = time.perf_counter()
        assert first is not None
        rate = steady_rate(len(dataset.ids), num_workers, time.perf_counter() - first)
    return rate, processor_seconds() - busy


def processor_seconds() -> float:
    """Of this process and of its children that have ended. Unlike wall time it does not grow with what else runs."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def network_rate(clips: Sequence[bytes], repeats: int, worker: Preparation, scorer: BatchScorer) -> tuple[float, float]:
    """(clips a second of the network alone, on views that lie ready in memory; processor seconds a clip)."""
    ready = [worker(content).content for content in clips]
    for _ in scorer.add("warm", ready[0]):
        pass
    list(scorer.flush())
    started, busy, scored = time.perf_counter(), time.process_time(), 0
    for number in range(repeats * len(ready)):
        scored += sum(1 for _ in scorer.add(str(number), ready[number % len(ready)]))
    scored += sum(1 for _ in scorer.flush())
    assert scored == repeats * len(ready)
    return scored / (time.perf_counter() - started), (time.process_time() - busy) / scored


def end_to_end(
    dataset: ClipDataset, worker: Preparation, scorer: Scorer, num_workers: int, output: Path
) -> tuple[float, RunStats]:
    """(clips a second from the first decoded clip on, the run's own account)."""
    scorer.network_seconds = 0.0
    config = PipelineConfig(workers=num_workers)
    result = ResultFile(output, dataset.ids, dataset.modality)
    stats = run(dataset, result, worker, lambda: scorer, config=config, show_progress=False)
    if stats.unscored or stats.first_decode_seconds is None:
        raise RuntimeError(f"{stats.unscored} clips were not scored: {dict(stats.fallbacks)}")
    return steady_rate(stats.rows, num_workers, stats.wall_seconds - stats.first_decode_seconds), stats


class WaitingScorer:
    """Stands in for a network on a device of its own: it takes its time and no processor. A `Scorer`.

    As on CUDA, one batch is collected while the one before it is computed. Scores are all 0.
    """

    def __init__(self, clips_per_second: float) -> None:
        self.network_seconds = 0.0
        self._seconds_a_clip = 1 / clips_per_second
        self._pending: list[str] = []
        self._in_flight: deque[tuple[list[str], float]] = deque()  # ids, when the device is done with them
        self._free_at = 0.0

    def add(self, clip_id: str, content: np.ndarray) -> Iterator[Scored]:
        self._pending.append(clip_id)
        if len(self._pending) == _WAITING_CLIPS:
            self._launch()
            while len(self._in_flight) >= _WAITING_BATCHES:
                yield from self._fetch()

    def flush(self) -> Iterator[Scored]:
        self._launch()
        while self._in_flight:
            yield from self._fetch()

    def _launch(self) -> None:
        clip_ids, self._pending = self._pending, []
        if clip_ids:
            self._free_at = max(self._free_at, time.perf_counter()) + self._seconds_a_clip * len(clip_ids)
            self._in_flight.append((clip_ids, self._free_at))

    def _fetch(self) -> Iterator[Scored]:
        clip_ids, done_at = self._in_flight.popleft()
        wait = max(0.0, done_at - time.perf_counter())
        time.sleep(wait)
        self.network_seconds += wait
        yield from (Scored(clip_id, 0.0, self._seconds_a_clip) for clip_id in clip_ids)


def steady_rate(clips: int, num_workers: int, seconds: float) -> float:
    """Clips a second after the start: when the first clip is done, each worker has done up to one."""
    return max(1, clips - num_workers) / seconds


def policy_cost(clips: Sequence[bytes], sampling: SamplingConfig, worker: VideoPreparation) -> tuple[float, float]:
    """(processor seconds, frames) a clip: decoding and cutting in this process."""
    prepare, frames, started = replace(worker, sampling=sampling), 0, time.process_time()
    for content in clips:
        frames += prepare(content).num_frames
    return (time.process_time() - started) / len(clips), frames / len(clips)


def repeated(clips: Sequence[bytes], rows: int) -> Iterator[Row]:
    """`rows` rows that hold `clips` in turn."""
    for number in range(rows):
        yield Row(f"{number:05d}", clips[number % len(clips)])


def write_rows(rows: Iterable[Row], folder: Path, modality: Modality = VIDEO) -> None:
    """The challenge's layout, in small row groups so that memory stays flat."""
    files = (MediaFile(row.id, row.id, row.media) for row in rows if isinstance(row.media, bytes))
    write_parquet(files, folder, modality, group_rows=10)


def run_on_rows(clip: bytes, rows: int, arguments: Sequence[str], folder: Path, modality: Modality = VIDEO) -> Process:
    """script.py on so many rows of one clip. Raises: RuntimeError: it fails."""
    write_rows(repeated([clip], rows), folder / "rows", modality)
    result = run_script([*arguments, "--dataset", str(folder / "rows"), "--strict"], folder / "memory.csv")
    shutil.rmtree(folder / "rows")
    if result.exit_code:
        raise RuntimeError(f"script.py ended with {result.exit_code}: {result.log[-5:]}")
    return result


def table_row(name: str, values: Sequence[float], digits: int = 2) -> str:
    """Median and range over rounds."""
    spread = f"{min(values):.{digits}f} to {max(values):.{digits}f}"
    return f"| {name} | {statistics.median(values):.{digits}f} | {spread} |"


def run_script(arguments: Sequence[str], output: Path) -> Process:
    """Start script.py as the evaluation does; sample the memory of its whole process tree."""
    stats_file, started_at = output.with_name(f"{output.name}.stats.json"), time.time()
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "script.py", "--output", str(output), "--overwrite", "--stats", str(stats_file), *arguments],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    result = Process(0)
    ended = threading.Event()
    sampler = threading.Thread(target=_sample_memory, args=(process.pid, result, ended.is_set))
    sampler.start()
    assert process.stderr is not None
    with process.stderr:
        for line in process.stderr:
            result.log.append(line.rstrip())
    result.exit_code = process.wait()
    ended.set()
    sampler.join()
    result.wall_seconds = time.perf_counter() - started
    if stats_file.is_file():
        stats = json.loads(stats_file.read_text(encoding="utf-8"))
        before = stats["started_at"] - started_at  # imports, the list of ids
        result.first_decode_seconds = before + stats["first_decode_seconds"]
        result.first_score_seconds = before + stats["first_score_seconds"]
    return result


def _sample_memory(pid: int, result: Process, ended: Callable[[], bool]) -> None:
    while not ended():
        sizes = [_proportional_megabytes(process) for process in process_tree(pid)]
        result.peak_megabytes = max(result.peak_megabytes, sum(sizes))
        result.peak_main_megabytes = max(result.peak_main_megabytes, *sizes[:1], 0.0)
        time.sleep(_SAMPLE_SECONDS)


def _proportional_megabytes(pid: int) -> float:
    """Resident memory, pages shared with other processes counted in part."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Pss:")) / 1024
    except (OSError, StopIteration):
        return 0.0
