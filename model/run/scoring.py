"""Views of several clips -> batches on the device -> one score a clip.

On CUDA the next batch is collected and copied while the last one is computed: pinned staging memory, a stream of its
own for the copies, results fetched one batch later. Out of memory halves the batch; a dead GPU hands over to the CPU,
with every batch whose results had not come back. A clip that the network cannot score, in a batch of its own, scores
nan.

On the CPU one thread per core runs the network on a few views of its own. That does as many clips a second as all
threads inside each operator (2 cores, eighth weights: 8.0 against 7.6), and nothing stalls where decoding takes a core.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from ..config import available_cores
from ..text import shortened
from ..video.detector import Detector, Kind
from ..video.views import split_views

log = logging.getLogger(__name__)

_CPU_VIEWS_PER_CORE = 12
_CPU_VIEWS_PER_CALL = 2  # few enough for maps to come from the heap: larger ones cost page faults
_CUDA_BATCH_LIMIT = 512
_CUDA_BYTES_PER_VIEW = 48 << 20  # activations of one 224 px view in half precision, generously
_CUDA_MEMORY_SHARE = 0.5  # of what is free
_CUDA_START_ERRORS = (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError)  # a build without CUDA asserts
_CLIP_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, ArithmeticError)  # what views of one clip can cause
_OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "can't allocate memory")  # also cuDNN's, cuBLAS's and the CPU's
_CUDA_IN_FLIGHT = 2  # batches handed to the GPU before the oldest one's results are waited for


def choose_device(name: str | None = None) -> torch.device:
    """`name` if given, else CUDA where it works, else the CPU."""
    if name:
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    log.warning("no CUDA device: scoring on the CPU")
    return torch.device("cpu")


def choose_batch_size(device: torch.device) -> int:
    """Views per batch: from the free memory of a GPU; on a CPU enough to keep its cores busy."""
    if device.type != "cuda":
        return _CPU_VIEWS_PER_CORE * available_cores()
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return int(max(1, min(_CUDA_BATCH_LIMIT, _CUDA_MEMORY_SHARE * free_bytes // _CUDA_BYTES_PER_VIEW)))


@dataclass(frozen=True)
class _Batch:
    """Whole clips on their way. outputs: (B, D), on their way to pinned host memory until `done` has happened."""

    clip_ids: list[str]
    views: list[np.ndarray]
    outputs: torch.Tensor
    done: torch.cuda.Event | None


class Scorer(Protocol):
    """What the pipeline asks of whatever turns views into scores."""

    network_seconds: float  # spent in it so far

    def add(self, clip_id: str, views: np.ndarray) -> Iterator[tuple[str, float]]:
        """Take one clip's views, uint8 (num_bytes,), as cut; yields the (id, score) that became ready."""
        ...

    def flush(self) -> Iterator[tuple[str, float]]:
        """Score everything that was added."""
        ...


