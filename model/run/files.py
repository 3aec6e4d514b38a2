"""Single files -> verdicts: the networks in this process, decoding in another."""

from __future__ import annotations

import math
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from .. import wheels
from ..modality import VIDEO, Detector, Modality
from ..text import shortened
from ..verdict import REFUSED, UNREADABLE, Verdict, label_of
from .isolated import IsolatedPreparation
from .parts import (
    check_device,
    default_weights,
    find_modality,
    load_detector,
    load_preparation,
    modality_of_file,
)


@dataclass(frozen=True)
class _Loaded:
    modality: Modality
    preparation: IsolatedPreparation
    detector: Detector
    lock: threading.Lock  # one clip in the networks at a time: they use every core as it is


class FileDetector:
    """Scores files, given as paths or bytes. `model.load_detector` makes one.

    Any thread may call `score`. Decoding happens in a worker process with limits on time and memory, which ends with
    `close`, with a `with` block, or with the program.
    """

    def __init__(
        self,
        modality: str | None = None,
        *,
        weights: str | os.PathLike[str] | None = None,
        device: str | None = None,
        precision: str = "auto",
    ) -> None:
        self._only = None if modality is None else find_modality(modality)
        if weights is not None and self._only is None:
            raise ValueError("weights are those of one modality: name it too")
        check_device(device)
        wheels.ensure()
        self._weights = None if weights is None else Path(weights)
        self._device, self._precision = device, precision
        self._loaded: dict[str, _Loaded] = {}
        self._lock = threading.Lock()
        self._closed = False
        if self._only is not None:
            self._load(self._only)

    def score(self, source: str | os.PathLike[str] | bytes) -> Verdict:
        """What is said of one file: its path, or its bytes.

        A file that cannot be used, or is not there, gets a verdict without a score, and a note that says why.
        Raises: RuntimeError: after `close`. WeightsError: its modality has no weights.
        """
        content = source if isinstance(source, bytes) else os.fspath(source)
        if isinstance(content, bytes) and not isinstance(source, bytes):
            raise TypeError("paths are text here; bytes are the content of a file")
        return self._score(self._load(self.modality_of(source)), content)

    def modality_of(self, source: str | os.PathLike[str] | bytes) -> Modality:
        """As what a file is scored."""
        by_name = None if isinstance(source, bytes) else modality_of_file(os.fspath(source))
        return self._only or by_name or VIDEO

    def _load(self, modality: Modality) -> _Loaded:
        with self._lock:
            if self._closed:
                raise RuntimeError("the detector was closed")
            if modality.name not in self._loaded:
                folder = self._weights or default_weights(modality)
                preparation = IsolatedPreparation(load_preparation(modality, folder))  # starts while torch is imported
                try:
                    from .scoring import choose_device

                    detector = load_detector(modality, folder, choose_device(self._device), self._precision)
                except BaseException:
                    preparation.close()
                    raise
                self._loaded[modality.name] = _Loaded(modality, preparation, detector, threading.Lock())
            return self._loaded[modality.name]

    def _score(self, loaded: _Loaded, source: bytes | str) -> Verdict:
        from .scoring import CLIP_ERRORS, score_clip

        started = time.perf_counter()
        clip = loaded.preparation(source)
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
        )  # fmt: skip

    def close(self) -> None:
        """End the worker processes. Twice does no harm."""
        with self._lock:
            self._closed = True
            for loaded in self._loaded.values():
                loaded.preparation.close()

    def __enter__(self) -> FileDetector:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
