"""Small real videos for the tests: every codec, container and oddity, encoded with PyAV on the spot.

A picture is a smooth gradient with moving shapes and fine texture, so that a wrong matrix, range, rotation or frame
order shows in its pixels. Rendering is seeded: the same call gives the same bytes.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import struct
import subprocess
import sys
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from model.run.worker import leave_real_time

ROOT = Path(__file__).resolve().parent.parent
_RENDER_TRIES = 3
os.environ.setdefault("SVT_LOG", "1")  # errors only: the AV1 encoder prints a page a clip


@dataclass(frozen=True)
class ClipSpec:
    """How a clip is encoded. pixels: the encoder's pixel format; turn: rotation in the header, degrees clockwise."""

    container: str = "mp4"
    codec: str | None = "libx264"
    pixels: str = "yuv420p"
    width: int = 192
    height: int = 128
    num_frames: int = 18
    rate: int = 12
    keyframe_every: int = 8
    options: dict[str, str] = field(default_factory=dict)
    matrix: int = 2  # AVCOL_SPC_*: 1 BT.709, 2 unspecified, 5 BT.470BG, 6 SMPTE 170M, 9 BT.2020
    full_range: bool = False
    transfer: int = 2  # AVCOL_TRC_*: 2 unspecified, 16 PQ, 18 HLG
    turn: int = 0
    audio: bool = False
    second_video: tuple[int, int] | None = None  # (width, height) of another stream: first, not the default
    variable_rate: bool = False
    first_pts: int = 0
    grey: bool = False
    alpha: bool = False


_INTRA = {"g": "1"}
_X265 = {"x265-params": "log-level=none:pools=1:keyint=8"}
_QUICK_VPX = {"deadline": "realtime", "cpu-used": "8"}


def _hdr(transfer: int) -> ClipSpec:
    """BT.2020 in ten bits; the stream says so as well as the container."""
    colours = f":colorprim=9:transfer={transfer}:colormatrix=9"
    options = {"x265-params": _X265["x265-params"] + colours}
    return ClipSpec(codec="libx265", pixels="yuv420p10le", matrix=9, transfer=transfer, options=options)


