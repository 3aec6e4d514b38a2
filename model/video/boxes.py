"""What PyAV does not hand on of a container's header: crop, display matrix, encryption of a video track.

ISO 14496-12 (MP4, MOV) and Matroska (RFC 9559). Only headers are read, by seeking; damaged ones give the defaults.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import BinaryIO

Crop = tuple[int, int, int, int]  # pixels that are not shown: at the top, the bottom, the left and the right
NO_CROP: Crop = (0, 0, 0, 0)
_MAX_BOXES = 4000  # looked at in one file; real headers have some dozens before the frames
_MAX_ENTRY_BYTES = 1 << 16  # of a sample description that are read
UNITY = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)  # the matrix of a track that is shown as it is coded
# Matroska's element numbers
_SEGMENT, _TRACKS, _ENTRY, _VIDEO, _CLUSTER = 0x18538067, 0x1654AE6B, 0xAE, 0xE0, 0x1F43B675
_CROPS = (0x54BB, 0x54AA, 0x54CC, 0x54DD)  # PixelCropTop, Bottom, Left, Right
_PROJECTION, _WIDTH, _HEIGHT = 0x7670, 0xB0, 0xBA
_ENCODINGS, _ENCODING, _ENCRYPTION = 0x6D80, 0x6240, 0x5035


@dataclass(frozen=True)
class TrackHeader:
    """Of one video track. matrix: the display matrix, row by row, None for one that is not known.

    single: known to have one sample description and one encoding.
    """

    size: tuple[int, int] = (0, 0)  # (width, height) before the crop; 0 if unknown
    crop: Crop = NO_CROP
    matrix: tuple[int, ...] | None = None
    single: bool = False
    encrypted: bool = False


def read_track_header(source: bytes | str, *, track_id: int | None, number: int = 0) -> TrackHeader:
    """Of the track with this number in the file (MP4), or of the video track at this place among all (Matroska)."""
    with contextlib.ExitStack() as stack:
        file: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else stack.enter_context(open(source, "rb"))
        start = file.read(12)
        end = file.seek(0, os.SEEK_END)
        try:
            if start[:4] == b"\x1a\x45\xdf\xa3":
                return _matroska_track(file, end, number)
            if start[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"uuid"):
                return _mp4_track(file, end, track_id)
        except (struct.error, ValueError, IndexError, ArithmeticError):
            pass  # a header that FFmpeg has read differently, or guessed
    return TrackHeader()


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, first byte of the content, end) of each box in a stretch of the file."""
    for _ in range(_MAX_BOXES):
        if start + 8 > end:
            return
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        header = 8
        if size == 1:
            size, header = struct.unpack(">Q", file.read(8))[0], 16
        elif size == 0:
            size = end - start
        if size < header:
            return
        yield kind, start + header, min(start + size, end)
        start += size


def _find(file: BinaryIO, start: int, end: int, *path: bytes) -> tuple[int, int] | None:
    """The content of the first box at this path, as (start, end)."""
    for kind, first, last in _boxes(file, start, end):
        if kind == path[0]:
            return (first, last) if len(path) == 1 else _find(file, first, last, *path[1:])
    return None


def _mp4_track(file: BinaryIO, end: int, track_id: int | None) -> TrackHeader:
    movie = _find(file, 0, end, b"moov")
    for kind, first, last in _boxes(file, *(movie or (0, 0))):
        header = _find(file, first, last, b"tkhd") if kind == b"trak" else None
        if header is None:
            continue
        file.seek(header[0])
        content = file.read(header[1] - header[0])
        times = 16 if content[0] else 8  # version 1 has longer times
        if track_id is not None and struct.unpack(">I", content[4 + times : 8 + times])[0] != track_id:
            continue
        at = 4 + times + 8 + (8 if content[0] else 4) + 16
        matrix = struct.unpack(">9i", content[at : at + 36])
        table = _find(file, first, last, b"mdia", b"minf", b"stbl", b"stsd")
        if table is None:
            return TrackHeader()
        file.seek(table[0])
        track = _sample_description(file.read(min(table[1] - table[0], _MAX_ENTRY_BYTES)))
        return replace(track, matrix=matrix)
    return TrackHeader()


