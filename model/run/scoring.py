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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from ..config import available_cores
from ..cpu import start_threads
from ..modality import Detector
from ..text import shortened
from .pipeline import Scored

log = logging.getLogger(__name__)

_CPU_VIEWS_PER_CORE = 12
_CPU_VIEWS_PER_CALL = 2  # few enough for maps to come from the heap: larger ones cost page faults
_CUDA_BATCH_LIMIT = 512
_CUDA_BYTES_PER_VIEW = 48 << 20  # activations of one 224 px view in half precision, generously
_CUDA_MEMORY_SHARE = 0.5  # of what is free
_CUDA_START_ERRORS = (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError)  # a build without CUDA asserts
CLIP_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, ArithmeticError)  # what views of one clip can cause
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


Group = tuple[str, tuple[int, ...]]  # kind and shape of views that can be computed together


def score_clip(detector: Detector, content: np.ndarray) -> float:
    """The plain way: one clip alone, uint8 (n,) as prepared."""
    return score_clips(detector, [content])[0]


def score_clips(detector: Detector, contents: Sequence[np.ndarray]) -> list[float]:
    """The plain way, a few clips together."""
    clips = [
        _Clip("", {kind: part for kind, part in detector.split(content).items() if len(part)}) for content in contents
    ]
    features = {
        group: detector.features(torch.from_numpy(np.concatenate(views)), group[0]).cpu()
        for group, views in _by_group(clips).items()
    }
    return [detector.score(own) for own in _by_clip(clips, features)]


@dataclass(frozen=True)
class _Clip:
    """views: kind -> (V, ...), V > 0."""

    id: str
    views: Mapping[str, np.ndarray]

    @property
    def num_views(self) -> int:
        return sum(map(len, self.views.values()))


@dataclass(frozen=True)
class _Batch:
    """Whole clips on their way. features: (B, D) a group; on CUDA they are there when the second event has happened."""

    clips: list[_Clip]
    features: dict[Group, torch.Tensor]
    events: tuple[torch.cuda.Event, torch.cuda.Event] | None  # before and after the network
    seconds: float  # that it took to compute, or to launch


