"""Sounds made up for tests: pulses through formants, with pauses. No speech, but with the statistics of speech."""

from __future__ import annotations

import numpy as np
from scipy import signal


def toy_voice(seconds: float = 2.0, rate: int = 16_000, *, seed: int = 0) -> np.ndarray:
    """float32 (N,): syllables at 4 Hz of a gliding voice; peaks at 0.5."""
    rng = np.random.default_rng(seed)
    count = round(seconds * rate)
    times = np.arange(count) / rate
    pitch = 110 * 2 ** (0.3 * np.sin(2 * np.pi * (0.7 * times + rng.random())))
    pulses = np.diff(np.floor(np.cumsum(pitch / rate)), prepend=0.0) + 0.02 * rng.standard_normal(count)
    voice = np.zeros(count)
    for formant, width in ((600, 80), (1400, 120), (2600, 200)):
        radius, angle = np.exp(-np.pi * width / rate), 2 * np.pi * formant * (1 + 0.1 * rng.standard_normal()) / rate
        voice += signal.lfilter([1 - radius], [1, -2 * radius * np.cos(angle), radius**2], pulses)
    voice *= np.clip(np.sin(2 * np.pi * 2 * times) ** 2 * 1.5 - 0.2, 0.001, 1)
    return (0.5 * voice / np.abs(voice).max()).astype(np.float32)
