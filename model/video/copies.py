"""Seeded post-processing of frames: what people do to a clip between the camera or generator and the viewer.

Every operation is a pure function on uint8 RGB (T, H, W, 3) with a severity from 1 (light) to 3 (heavy) and a NumPy
generator; both classes get them alike, in training (augmentation) and in measurement (robustness ladder).
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import av
import numpy as np
from PIL import Image, ImageFilter

Operation = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]

SEVERITIES = (1, 2, 3)
_MIN_SIDE = 64  # no operation makes a frame smaller than this
_FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BOX)

# Constant-rate factors per severity: light is hardly visible, heavy is what messengers deliver.
_CRF = {
    "h264": {1: (20, 25), 2: (26, 31), 3: (32, 38)},
    "hevc": {1: (22, 27), 2: (28, 33), 3: (34, 40)},
    "vp9": {1: (28, 34), 2: (36, 44), 3: (46, 54)},
}
_ENCODERS = {
    # x264's AVX-512 code, with macroblock trees, gave other pixels at equal calls (up to 22 grey levels off).
    "h264": ("libx264", {"preset": "veryfast", "x264-params": "asm=avx2:mbtree=0:threads=1"}),
    "hevc": ("libx265", {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"}),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "b": "0", "row-mt": "0"}),
}


def _pick(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def _pick_filter(rng: np.random.Generator) -> Image.Resampling:
    return _FILTERS[rng.integers(len(_FILTERS))]


def resize_frames(
    frames_thwc: np.ndarray, height: int, width: int, *, resample: Image.Resampling = Image.Resampling.BICUBIC
) -> np.ndarray:
    """Resize every frame (anti-aliased when shrinking)."""
    images = (Image.fromarray(frame).resize((width, height), resample) for frame in frames_thwc)
    return np.stack([np.asarray(image) for image in images])


def _scaled_sides(frames_thwc: np.ndarray, factor: float) -> tuple[int, int]:
    height, width = frames_thwc.shape[1:3]
    return max(_MIN_SIDE, round(height * factor)), max(_MIN_SIDE, round(width * factor))


def resize(frames_thwc: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Shrink (mostly) or enlarge and stay at the new size, as a platform does."""
    if rng.random() < 0.3:
        factor = _pick(rng, *{1: (1.05, 1.2), 2: (1.2, 1.45), 3: (1.45, 1.8)}[severity])
    else:
        factor = _pick(rng, *{1: (0.8, 0.95), 2: (0.6, 0.8), 3: (0.4, 0.6)}[severity])
    return resize_frames(frames_thwc, *_scaled_sides(frames_thwc, factor), resample=_pick_filter(rng))


