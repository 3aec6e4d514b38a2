"""Windows over a whole sound: every sample in one of them, at the right time."""

from __future__ import annotations

import numpy as np
import pytest

from debug.audio_examples import SOUND_ENCODINGS, encode_samples
from debug.voices import VOICES, speak
from model.audio.prepare import AudioPreparation, AudioSegments
from model.audio.reading import read_parts, read_sound
from model.audio.views import split_windows
from model.config import LimitsConfig, SegmentConfig
from model.modality import Prepared, Unreadable
from tests.toy_clips import clip

RATE, LIMITS = 16_000, LimitsConfig()
VOICE = speak(VOICES[0], 7.0, RATE, 1)


CONFIG = SegmentConfig(2.0)


def windows_of(source: bytes, config: SegmentConfig = CONFIG) -> list[Prepared]:
    return list(AudioSegments(AudioPreparation(), config)(source))


@pytest.mark.parametrize("name", list(SOUND_ENCODINGS))
def test_parts_hold_what_the_whole_holds(name: str) -> None:
    """Resampled by themselves they differ at their rims alone."""
    content = encode_samples(VOICE, RATE, SOUND_ENCODINGS[name])
    whole = read_sound(content, LIMITS)
    parts = list(read_parts(content, 2.0, LIMITS, 60.0))
    assert sum(part.num_read for part in parts) == whole.num_read
    assert [len(part.samples) / RATE for part in parts[:2]] == pytest.approx([2.0, 2.0], abs=0.01)
    start = round(RATE * parts[0].num_read / parts[0].rate)
    middle = parts[1].samples[800 : 2 * RATE - 800]
    np.testing.assert_allclose(middle, whole.samples[start + 800 : start + 800 + len(middle)], atol=2e-3)


def test_windows_are_cut_as_short_clips() -> None:
    content = encode_samples(VOICE, RATE, SOUND_ENCODINGS["pcm"])
    windows = windows_of(content)
    assert [(one.start_seconds, one.end_seconds) for one in windows] == [(0, 2), (2, 4), (4, 6), (6, 7)]
    plain = AudioPreparation()
    for window, (start, end) in zip(windows, ((0, 2), (2, 4), (4, 6), (6, 7)), strict=True):
        np.testing.assert_array_equal(
            window.content, plain.cut(read_sound(content, LIMITS).samples[start * RATE : end * RATE])
        )
        assert len(split_windows(window.content, plain.views)) == window.num_places


def test_silence_has_no_score_and_ends_no_file() -> None:
    samples = np.concatenate([VOICE[: 2 * RATE], np.zeros(4 * RATE, np.float32), VOICE[: 2 * RATE]])
    windows = windows_of(encode_samples(samples, RATE, SOUND_ENCODINGS["pcm"]))
    assert [bool(one.content.size) for one in windows] == [True, False, False, True]
    assert windows[1].note.startswith("silent")


def test_a_broken_tail_is_told() -> None:
    content = encode_samples(VOICE, RATE, SOUND_ENCODINGS["flac"])
    *windows, rest = windows_of(content[: len(content) // 2])
    assert windows[-1].end_seconds == pytest.approx(3.5, abs=0.5) and all(one.content.size for one in windows)
    assert (rest.note, rest.content.size) == ("no sound can be read here", 0) and rest.end_seconds == pytest.approx(
        7, abs=0.1
    )


def test_windows_are_limited_and_the_rest_is_told() -> None:
    content = encode_samples(VOICE, RATE, SOUND_ENCODINGS["flac"])
    *windows, rest = windows_of(content, SegmentConfig(1.0, max_windows=3))
    assert [one.start_seconds for one in windows] == pytest.approx([0, 1, 2])
    assert "at most 3 windows" in rest.note and rest.start_seconds == pytest.approx(3) and rest.end_seconds > 6.9


def test_a_video_s_sound_track_and_files_without_one() -> None:
    assert windows_of(clip("h264_audio"))[0].num_frames > 0
    for content, reason in ((clip("h264"), "no sound track"), (b"", "empty"), (b"none", "not a readable sound file")):
        with pytest.raises(Unreadable, match=reason):
            windows_of(content)
