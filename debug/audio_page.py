"""What a page shows of one sound: its verdict, its spectrogram and the scores of its windows over time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from debug import markup
from debug.markup import CLASS_COLOURS, GREY
from debug.words import explain_score
from model.audio.detector import AudioDetector
from model.audio.reading import SAMPLE_RATE, Sound
from model.audio.views import WINDOWS, cut_windows

_FFT_SIZE, _HOP = 512, 128  # of the spectrogram: 32 and 8 ms
_RANGE_DECIBELS = 70.0  # below the loudest point; what is softer is drawn as silence
_MAX_COLUMNS = 1200  # of the drawn spectrogram


@dataclass(frozen=True)
class SoundLook:
    """A sound, its score, and the scores that it would have if all windows were like one of them."""

    sound: Sound
    score: float
    starts: np.ndarray  # seconds, float (V,), of the windows behind the score
    scores: np.ndarray  # float (V,)
    window_seconds: float


def study_sound(sound: Sound, detector: AudioDetector) -> SoundLook:
    """sound: as `AudioPreparation.read` gives it. Raises: Unreadable: too short, or silent."""
    config = detector.view_config
    starts, windows = cut_windows(sound.samples, config)
    features = detector.clip_features(windows.reshape(-1).view(np.uint8))
    scores = detector.view_scores(features)[WINDOWS]
    return SoundLook(
        sound, detector.score(features), starts / SAMPLE_RATE, np.asarray(scores), config.window_samples / SAMPLE_RATE
    )


def sound_section(look: SoundLook, genuine: str, words: str) -> list[str]:
    """HTML parts. genuine: the label that is not "generated"; words: the verdict in words."""
    sound = look.sound
    length = len(sound.samples) / SAMPLE_RATE
    whole = f"of {sound.duration_seconds:.1f} s" if math.isfinite(sound.duration_seconds) else "length unknown"
    tiles = [
        markup.tile("Verdict", words),
        markup.tile("Score", f"{look.score:+.2f}", "above 0: generated"),
        markup.tile("Listened to", f"{length:.1f} s", whole),
        markup.tile("Sampling rate", f"{sound.rate / 1000:g} kHz", f"heard at {SAMPLE_RATE / 1000:g} kHz, mono"),
    ]
    rests_on = (
        f"The score rests on {_windows(look)} of {look.window_seconds:g} s, spread evenly over what was"
        " listened to. Silent ones are left out."
    )
    said = markup.paragraph(explain_score(look.score, genuine)), markup.paragraph(rests_on)
    parts = [f'<div class="tiles">{"".join(tiles)}</div>', markup.side_by_side(*said)]
    if sound.note:
        parts.append(markup.box("note", "Read with losses.", sound.note))
    return [*parts, "<h3>Over time</h3>", sound_strip(look, genuine)]


def _windows(look: SoundLook) -> str:
    return f"{len(look.scores)} window{'s' * (len(look.scores) > 1)}"


def sound_strip(look: SoundLook, genuine: str) -> str:
    """Waveform, spectrogram, and below them each window's score where it lies, in one drawing."""
    from matplotlib.figure import Figure

    samples, seconds = look.sound.samples, len(look.sound.samples) / SAMPLE_RATE
    drawing = Figure(figsize=(8.0, 4.6), layout="constrained")
    wave, picture, scores = drawing.subplots(3, 1, sharex=True, height_ratios=(1, 3, 2))
    low, high = envelope(samples, _MAX_COLUMNS)
    wave.fill_between(np.linspace(0, seconds, len(low)), low, high, color=GREY, linewidth=0)
    wave.set_yticks([])
    picture.imshow(
        spectrogram(samples), origin="lower", aspect="auto", cmap="gray_r", extent=(0, seconds, 0, SAMPLE_RATE / 2000),
        vmin=-_RANGE_DECIBELS, vmax=0,
    )  # fmt: skip
    picture.set_ylabel("kHz")
    for start, score in zip(look.starts, look.scores, strict=True):
        colour = CLASS_COLOURS["generated" if score > 0 else genuine]
        stop = min(seconds, start + look.window_seconds)
        scores.plot([start, stop], [score, score], color=colour, linewidth=3, solid_capstyle="butt")
    scores.axhline(0, color="black", linewidth=0.8)
    scores.axhline(look.score, color="black", linewidth=0.8, linestyle="--")
    reach = 1.1 * max(1.0, float(np.abs(look.scores).max()), abs(look.score))
    scores.set_ylim(-reach, reach)
    scores.set_xlim(0, seconds)
    scores.set_xlabel("time (s)")
    scores.set_ylabel("score")
    text = (
        f"Waveform, spectrogram and score of {_windows(look)}, each as if all were like it: lowest"
        f" {look.scores.min():+.2f}, highest {look.scores.max():+.2f}. The whole (dashed): {look.score:+.2f}."
    )
    return markup.figure(drawing, text, f"{text} Vermilion speaks for generated, blue for {genuine}.")


def plain_sound_strip(sound: Sound) -> str:
    """Waveform and spectrogram without a score, for when no weights are at hand."""
    from debug.drawing import new_figure

    drawing, axes = new_figure(2.4)
    seconds = len(sound.samples) / SAMPLE_RATE
    axes.imshow(
        spectrogram(sound.samples), origin="lower", aspect="auto", cmap="gray_r",
        extent=(0, seconds, 0, SAMPLE_RATE / 2000), vmin=-_RANGE_DECIBELS, vmax=0,
    )  # fmt: skip
    axes.set_xlabel("time (s)")
    axes.set_ylabel("kHz")
    return markup.figure(drawing, f"Spectrogram of {seconds:.1f} s.", f"Spectrogram of {seconds:.1f} s.")


def spectrogram(samples: np.ndarray) -> np.ndarray:
    """Level by frequency and time, decibels below the loudest point: float (bins, columns), at most `_MAX_COLUMNS`.

    samples: float32 (N,) at 16 kHz. Columns that are drawn as one take the loudest of them.
    """
    if len(samples) < _FFT_SIZE:
        samples = np.pad(samples, (0, _FFT_SIZE - len(samples)))
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FFT_SIZE)[::_HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(_FFT_SIZE), axis=1)).T ** 2
    columns = min(_MAX_COLUMNS, power.shape[1])
    edges = np.linspace(0, power.shape[1], columns, endpoint=False).astype(int)
    power = np.maximum.reduceat(power, edges, axis=1)
    return 10 * np.log10(np.maximum(power / max(float(power.max()), 1e-20), 1e-12))


def envelope(samples: np.ndarray, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest sample of each of at most `columns` equal parts."""
    edges = np.linspace(0, len(samples), min(columns, len(samples)), endpoint=False).astype(int)
    return np.minimum.reduceat(samples, edges), np.maximum.reduceat(samples, edges)