def rescale(frames_thwc: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Shrink and enlarge back to the first size: detail is lost, the size is not."""
    height, width = frames_thwc.shape[1:3]
    factor = _pick(rng, *{1: (0.75, 0.9), 2: (0.5, 0.75), 3: (0.35, 0.5)}[severity])
    small = resize_frames(frames_thwc, *_scaled_sides(frames_thwc, factor), resample=_pick_filter(rng))
    return resize_frames(small, height, width, resample=_pick_filter(rng))


def blur(frames_thwc: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian blur."""
    kernel = ImageFilter.GaussianBlur(_pick(rng, *{1: (0.4, 0.8), 2: (0.8, 1.4), 3: (1.4, 2.4)}[severity]))
    return np.stack([np.asarray(Image.fromarray(frame).filter(kernel)) for frame in frames_thwc])


def motion_blur(frames_thwc: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Mean over a straight path of whole-pixel shifts in one random direction; edges repeat."""
    length = int(rng.integers(*{1: (3, 5), 2: (5, 9), 3: (9, 16)}[severity]))
    angle = _pick(rng, 0.0, np.pi)
    steps = np.linspace(-(length - 1) / 2, (length - 1) / 2, length)
    shifts = {(round(float(np.sin(angle) * step)), round(float(np.cos(angle) * step))) for step in steps}
    reach = length // 2 + 1
    height, width = frames_thwc.shape[1:3]
    padded = np.pad(frames_thwc, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    total = np.zeros(frames_thwc.shape, np.uint16)
    for dy, dx in sorted(shifts):
        total += padded[:, reach + dy : reach + dy + height, reach + dx : reach + dx + width]
    return ((total + len(shifts) // 2) // len(shifts)).astype(np.uint8)


def noise(frames_thwc: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise, fresh in every frame; grey or coloured."""
    sigma = _pick(rng, *{1: (1.5, 4.0), 2: (4.0, 8.0), 3: (8.0, 16.0)}[severity])
    channels = 1 if rng.random() < 0.5 else 3
    grain = rng.standard_normal((*frames_thwc.shape[:3], channels), dtype=np.float32) * sigma
    return np.clip(frames_thwc + grain, 0, 255).round().astype(np.uint8)


def crop(frames_thwc: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Keep a random rectangle of the frame, each side shrunk by its own factor."""
    height, width = frames_thwc.shape[1:3]
    low, high = {1: (0.85, 0.97), 2: (0.7, 0.85), 3: (0.5, 0.7)}[severity]
    kept_h, kept_w = (max(_MIN_SIDE, round(side * _pick(rng, low, high))) for side in (height, width))
    kept_h, kept_w = min(kept_h, height), min(kept_w, width)
    top, left = int(rng.integers(height - kept_h + 1)), int(rng.integers(width - kept_w + 1))
    return np.ascontiguousarray(frames_thwc[:, top : top + kept_h, left : left + kept_w])


def colour(frames_thwc: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, gamma, saturation and white balance; at full severity sometimes grey-scale."""
    strength = {1: 0.08, 2: 0.18, 3: 0.35}[severity]
    gamma = np.exp(_pick(rng, -strength, strength))
    contrast, shift = np.exp(_pick(rng, -strength, strength)), _pick(rng, -strength, strength) * 0.3
    balance = np.exp(rng.uniform(-strength, strength, 3) * 0.4)
    levels = np.linspace(0.0, 1.0, 256)[:, None] * balance  # (256, 3)
    table = ((np.clip(levels, 0, 1) ** gamma - 0.5) * contrast + 0.5 + shift) * 255
    table = np.clip(table, 0, 255).astype(np.float32)
    out = np.stack([table[:, channel][frames_thwc[..., channel]] for channel in range(3)], axis=-1)
    saturation = np.exp(_pick(rng, -2 * strength, 2 * strength))
    if severity == 3 and rng.random() < 0.25:
        saturation = 0.0
    grey = (out @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    return np.clip(grey + (out - grey) * np.float32(saturation), 0, 255).round().astype(np.uint8)


def frame_rate(frames_thwc: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Another frame rate for the same seconds: frames are dropped, repeated or blended with their neighbour."""
    num_frames = len(frames_thwc)
    low, high = {1: (1.1, 1.3), 2: (1.3, 2.0), 3: (2.0, 3.0)}[severity]
    step = _pick(rng, low, high) if rng.random() < 0.6 else 1 / _pick(rng, low, high)
    times = np.arange(0, num_frames - 1 + 1e-9, step)
    if rng.random() < 0.5:
        return frames_thwc[times.round().astype(int)]
    first = np.floor(times).astype(int)
    second = np.minimum(first + 1, num_frames - 1)
    share = (times - first).astype(np.float32)[:, None, None, None]
    return (frames_thwc[first] * (1 - share) + frames_thwc[second] * share).round().astype(np.uint8)


def encode(frames_thwc: np.ndarray, codec: str, crf: int, *, fps: float = 25.0) -> bytes:
    """Encode to a Matroska file in memory, 4:2:0; an odd last row or column is cut off, as encoders demand."""
    if codec not in _ENCODERS:
        raise ValueError(f"codec is {codec!r}; valid codecs: {sorted(_ENCODERS)}")
    encoder, options = _ENCODERS[codec]
    height, width = frames_thwc.shape[1] // 2 * 2, frames_thwc.shape[2] // 2 * 2
    frames_thwc = np.ascontiguousarray(frames_thwc[:, :height, :width])
    buffer = io.BytesIO()
    # bitexact: no random segment id, so that equal frames give equal bytes
    with av.open(buffer, "w", format="matroska", container_options={"fflags": "+bitexact"}) as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream(encoder, rate=rate, options={**options, "crf": str(crf), "g": "250"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames_thwc:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def decode(video: bytes) -> np.ndarray:
    """Every frame of an encoded clip, uint8 RGB (T, H, W, 3)."""
    with av.open(io.BytesIO(video)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def choose_crf(codec: str, severity: int, rng: np.random.Generator) -> int:
    """Draw a constant-rate factor of the codec's range for this severity."""
    low, high = _CRF[codec][severity]
    return int(rng.integers(low, high + 1))


def _reencode(codec: str, frames_thwc: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Into a codec at a random quality and back."""
    return decode(encode(frames_thwc, codec, choose_crf(codec, severity, rng)))


PIXEL_OPERATIONS: dict[str, Operation] = {
    "resize": resize,
    "rescale": rescale,
    "blur": blur,
    "motion_blur": motion_blur,
    "noise": noise,
    "crop": crop,
    "colour": colour,
    "frame_rate": frame_rate,
}
CODEC_OPERATIONS: dict[str, Operation] = {codec: partial(_reencode, codec) for codec in _ENCODERS}
OPERATIONS: dict[str, Operation] = {**PIXEL_OPERATIONS, **CODEC_OPERATIONS}

# How often a random chain takes each operation; it always ends with one codec, as every shared clip does.
_PIXEL_WEIGHTS = {
    "resize": 0.28, "rescale": 0.12, "blur": 0.1, "motion_blur": 0.07, "noise": 0.12, "crop": 0.11, "colour": 0.12,
    "frame_rate": 0.08,
}  # fmt: skip
_CODEC_WEIGHTS = {"h264": 0.7, "hevc": 0.15, "vp9": 0.15}


def apply_operation(frames_thwc: np.ndarray, name: str, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Run one named operation. Raises: ValueError for an unknown name, severity or layout."""
    if name not in OPERATIONS:
        raise ValueError(f"operation is {name!r}; valid operations: {sorted(OPERATIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity is {severity}; it must be one of {SEVERITIES}")
    if frames_thwc.ndim != 4 or frames_thwc.shape[-1] != 3 or frames_thwc.dtype != np.uint8:
        raise ValueError(f"frames are {frames_thwc.dtype} {frames_thwc.shape}; expected uint8 (T, H, W, 3)")
    return OPERATIONS[name](frames_thwc, severity, rng)


def random_chain(rng: np.random.Generator, *, max_pixel_operations: int = 3) -> list[tuple[str, int]]:
    """Draw 0 to `max_pixel_operations` different pixel operations, then a codec: [(name, severity), ...]."""
    count = int(rng.integers(max_pixel_operations + 1))
    names = list(_PIXEL_WEIGHTS)
    picked = rng.choice(len(names), size=count, replace=False, p=list(_PIXEL_WEIGHTS.values()))
    chain = [(names[index], int(rng.choice(SEVERITIES))) for index in picked]
    codec = str(rng.choice(list(_CODEC_WEIGHTS), p=list(_CODEC_WEIGHTS.values())))
    return [*chain, (codec, int(rng.choice(SEVERITIES)))]


def apply_chain(frames_thwc: np.ndarray, chain: list[tuple[str, int]], rng: np.random.Generator) -> np.ndarray:
    """Run the operations of a chain one after the other."""
    for name, severity in chain:
        frames_thwc = apply_operation(frames_thwc, name, severity, rng)
    return frames_thwc


_KEPT_FRAMES = 8  # of a processed copy: an encoder looks ahead; views come from the first of them
_MAX_PIXELS = 1_000_000  # of a processed copy: larger frames are cut or shrunk to this first


def process(frames_thwc: np.ndarray, variant: str, file: str) -> np.ndarray:
    """The post-processed copy of a clip's frames that variant and file name decide, whatever its class.

    frames_thwc: as many as a higher frame rate needs to leave some. Returns up to 8 frames, of up to a megapixel each.
    """
    rng = np.random.default_rng([zlib.crc32(variant.encode()), zlib.crc32(file.encode())])
    chain = random_chain(rng)
    for step in [step for step in chain if step[0] == "frame_rate"]:  # first, while all frames are there
        frames_thwc = apply_chain(frames_thwc, [step], rng)
    frames_thwc = frames_thwc[:_KEPT_FRAMES]
    frames_thwc = _bound(frames_thwc, rng)
    return apply_chain(frames_thwc, [step for step in chain if step[0] != "frame_rate"], rng)


def _bound(frames_thwc: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut a window out of large frames, or shrink them, each half of the time: 1080p costs as 480p does."""
    height, width = frames_thwc.shape[1:3]
    if height * width <= _MAX_PIXELS:
        return frames_thwc
    factor = (_MAX_PIXELS / (height * width)) ** 0.5
    kept_h, kept_w = int(height * factor), int(width * factor)
    if rng.random() < 0.5:
        top, left = rng.integers(height - kept_h + 1), rng.integers(width - kept_w + 1)
        return np.ascontiguousarray(frames_thwc[:, top : top + kept_h, left : left + kept_w])
    return resize_frames(frames_thwc, kept_h, kept_w)
