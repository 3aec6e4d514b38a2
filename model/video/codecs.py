"""What packets say in front of their pictures, by codec: parameter sets, and whether decoding can start there."""

from __future__ import annotations

import re

# Codecs whose key frames need nothing of the frames before them but parameter sets. All others (palettes that stay,
# code books, canvases that are drawn over) are decoded from their first frame on.
_SEEKABLE = (
    "av1 libdav1d libaom-av1 cfhd dnxhd dvvideo ffv1 ffvhuff flv h263 h263p h264 hevc huffyuv jpeg2000 mjpeg mjpegb"
    " mpeg1video mpeg2video mpeg4 msmpeg4 msmpeg4v1 msmpeg4v2 prores r10k r210 rawvideo rv10 rv20 rv30 rv40 theora"
    " utvideo v210 vc1 vp3 vp6 vp6f vp8 libvpx vp9 libvpx-vp9 vvc wmv1 wmv2 wmv3 wrapped_avframe yuv4"
)
SEEKABLE = frozenset(_SEEKABLE.split())
_START_CODE = re.compile(rb"\x00\x00\x01(.)", re.DOTALL)
_MAX_BYTES = 4096  # of a packet in which parameter sets are looked for: they stand in front


def parameter_sets(codec: str, packet: memoryview, extradata: bytes) -> bytes:
    """The parameter sets in front of a packet's picture, as they stand there; empty where there are none."""
    if codec not in _IS_PARAMETER_SET:
        return b""
    is_set, is_picture = _IS_PARAMETER_SET[codec]
    head = bytes(packet[:_MAX_BYTES])
    units = _length_prefixed(head, codec, extradata) if _has_lengths(codec, extradata) else _annex_b(head)
    found = []
    for unit in units:
        if not unit or is_picture(unit[0]):
            break
        if is_set(unit[0]):
            found.append(unit)
    return b"".join(found)


# codec -> (is the unit that starts with this byte a parameter set?, does it start the picture itself?)
_IS_PARAMETER_SET = {
    "h264": (lambda first: first & 31 in (7, 8, 13, 15), lambda first: 1 <= first & 31 <= 5),
    "hevc": (lambda first: first >> 1 & 63 in (32, 33, 34), lambda first: first >> 1 & 63 < 32),
    "mpeg2video": (lambda first: first == 0xB3, lambda first: first in (0x00, 0xB8)),
    "mpeg1video": (lambda first: first == 0xB3, lambda first: first in (0x00, 0xB8)),
    "mpeg4": (lambda first: 0x20 <= first < 0x30, lambda first: first == 0xB6),
    "vc1": (lambda first: first in (0x0E, 0x0F), lambda first: first == 0x0D),
}


def starts_anew(codec: str, packet: memoryview, extradata: bytes) -> bool:
    """Whether a packet that the container calls a key frame is one by what it holds: nothing after it looks back."""
    head = bytes(packet[:_MAX_BYTES])
    if codec == "h264":  # an IDR picture: others are recovery points, or mistakes of the container
        units = _length_prefixed(head, codec, extradata) if _has_lengths(codec, extradata) else _annex_b(head)
        return next((unit[0] & 31 == 5 for unit in units if unit and 1 <= unit[0] & 31 <= 5), False)
    if codec == "vp8":
        return not head[0] & 1
    if codec == "vp9":  # frame marker, profile, no existing frame, key frame
        deep = head[0] >> 4 & 3 == 3  # profile 3 has a reserved bit more
        return head[0] >> 6 == 2 and not head[0] >> (2 if deep else 3) & 1 and not head[0] >> (1 if deep else 2) & 1
    if codec == "av1":
        return _SEQUENCE_HEADER in _unit_types(head)
    if codec == "mpeg4":  # an intra-coded VOP
        at = head.find(b"\x00\x00\x01\xb6")
        return 0 <= at < len(head) - 4 and head[at + 4] >> 6 == 0
    return codec in ("mjpeg", "prores")


_SEQUENCE_HEADER = 1  # of AV1's open bitstream units


def _unit_types(content: bytes) -> list[int]:
    """Of the open bitstream units of an AV1 packet, as far as they have sizes."""
    types, at = [], 0
    while at < len(content):
        header = content[at]
        types.append(header >> 3 & 15)
        at += 2 if header & 4 else 1
        if not header & 2:
            break
        size = shift = 0
        while at < len(content):
            size |= (content[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if not content[at - 1] & 128:
                break
        at += size
    return types


def _has_lengths(codec: str, extradata: bytes) -> bool:
    """Whether a packet's units have their lengths in front (MP4, Matroska), not start codes (ISO 14496-15)."""
    return codec in ("h264", "hevc") and len(extradata) > 22 - 15 * (codec == "h264") and extradata[0] == 1


def _length_prefixed(content: bytes, codec: str, extradata: bytes) -> list[bytes]:
    size = (extradata[4 if codec == "h264" else 21] & 3) + 1
    units, at = [], 0
    while at + size < len(content):
        length = int.from_bytes(content[at : at + size], "big")
        units.append(content[at + size : at + size + length])
        at += size + length
    return units


def _annex_b(content: bytes) -> list[bytes]:
    starts = [match.start(1) for match in _START_CODE.finditer(content)]
    ends = [*(start - 3 for start in starts[1:]), len(content)]
    return [content[start:end].rstrip(b"\x00") for start, end in zip(starts, ends, strict=False)]
