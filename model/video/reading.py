"""Decoding: a video file, as bytes or as a path, becomes a Clip of a few runs of frames.

PyAV reads first, decord where PyAV cannot (its fork decord2 imports under the same name). The trial that set the order:
on 720p and 1080p H.264, PyAV with one open file takes 0.65 to 0.75 of decord's time, while decord2 3.4.0 repeats or
swaps frames without a word in AVI and MPEG-TS files and in HEVC with open groups of pictures (the encoder's default),
picks another stream where there are several, and refuses some widths. What both read has equal pixels.

Runs in decode workers, so nothing heavy is imported here, and neither decoder before it is used.
"""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..config import LimitsConfig, SamplingConfig
from ..modality import Refused, Unreadable
from ..text import one_line


class VideoReadError(Unreadable):
    """No frame of this video can be used. The message names the limit or the cause."""


class RefusedError(VideoReadError, Refused):
    """No video at all, or one that costs more than a clip may; no other decoder is to try it."""


@dataclass(frozen=True)
class Clip:
    """Frames of one video.

    runs: uint8 RGB arrays of shape (T_i, H, W, 3), consecutive frames each, in display order, as
    displayed (crop, rotation and mirroring of the container applied). pts_seconds: for each run the
    presentation times, (T_i,) float64, nan where the file has none. decoder: which of DECODERS gave the
    frames. note: what was lost on the way, empty if nothing. duration_seconds: of the whole file, nan if
    unknown.
    """

    runs: tuple[np.ndarray, ...]
    pts_seconds: tuple[np.ndarray, ...]
    decoder: str
    note: str = ""
    duration_seconds: float = math.nan

    @property
    def num_frames(self) -> int:
        """How many were looked at."""
        return sum(len(run) for run in self.runs)


# (source, sampling, limits, deadline on time.process_time()) -> Clip. Raises: VideoReadError.
Reader = Callable[[bytes | str, SamplingConfig, LimitsConfig, float], Clip]


def _read_with_pyav(source: bytes | str, sampling: SamplingConfig, limits: LimitsConfig, deadline: float) -> Clip:
    try:
        from .reading_pyav import read
    except ImportError as error:
        raise VideoReadError(f"not installed: {one_line(error)}") from error
    return read(source, sampling, limits, deadline)


def _read_with_decord(source: bytes | str, sampling: SamplingConfig, limits: LimitsConfig, deadline: float) -> Clip:
    try:
        from .reading_decord import read
    except (ImportError, OSError) as error:  # OSError: its shared library does not load
        raise VideoReadError(f"not installed: {one_line(error)}") from error
    return read(source, sampling, limits, deadline)


READERS: Mapping[str, Reader] = {"pyav": _read_with_pyav, "decord": _read_with_decord}
DECODERS = tuple(READERS)  # in the order they are tried


def read_clip(
    source: bytes | str,
    sampling: SamplingConfig,
    limits: LimitsConfig,
    *,
    decoders: tuple[str, ...] = DECODERS,
    readers: Mapping[str, Reader] = READERS,
) -> Clip:
    """Decode runs of frames that start at key frames.

    source: the file's bytes, or its path. decoders: names in `readers`, in the order to try. Limits are
    checked on the header, before the cost is paid. Raises: VideoReadError, and nothing else for a bad file.
    """
    deadline = time.process_time() + limits.soft_seconds  # its own time: a busy machine must not cost frames
    source = _checked_source(source, limits)
    reasons: list[str] = []
    for decoder in decoders:
        try:
            clip = readers[decoder](source, sampling, limits, deadline)
        except RefusedError:
            raise
        except VideoReadError as error:
            reasons.append(f"{decoder}: {error}")
        except MemoryError:
            reasons.append(f"{decoder}: needs more than {limits.worker_memory_bytes >> 20} MiB")
        else:
            return replace(clip, decoder=decoder, note="; ".join(filter(None, [*reasons, clip.note])))
    raise VideoReadError("; ".join(reasons) or "no decoder left to try")


def _checked_source(source: bytes | str, limits: LimitsConfig) -> bytes | str:
    """The source with its path made absolute, so that FFmpeg takes no part of it for a protocol.

    Raises: VideoReadError: empty, too large, or not a plain file (opening a pipe or a device can wait for ever).
    """
    if isinstance(source, str):
        source = os.path.abspath(source)
        try:
            status = os.stat(source)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise VideoReadError(f"cannot read the file: {getattr(error, 'strerror', error)}") from error
        if not stat.S_ISREG(status.st_mode):
            raise VideoReadError(f"not a plain file: {stat.filemode(status.st_mode)}")
        size = status.st_size
    else:
        size = len(source)
    if size == 0:
        raise VideoReadError("the file is empty")
    if size > limits.max_file_bytes:
        raise RefusedError(f"the file has {size} bytes; the limit is {limits.max_file_bytes}")
    return source


def check_frame_size(width: int, height: int, limits: LimitsConfig) -> None:
    """Raises: RefusedError: a decompression bomb."""
    if width * height > limits.max_frame_pixels:
        raise RefusedError(f"frames of {width}x{height} pixels; the limit is {limits.max_frame_pixels} pixels")


def max_frames_in_memory(width: int, height: int, limits: LimitsConfig) -> int:
    """How many RGB frames of this size one clip may hold at once."""
    return max(1, limits.max_decoded_bytes // max(1, 3 * width * height))