class BatchScorer:
    """Collects clips' views until a batch is full; yields scores as clips complete, in the order they came.

    load: builds the detector on a device; called again with the CPU if CUDA dies. batch_views: 0 chooses.
    """

    def __init__(self, load: Callable[[torch.device], Detector], device: torch.device, *, batch_views: int = 0) -> None:
        self._load = load
        self._requested_batch = batch_views
        self._pending: list[_Clip] = []
        self._in_flight: deque[_Batch] = deque()
        self._copies: torch.cuda.Stream | None = None
        self._cores: ThreadPoolExecutor | None = None
        self.network_seconds = 0.0  # spent here; on CUDA mostly waiting for results
        self._use(device)

    def _use(self, device: torch.device) -> None:
        try:
            if device.type == "cpu":
                torch.set_num_threads(1)  # loading too: threads that wait for each other take cores from the decoders
            self.detector = self._load(device)
            self.batch_views = self._requested_batch or choose_batch_size(device)
            on_cuda = self.detector.device.type == "cuda"
            self._copies = torch.cuda.Stream(self.detector.device) if on_cuda else None
            self._cores = None if on_cuda else start_threads(available_cores())
        except _CUDA_START_ERRORS as error:
            if device.type == "cpu":
                raise
            log.error("cannot use %s (%s): scoring on the CPU", device, shortened(str(error)))
            self._use(torch.device("cpu"))

    def add(self, clip_id: str, content: np.ndarray) -> Iterator[Scored]:
        """Take one clip's content, uint8 (n,), as prepared; yields what became ready."""
        try:
            views = {kind: part for kind, part in self.detector.split(content).items() if len(part)}
        except CLIP_ERRORS as error:
            log.error("the content of clip %s cannot be split: %s", clip_id, shortened(str(error)))
            yield Scored(clip_id, math.nan)
            return
        self._pending.append(_Clip(clip_id, views))
        waiting = sum(clip.num_views for clip in self._pending)
        if waiting + self.detector.views_per_clip > self.batch_views:  # no room for another
            yield from self._launch()

    def flush(self) -> Iterator[Scored]:
        """Score everything that was added."""
        yield from self._launch()
        yield from self._fetch_all()

    def _launch(self) -> Iterator[Scored]:
        """Hand what is pending to the device; yields the results of the batches that must make room."""
        clips, self._pending = self._pending, []
        batches = [clips] if clips else []
        while batches:
            clips = batches.pop(0)
            try:
                self._in_flight.append(self._compute(clips))
            except CLIP_ERRORS as error:
                if len(clips) == 1:
                    log.error("the network fails on clip %s: %s", clips[0].id, shortened(str(error)))
                    yield from self._fetch_all()  # those before it come first
                    yield Scored(clips[0].id, math.nan)
                else:  # it costs the clip that causes it, not the others
                    batches = [[clip] for clip in clips]
            while len(self._in_flight) >= (_CUDA_IN_FLIGHT if self._copies else 1):
                yield from self._fetch()

    def _fetch_all(self) -> Iterator[Scored]:
        while self._in_flight:
            yield from self._fetch()

    def _fetch(self) -> Iterator[Scored]:
        """Wait for the oldest batch; yields its scores."""
        batch = self._in_flight.popleft()
        started = time.perf_counter()
        try:
            seconds = batch.seconds
            if batch.events is not None:
                batch.events[1].synchronize()
                seconds = batch.events[0].elapsed_time(batch.events[1]) / 1000
        except RuntimeError as error:  # the context is lost, and with it every batch in flight
            if self._copies is not None:  # or the batch after this one has found it out
                self._leave_cuda(shortened(str(error)))
            lost, self._in_flight = [batch, *self._in_flight], deque()
            for one in lost:
                self._pending = one.clips
                yield from self._launch()
            return
        self.network_seconds += time.perf_counter() - started
        for clip, features in zip(batch.clips, _by_clip(batch.clips, batch.features), strict=True):
            yield Scored(clip.id, self._score(clip.id, features), seconds / len(batch.clips))

    def _score(self, clip_id: str, features: Mapping[str, np.ndarray]) -> float:
        try:
            return self.detector.score(features)
        except CLIP_ERRORS as error:
            log.error("no score from the network's features of clip %s: %s", clip_id, shortened(str(error)))
            return math.nan

    def _compute(self, clips: list[_Clip]) -> _Batch:
        """Features of the views of several clips, or on CUDA the promise of them. The one place that takes the time."""
        started = time.perf_counter()
        try:
            features, events = self._features(_by_group(clips))
        finally:
            seconds = time.perf_counter() - started
            self.network_seconds += seconds
        return _Batch(clips, features, events, seconds)

    def _features(
        self, groups: Mapping[Group, list[np.ndarray]]
    ) -> tuple[dict[Group, torch.Tensor], tuple[torch.cuda.Event, torch.cuda.Event] | None]:
        """(B, D) of each group, and on CUDA the events before and after them."""
        while True:
            try:
                return self._features_cuda(groups) if self._copies else (self._features_cpu(groups), None)
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

    def _features_cpu(self, groups: Mapping[Group, list[np.ndarray]]) -> dict[Group, torch.Tensor]:
        assert self._cores is not None
        size = min(_CPU_VIEWS_PER_CALL, self.batch_views)
        jobs = [
            (part, kind, (kind, shape)) for (kind, shape), clips in groups.items() for clip in clips
            for part in torch.from_numpy(clip).split(size)
        ]  # fmt: skip
        parts: dict[Group, list[torch.Tensor]] = {group: [] for group in groups}
        done = self._cores.map(self.detector.features, [job[0] for job in jobs], [job[1] for job in jobs])
        for (_, _, group), features in zip(jobs, done, strict=True):
            parts[group].append(features)
        return {group: torch.cat(features) for group, features in parts.items()}

    def _features_cuda(
        self, groups: Mapping[Group, list[np.ndarray]]
    ) -> tuple[dict[Group, torch.Tensor], tuple[torch.cuda.Event, torch.cuda.Event]]:
        assert self._copies is not None
        compute = torch.cuda.current_stream(self.detector.device)
        begun, done = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begun.record(compute)
        fetched = {}
        for (kind, shape), clips in groups.items():
            # Pinned blocks come from PyTorch's cache, which hands one out again only after its copy has happened.
            total = sum(map(len, clips))
            staging = torch.empty((total, *shape), dtype=torch.from_numpy(clips[0]).dtype, pin_memory=True)
            np.concatenate(clips, out=staging.numpy())
            parts = []
            for part in staging.tensor_split(-(-total // self.batch_views)):  # as few equal parts as keep to it
                with torch.cuda.stream(self._copies):
                    on_device = part.to(self.detector.device, non_blocking=True)
                compute.wait_stream(self._copies)
                on_device.record_stream(compute)
                parts.append(self.detector.features(on_device, kind))
            features = torch.cat(parts)
            fetched[kind, shape] = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
            fetched[kind, shape].copy_(features, non_blocking=True)
        done.record(compute)
        return fetched, (begun, done)

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


def _by_group(clips: Sequence[_Clip]) -> dict[Group, list[np.ndarray]]:
    """Views of several clips, those of one kind and shape together."""
    groups: dict[Group, list[np.ndarray]] = {}
    for clip in clips:
        for kind, views in clip.views.items():
            groups.setdefault((kind, views.shape[1:]), []).append(views)
    return groups


def _by_clip(clips: Sequence[_Clip], features: Mapping[Group, torch.Tensor]) -> Iterator[dict[str, np.ndarray]]:
    """Undo `_by_group`: (B, D) of each group -> for each clip kind -> (V, D)."""
    arrays = {group: rows.numpy() for group, rows in features.items()}
    taken = dict.fromkeys(arrays, 0)
    for clip in clips:
        own = {}
        for kind, views in clip.views.items():
            group = kind, views.shape[1:]
            own[kind] = arrays[group][taken[group] : taken[group] + len(views)]
            taken[group] += len(views)
        yield own
