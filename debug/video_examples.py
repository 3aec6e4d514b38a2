"""The debug dataset's videos: real footage as shipped and re-encoded, rendered scenes as "generated"."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

import av
import numpy as np

from debug.check_submission import BROKEN
from debug.layouts import Example, with_spoilt
from debug.scenes import Scene, clouds, discs, plasma, shaky_noise
from model.run.worker import leave_real_time

FRAMES_PER_SECOND = 24
NUM_FRAMES = 24


@dataclass(frozen=True)
class Encoding:
    """How frames become a file. options: of the encoder. fragmented: an MP4 without one index."""

    suffix: str
    container: str
    codec: str
    pixels: str = "yuv420p"
    options: Mapping[str, str] = field(default_factory=dict)
    fragmented: bool = False


_X264 = {"preset": "veryfast", "x264-params": "mbtree=0"}  # with macroblock trees x264 gives other bytes every time
ENCODINGS = {
    "h264": Encoding(".mp4", "mp4", "libx264", options={**_X264, "crf": "20"}),
    "h264-444": Encoding(".mkv", "matroska", "libx264", "yuv444p", {**_X264, "crf": "16"}),
    "h264-low": Encoding(".mp4", "mp4", "libx264", options={**_X264, "crf": "36"}),
    "hevc": Encoding(".mkv", "matroska", "libx265", options={"crf": "24", "x265-params": "log-level=none:pools=1"}),
    "vp9": Encoding(".webm", "webm", "libvpx-vp9", options={"crf": "30", "deadline": "realtime", "cpu-used": "8"}),
    "av1": Encoding(".mp4", "mp4", "libsvtav1", options={"preset": "11", "svtav1-params": "lp=1"}),
    "av1-webm": Encoding(".webm", "webm", "libsvtav1", options={"preset": "11", "svtav1-params": "lp=1"}),
    "mpeg4": Encoding(".avi", "avi", "mpeg4", options={"b": "800k"}),
    "mpeg2": Encoding(".mpg", "mpeg", "mpeg2video", options={"b": "1500k"}),
    "mjpeg": Encoding(".mov", "mov", "mjpeg", "yuvj420p", {"q": "4"}),
}
# Rendered clips: (scene, encoding, width, height, treatment).
_RENDERED: tuple[tuple[Scene, str, int, int, str], ...] = (
    (plasma, "h264", 320, 240, ""),
    (plasma, "hevc", 480, 272, ""),
    (plasma, "vp9", 320, 180, ""),
    (plasma, "av1", 256, 256, ""),
    (discs, "mpeg4", 320, 240, ""),
    (discs, "mjpeg", 352, 288, ""),
    (discs, "h264", 240, 426, ""),
    (discs, "h264-low", 320, 240, "grey"),
    (clouds, "av1-webm", 320, 180, ""),
    (clouds, "h264", 320, 240, "letterbox"),
    (clouds, "mpeg2", 352, 288, ""),
    (clouds, "h264-444", 160, 120, ""),
)
# Re-encoded footage: (clip, encoding, treatment).
_REENCODED: tuple[tuple[str, str, str], ...] = (
    ("bikes", "hevc", ""),
    ("bikes", "vp9", "grey"),
    ("bikes", "mpeg4", ""),
    ("bikes", "h264-low", "letterbox"),
    ("carphone_pristine", "av1", ""),
    ("carphone_pristine", "mjpeg", ""),
    ("carphone_pristine", "h264-444", ""),
    ("bigbuckbunny", "av1-webm", ""),
)


def build_examples(footage: Mapping[str, bytes]) -> list[Example]:
    """Every clip of the debug dataset. Without footage rendered noise stands in for it, so that both labels occur."""
    examples = list(_build_real(footage)) if footage else list(_build_stand_ins())
    for number, (scene, encoding, width, height, treatment) in enumerate(_RENDERED):
        frames = _treat(scene(NUM_FRAMES, height, width, number), treatment)
        name = "-".join(filter(None, [scene.__name__, encoding, f"{width}x{height}", treatment]))
        split = "public" if scene in (plasma, discs) else "private"
        examples.append(_example(name, "generated", f"rendered {scene.__name__}", split, encoding, frames))
    whole = encode_frames(plasma(NUM_FRAMES, 240, 320, 99), replace(ENCODINGS["h264"], fragmented=True))
    damaged = Example("damaged-salvageable", "generated", "rendered plasma", "public", ".mp4", whole)
    unfinished = encode_frames(discs(NUM_FRAMES, 240, 320, 98), ENCODINGS["h264"])  # its index comes last, and is cut
    return with_spoilt(examples, damaged, Example("broken", "real", BROKEN, "public", ".mp4", unfinished))


def _build_real(footage: Mapping[str, bytes]) -> Iterator[Example]:
    for name, content in footage.items():
        split = "private" if name == "bigbuckbunny" else "public"
        yield Example(f"{name}-as-shipped", "real", _source_of(name), split, ".mp4", content)
    frames = {name: decode_frames(footage[name], NUM_FRAMES) for name in sorted({clip for clip, *_ in _REENCODED})}
    for clip, encoding, treatment in _REENCODED:
        name = "-".join(filter(None, [clip, encoding, treatment]))
        split = "private" if clip == "bigbuckbunny" else "public"
        yield _example(name, "real", _source_of(clip), split, encoding, _treat(frames[clip], treatment))


def _source_of(clip: str) -> str:
    return "footage " + clip.split("_")[0]


def _build_stand_ins() -> Iterator[Example]:
    for number, encoding in enumerate(("h264", "hevc", "vp9", "mpeg4", "mjpeg", "av1")):
        frames = shaky_noise(NUM_FRAMES, 240, 320, number)
        split = "public" if number % 2 == 0 else "private"
        yield _example(f"stand-in-{encoding}", "real", f"stand-in {split}", split, encoding, frames)


def _example(name: str, label: str, source: str, split: str, encoding: str, frames_thwc: np.ndarray) -> Example:
    chosen = ENCODINGS[encoding]
    return Example(name, label, source, split, chosen.suffix, encode_frames(frames_thwc, chosen))


def _treat(frames_thwc: np.ndarray, treatment: str) -> np.ndarray:
    """`grey`: no colour; `letterbox`: black bars over an eighth at top and bottom; empty: as it is."""
    if treatment == "grey":
        return np.repeat(frames_thwc.mean(axis=-1, keepdims=True).astype(np.uint8), 3, axis=-1)
    if treatment == "letterbox":
        bar = frames_thwc.shape[1] // 8
        frames_thwc = frames_thwc.copy()
        frames_thwc[:, :bar] = frames_thwc[:, -bar:] = 0
    return frames_thwc


def encode_frames(frames_thwc: np.ndarray, encoding: Encoding) -> bytes:
    """uint8 RGB frames (T, H, W, 3), even sides, to a video file in memory."""
    os.environ.setdefault("SVT_LOG", "0")  # the AV1 encoder is chatty
    buffer = io.BytesIO()
    options = {"fflags": "+bitexact"}
    if encoding.fragmented:
        options["movflags"] = "frag_keyframe+empty_moov"
    with av.open(buffer, "w", format=encoding.container, options=options) as container:
        stream = container.add_stream(encoding.codec, rate=FRAMES_PER_SECOND, options=dict(encoding.options))
        stream.height, stream.width = frames_thwc.shape[1:3]
        stream.pix_fmt = encoding.pixels
        stream.codec_context.gop_size = 12
        stream.codec_context.thread_count = 1
        for index, pixels in enumerate(frames_thwc):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FRAMES_PER_SECOND)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    leave_real_time()
    return buffer.getvalue()


def decode_frames(content: bytes, num_frames: int) -> np.ndarray:
    """The first frames, uint8 RGB (T, H, W, 3), sides cut to even numbers."""
    with av.open(io.BytesIO(content)) as container:
        frames = itertools.islice(container.decode(video=0), num_frames)
        whole = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
    height, width = (side // 2 * 2 for side in whole.shape[1:3])
    return np.ascontiguousarray(whole[:, :height, :width])
