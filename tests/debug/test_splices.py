"""Spliced files: the truth that figures are measured against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from debug import splices
from debug.splices import Splice, border_errors, truth_of, write_sound_splice, write_splice
from model.audio.copies import encode as encode_sound
from model.audio.reading import SAMPLE_RATE, read_parts
from model.config import LimitsConfig, SamplingConfig, SegmentConfig
from model.verdict import Segment
from model.video.copies import encode
from model.video.windows import read_windows


def test_shares_and_borders() -> None:
    splice = Splice(Path("a.mp4"), (4.0, 9.0))
    segments = [Segment(2.0 * k, 2.0 * k + 2, score) for k, score in enumerate((-2, -2, 3, 3, 2, -2))]
    assert [truth_of(one, splice) for one in segments] == [0, 0, 1, 1, 0.5, 0]
    assert border_errors(segments, splice) == [0.0, 1.0]
    assert border_errors(segments[:2], splice) is None and truth_of(segments[2], Splice(Path("a.mp4"), None)) == 0


@pytest.mark.parametrize("name", list(splices.GROUPS))
def test_stretches_lie_where_they_are_said_to(name: str, tmp_path: Path) -> None:
    """Dark clips are real, bright ones generated; windows see them at their times, with and without key frames."""
    rng = np.random.default_rng(0)
    clips = []
    for number, level in enumerate((40, 40, 200)):
        frames = rng.integers(level - 20, level + 20, (30, 360, 480, 3)).astype(np.uint8)
        clips.append(tmp_path / f"{number}.mp4")
        clips[-1].write_bytes(encode(frames, "h264", 23))
    splice = write_splice(tmp_path / "whole.mp4", clips[:2], clips[2:], (4.0, 3.0, 5.0), splices.GROUPS[name])
    assert splice.borders == (4.0, 7.0)
    windows = list(read_windows(str(splice.path), SegmentConfig(1.0), SamplingConfig(), LimitsConfig()))
    bright = [window.start_seconds for window in windows if np.mean(window.runs[0]) > 120]
    assert len(windows) == 12 and bright == [4, 5, 6]


@pytest.mark.parametrize("name", list(splices.SOUNDS))
def test_stretches_of_sound_lie_where_they_are_said_to(name: str, tmp_path: Path) -> None:
    """Soft clips are real, loud ones generated; each is shorter than its stretch."""
    rng = np.random.default_rng(0)
    clips = []
    for number, level in enumerate((0.01, 0.01, 0.3)):
        clips.append(tmp_path / f"{number}.ogg")
        noise = rng.normal(0, level, int(1.3 * SAMPLE_RATE)).astype(np.float32)
        clips[-1].write_bytes(encode_sound(noise, "opus", rate=SAMPLE_RATE, bit_rate=48))
    splice = write_sound_splice(tmp_path / "whole.wav", clips[:2], clips[2:], (4.0, 3.0, 5.0), splices.SOUNDS[name])
    assert splice.borders == (4.0, 7.0)
    windows = [sound.samples for sound in read_parts(str(splice.path), 1.0, LimitsConfig(), 60.0)]
    loud = [number for number, samples in enumerate(windows) if np.abs(samples).mean() > 0.1]
    assert len(windows) == 12 and loud == [4, 5, 6]
