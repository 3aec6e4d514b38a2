"""Samples -> windows of one length at one level: what the network hears, in training and inference alike.

The rule for level and silence. The constant part is taken off. A clip's loud level is the root mean square that a tenth
of its pieces of 25 ms exceed; it is set to -20 dB of full scale, so that gain tells nothing. A window whose own loud
level lies 30 dB below the clip's is silence and left out. A clip shorter than a window is repeated until it fills one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..modality import Unreadable

WINDOWS = "windows"  # the only kind of view
SAMPLE_RATE = 16_000
_PIECE = SAMPLE_RATE // 40
_LOUD_SHARE = 0.1  # of the pieces are louder than the loud level
_SILENT_LEVEL = 10 ** (-80 / 20)  # of full scale: nothing but the rounding of 16 bits
_FULL_SCALE = 32767


@dataclass(frozen=True)
class ViewConfig:
    """How windows are cut. Travels with the weights."""

    window_samples: int = 3 * SAMPLE_RATE  # the labelled clips have up to 3 s
    max_windows: int = 8  # spread evenly over the clip; neighbours may overlap, at most by half
    min_seconds: float = 0.25  # a shorter clip is not scored
    loud_level: float = 0.1  # of full scale; speech peaks are up to eight times the loud level
    silence_decibels: float = 30.0  # below the clip's loud level

    def __post_init__(self) -> None:
        if self.window_samples < SAMPLE_RATE // 4:
            raise ValueError(f"window_samples is {self.window_samples}; it must be at least {SAMPLE_RATE // 4}")
        if self.max_windows < 1:
            raise ValueError(f"max_windows is {self.max_windows}; it must be at least 1")
        if not 0 < self.loud_level < 1:
            raise ValueError(f"loud_level is {self.loud_level}; it must lie between 0 and 1")

    @property
    def max_bytes(self) -> int:
        """Of the windows of one clip."""
        return 2 * self.window_samples * self.max_windows


def cut_windows(samples: np.ndarray, config: ViewConfig) -> tuple[np.ndarray, np.ndarray]:
    """float32 (N,) at 16 kHz -> (starts, windows), 1 <= V <= max_windows, in the order of time.

    Returns: int (V,), in samples; int16 (V, window_samples). Raises: Unreadable: too short, or silent.
    """
    if len(samples) < config.min_seconds * SAMPLE_RATE:
        raise Unreadable(f"only {len(samples) / SAMPLE_RATE:.2f} s of sound; {config.min_seconds} s are needed")
    samples = samples - samples.mean(dtype=np.float64).astype(np.float32)
    loud = loud_level(samples)
    if loud < _SILENT_LEVEL:
        raise Unreadable(f"silent: its loud level is {20 * np.log10(max(loud, 1e-9)):.0f} dB of full scale")
    samples = samples * np.float32(config.loud_level / loud)
    if len(samples) < config.window_samples:
        samples = np.resize(samples, config.window_samples)
    starts = window_starts(len(samples), config)
    windows = np.stack([samples[start : start + config.window_samples] for start in starts])
    least = config.loud_level * 10 ** (-config.silence_decibels / 20)
    heard = np.array([loud_level(window - window.mean()) >= least for window in windows])  # an offset is no sound
    if heard.any():
        starts, windows = starts[heard], windows[heard]
    return starts, np.rint(np.clip(windows, -1, 1) * _FULL_SCALE).astype(np.int16)


def window_starts(num_samples: int, config: ViewConfig) -> np.ndarray:
    """Where windows begin: evenly from the first sample to the last window that fits.

    A clip of 7 s and windows of 3 s: |---|   |   |---|, starts at 0, 2 and 4 s; of 3 s: one, at 0.
    """
    free = num_samples - config.window_samples
    count = min(config.max_windows, 1 + -(-free // config.window_samples))
    return np.linspace(0, free, count).round().astype(int)


def loud_level(samples: np.ndarray) -> float:
    """The root mean square that a tenth of the pieces of 25 ms exceed. samples: float32 (N,), N > 0."""
    pieces = samples[: len(samples) // _PIECE * _PIECE].reshape(-1, _PIECE) if len(samples) >= _PIECE else samples[None]
    levels = np.sqrt(np.square(pieces, dtype=np.float64).mean(axis=1))
    return float(np.quantile(levels, 1 - _LOUD_SHARE))


def split_windows(content: np.ndarray, config: ViewConfig) -> np.ndarray:
    """uint8 (n,), as `AudioPreparation` gives it -> int16 (V, window_samples), without a copy. Raises: ValueError."""
    num_bytes = 2 * config.window_samples
    if not 0 < len(content) <= config.max_bytes or len(content) % num_bytes:
        raise ValueError(f"{len(content)} bytes are not 1 to {config.max_windows} windows of {num_bytes} bytes")
    return content.view(np.int16).reshape(-1, config.window_samples)
