"""Windows: level, silence, short and long clips; the preparation from file to content."""

from __future__ import annotations

import pickle
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from model.audio.prepare import AudioPreparation
from model.audio.views import SAMPLE_RATE, ViewConfig, cut_windows, loud_level, split_windows, window_starts
from model.modality import Unreadable

from .toy_speech import toy_voice

CONFIG = ViewConfig()


def cut(samples: np.ndarray) -> np.ndarray:
    """The windows alone."""
    return cut_windows(samples, CONFIG)[1]


def write_wav(path: Path, samples: np.ndarray, rate: int = SAMPLE_RATE) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())
    return path


@pytest.mark.parametrize("gain", [0.003, 0.3, 1.9])
def test_gain_and_offset_tell_nothing(gain):
    voice = toy_voice(3.0)
    plain, changed = cut(voice), cut(gain * voice + 0.05)
    assert np.abs(plain.astype(int) - changed).max() <= 1


def test_level_is_as_stated():
    window = cut(toy_voice(3.0))[0] / 32767
    pieces = np.sort([np.sqrt(np.mean(window[s : s + 400] ** 2)) for s in range(0, 48_000, 400)])
    assert np.quantile(pieces, 0.9) == pytest.approx(0.1, rel=0.01)
    assert loud_level(window.astype(np.float32)) == pytest.approx(0.1, rel=0.01)


def test_short_clips_are_repeated():
    voice = toy_voice(1.0)
    voice -= voice.mean()
    window = cut(voice)[0].astype(int)
    assert np.array_equal(window[:16_000], window[16_000:32_000])
    assert np.array_equal(window[:16_000], window[32_000:])


@pytest.mark.parametrize(("seconds", "starts"), [(3, [0]), (4, [0, 1]), (7, [0, 2, 4]), (9, [0, 3, 6])])
def test_windows_cover_the_clip(seconds, starts):
    assert (window_starts(seconds * SAMPLE_RATE, CONFIG) / SAMPLE_RATE).tolist() == starts


def test_long_clips_have_windows_from_start_to_end():
    starts = window_starts(60 * SAMPLE_RATE, CONFIG)
    assert len(starts) == CONFIG.max_windows
    assert (starts[0], starts[-1]) == (0, 57 * SAMPLE_RATE)


def test_silent_windows_are_left_out():
    voice = toy_voice(3.0)
    pause = 1e-5 * np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE).astype(np.float32)
    assert len(cut(np.concatenate([voice, pause, voice]))) == 2


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(0, np.float32), "0.00 s of sound"),
        (toy_voice(0.2), "0.20 s of sound; 0.25 s are needed"),
        (np.zeros(32_000, np.float32), "silent"),
        (np.full(32_000, 0.4, np.float32), "silent"),
    ],
)
def test_too_short_and_silent_clips_have_a_reason(samples, reason):
    with pytest.raises(Unreadable, match=reason):
        cut(samples)


def test_music_and_noise_are_prepared_like_speech():
    rng = np.random.default_rng(0)
    tones = [np.sin(2 * np.pi * f * np.arange(64_000) / 16_000) for f in (220, 277, 330)]
    chord = np.sum(tones, axis=0).astype(np.float32)
    for samples in (chord, rng.standard_normal(64_000).astype(np.float32)):
        assert cut(samples).shape == (2, 48_000)


def test_content_is_split_without_a_copy(tmp_path):
    preparation = AudioPreparation()
    prepared = preparation(str(write_wav(tmp_path / "voice.wav", toy_voice(7.0))))
    windows = split_windows(prepared.content, CONFIG)
    assert windows.shape == (3, 48_000)
    assert np.shares_memory(windows, prepared.content)
    assert (prepared.reader, prepared.note, prepared.num_frames) == ("pyav", "", 7 * SAMPLE_RATE)
    assert prepared.duration_seconds == pytest.approx(7)
    assert prepared.content.dtype == np.uint8
    assert len(prepared.content) <= preparation.max_bytes
    for wrong in (prepared.content[:-1], prepared.content[:0], np.zeros(preparation.max_bytes + 96_000, np.uint8)):
        with pytest.raises(ValueError, match="are not 1 to 8 windows"):
            split_windows(wrong, CONFIG)


def test_preparation_pickles_and_imports_no_torch():
    preparation = AudioPreparation()
    assert pickle.loads(pickle.dumps(preparation)) == preparation
    code = "import sys, model.audio.prepare; sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("field", [{"window_samples": 100}, {"max_windows": 0}, {"loud_level": 0.0}])
def test_impossible_settings_are_told(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        ViewConfig(**field)