SPECS: dict[str, ClipSpec] = {
    "h264": ClipSpec(),
    "h264_709": ClipSpec(matrix=1, width=320, height=240),
    "h264_full_range": ClipSpec(pixels="yuvj420p", matrix=6, full_range=True),
    "h264_709_full_range": ClipSpec(pixels="yuvj420p", matrix=1, full_range=True),
    "h264_444": ClipSpec(pixels="yuv444p", matrix=1),
    "h264_422_10bit": ClipSpec(pixels="yuv422p10le", matrix=1),
    "h264_b_frames": ClipSpec(options={"bf": "3", "b_strategy": "0"}, num_frames=30),
    "h264_intra": ClipSpec(keyframe_every=1),
    "h264_one_key": ClipSpec(keyframe_every=250, num_frames=40),
    "h264_open_gop": ClipSpec(options={"x264-params": "open-gop=1:bframes=3"}, num_frames=30),
    "h264_interlaced": ClipSpec(options={"flags": "+ildct+ilme", "x264-params": "tff=1"}),
    "h264_grey": ClipSpec(pixels="gray", grey=True),
    "h264_grey_yuv": ClipSpec(grey=True),
    "h264_odd": ClipSpec(pixels="yuv444p", width=161, height=97),
    "h264_portrait": ClipSpec(width=96, height=208),
    "h264_tiny": ClipSpec(width=16, height=16),
    "h264_one_frame": ClipSpec(num_frames=1),
    "h264_two_frames": ClipSpec(num_frames=2),
    "h264_variable_rate": ClipSpec(variable_rate=True),
    "h264_late_start": ClipSpec(first_pts=120, container="matroska"),
    "h264_audio": ClipSpec(audio=True),
    "h264_turned_90": ClipSpec(turn=90),
    "h264_turned_180": ClipSpec(turn=180, container="mov"),
    "h264_turned_270": ClipSpec(turn=270),
    "h264_mkv": ClipSpec(container="matroska"),
    "h264_ts": ClipSpec(container="mpegts"),
    "h264_avi": ClipSpec(container="avi", options={"bf": "0"}),
    "h264_flv": ClipSpec(container="flv"),
    "h264_fragmented": ClipSpec(options={"movflags": "frag_keyframe+empty_moov"}),
    "two_videos": ClipSpec(second_video=(64, 48), matrix=1),
    "hevc": ClipSpec(codec="libx265", options=_X265),
    "hevc_10bit": ClipSpec(codec="libx265", pixels="yuv420p10le", matrix=1, options=_X265),
    "hevc_hdr10": _hdr(transfer=16),
    "vp8": ClipSpec("webm", "libvpx", options={"deadline": "realtime", "cpu-used": "8"}),
    "vp8_alpha": ClipSpec(
        "webm", "libvpx", "yuva420p", alpha=True, options={"auto-alt-ref": "0", "deadline": "realtime"}
    ),
    "vp9": ClipSpec("webm", "libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"}, matrix=1),
    "vp9_alpha": ClipSpec(
        "webm", "libvpx-vp9", "yuva420p", alpha=True, options={"deadline": "realtime", "cpu-used": "8"}
    ),
    "av1": ClipSpec("mp4", "libsvtav1", options={"preset": "12", "svtav1-params": "lp=1"}, matrix=1),
    "av1_webm": ClipSpec("webm", "libsvtav1", options={"preset": "12", "svtav1-params": "lp=1"}),
    "mpeg4": ClipSpec("mp4", "mpeg4", options={"q": "3"}),
    "mpeg4_avi": ClipSpec("avi", "mpeg4"),
    "mpeg2_ps": ClipSpec("mpeg", "mpeg2video", rate=25, num_frames=40),
    "mpeg2_ts": ClipSpec("mpegts", "mpeg2video", rate=25),
    "mjpeg_avi": ClipSpec("avi", "mjpeg", "yuvj420p", full_range=True),
    "mjpeg_mov": ClipSpec("mov", "mjpeg", "yuvj422p", full_range=True),
    "wmv2": ClipSpec("asf", "wmv2"),
    "prores": ClipSpec("mov", "prores_ks", "yuv422p10le", matrix=1),
    "prores_alpha": ClipSpec("mov", "prores_ks", "yuva444p10le", alpha=True),
    "qtrle_alpha": ClipSpec("mov", "qtrle", "argb", alpha=True),
    "ffv1_mkv": ClipSpec("matroska", "ffv1", "yuv420p", options=_INTRA),
    # The same codecs in other containers, and what only some combinations have.
    "hevc_mov": ClipSpec("mov", "libx265", options=_X265),
    "hevc_mkv": ClipSpec("matroska", "libx265", options=_X265),
    "hevc_ts": ClipSpec("mpegts", "libx265", options=_X265),
    "hevc_hlg": _hdr(transfer=18),
    "vp8_mkv": ClipSpec("matroska", "libvpx", options=_QUICK_VPX),
    "vp9_mp4": ClipSpec("mp4", "libvpx-vp9", options=_QUICK_VPX, matrix=1),
    "vp9_odd": ClipSpec("webm", "libvpx-vp9", options=_QUICK_VPX, width=161, height=97),
    "av1_mkv": ClipSpec("matroska", "libsvtav1", options={"preset": "12", "svtav1-params": "lp=1"}),
    "mpeg4_mov": ClipSpec("mov", "mpeg4", options={"q": "3"}),
    "mjpeg_mkv": ClipSpec("matroska", "mjpeg", "yuvj420p", full_range=True),
    "prores_mkv": ClipSpec("matroska", "prores_ks", "yuv422p10le", matrix=1),
    "wmv1_avi": ClipSpec("avi", "wmv1"),
    "gif": ClipSpec("gif", "gif", "rgb8", width=96, height=64),
    "audio_only": ClipSpec(codec=None, audio=True),
}
PLAYABLE = tuple(name for name in SPECS if name != "audio_only")


