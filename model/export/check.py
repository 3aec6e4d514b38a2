"""Whether an ONNX file gives the project's own scores."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from tqdm import tqdm

from ..audio.prepare import load_preparation as load_audio
from ..audio.views import SAMPLE_RATE
from ..config import available_cores
from ..modality import AUDIO, Modality
from ..run.inputs import InputError, find_files
from ..run.isolated import IsolatedPreparation
from ..run.parts import load_detector, load_preparation
from ..run.scoring import score_clip
from ..video.prepare import load_preparation as load_video

log = logging.getLogger(__name__)


def largest_difference(content: bytes, modality: Modality, weights: Path, clips: list[np.ndarray]) -> float:
    """Between the file's scores and the project's in float32. clips: uint8 (n,) each, as prepared."""
    detector = load_detector(modality, weights, torch.device("cpu"), "float32")
    session = start_session(content)
    return max(
        abs(score_views(session, detector.split(clip)) - score_clip(detector, clip))
        for clip in tqdm(clips, desc="check", unit="clip")
    )


def start_session(content: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cores()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def score_views(session: onnxruntime.InferenceSession, views: dict[str, np.ndarray]) -> float:
    """views: kind -> (V, ...), of one clip."""
    (scores,) = session.run(["score"], {kind: part[None] for kind, part in views.items()})
    return float(scores[0])


def prepare_files(names: list[str], modality: Modality, weights: Path, count: int) -> list[np.ndarray]:
    """Up to `count` readable files, evenly spread over those found: uint8 (n,) each. Raises: InputError."""
    files = find_files(names, modality).files
    clips: list[np.ndarray] = []
    with IsolatedPreparation(load_preparation(modality, weights)) as prepare:
        for file in files[:: max(1, len(files) // count)]:
            clip = prepare(str(file))
            if clip.prepared is None:
                log.warning("%s is not used: %s", file, clip.reason)
            elif len(clips) < count:
                clips.append(clip.prepared.content)
    if not clips:
        raise InputError(f"none of {', '.join(names)} can be read; name others with --clips, or leave it out")
    return clips


def draw_clips(modality: Modality, weights: Path, count: int) -> list[np.ndarray]:
    """Made-up pictures or noises, seeded and no two alike, as prepared: uint8 (n,) each. They need no file."""
    rng = np.random.default_rng(0)
    if modality == AUDIO:
        sound = load_audio(weights)
        return [sound.cut(_draw_noise(rng)) for _ in range(count)]
    video = load_video(weights)
    return [video.cut([_draw_frames(rng)]) for _ in range(count)]


def _draw_frames(rng: np.random.Generator) -> np.ndarray:
    """Blocks of some size and colours that move a little, with grain: uint8 (4, H, W, 3)."""
    height, width, block = (int(number) for number in rng.integers((160, 160, 1), (480, 640, 40)))
    blocks = rng.uniform(0, 255, (-(-height // block), -(-width // block), 3))
    frame = np.kron(blocks, np.ones((block, block, 1)))[:height, :width]
    frames = np.stack([np.roll(frame, 3 * number, axis=1) for number in range(4)])
    return np.clip(frames + rng.normal(0, rng.uniform(0.5, 20), frames.shape), 0, 255).astype(np.uint8)


def _draw_noise(rng: np.random.Generator) -> np.ndarray:
    """Noise that is more or less dull and swells as syllables do: float32 (N,) at 16 kHz, 0.5 to 20 s."""
    seconds, dullness, rate = rng.uniform((0.5, 0, 1), (20, 1.5, 6))
    spectrum = np.fft.rfft(rng.normal(size=int(seconds * SAMPLE_RATE)))
    samples = np.fft.irfft(spectrum / np.arange(1, len(spectrum) + 1) ** dullness)
    swell = 1 + np.sin(2 * np.pi * rate * np.arange(len(samples)) / SAMPLE_RATE)
    return (0.3 * samples / np.abs(samples).max() * swell).astype(np.float32)
