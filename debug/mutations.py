"""Seeded damage to video and sound files: what disks, networks, encoders and ill-meaning people do to them. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable

_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF0, 0x00010000)
# Names in front of the numbers that demuxers believe: boxes of mp4 and mov, chunks of avi, atoms of asf and flv; then
# those of sound: chunks of wav, aiff and caf, pages of Ogg, blocks of FLAC.
_HEADERS = (
    b"mvhd", b"tkhd", b"mdhd", b"elst", b"stsd", b"stts", b"ctts", b"stss", b"stsc", b"stsz", b"stco", b"co64",
    b"trun", b"tfhd", b"tfdt", b"trex", b"avc1", b"avcC", b"hvc1", b"hvcC", b"hev1", b"av01", b"av1C", b"vpcC",
    b"colr", b"pasp", b"apcn", b"mdat", b"moov", b"trak", b"ftyp", b"RIFF", b"avih", b"strh", b"strf", b"idx1",
    b"LIST", b"movi", b"FLV", b"GIF89a", b"\x1aE\xdf\xa3", b"\x16T\xaek", b"\x1fC\xb6u", b"\x15I\xa9f", b"\xb0\x81",
    b"fmt ", b"data", b"fact", b"COMM", b"SSND", b"caff", b"desc", b"pakt", b".snd", b"OggS", b"OpusHead", b"vorbis",
    b"fLaC", b"mp4a", b"alac", b"esds", b"#!AMR", b"wvpk",
)  # fmt: skip


def _flip_bits(data: bytearray, other: bytes, rng: random.Random) -> bytearray:
    for _ in range(rng.choice((1, 4, 20, 200))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _truncate(data: bytearray, other: bytes, rng: random.Random) -> bytearray:
    return data[: rng.randrange(1, max(2, len(data)))]


def _behead(data: bytearray, other: bytes, rng: random.Random) -> bytearray:
    return data[rng.randrange(1, max(2, min(len(data), 4096))) :]


def _splice(data: bytearray, other: bytes, rng: random.Random) -> bytearray:
    """The start of this file and the end of another."""
    return data[: rng.randrange(1, max(2, len(data)))] + other[rng.randrange(len(other)) :]


def _insert_other(data: bytearray, other: bytes, rng: random.Random) -> bytearray:
    at, start = rng.randrange(len(data)), rng.randrange(len(other))
    return data[:at] + other[start : start + rng.randrange(1, 5000)] + data[at:]


def _zero_range(data: bytearray, other: bytes, rng: random.Random) -> bytearray:
    start, length = rng.randrange(len(data)), rng.choice((4, 64, 1024, 20_000))
    data[start : start + length] = bytes(len(data[start : start + length]))
    return data


def _scramble_range(data: bytearray, other: bytes, rng: random.Random) -> bytearray:
    start, length = rng.randrange(len(data)), rng.choice((4, 64, 1024, 20_000))
    data[start : start + length] = rng.randbytes(len(data[start : start + length]))
    return data


def _cut_range(data: bytearray, other: bytes, rng: random.Random) -> bytearray:
    start = rng.randrange(len(data))
    del data[start : start + rng.choice((1, 3, 188, 4096))]
    return data


def _swap_ranges(data: bytearray, other: bytes, rng: random.Random) -> bytearray:
    length = rng.choice((16, 512, 8192))
    first, second = rng.randrange(len(data)), rng.randrange(len(data))
    one, two = bytes(data[first : first + length]), bytes(data[second : second + length])
    data[first : first + len(two)] = two
    data[second : second + len(one)] = one
    return data


def _lie_in_header(data: bytearray, other: bytes, rng: random.Random) -> bytearray:
    """Overwrite a number behind a known name by an extreme one."""
    names = [name for name in _HEADERS if name in data]
    at = data.find(rng.choice(names)) if names else 0
    at += rng.randrange(-4, 80)
    size = rng.choice((1, 2, 4))
    value = rng.choice(_EXTREMES) & (256**size - 1)
    at = min(max(0, at), len(data) - size)
    data[at : at + size] = value.to_bytes(size, rng.choice(("big", "little")))
    return data


def _lie_at_start(data: bytearray, other: bytes, rng: random.Random) -> bytearray:
    for _ in range(rng.choice((1, 3, 10))):
        at = rng.randrange(min(len(data), 1024))
        data[at] = rng.choice((0, 0x7F, 0x80, 0xFF))
    return data


MUTATIONS: dict[str, Callable[[bytearray, bytes, random.Random], bytearray]] = {
    function.__name__.strip("_"): function
    for function in (
        _flip_bits, _truncate, _behead, _splice, _insert_other, _zero_range, _scramble_range, _cut_range, _swap_ranges,
        _lie_in_header, _lie_at_start,
    )
}  # fmt: skip


def mutate(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """One to three mutations of a file. other: a file to splice from."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = rng.choice(list(MUTATIONS.values()))(data, other, rng) or bytearray(b"\0")
    return bytes(data)
