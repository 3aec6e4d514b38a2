"""Reading with decord (decord2, or the classic 0.6.0): the container says which frames, decord fetches them.

decord2's import loads every CUDA library that pip has installed, for a GPU decoder that is not used here: 330 MB, and
NVBLAS among them. With NVBLAS loaded before torch, torch.nn.Linear crashes on a machine without a GPU. So these
libraries are hidden while decord is imported; it belongs in decode workers all the same.
"""

from __future__ import annotations

import contextlib
import math
import re
import sys
import time
from collections.abc import Iterator

import numpy as np

from ..config import LimitsConfig, SamplingConfig
from ..modality import Refused, Unreadable
from ..text import shortened
from .clip import Clip, Header, check_frame_size, max_frames_in_memory
from .runs import Run, is_blank
from .sampling import choose_runs


@contextlib.contextmanager
def _hidden(package: str) -> Iterator[None]:
    """While inside, `importlib.util.find_spec(package)` finds nothing."""
    missing = object()
    before = sys.modules.get(package, missing)
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]
        if before is not missing:
            sys.modules[package] = before  # type: ignore[assignment]


with _hidden("nvidia"):
    import decord
    from decord._ffi.base import DECORDError, DECORDLimitReachedError

decord.logging.set_level(decord.logging.QUIET)  # what fails is told in a clip's note
_ERRORS = (
    DECORDError, DECORDLimitReachedError, RuntimeError, ValueError, TypeError, IndexError, AssertionError, OSError,
)  # fmt: skip
_NO_SUBSTITUTES = 1e-6  # share of frames that decord may replace by others where it cannot decode them


_LOG_PREFIX = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")  # of decord's errors: time of day, line of its source


class _Bytes:
    """What `decord.VideoReader` reads a file's bytes from: once, and without a copy of its own."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self) -> bytes:
        return self._content


def read(
    source: bytes | str, sampling: SamplingConfig, limits: LimitsConfig, deadline: float, header: Header | None = None
) -> Clip:
    """See `reading.Reader`. Without a header decord's own count of frames is taken, if its times are in order."""
    size = (header.width, header.height) if header else _size_by_pyav(source, limits)
    if size:
        check_frame_size(*size, limits)
    max_frames = max_frames_in_memory(*size, limits) if size else None
    try:
        file = _Bytes(source) if isinstance(source, bytes) else source
        reader = decord.VideoReader(file, num_threads=1, fault_tol=_NO_SUBSTITUTES)
        seconds, keys = (header.seconds, header.key_places) if header else _own_count(reader)
        if len(reader) != len(seconds):
            raise Unreadable(f"finds {len(reader)} frames of {len(seconds)}")
        planned = choose_runs([0, *keys], len(seconds), sampling, max_frames=max_frames)
        runs = []
        for run, following in zip(planned, [*planned[1:], None], strict=True):
            runs.append(_read_run(reader, run, following.start if following else len(seconds), seconds, limits))
            if time.process_time() > deadline:
                break
    except _ERRORS as error:
        cause = _LOG_PREFIX.sub("", str(error))
        if isinstance(source, str):
            cause = cause.replace(f"[{source}] ", "")
        raise Unreadable(f"{type(error).__name__}: {shortened(cause)}") from error
    height, width = runs[0][0].shape[1:3]
    check_frame_size(width, height, limits)
    if size and size not in ((width, height), (height, width)):
        raise Unreadable(f"read frames of {width}x{height}; the container says {size[0]}x{size[1]}")
    return Clip(
        tuple(frames for frames, _ in runs),
        tuple(times for _, times in runs),
        "decord",
        "" if len(runs) == len(planned) else f"stopped after {limits.soft_seconds:g} s",
        header.duration_seconds if header else math.nan,
    )


def _own_count(reader: decord.VideoReader) -> tuple[np.ndarray, list[int]]:
    """(seconds of each frame, places of the key frames). Raises: Unreadable: no clear order."""
    seconds = np.asarray(reader.get_frame_timestamp(list(range(len(reader)))), dtype=np.float64)[:, 0]
    # Without timestamps in order decord maps indices to the wrong frames, and says nothing.
    if len(seconds) > 1 and not (np.isfinite(seconds).all() and (np.diff(seconds) > 0).all()):
        raise Unreadable("the timestamps are missing or out of order")
    return seconds, reader.get_key_indices()


def _size_by_pyav(source: bytes | str, limits: LimitsConfig) -> tuple[int, int] | None:
    """(width, height) that the file tells, where PyAV can be had; decord gives it only with a decoded frame."""
    try:
        from .opening import open_video
    except ImportError:
        return None
    with open_video(source, limits) as (_, stream):
        size = stream.codec_context.width, stream.codec_context.height
    if 0 in size:  # FFmpeg keeps no size over its limit; decord knows no limit, and takes a minute for 16k x 16k pixels
        raise Refused(f"the header tells no frame size, or one over the limit of {limits.max_frame_pixels} pixels")
    return size


def _read_run(
    reader: decord.VideoReader, run: range, end: int, seconds: np.ndarray, limits: LimitsConfig
) -> tuple[np.ndarray, np.ndarray]:
    """The frames of a run, (T, H, W, 3), and their times; while the first is blank, later frames up to `end`."""
    batch = reader.get_batch(list(run)).asnumpy()
    if not is_blank(batch[0]):
        return batch, seconds[run.start : run.stop]
    filled = Run(len(run), limits)
    for frame, place in zip(batch, run, strict=True):
        filled.add(frame, place, float(seconds[place]))
    place = run.stop
    while not filled.done and place < end:
        filled.add(reader.get_batch([place]).asnumpy()[0], place, float(seconds[place]))
        place += 1
    return np.stack(filled.frames), np.array(filled.seconds)
