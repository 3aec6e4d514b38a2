"""Decoding: a video file, as bytes or as a path, becomes a Clip of a few runs of frames.

decord reads first what it is proved to read right, PyAV all else and what decord refuses or dies of. `reader_order`
says which is which; tests/video/test_reader_order.py shows for each of its lines what decord makes of such a file.
What both can read has equal pixels.

Runs in decode workers, so nothing heavy is imported here, and neither decoder before it is used.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ..config import LimitsConfig, SamplingConfig
from ..modality import Refused, Unreadable
from ..source import checked_source
from ..text import one_line
from .clip import Clip, Header

# (source, sampling, limits, deadline on time.process_time(), what the container says) -> Clip. Raises: Unreadable.
Reader = Callable[[bytes | str, SamplingConfig, LimitsConfig, float, Header | None], Clip]


def _read_with(decoder: str, *arguments: Any) -> Clip:
    """A `Reader`, once the decoder is named."""
    try:
        reading = importlib.import_module(f".reading_{decoder}", __package__)
    except (ImportError, OSError) as error:  # OSError: its shared library does not load
        raise Unreadable(f"not installed: {one_line(error)}") from error
    return reading.read(*arguments)


READERS: Mapping[str, Reader] = {decoder: partial(_read_with, decoder) for decoder in ("decord", "pyav")}


def reader_order(header: Header | None) -> tuple[str, ...]:
    """Which of READERS reads a file first. header: what the container says; None if it is no MP4 and no Matroska file.

    PyAV comes first only where decord is wrong: it repeats or swaps frames in other containers (AVI, MPEG streams), at
    key frames of open groups of pictures and at such as are none; it shows what an edit list leaves out, applies no
    crop, turns a mirrored picture upside down, takes another one of several streams, keeps the parameter sets of before
    a seek, and fails on HEVC at random, on palettes and some other codecs, on rows that need padding, and (0.6.0) on
    odd sizes.
    """
    decord_is_right = (
        header is not None
        and header.codec in _DECORD_CODECS
        and header.num_videos == 1
        and not any(header.track.crop)
        and header.track.matrix in _TURNS
        and header.track.single
        and not header.track.encrypted
        and header.in_order
        and header.closed_groups
        and header.same_sets
        and _width_shown(header) >= _MIN_WIDTH
        and header.width % 2 == header.height % 2 == 0
    )
    return ("decord", "pyav") if decord_is_right else ("pyav", "decord")


_DECORD_CODECS = ("h264", "vp8", "vp9", "av1", "mpeg4", "mjpeg", "prores")
_MIN_WIDTH = 160  # pixels; rows of narrower pictures may be padded, and decord takes none that are
_ONE, _END = 1 << 16, 1 << 30
_TURNS = tuple(  # display matrices that turn by quarters and mirror nothing
    (a * _ONE, b * _ONE, 0, -b * _ONE, a * _ONE, 0, 0, 0, _END) for a, b in ((1, 0), (0, 1), (-1, 0), (0, -1))
)


def _width_shown(header: Header) -> int:
    return header.height if header.track.matrix and not header.track.matrix[0] else header.width


def read_clip(
    source: bytes | str,
    sampling: SamplingConfig,
    limits: LimitsConfig,
    *,
    attempt: int | None = None,
    readers: Mapping[str, Reader] = READERS,
) -> Clip:
    """Decode runs of frames that start at key frames.

    source: the file's bytes, or its path. attempt: only the decoder at this place of the file's `reader_order`; None:
    one after the other. readers: decoder name -> function; those that `reader_order` does not know come last. Limits
    are checked on the header, before the cost is paid. Raises: Unreadable, and nothing else for a bad file.
    """
    deadline = time.process_time() + limits.soft_seconds  # its own time: a busy machine must not cost frames
    source = checked_source(source, limits.max_file_bytes)
    try:
        from .header import read_header
    except ImportError:  # no PyAV, which reads it
        header = None
    else:
        header = read_header(source, limits)
    known = [name for name in reader_order(header) if name in readers]
    decoders = [*known, *(name for name in readers if name not in known)]
    reasons: list[str] = []
    for decoder in decoders if attempt is None else decoders[attempt : attempt + 1]:
        try:
            clip = readers[decoder](source, sampling, limits, deadline, header)
        except Refused:
            raise
        except Unreadable as error:
            reasons.append(f"{decoder}: {error}")
        except MemoryError:
            reasons.append(f"{decoder}: needs more than {limits.worker_memory_bytes >> 20} MiB")
        else:
            return replace(clip, decoder=decoder, note="; ".join(filter(None, [*reasons, clip.note])))
    raise Unreadable("; ".join(reasons) or "no decoder left to try")
