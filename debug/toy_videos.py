"""Small videos for the fault campaign: every codec and container that PyAV can write."""

from __future__ import annotations

import functools
from dataclasses import replace

from debug.scenes import discs
from debug.video_examples import ENCODINGS, Encoding, encode_frames

_X264, _X265 = ENCODINGS["h264"].options, ENCODINGS["hevc"].options
_ENCODINGS = {
    **ENCODINGS,
    "h264-b-frames": Encoding(".mp4", "mp4", "libx264", options={**_X264, "bf": "3", "b_strategy": "0"}),
    "h264-fragmented": replace(ENCODINGS["h264"], fragmented=True),
    "h264-ts": Encoding(".ts", "mpegts", "libx264", options=_X264),
    "h264-avi": Encoding(".avi", "avi", "libx264", options={**_X264, "bf": "0"}),
    "h264-flv": Encoding(".flv", "flv", "libx264", options=_X264),
    "vp8": Encoding(".webm", "webm", "libvpx", options={"deadline": "realtime", "cpu-used": "8"}),
    "mpeg2-ts": Encoding(".ts", "mpegts", "mpeg2video"),
    "wmv2": Encoding(".wmv", "asf", "wmv2"),
    "prores": Encoding(".mov", "mov", "prores_ks", "yuv422p10le"),
    "gif": Encoding(".gif", "gif", "gif", "rgb8"),
    "ffv1": Encoding(".mkv", "matroska", "ffv1"),
    "hevc-10bit": Encoding(".mp4", "mp4", "libx265", "yuv420p10le", _X265),
}
FAMILIES = tuple(_ENCODINGS)


@functools.cache
def clip(name: str) -> bytes:
    """A file of one family; the same bytes every time."""
    return encode_frames(discs(16, 96, 160, FAMILIES.index(name)), _ENCODINGS[name])
