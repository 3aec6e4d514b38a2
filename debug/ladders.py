"""What post-processing does to a file of each modality: the names of its operations, and file -> processed file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from debug.labelled import probe
from model.config import LimitsConfig, SamplingConfig
from model.modality import AUDIO, VIDEO, Modality

FOUND = "found"  # a copy of the file itself: what every step is compared with
PLAIN = "none"  # encoded only, as every other operation's result is
CHAIN = "chain"  # video: a random chain of operations that ends in a codec, as the training draws them
_TRANSPARENT_CRF = 17  # H.264 quality that hardly changes a pixel: what carries pixel operations' results
_DEFAULT_FPS = 25.0  # where the container does not tell


@dataclass(frozen=True)
class Ladder:
    """One modality's operations. process: (path, operation, severity, generator, frames at most) -> the new file."""

    operations: tuple[str, ...]
    ungraded: frozenset[str]  # they have no severity of their own: 0
    severities: tuple[int, ...]
    suffix: str  # of the files that it makes
    process: Callable[[Path, str, int, np.random.Generator, int], bytes]  # raises Unreadable

    def steps(self, operations: Sequence[str], severities: Sequence[int]) -> list[tuple[str, int]]:
        """Every (operation, severity) that they ask for."""
        return [
            (operation, severity)
            for operation in operations
            for severity in ((0,) if operation in self.ungraded else severities)
        ]


def load_ladder(modality: Modality) -> Ladder:
    """Of speech codecs and rates, and `codec` that draws from them, are task 2; the rest and `laundered` are task 3."""
    if modality == AUDIO:
        from model.audio import copies as sounds

        ungraded = (FOUND, PLAIN, *sounds.VARIANTS)
        operations = (FOUND, PLAIN, *sounds.OPERATIONS, *sounds.VARIANTS)
        return Ladder(operations, frozenset(ungraded), tuple(sounds.SEVERITIES), ".flac", _process_audio)
    from model.video import copies

    operations = (FOUND, PLAIN, *copies.OPERATIONS, CHAIN)
    return Ladder(operations, frozenset({FOUND, PLAIN, CHAIN}), tuple(copies.SEVERITIES), ".mkv", _process_video)


def _process_video(path: Path, operation: str, severity: int, rng: np.random.Generator, max_frames: int) -> bytes:
    from model.video.reading import read_clip

    clip = read_clip(str(path), SamplingConfig(max_runs=1, max_run_frames=max_frames), LimitsConfig())
    fps = float(str(probe(path, VIDEO).get("fps") or _DEFAULT_FPS))
    return process_frames(clip.runs[0], operation, severity, rng, fps=fps)


def process_frames(
    frames_thwc: np.ndarray, operation: str, severity: int, rng: np.random.Generator, *, fps: float
) -> bytes:
    """One operation, then the encoding that carries it: the codec itself if the operation is one.

    A change of frame rate keeps the clip's duration, so the rate follows the number of frames.
    """
    from model.video import copies

    codec, crf = "h264", _TRANSPARENT_CRF
    steps: list[tuple[str, int]] = []
    if operation == CHAIN:
        steps = copies.random_chain(rng)
    elif operation != PLAIN:
        steps = [(operation, severity)]
    if steps and steps[-1][0] in copies.CODEC_OPERATIONS:
        codec, codec_severity = steps.pop()
        crf = copies.choose_crf(codec, codec_severity, rng)
    num_frames = len(frames_thwc)
    frames_thwc = copies.apply_chain(frames_thwc, steps, rng)
    return copies.encode(frames_thwc, codec, crf, fps=fps * len(frames_thwc) / num_frames)


def _process_audio(path: Path, operation: str, severity: int, rng: np.random.Generator, _max_frames: int) -> bytes:
    from debug.audio_examples import SoundEncoding, encode_samples
    from model.audio import copies
    from model.audio.reading import read_sound

    samples = read_sound(str(path), LimitsConfig()).samples
    if operation != PLAIN:
        chain = copies.draw_chain(operation, rng) if operation in copies.VARIANTS else [(operation, severity)]
        samples = copies.apply_chain(samples, chain, rng)
    return encode_samples(samples, copies.SAMPLE_RATE, SoundEncoding(".flac", "flac", "flac", copies.SAMPLE_RATE))
