"""Procedural moving pictures: the "generated" half of the debug dataset. Seeded, NumPy only.

Every scene is a function (num_frames, height, width, seed) -> uint8 RGB (T, H, W, 3).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Scene = Callable[[int, int, int, int], np.ndarray]


def plasma(num_frames: int, height: int, width: int, seed: int) -> np.ndarray:
    """Sums of sines that drift: smooth colour, no texture."""
    rng = np.random.default_rng(seed)
    waves = rng.uniform(0.01, 0.06, size=(3, 4, 2))
    speeds = rng.uniform(-0.4, 0.4, size=(3, 4))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    frames = []
    for t in range(num_frames):
        channels = [
            sum(
                np.sin(np.float32(fx) * x + np.float32(fy) * y + np.float32(6 * speed * t))
                for (fx, fy), speed in zip(wave, speed_of_wave, strict=True)
            )
            for wave, speed_of_wave in zip(waves, speeds, strict=True)
        ]
        frames.append(127.5 + 31.8 * np.stack(channels, axis=-1))
    return _to_bytes(frames)


def discs(num_frames: int, height: int, width: int, seed: int) -> np.ndarray:
    """Shaded balls that bounce over a gradient: hard edges, clear motion."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    background = np.stack([60 + 120 * x / width, 80 + 100 * y / height, 160 - 60 * x / width], axis=-1)
    radii = rng.uniform(0.06, 0.16, size=8).astype(np.float32) * min(height, width)
    starts, steps = rng.uniform(0, 1, size=(8, 2)), rng.uniform(-0.03, 0.03, size=(8, 2))
    colours = rng.uniform(60, 255, size=(8, 3))
    frames = []
    for t in range(num_frames):
        frame = background.copy()
        for radius, start, step, colour in zip(radii, starts, steps, colours, strict=True):
            left, top = np.abs((start + step * t) % 2 - 1)  # a triangle wave: bounces at the edges
            squared = ((x - np.float32(left * width)) ** 2 + (y - np.float32(top * height)) ** 2) / radius**2
            inside = squared < 1
            frame[inside] = colour * (0.3 + 0.7 * np.sqrt(1 - squared[inside]))[:, None]
        frames.append(frame)
    return _to_bytes(frames)


def clouds(num_frames: int, height: int, width: int, seed: int) -> np.ndarray:
    """Fractal noise under a slow zoom: texture at every scale."""
    rng = np.random.default_rng(seed)
    texture = np.zeros((3, 512, 512))
    for cell in (1, 2, 4, 8, 16, 32, 64):
        texture += np.kron(rng.normal(0, cell**0.5, size=(3, 512 // cell, 512 // cell)), np.ones((cell, cell)))
    texture = 127 + 45 * texture / texture.std()
    y, x = np.mgrid[:height, :width].astype(np.float32)
    frames = []
    for t in range(num_frames):
        scale = 1.02**-t
        rows = (((y - height / 2) * scale + 256 + t) % 512).astype(int)
        columns = (((x - width / 2) * scale + 256) % 512).astype(int)
        frames.append(np.moveaxis(texture[:, rows, columns], 0, -1))
    return _to_bytes(frames)


def shaky_noise(num_frames: int, height: int, width: int, seed: int) -> np.ndarray:
    """Clouds with sensor-like noise and a shaking hand: stands in for camera footage where there is none."""
    rng = np.random.default_rng(seed)
    still = clouds(1, height + 16, width + 16, seed)[0].astype(np.float32)
    frames = []
    for _ in range(num_frames):
        top, left = rng.integers(0, 17, size=2)
        frames.append(still[top : top + height, left : left + width] + rng.normal(0, 9, size=(height, width, 1)))
    return _to_bytes(frames)


def _to_bytes(frames: list[np.ndarray]) -> np.ndarray:
    return np.stack(frames).clip(0, 255).astype(np.uint8)
