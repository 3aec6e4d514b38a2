"""A formant synthesiser: the "generated" half of the debug dataset for speech. Seeded, NumPy only.

Each pulse of the glottis rings the formants of a vowel as damped sinusoids (formant wave functions, Rodet 1984);
fricatives are filtered noise. What it says are random syllables.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Frequencies of the first three formants of a man's vowels, Hz (Peterson and Barney 1952)
_VOWELS = {
    "i": (270, 2290, 3010), "e": (530, 1840, 2480), "a": (730, 1090, 2440), "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}  # fmt: skip
_BANDWIDTHS = (60.0, 90.0, 150.0)  # Hz
_LEVELS = (1.0, 0.5, 0.25)
_RING_SECONDS = 0.025


@dataclass(frozen=True)
class Voice:
    """pitch: Hz; tract: formant frequencies over a man's; breath: noise under the vowels, share of their level."""

    name: str
    pitch: float
    tract: float
    melody: float  # how far the pitch moves, share of itself
    breath: float = 0.0


VOICES = (
    Voice("low voice", 105.0, 1.0, melody=0.15),
    Voice("high voice", 210.0, 1.17, melody=0.2, breath=0.05),
    Voice("robot", 130.0, 1.05, melody=0.0),
)
WHISPER = Voice("whisper", 160.0, 1.1, melody=0.1, breath=4.0)  # stands in for a person where there is no recording


def speak(voice: Voice, seconds: float, sample_rate: int, seed: int) -> np.ndarray:
    """Syllables with pauses between the words. Returns float32 (N,), peak 0.5."""
    rng = np.random.default_rng(seed)
    samples = np.zeros(round(seconds * sample_rate))
    at, syllable = round(0.1 * sample_rate), 0
    while at < len(samples):
        length = round(rng.uniform(0.05, 0.1) * sample_rate)
        _add(samples, at, 0.15 * _fricative(length, sample_rate, rng))
        at += length
        length = round(rng.uniform(0.12, 0.25) * sample_rate)
        vowel = _vowel(voice, length, sample_rate, at / len(samples), rng)
        _add(samples, at, vowel)
        at += length
        syllable += 1
        if syllable % 4 == 0:
            at += round(rng.uniform(0.1, 0.3) * sample_rate)
    return (0.5 * samples / np.abs(samples).max()).astype(np.float32)


def _vowel(voice: Voice, length: int, sample_rate: int, progress: float, rng: np.random.Generator) -> np.ndarray:
    """One vowel, float64 (length + ringing,); the pitch falls over the sentence (progress: 0 to 1)."""
    formants = voice.tract * np.asarray(list(_VOWELS.values())[rng.integers(len(_VOWELS))], dtype=float)
    time = np.arange(round(_RING_SECONDS * sample_rate)) / sample_rate
    attack = np.minimum(1.0, time / 0.001)
    ring = np.zeros(len(time))
    for frequency, bandwidth, level in zip(formants, _BANDWIDTHS, _LEVELS, strict=True):
        if frequency < sample_rate / 2:
            ring += level * attack * np.exp(-np.pi * bandwidth * time) * np.sin(2 * np.pi * frequency * time)
    samples = np.zeros(length + len(ring))
    pitch = voice.pitch * (1 + voice.melody * (0.5 - progress + 0.3 * rng.normal()))
    at = 0.0
    while at < length:
        loudness = np.sin(np.pi * at / length) ** 0.5
        _add(samples, int(at), loudness * ring)
        at += sample_rate / pitch * (1 + 0.1 * voice.melody * rng.normal())
    breath = np.convolve(rng.normal(0, 0.1, length), ring)[: len(samples)]
    samples[: len(breath)] += voice.breath * breath
    return samples


def _fricative(length: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Noise above 2.5 kHz that swells and fades, float64 (length,)."""
    spectrum = np.fft.rfft(rng.normal(size=length))
    spectrum[np.fft.rfftfreq(length, 1 / sample_rate) < 2500] = 0
    return np.fft.irfft(spectrum, length) * np.hanning(length)


def _add(samples: np.ndarray, at: int, part: np.ndarray) -> None:
    """Add `part` from `at` on, as far as there is room."""
    room = samples[at : at + len(part)]
    room += part[: len(room)]
