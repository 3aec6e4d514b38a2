"""Reading with decord (decord2 or the classic 0.6.0): the second opinion, for what PyAV cannot read."""

from __future__ import annotations

import io
import time

import decord
import numpy as np
from decord._ffi.base import DECORDError

from ..config import LimitsConfig, SamplingConfig
from ..text import one_line
from .reading import Clip, RefusedError, VideoReadError, check_frame_size, max_frames_in_memory
from .sampling import choose_runs

_ERRORS = (DECORDError, RuntimeError, ValueError, TypeError, IndexError, AssertionError, OSError)


def read(source: bytes | str, sampling: SamplingConfig, limits: LimitsConfig, deadline: float) -> Clip:
    """See `video.Reader`."""
    size = _checked_size(source, limits)
    try:
        reader = decord.VideoReader(io.BytesIO(source) if isinstance(source, bytes) else source, num_threads=1)
        times = np.asarray(reader.get_frame_timestamp(list(range(len(reader)))), dtype=np.float64)[:, 0]
        # Without timestamps in order decord maps indices to the wrong frames, and says nothing.
        if len(times) > 1 and not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
            raise VideoReadError("the timestamps are missing or out of order")
        max_frames = max_frames_in_memory(*size, limits) if size else None
        planned = choose_runs(reader.get_key_indices(), len(reader), sampling, max_frames=max_frames)
        runs: list[np.ndarray] = []
        for run in planned:
            runs.append(reader.get_batch(list(run)).asnumpy())
            if time.process_time() > deadline:
                break
    except _ERRORS as error:
        raise VideoReadError(one_line(error)) from error
    if not runs:
        raise VideoReadError("no frames found")
    height, width = runs[0].shape[1:3]
    if size and size not in ((width, height), (height, width)):
        raise VideoReadError(
            f"read frames of {width}x{height}, of another stream than the main one of {size[0]}x{size[1]}"
        )
    note = "" if len(runs) == len(planned) else f"stopped after {limits.soft_seconds:g} s"
    stamps = tuple(times[run.start : run.stop] for run in planned[: len(runs)])
    return Clip(tuple(runs), stamps, "decord", note)


def _checked_size(source: bytes | str, limits: LimitsConfig) -> tuple[int, int] | None:
    """(width, height) that the header tells, where PyAV can be had; decord gives it only with a decoded frame."""
    try:
        from .reading_pyav import open_video
    except ImportError:
        return None
    with open_video(source, limits) as (_, stream):
        size = stream.codec_context.width, stream.codec_context.height
    if 0 in size:  # FFmpeg keeps no size over its limit; decord knows no limit, and takes a minute for 16k x 16k pixels
        raise RefusedError(f"the header tells no frame size, or one over the limit of {limits.max_frame_pixels} pixels")
    check_frame_size(*size, limits)
    return size
