"""Clips as the challenge has them, for the benchmark: 5 to 20 s, 480p to 1080p, H.264, key frames up to 250 apart.

What moves is a textured picture under a slow pan with a shaking hand, things that cross it, and sensor noise, so that
the bit rate (2 to 10 Mbit/s) and with it the decoder's work is that of camera footage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

_NOISE_TILES = 6


@dataclass(frozen=True)
class ClipPlan:
    """One clip. shots: scenes cut together; the encoder puts a key frame at each cut and after `key_frames_apart`."""

    width: int
    height: int
    seconds: float
    rate: int
    shots: int = 1
    key_frames_apart: int = 250
    crf: int = 23

    @property
    def num_frames(self) -> int:
        return round(self.seconds * self.rate)


_SIZES = ((1280, 720), (854, 480), (1920, 1080), (1280, 720), (640, 480), (720, 1280), (1920, 1080), (1280, 720))
_SECONDS = (10.0, 5.0, 8.0, 20.0, 14.0, 6.0, 12.0, 17.0)
_RATES = (30, 25, 24, 30)
_SHOTS = (1, 1, 1, 3, 1, 2)  # most clips are one shot; a cut gives a key frame


def plan_clips(count: int) -> list[ClipPlan]:
    """`count` clips that mix sizes, lengths, frame rates and numbers of shots; the same for the same count."""
    return [
        ClipPlan(
            *_SIZES[k % len(_SIZES)],
            seconds=_SECONDS[(k + k // 8) % len(_SECONDS)],
            rate=_RATES[k % len(_RATES)],
            shots=_SHOTS[k % len(_SHOTS)],
        )
        for k in range(count)
    ]


def make_clips(folder: Path, plans: list[ClipPlan]) -> list[Path]:
    """Encode every plan that is not in `folder` yet; returns the files in the plans' order."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, plan in enumerate(plans):
        name = f"{number:03d}_{plan.width}x{plan.height}_{plan.seconds:g}s_{plan.rate}_{plan.shots}.mp4"
        file = folder / name
        if not file.exists():
            partial = folder / f".partial_{name}"
            encode_clip(partial, plan, seed=number)
            partial.replace(file)
        files.append(file)
    return files


def encode_clip(path: Path, plan: ClipPlan, *, seed: int) -> None:
    """Render and encode one clip: x264, 4:2:0, preset `faster`, three B-frames, closed groups of pictures."""
    with av.open(str(path), "w", format="mp4") as container:
        options = {"preset": "faster", "crf": str(plan.crf), "g": str(plan.key_frames_apart)}
        stream = container.add_stream("libx264", rate=plan.rate, options=options)
        stream.width, stream.height, stream.pix_fmt = plan.width, plan.height, "yuv420p"
        for planes in render_planes(plan, seed=seed):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode(None))


def render_planes(plan: ClipPlan, *, seed: int) -> Iterator[np.ndarray]:
    """Frames as planar YUV 4:2:0, uint8 (height * 3 / 2, width), as PyAV takes them."""
    rng = np.random.default_rng(seed)
    width, height = plan.width, plan.height
    margin = 96
    noise = [rng.normal(0, 2.5, (height, width)).astype(np.int16) for _ in range(_NOISE_TILES)]
    bounds = np.linspace(0, plan.num_frames, plan.shots + 1).round().astype(int)
    for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
        luma = _texture(rng, height + 2 * margin, width + 2 * margin, mean=118, spread=42)
        blue, red = (_texture(rng, height // 2 + margin, width // 2 + margin, mean=128, spread=14) for _ in range(2))
        things = [_Thing(rng, height, width) for _ in range(3)]
        drift, place = rng.uniform(-0.8, 0.8, 2), np.zeros(2)
        for _ in range(start, stop):
            place = np.clip(place + drift + rng.normal(0, 0.35, 2), -margin + 2, margin - 2)
            picture = _crop(luma, margin + place, height, width).astype(np.int16)
            for thing in things:
                thing.draw(picture)
            picture += noise[rng.integers(_NOISE_TILES)]
            chroma = [_crop(plane, (margin + place) / 2, height // 2, width // 2) for plane in (blue, red)]
            planes = [picture.clip(16, 235).astype(np.uint8), *(plane.astype(np.uint8) for plane in chroma)]
            yield np.concatenate([plane.reshape(-1) for plane in planes]).reshape(height * 3 // 2, width)


class _Thing:
    """A textured rectangle that crosses the picture."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self._size = (height // 5, width // 7)
        self._pixels = _texture(rng, *self._size, mean=int(rng.integers(70, 180)), spread=30).astype(np.int16)
        self._at = rng.uniform(0, 0.7, 2) * (height, width)
        self._step = rng.uniform(-2.5, 2.5, 2)

    def draw(self, picture: np.ndarray) -> None:
        room = np.asarray(picture.shape) - self._size
        top, left = np.abs((self._at + room) % (2 * room) - room).astype(int)  # bounces at the edges
        picture[top : top + self._size[0], left : left + self._size[1]] = self._pixels
        self._at = self._at + self._step


def _crop(plane: np.ndarray, at: np.ndarray, height: int, width: int) -> np.ndarray:
    """Window at a fractional place, linear between the four nearest whole ones (two steps of 1/16 each)."""
    top, left = np.floor(at).astype(int)
    down, right = ((at - np.floor(at)) * 16).astype(np.uint16)
    window = plane[top : top + height + 1, left : left + width + 1].astype(np.uint16)
    window = (window[:-1] * (16 - down) + window[1:] * down) >> 4
    return ((window[:, :-1] * (16 - right) + window[:, 1:] * right) >> 4).astype(np.uint8)


def _texture(rng: np.random.Generator, height: int, width: int, *, mean: int, spread: float) -> np.ndarray:
    """Noise with the 1/f spectrum of natural pictures, uint8 (height, width)."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = 1
    spectrum = np.exp(2j * np.pi * rng.random(frequency.shape)) / frequency**1.15
    spectrum[0, 0] = 0
    picture = np.fft.irfft2(spectrum, s=(height, width))
    return (mean + spread * picture / picture.std()).clip(16, 235).astype(np.uint8)
