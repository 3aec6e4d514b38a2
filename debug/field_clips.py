"""Clips as the field has them, built by ffmpeg's command. Tests read them, the fault campaign damages them."""

from __future__ import annotations

import functools
import struct
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from imageio_ffmpeg import get_ffmpeg_exe

FFMPEG = get_ffmpeg_exe()
X264 = ("-c:v", "libx264", "-g", "5", "-bf", "2")
X265 = ("-c:v", "libx265", "-x265-params", "log-level=none:pools=1:keyint=5")
PALETTE = ("-vf", "split[a][b];[a]palettegen[p];[b][p]paletteuse")


class Workshop:
    """A folder in which clips are built. A clip's name is its file's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def build(self, name: str, *arguments: object) -> Path:
        """The arguments stand between `ffmpeg` and the output. Raises: CalledProcessError."""
        command = [FFMPEG, "-nostdin", "-v", "error", "-y", *map(str, arguments), name]
        subprocess.run(command, cwd=self.folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        return self.folder / name

    def write(self, name: str, content: bytes) -> Path:
        (self.folder / name).write_bytes(content)
        return self.folder / name

    @cached_property
    def h264(self) -> Path:
        """20 frames, a key frame every five, two B-frames between others."""
        return self.build("h264.mp4", *source(), *X264)

    @cached_property
    def hevc(self) -> Path:
        return self.build("hevc.mp4", *source(), *X265)

    @cached_property
    def vp9(self) -> Path:
        return self.build("vp9.webm", *source(), "-c:v", "libvpx-vp9", "-g", 5, "-cpu-used", 8)

    @cached_property
    def mpeg2(self) -> Path:
        return self.build("mpeg2.ts", *source(rate=25), "-c:v", "mpeg2video", "-g", 12, "-bf", 2, "-b:v", "2M")

    @cached_property
    def still(self) -> Path:
        return self.build("still.png", *source("640x480", picture="testsrc"), "-frames:v", 1)


def source(size: str = "160x120", *, seconds: float = 2, rate: int = 10, picture: str = "testsrc2") -> tuple[str, ...]:
    return ("-f", "lavfi", "-i", f"{picture}=s={size}:r={rate}:d={seconds}")


def with_clean_aperture(content: bytes, *numbers: int) -> bytes:
    """An MP4 whose only track is H.264, with a `clap` box: eight numbers, pairs of numerator and denominator."""
    data = bytearray(content)
    at = data.index(b"avc1", data.index(b"stsd")) - 4
    end = at + struct.unpack(">I", data[at : at + 4])[0]
    data[end:end] = struct.pack(">I4s8i", 40, b"clap", *numbers)
    for box in (b"avc1", b"stsd", b"stbl", b"minf", b"mdia", b"trak", b"moov"):
        place = data.rindex(box, 0, at + 8) - 4
        data[place : place + 4] = struct.pack(">I", struct.unpack(">I", data[place : place + 4])[0] + 40)
    return bytes(data)


_COPY = ("-c", "copy")
_BOTH = ("-map", "0:v", "-map", "1:v", "-c:v", "mpeg4", "-g", 5)
# What a seek loses, colour tags that cannot be converted, mirrors, crops, edit lists, key flags, several tracks.
FIELD_FAMILIES: Mapping[str, Callable[[Workshop], Path]] = {
    "palette_avi": lambda shop: shop.build(
        "palette.avi", *source("80x60"), *PALETTE, "-c:v", "rawvideo", "-pix_fmt", "pal8"
    ),
    "ictcp_mp4": lambda shop: shop.build(
        "ictcp.mp4", "-i", shop.h264, *_COPY, "-bsf:v", "h264_metadata=matrix_coefficients=14"
    ),
    "reserved_tags_ts": lambda shop: shop.build(
        "reserved.ts", "-i", shop.mpeg2, *_COPY, "-bsf:v", "mpeg2_metadata=matrix_coefficients=3"
    ),
    "mirrored_mp4": lambda shop: shop.build(
        "mirrored.mp4", "-display_rotation", 90, "-display_hflip", "-i", shop.h264, *_COPY
    ),
    "cropped_mp4": lambda shop: shop.write(
        "cropped.mp4", with_clean_aperture(shop.h264.read_bytes(), 120, 1, 100, 1, 0, 1, 0, 1)
    ),
    "cut_by_edit_list_mp4": lambda shop: shop.build("cut.mp4", "-ss", "0.75", "-i", shop.h264, *_COPY),
    "no_key_flags_mp4": lambda shop: shop.write("flags.mp4", shop.h264.read_bytes().replace(b"stss", b"free")),
    "two_tracks_mkv": lambda shop: shop.build("two.mkv", *source(), *source("320x240", picture="testsrc"), *_BOTH),
    "still_beside_mkv": lambda shop: shop.build(
        "still.mkv", "-i", shop.still, *source(), "-map", "0:v", "-map", "1:v", "-c:v:0", "mjpeg", "-c:v:1", "mpeg4"
    ),
    "elementary_h264": lambda shop: shop.build("bare.h264", "-i", shop.h264, *_COPY),
}


@functools.cache
def field_clip(name: str) -> bytes:
    """The bytes of one of `FIELD_FAMILIES`."""
    with tempfile.TemporaryDirectory() as folder:
        return FIELD_FAMILIES[name](Workshop(Path(folder))).read_bytes()
