"""Processed copies: every operation on a voice, seeded, within bounds."""

from __future__ import annotations

import numpy as np
import pytest

from model.audio import copies

from .toy_speech import toy_voice

VOICE = toy_voice(1.5)


@pytest.mark.parametrize("severity", copies.SEVERITIES)
@pytest.mark.parametrize("name", list(copies.OPERATIONS))
def test_every_operation_gives_a_changed_voice(name, severity):
    changed = copies.apply_operation(VOICE, name, severity, np.random.default_rng(1))
    assert changed.dtype == np.float32
    assert changed.ndim == 1
    assert np.isfinite(changed).all()
    assert 0.7 < len(changed) / len(VOICE) < 1.4
    assert len(changed) != len(VOICE) or np.abs(changed - VOICE).max() > 1e-4
    assert changed.std() > 0.0005


@pytest.mark.parametrize("name", ["mp3", "aac", "opus", "vorbis", "wma", "amr", "g722", "mulaw", "adpcm"])
def test_a_codec_keeps_the_voice(name):
    """Lightly coded it stays like the voice: correlation over 0.8 at the best delay of up to 0.15 s."""
    coded = copies.apply_operation(VOICE, name, 1, np.random.default_rng(0))
    delays = range(-2400, 2400)
    middle = VOICE[4000:-4000]
    parts = [coded[4000 + d : 4000 + d + len(middle)] for d in delays]
    assert max(np.corrcoef(part, middle)[0, 1] for part in parts if len(part) == len(middle)) > 0.8


@pytest.mark.parametrize("name", ["noise", "babble"])
def test_noise_is_as_loud_as_stated(name):
    noise = copies.apply_operation(VOICE, name, 2, np.random.default_rng(0)) - VOICE
    assert 11.5 < 10 * np.log10(np.mean(VOICE**2) / np.mean(noise**2)) < 20.5


def test_speed_changes_the_length_and_tempo_keeps_the_pitch():
    tone = (0.5 * np.sin(2 * np.pi * 500 * np.arange(32_000) / 16_000)).astype(np.float32)

    def hertz(samples: np.ndarray) -> float:
        part = samples[2000:18_000]
        return float(np.argmax(np.abs(np.fft.rfft(part * np.hanning(len(part)))))) * 16_000 / len(part)

    fast = copies.speed(tone, 3, np.random.default_rng(0))
    assert hertz(fast) == pytest.approx(500 * len(tone) / len(fast), rel=0.01)
    assert hertz(copies.tempo(tone, 3, np.random.default_rng(0))) == pytest.approx(500, rel=0.01)
    shifted = copies.pitch(tone, 3, np.random.default_rng(0))
    assert abs(len(shifted) - len(tone)) < 1600
    assert abs(hertz(shifted) - 500) > 40


@pytest.mark.parametrize("variant", copies.VARIANTS)
def test_copies_depend_on_variant_and_name_alone(variant):
    first, again = (copies.process(VOICE, variant, "a/0.flac") for _ in range(2))
    assert np.array_equal(first, again)
    other = copies.process(VOICE, variant, "a/1.flac")
    assert len(first) != len(other) or not np.array_equal(first, other)
    assert np.abs(first).max() <= 1


def test_mistakes_are_told():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="operation is 'echo'"):
        copies.apply_operation(VOICE, "echo", 1, rng)
    with pytest.raises(ValueError, match="severity is 4"):
        copies.apply_operation(VOICE, "noise", 4, rng)
    with pytest.raises(ValueError, match="float64"):
        copies.apply_operation(VOICE.astype(np.float64), "noise", 1, rng)
    with pytest.raises(ValueError, match="codec is 'flac'"):
        copies.encode(VOICE, "flac", rate=16_000, bit_rate=None)
    with pytest.raises(ValueError, match="variant is 'post'"):
        copies.process(VOICE, "post", "a")