def _sample_description(content: bytes) -> TrackHeader:
    """content: of the box `stsd`."""
    count, size = struct.unpack(">4xII", content[:12])
    entry = io.BytesIO(content[8 : 8 + size])
    width, height = struct.unpack(">32x2H", content[8:44])
    crop, encrypted = NO_CROP, content[12:16] in (b"encv", b"drmi")
    for kind, first, last in _boxes(entry, 86, size):
        encrypted |= kind == b"sinf"
        if kind == b"clap":
            crop = _clean_aperture(struct.unpack(">8i", content[8 + first : 8 + last][:32]), width, height)
    return TrackHeader((width, height), crop, single=count == 1, encrypted=encrypted)


def _clean_aperture(numbers: tuple[int, ...], width: int, height: int) -> Crop:
    """ISO 14496-12, 12.1.4; pixels that it covers in part are shown, and one that reaches outside says nothing."""
    wide, high, right_by, down_by = (Fraction(*numbers[at : at + 2]) for at in range(0, 8, 2))
    if wide < 0 or high < 0 or wide > width or high > height:
        return NO_CROP
    left, right = (int(Fraction(width - 1, 2) + right_by + side * (wide - 1) / 2) for side in (-1, 1))
    top, bottom = (int(Fraction(height - 1, 2) + down_by + side * (high - 1) / 2) for side in (-1, 1))
    if left < 0 or top < 0 or right > width - 1 or bottom > height - 1:
        return NO_CROP
    crop = (top, height - 1 - bottom, left, width - 1 - right)
    return crop if crop[0] + crop[1] < height and crop[2] + crop[3] < width else NO_CROP


def _elements(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, first byte of the content, end) of each Matroska element in a stretch of the file."""
    for _ in range(_MAX_BOXES):
        if start + 2 > end:
            return
        file.seek(start)
        head = file.read(12)
        id_bytes = 9 - head[0].bit_length()
        size_bytes = 9 - head[id_bytes].bit_length()
        number = int.from_bytes(head[:id_bytes], "big")
        size = int.from_bytes(head[id_bytes : id_bytes + size_bytes], "big") & ((1 << 7 * size_bytes) - 1)
        first = start + id_bytes + size_bytes
        last = end if size == (1 << 7 * size_bytes) - 1 else min(first + size, end)  # all ones: unknown
        yield number, first, last
        start = last


def _matroska_track(file: BinaryIO, end: int, wanted: int) -> TrackHeader:
    for number, first, last in _elements(file, 0, end):
        if number != _SEGMENT:
            continue
        for inner, inner_first, inner_last in _elements(file, first, last):
            if inner == _CLUSTER:
                break
            if inner == _TRACKS:
                return _matroska_tracks(file, inner_first, inner_last, wanted)
    return TrackHeader()


def _matroska_tracks(file: BinaryIO, start: int, end: int, wanted: int) -> TrackHeader:
    entries = [
        {element: (inner_first, inner_last) for element, inner_first, inner_last in _elements(file, first, last)}
        for number, first, last in _elements(file, start, end)
        if number == _ENTRY
    ]
    entry = [one for one in entries if _VIDEO in one][wanted]
    encrypted = _ENCODINGS in entry and _has_encryption(file, *entry[_ENCODINGS])
    values = {}
    for number, first, last in _elements(file, *entry[_VIDEO]):
        file.seek(first)
        values[number] = int.from_bytes(file.read(min(last - first, 8)), "big")
    top, bottom, left, right = (values.get(number, 0) for number in _CROPS)
    crop = (top, bottom, left, right)
    size = (values.get(_WIDTH, 0), values.get(_HEIGHT, 0))
    return TrackHeader(size, crop, None if _PROJECTION in values else UNITY, _ENCODINGS not in entry, encrypted)


def _has_encryption(file: BinaryIO, start: int, end: int) -> bool:
    return any(
        element == _ENCRYPTION
        for encoding, first, last in _elements(file, start, end) if encoding == _ENCODING
        for element, _, _ in _elements(file, first, last)
    )  # fmt: skip