def picture(index: int, width: int, height: int, *, grey: bool = False) -> np.ndarray:
    """Frame `index`, uint8 RGB (height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    red = 255 * x / max(1, width - 1)
    green = 255 * y / max(1, height - 1)
    blue = 127 + 100 * np.sin((x + 2 * y + 6 * index) / 17)
    frame = np.stack([red, green, blue], axis=-1)
    left, top = (7 * index) % max(1, width - 8), (3 * index) % max(1, height - 8)
    frame[top : top + height // 4 + 1, left : left + width // 4 + 1] = (230, 40, 20)
    frame += np.random.default_rng(index).normal(0, 4, (height, width, 1))
    frame = frame.clip(0, 255).astype(np.uint8)
    return np.repeat(frame.mean(axis=-1, keepdims=True).astype(np.uint8), 3, axis=-1) if grey else frame


@functools.cache
def clip(name: str) -> bytes:
    """The bytes of SPECS[name], rendered once, by a process of its own: an encoder has crashed a test run (x265)."""
    path = _cache_folder() / name
    tries = 0
    while not path.exists():
        if tries == _RENDER_TRIES:
            raise RuntimeError(f"the process that renders {name} ended {tries} times without it; see what it printed")
        tries += 1
        subprocess.run([sys.executable, "-m", "tests.toy_clips", name], cwd=ROOT, check=False)
    return path.read_bytes()


def _cache_folder() -> Path:
    """For the clips as this file and this PyAV make them."""
    digest = hashlib.sha256(Path(__file__).read_bytes() + av.__version__.encode()).hexdigest()
    return ROOT / ".cache" / "test-clips" / digest[:16]


def _render_missing(first: str) -> None:
    """Write `first` and then every other clip that is not there; each appears whole or not at all."""
    folder = _cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    for name in (first, *SPECS):
        if not (folder / name).exists():
            partial = folder / f"{name}.{os.getpid()}.partial"
            partial.write_bytes(render(SPECS[name]))
            partial.replace(folder / name)


def render(spec: ClipSpec) -> bytes:
    """Encode a clip in memory."""
    file = io.BytesIO()
    with av.open(file, "w", format=spec.container, options=_container_options(spec)) as container:
        streams = []
        if spec.second_video:
            width, height = spec.second_video
            streams.append(_add_video(container, replace(spec, width=width, height=height)))
            streams[0].disposition = 0
        if spec.codec:
            streams.append(_add_video(container, spec))
            streams[-1].disposition = 1
        if spec.audio:
            _write_tone(container, seconds=spec.num_frames / spec.rate)
        for stream in streams:
            _write_video(container, stream, spec)
    leave_real_time()
    content = file.getvalue()
    return _turn(content, spec.turn) if spec.turn else content


def _container_options(spec: ClipSpec) -> dict[str, str]:
    return {"movflags": spec.options["movflags"]} if "movflags" in spec.options else {}


def _add_video(container: av.container.OutputContainer, spec: ClipSpec) -> av.video.stream.VideoStream:
    options = {"threads": "1", "g": str(spec.keyframe_every)}
    if spec.codec == "libx264":
        options["preset"] = (
            "ultrafast" if "bf" not in spec.options and "x264-params" not in spec.options else "veryfast"
        )
        options["crf"] = "18"
    options.update({name: value for name, value in spec.options.items() if name != "movflags"})
    stream = container.add_stream(spec.codec, rate=spec.rate, options=options)
    stream.width, stream.height, stream.pix_fmt = spec.width, spec.height, spec.pixels
    context = stream.codec_context
    context.gop_size = spec.keyframe_every
    if spec.codec in ("libvpx", "libvpx-vp9", "mpeg4", "mpeg2video", "mjpeg", "wmv1", "wmv2"):
        context.bit_rate = 4_000_000  # the default is for pictures of 1995
    context.colorspace = spec.matrix
    context.color_range = 2 if spec.full_range else 1
    context.color_trc = spec.transfer
    if spec.transfer != 2:
        context.color_primaries = 9
    return stream


def _write_video(container: av.container.OutputContainer, stream: av.video.stream.VideoStream, spec: ClipSpec) -> None:
    width, height = stream.codec_context.width, stream.codec_context.height
    for index in range(spec.num_frames):
        pixels = picture(index, width, height, grey=spec.grey)
        if spec.alpha:
            opacity = np.full((height, width, 1), 255, dtype=np.uint8)
            opacity[: height // 2] = 90
            frame = av.VideoFrame.from_ndarray(np.concatenate([pixels, opacity], axis=-1), format="rgba")
        else:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = frame.reformat(
            format="yuv420p" if spec.pixels == "gray" else spec.pixels,
            src_color_range=2,
            dst_color_range=2 if spec.full_range or spec.pixels in ("rgb8", "argb") else 1,
            dst_colorspace=spec.matrix if spec.matrix in (1, 5, 6, 9) else 5,
        )
        if spec.pixels == "gray":  # swscale would make it full range, which the encoder does not say
            frame = av.VideoFrame.from_ndarray(frame.to_ndarray()[:height], format="gray")
        steps = index + (index // 3) * 2 if spec.variable_rate else index
        frame.pts = spec.first_pts + steps
        frame.time_base = Fraction(1, spec.rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _write_tone(container: av.container.OutputContainer, *, seconds: float) -> None:
    stream = container.add_stream("aac", rate=16000)
    samples = np.sin(np.arange(int(16000 * seconds)) * 0.17).astype(np.float32)[None]
    for start in range(0, samples.shape[1] - 1023, 1024):
        frame = av.AudioFrame.from_ndarray(samples[:, start : start + 1024], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _turn(content: bytes, degrees: int) -> bytes:
    """Write a rotation into the display matrix of every track header of an mp4 or mov file."""
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    matrix = struct.pack(">9i", cos << 16, sin << 16, 0, -(sin << 16), cos << 16, 0, 0, 0, 1 << 30)
    data, at = bytearray(content), content.find(b"tkhd")
    while at >= 0:
        start = at + 4 + 4 + 20 + 8 + 8  # version 0: flags, times and ids, reserved, layer and volume
        data[start : start + 36] = matrix
        at = content.find(b"tkhd", at + 4)
    return bytes(data)


if __name__ == "__main__":
    _render_missing(sys.argv[1])