class BatchScorer:
    """Collects clips' views until a batch is full; yields (id, score) as clips complete, in the order they came.

    load: builds the detector on a device; called again with the CPU if CUDA dies. batch_views: 0 chooses.
    """

    def __init__(self, load: Callable[[torch.device], Detector], device: torch.device, *, batch_views: int = 0) -> None:
        self._load = load
        self._requested_batch = batch_views
        self._pending: list[tuple[str, np.ndarray]] = []
        self._in_flight: deque[_Batch] = deque()
        self._copies: torch.cuda.Stream | None = None
        self._cores: ThreadPoolExecutor | None = None
        self.network_seconds = 0.0  # spent here; on CUDA mostly waiting for results
        self._use(device)

    def _use(self, device: torch.device) -> None:
        try:
            self.detector = self._load(device)
            self.batch_views = self._requested_batch or choose_batch_size(device)
            on_cuda = self.detector.device.type == "cuda"
            self._copies = torch.cuda.Stream(self.detector.device) if on_cuda else None
            self._cores = None if on_cuda else _start_threads()
        except _CUDA_START_ERRORS as error:
            if device.type == "cpu":
                raise
            log.error("cannot use %s (%s): scoring on the CPU", device, shortened(str(error)))
            self._use(torch.device("cpu"))

    def add(self, clip_id: str, views: np.ndarray) -> Iterator[tuple[str, float]]:
        """Take one clip's views, uint8 (num_bytes,), as cut; yields what became ready."""
        self._pending.append((clip_id, views))
        if (len(self._pending) + 1) * self.detector.view_config.num_views > self.batch_views:  # no room for another
            yield from self._launch()

    def flush(self) -> Iterator[tuple[str, float]]:
        """Score everything that was added."""
        yield from self._launch()
        while self._in_flight:
            yield from self._fetch()

    def _launch(self) -> Iterator[tuple[str, float]]:
        """Hand what is pending to the device; yields the results of the batches that must make room."""
        pending, self._pending = self._pending, []
        if pending:
            started = time.perf_counter()
            clip_ids, views = [clip_id for clip_id, _ in pending], [views for _, views in pending]
            try:
                self._in_flight.append(_Batch(clip_ids, views, *self._outputs(views)))
            except _CLIP_ERRORS as error:
                yield from self._launch_one_by_one(pending, error)
            self.network_seconds += time.perf_counter() - started
        while len(self._in_flight) >= (_CUDA_IN_FLIGHT if self._copies else 1):
            yield from self._fetch()

    def _launch_one_by_one(self, clips: list[tuple[str, np.ndarray]], error: Exception) -> Iterator[tuple[str, float]]:
        """After an error on a batch: it costs the clip that causes it, not the others."""
        if len(clips) == 1:
            log.error("the network fails on clip %s: %s", clips[0][0], shortened(str(error)))
            yield clips[0][0], math.nan
            return
        for clip in clips:
            self._pending = [clip]
            yield from self._launch()

    def _score(self, clip_id: str, outputs: np.ndarray) -> float:
        try:
            return self.detector.score(outputs)
        except _CLIP_ERRORS as error:
            log.error("no score from the network's outputs for clip %s: %s", clip_id, shortened(str(error)))
            return math.nan

    def _fetch(self) -> Iterator[tuple[str, float]]:
        """Wait for the oldest batch; yields its scores."""
        batch = self._in_flight.popleft()
        outputs, started = batch.outputs, time.perf_counter()
        try:
            if batch.done is not None:
                batch.done.synchronize()
        except RuntimeError as error:  # the context is lost, and with it every batch in flight
            self._leave_cuda(shortened(str(error)))
            outputs, _ = self._outputs(batch.views)
            self._in_flight = deque(
                _Batch(lost.clip_ids, lost.views, self._outputs(lost.views)[0], None) for lost in self._in_flight
            )
        self.network_seconds += time.perf_counter() - started
        for clip_id, rows in zip(batch.clip_ids, self._by_clip(outputs.numpy()), strict=True):
            yield clip_id, self._score(clip_id, rows)

    def _by_kind(self, views: list[np.ndarray]) -> list[tuple[Kind, list[np.ndarray]]]:
        """Patches of all clips, then resized views of all clips: they take different ways through the network."""
        patches, resized = zip(*(split_views(clip, self.detector.view_config) for clip in views), strict=True)
        return [("patch", list(patches)), ("resized", list(resized))]

    def _by_clip(self, outputs: np.ndarray) -> list[np.ndarray]:
        """Undo `_by_kind`: outputs (B, D) of a batch -> (V, D) of each clip."""
        config = self.detector.view_config
        clips = len(outputs) // config.num_views
        patches, resized = (np.split(part, clips) for part in np.split(outputs, [clips * config.num_patches]))
        return [np.concatenate(both) for both in zip(patches, resized, strict=True)]

    def _outputs(self, views: list[np.ndarray]) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        """Outputs of the views of several clips, (B, D), and the event after which they can be read."""
        while True:
            try:
                return self._outputs_cuda(views) if self._copies else (self._outputs_cpu(views), None)
            except RuntimeError as error:  # OutOfMemoryError is one
                out_of_memory = any(sign in str(error) for sign in _OUT_OF_MEMORY)
                if self._copies is None and not (out_of_memory and self.batch_views > 1):
                    raise
                reason = shortened(str(error))
            # Only here the failed attempt's tensors are gone: the error's traceback held them.
            if out_of_memory:
                self._shrink()
            else:
                self._leave_cuda(reason)

    def _outputs_cpu(self, views: list[np.ndarray]) -> torch.Tensor:
        assert self._cores is not None
        size = min(_CPU_VIEWS_PER_CALL, self.batch_views)
        jobs = [
            (part, kind) for kind, clips in self._by_kind(views) for clip in clips if len(clip)
            for part in torch.from_numpy(clip).split(size)
        ]  # fmt: skip
        return torch.cat(list(self._cores.map(self.detector.outputs, *zip(*jobs, strict=True))))

    def _outputs_cuda(self, views: list[np.ndarray]) -> tuple[torch.Tensor, torch.cuda.Event]:
        assert self._copies is not None
        compute = torch.cuda.current_stream(self.detector.device)
        parts = []
        for kind, clips in self._by_kind(views):
            # Pinned blocks come from PyTorch's cache, which hands one out again only after its copy has happened.
            shape = (sum(len(clip) for clip in clips), *clips[0].shape[1:])
            staging = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
            np.concatenate(clips, out=staging.numpy())
            for part in self._parts(staging):
                with torch.cuda.stream(self._copies):
                    on_device = part.to(self.detector.device, non_blocking=True)
                compute.wait_stream(self._copies)
                on_device.record_stream(compute)
                parts.append(self.detector.outputs(on_device, kind))
        outputs = torch.cat(parts)
        fetched = torch.empty(outputs.shape, dtype=outputs.dtype, pin_memory=True)
        fetched.copy_(outputs, non_blocking=True)
        done = torch.cuda.Event()
        done.record(compute)
        return fetched, done

    def _parts(self, views: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """As few equal parts as keep to `batch_views`."""
        return views.tensor_split(-(-len(views) // self.batch_views)) if len(views) else ()

    def _shrink(self) -> None:
        if self.batch_views == 1:
            log.error("one view does not fit into GPU memory: going on on the CPU")
            self._use(torch.device("cpu"))
            return
        self.batch_views //= 2
        torch.cuda.empty_cache()
        log.warning("out of GPU memory: batches of %d views from here on", self.batch_views)

    def _leave_cuda(self, reason: str) -> None:
        log.error("CUDA failed (%s): going on on the CPU", reason)
        self._use(torch.device("cpu"))


def _start_threads() -> ThreadPoolExecutor:
    """One thread per core, each of which runs operators alone; they end with the program."""
    torch.set_num_threads(1)
    cores = available_cores()
    return ThreadPoolExecutor(cores, thread_name_prefix="network", initializer=torch.set_num_threads, initargs=(1,))
