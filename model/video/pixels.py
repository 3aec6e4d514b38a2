"""Decoded frames -> RGB as displayed, with the pixels that `ffmpeg -pix_fmt rgb24` gives.

The container's crop, then the display matrix, then ffmpeg's own scale filter, in the order of its command. PyAV's
`to_ndarray` differs from it by up to 25 levels on 10-bit frames (chroma interpolation) and 170 on interlaced ones (it
takes their fields apart).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import struct
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
from av.sidedata.sidedata import Type

from .boxes import NO_CROP, Crop

_UNTAGGED = 2  # AVCOL_SPC_UNSPECIFIED; AVCOL_TRC_ and AVCOL_PRI_ have the same number
# What is taken for untagged, one step after the other, where the scale filter cannot convert by a frame's colour tags.
_UNTAG_STEPS = (("color_trc", "color_primaries"), ("colorspace",))
_ONE_DEGREE = 1.0


class RgbConverter:
    """Frames -> uint8 RGB (H, W, 3). crop: as the container has it, before rotation."""

    def __init__(self, crop: Crop = NO_CROP) -> None:
        self._crop = crop
        self._graph: av.filter.Graph | None = None
        self._input: tuple | None = None
        self._steps = 0  # of _UNTAG_STEPS, which frames like the last one need

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """Raises: av.FFmpegError: a pixel format that cannot be converted."""
        matrix = display_matrix(frame)
        tags = int(frame.colorspace), int(frame.color_range), int(frame.color_trc), int(frame.color_primaries)
        kind = (frame.width, frame.height, frame.format.name, tags, matrix)
        if kind != self._input:
            self._graph, self._input, self._steps = None, kind, 0
        while True:
            for name in itertools.chain.from_iterable(_UNTAG_STEPS[: self._steps]):
                setattr(frame, name, _UNTAGGED)
            if self._graph is None:
                self._graph = _build_graph(frame, self._crop, matrix)
            try:
                self._graph.push(frame)
                return np.ascontiguousarray(self._graph.pull().to_ndarray())
            except av.FFmpegError as error:
                self._graph = None
                if error.errno != errno.EOPNOTSUPP or self._steps == len(_UNTAG_STEPS):
                    raise
                self._steps += 1


def display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """The nine numbers that say how the frame is turned and mirrored when shown, row by row; None: as it is coded."""
    data = frame.side_data.get(Type.DISPLAYMATRIX)
    return None if data is None or len(bytes(data)) < 36 else struct.unpack("=9i", bytes(data)[:36])


def display_filters(matrix: Sequence[int] | None) -> list[tuple[str, str]]:
    """Filters (name, arguments) that show a frame as its display matrix says, as ffmpeg's command chooses them."""
    if matrix is None:
        return []
    x_scale, y_scale = math.hypot(matrix[0], matrix[3]), math.hypot(matrix[1], matrix[4])
    if not x_scale or not y_scale:
        return []
    degrees = round(math.degrees(math.atan2(matrix[1] / y_scale, matrix[0] / x_scale)))
    degrees -= 360 * math.floor(degrees / 360 + 0.9 / 360)
    if abs(degrees - 90) < _ONE_DEGREE:
        return [("transpose", "cclock_flip" if matrix[3] > 0 else "clock")]
    if abs(degrees - 180) < _ONE_DEGREE:
        return [("hflip", "")] * (matrix[0] < 0) + [("vflip", "")] * (matrix[4] < 0)
    if abs(degrees - 270) < _ONE_DEGREE:
        return [("transpose", "clock_flip" if matrix[3] < 0 else "cclock")]
    if abs(degrees) > _ONE_DEGREE:
        return [("rotate", f"{degrees}*PI/180")]
    return [("vflip", "")] if matrix[4] < 0 else []


def _build_graph(frame: av.VideoFrame, crop: Crop, matrix: Sequence[int] | None) -> av.filter.Graph:
    graph = av.filter.Graph()
    with contextlib.suppress(AttributeError):  # an older PyAV
        graph.threads = 1
    names = display_filters(matrix)
    if any(crop):
        top, bottom, left, right = crop
        names.insert(0, ("crop", f"w=iw-{left}-{right}:h=ih-{top}-{bottom}:x={left}:y={top}"))
    names += [("scale", "flags=bicubic:interl=0"), ("format", "rgb24"), ("buffersink", "")]
    graph.link_nodes(
        graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)),
        *(graph.add(name, arguments or None) for name, arguments in names),
    ).configure()
    return graph
