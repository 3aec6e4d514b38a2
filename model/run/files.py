"""Single files -> verdicts: the networks in this process, decoding in another."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock, Semaphore
from types import TracebackType

from .. import wheels
from ..config import SegmentConfig, available_cores
from ..modality import AUDIO, VIDEO, AnyPreparation, Detector, Modality, Prepared
from ..segments import score_of_whole
from ..text import shortened
from ..verdict import REFUSED, UNREADABLE, Segment, Verdict, label_of
from ..weights import read_ahead
from .collect import reason_of, segment_of
from .isolated import IsolatedPreparation
from .parts import (
    check_device,
    default_weights,
    find_modality,
    load_detector,
    load_preparation,
    load_windows,
    modality_of_file,
)
from .pool import DecodedClip


class _Workers:
    """Worker processes, each with one file at a time: as many as files are scored at once, and at most one a core."""

    def __init__(self, prepare: AnyPreparation) -> None:
        self._prepare = prepare
        self._room, self._lock = Semaphore(available_cores()), Lock()
        self._all = {IsolatedPreparation(prepare)}  # starts while torch is imported
        self._idle = list(self._all)
        self._closed = False

    @contextlib.contextmanager
    def one(self) -> Iterator[IsolatedPreparation]:
        """For one file. Raises: RuntimeError: they were closed."""
        with self._room:
            with self._lock:
                if self._closed:
                    raise RuntimeError("the detector was closed")
                worker = self._idle.pop() if self._idle else IsolatedPreparation(self._prepare)
                self._all.add(worker)
            try:
                yield worker
            finally:
                with self._lock:
                    if worker.closed:
                        self._all.discard(worker)
                    else:
                        self._idle.append(worker)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for worker in self._all:
                worker.close()


@dataclass
class _Loaded:
    modality: Modality
    workers: _Workers
    load: Callable[[], Detector]
    lock: Lock  # one clip in the networks at a time: they use every core as it is
    _detector: Detector | None = None
    _loading: Lock = field(default_factory=Lock)

    @property
    def detector(self) -> Detector:
        """Loaded when first asked for: a video without sound needs no networks for it. Raises: WeightsError."""
        with self._loading:
            if self._detector is None:
                self._detector = self.load()
            return self._detector


class FileDetector:
    """Scores files, given as paths or bytes. `model.load_detector` makes one.

    Any thread may call `score`; as many files as the process has cores are decoded at once. Decoding happens in worker
    processes with limits on time and memory, which end with `close`, with a `with` block, or with the program.
    """

    def __init__(
        self,
        modality: str | None = None,
        *,
        weights: str | os.PathLike[str] | None = None,
        device: str | None = None,
        precision: str = "auto",
        segments: float | None = None,
        sound: bool = False,
    ) -> None:
        """segments: seconds of a window; each file is then taken in windows over its whole length. sound: a video's
        sound track gets a verdict of its own, beside the picture's.
        """
        self._only = None if modality is None else find_modality(modality)
        if weights is not None and self._only is None:
            raise ValueError("weights are those of one modality: name it too")
        check_device(device)
        wheels.ensure()
        self._weights = None if weights is None else Path(weights)
        self._device, self._precision = device, precision
        self._segments = None if segments is None else SegmentConfig(segments)
        self._sound = sound
        self._loaded: dict[str, _Loaded] = {}
        self._lock = Lock()
        self._closed = False
        if self._only is not None:
            _ = self._load(self._only).detector  # what is wrong with the weights is told at once

    def score(self, source: str | os.PathLike[str] | bytes, *, deadline: float = math.inf) -> Verdict:
        """What is said of one file: its path, or its bytes.

        A file that cannot be used, or is not there, gets a verdict without a score, and a note that says why. So does
        one that is not decoded by `deadline`, on time.monotonic(): `isolated.TOO_LONG`.
        Raises: RuntimeError: after `close`. WeightsError: its modality has no weights.
        """
        content = source if isinstance(source, bytes) else os.fspath(source)
        if isinstance(content, bytes) and not isinstance(source, bytes):
            raise TypeError("paths are text here; bytes are the content of a file")
        modality = self.modality_of(source)
        loaded = self._load(modality)
        _ = loaded.detector  # while the worker process starts
        verdict = self._verdict(loaded, content, deadline)
        if not self._sound or modality is not VIDEO:
            return verdict
        return replace(verdict, sound=self._verdict(self._load(AUDIO), content, deadline))

    def modality_of(self, source: str | os.PathLike[str] | bytes) -> Modality:
        """As what a file is scored."""
        by_name = None if isinstance(source, bytes) else modality_of_file(os.fspath(source))
        return self._only or by_name or VIDEO

    def detector_of(self, source: str | os.PathLike[str] | bytes) -> Detector:
        """The networks that score it, for tools that look further into a file. Raises: as `score`."""
        return self._load(self.modality_of(source)).detector

    def _load(self, modality: Modality) -> _Loaded:
        with self._lock:
            if self._closed:
                raise RuntimeError("the detector was closed")
            if modality.name not in self._loaded:
                own = self._weights if modality is self._only else None
                folder = own or default_weights(modality)
                windows = self._segments
                prepare = load_windows(modality, folder, windows) if windows else load_preparation(modality, folder)
                workers = _Workers(prepare)
                load = partial(self._load_networks, modality, folder)
                self._loaded[modality.name] = _Loaded(modality, workers, load, Lock())
            return self._loaded[modality.name]

    def _load_networks(self, modality: Modality, folder: Path) -> Detector:
        read_ahead(folder)  # while torch is imported
        from .scoring import choose_device

        return load_detector(modality, folder, choose_device(self._device), self._precision)

    def _verdict(self, loaded: _Loaded, source: bytes | str, deadline: float) -> Verdict:
        if self._segments is None:
            return self._score(loaded, source, deadline)
        with loaded.workers.one() as worker:
            windows = worker.windows(source, deadline=deadline)
            return score_windows(windows, loaded.detector, loaded.modality, loaded.lock)

    def _score(self, loaded: _Loaded, source: bytes | str, deadline: float) -> Verdict:
        from .scoring import CLIP_ERRORS, score_clip

        started = time.perf_counter()
        with loaded.workers.one() as worker:
            clip = worker(source, deadline=deadline)
        if clip.prepared is None:
            seconds = time.perf_counter() - started
            return Verdict("", None, seconds, clip.reason, REFUSED if clip.refused else UNREADABLE)
        note = clip.prepared.note
        try:
            with loaded.lock:
                score = score_clip(loaded.detector, clip.prepared.content)
        except CLIP_ERRORS as error:
            score, note = math.nan, f"the network fails: {shortened(str(error))}"
        seconds = time.perf_counter() - started
        if not math.isfinite(score):
            return Verdict("", None, seconds, note or "the network gives no finite score", UNREADABLE)
        return Verdict(
            label_of(score, loaded.modality.genuine), score, seconds, note,
            duration_seconds=clip.prepared.duration_seconds, num_frames=clip.prepared.num_frames,
            num_places=clip.prepared.num_places,
        )  # fmt: skip

    def close(self) -> None:
        """End the worker processes. Twice does no harm."""
        with self._lock:
            self._closed = True
            for loaded in self._loaded.values():
                loaded.workers.close()

    def __enter__(self) -> FileDetector:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def score_windows(clips: Iterator[DecodedClip], detector: Detector, modality: Modality, lock: Lock) -> Verdict:
    """Windows as they are read -> what is said of the file. A few are in memory at a time, however long the file is.

    clips: what `IsolatedPreparation.windows` gives. lock: held while the networks work.
    """
    from .scoring import choose_batch_size

    started = time.perf_counter()
    size = max(1, choose_batch_size(detector.device) // detector.views_per_clip)
    segments: list[Segment] = []
    num_places = 0
    while batch := list(itertools.islice(clips, size)):
        windows = [clip.prepared for clip in batch if clip.more and clip.prepared is not None]
        with lock:
            segments += _score_batch(detector, windows)
        num_places += sum(window.num_places for window in windows)
        end = batch[-1]
    seconds, score = time.perf_counter() - started, score_of_whole(segments)
    reason = reason_of(end, segments, score)
    if score is None:
        return Verdict("", None, seconds, reason, REFUSED if end.refused else UNREADABLE, segments=tuple(segments))
    return Verdict(
        label_of(score, modality.genuine), score, seconds, reason, duration_seconds=segments[-1].end_seconds,
        num_frames=sum(one.num_frames for one in segments), num_places=num_places, segments=tuple(segments),
    )  # fmt: skip


def _score_batch(detector: Detector, windows: Sequence[Prepared]) -> list[Segment]:
    from .scoring import CLIP_ERRORS, score_clips

    contents = [window.content for window in windows if window.content.size]
    scores, note = [], ""
    if contents:
        try:
            scores = score_clips(detector, contents)
        except CLIP_ERRORS as error:
            if len(windows) > 1:  # it costs the window that causes it, not the others
                return [segment for window in windows for segment in _score_batch(detector, [window])]
            scores, note = [math.nan], f"the network fails: {shortened(str(error))}"
    waiting = iter(scores)
    return [segment_of(window, next(waiting) if window.content.size else None, note) for window in windows]
