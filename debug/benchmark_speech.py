"""Speed on speech: `python -m debug.benchmark_speech [FOLDER] [--rounds 3] [--workers N]`.

Clips a second of decoding, of the network and of both together, and the ratio to a serial submission: one file at a
time, loaded whole and resampled, then the same network. Rounds are interleaved; a ratio is taken within its round.
Without FOLDER it makes clips of 10 s from a formant synthesiser, in four formats.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from debug import benchmark_stages as stages
from debug.audio_examples import SOUND_ENCODINGS, decode_samples, encode_samples
from debug.voices import VOICES, speak
from model.audio.detector import AudioDetector, load_detector
from model.audio.prepare import AudioPreparation, load_preparation
from model.audio.reading import SAMPLE_RATE
from model.config import available_cores
from model.modality import AUDIO
from model.rows.dataset import open_dataset
from model.run.scoring import BatchScorer
from model.weights import WeightsError

_SECONDS, _CLIPS = 10.0, 12
_FORMATS = ("pcm", "mp3", "opus", "flac")
_MIN_ROWS = 48  # filling and emptying the pipeline should count for little


@dataclass(frozen=True)
class Round:
    """Clips a second, measured one after the other."""

    naive: float
    network: float
    decoding: float
    end_to_end: float


def make_clips(count: int = _CLIPS, seconds: float = _SECONDS) -> list[bytes]:
    """Speech of different voices in `_FORMATS` in turn; the same every time."""
    spoken = (speak(VOICES[k % len(VOICES)], seconds, SAMPLE_RATE, k) for k in range(count))
    return [
        encode_samples(samples, SAMPLE_RATE, SOUND_ENCODINGS[_FORMATS[k % len(_FORMATS)]])
        for k, samples in enumerate(spoken)
    ]


def naive_rate(clips: Sequence[bytes], detector: AudioDetector, preparation: AudioPreparation) -> float:
    """Of the serial submission. Every file is decoded whole, resampled by SciPy, and goes through the network alone."""
    from scipy.signal import resample_poly

    threads = torch.get_num_threads()
    torch.set_num_threads(available_cores())  # as torch does by default: all of them inside each operator
    started = time.perf_counter()
    for content in clips:
        samples, rate = decode_samples(content), _rate_of(content)
        divisor = int(np.gcd(rate, SAMPLE_RATE))
        samples = resample_poly(samples, SAMPLE_RATE // divisor, rate // divisor).astype(np.float32)
        detector.score(detector.clip_features(preparation.cut(samples)))
    seconds = time.perf_counter() - started
    torch.set_num_threads(threads)
    return len(clips) / seconds


def _rate_of(content: bytes) -> int:
    import io

    import av

    with av.open(io.BytesIO(content)) as container:
        return int(container.streams.audio[0].rate or SAMPLE_RATE)


def measure(
    clips: Sequence[bytes], detector: AudioDetector, preparation: AudioPreparation, workers: int, folder: Path
) -> Round:
    """One round of all four."""
    scorer = BatchScorer(lambda device: detector, detector.device)
    rows = max(_MIN_ROWS, 2 * len(clips))
    stages.write_rows(stages.repeated(clips, rows), folder / "rows", AUDIO)
    dataset = open_dataset(folder / "rows", AUDIO)
    naive = naive_rate(clips, detector, preparation)
    network, _ = stages.network_rate(clips, 1, preparation, scorer)
    decoding, _ = stages.decoding(dataset, preparation, workers)
    whole, _ = stages.end_to_end(dataset, preparation, scorer, workers, folder / "submission.csv")
    return Round(naive, network, decoding, whole)


def describe(rounds: Sequence[Round]) -> str:
    """Medians and ranges over the rounds, as a table."""
    ratios = [r.end_to_end / r.naive for r in rounds]
    rows = {
        "naive: one file at a time": [r.naive for r in rounds],
        "network alone": [r.network for r in rounds],
        "decoding alone": [r.decoding for r in rounds],
        "end to end": [r.end_to_end for r in rounds],
        "end to end over naive (ratio)": ratios,
    }
    lines = [f"| clips a second, {len(rounds)} rounds | median | range |", "| --- | --- | --- |"]
    for name, values in rows.items():
        lines.append(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} to {max(values):.2f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="sound files; default: clips of our own")
    parser.add_argument("--clips", type=int, default=_CLIPS, help="at most so many (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=available_cores(), help="default: one per core")
    parser.add_argument("--weights", type=Path, default=root / "weights" / "audio")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    if options.folder is None:
        clips = make_clips(options.clips)
    else:
        files = sorted(file for file in options.folder.rglob("*") if file.suffix.lower() in AUDIO.suffixes)
        clips = [file.read_bytes() for file in files[: options.clips]]
    if not clips:
        print(f"no sound file in {options.folder}", file=sys.stderr)
        return 1
    try:
        preparation = load_preparation(options.weights)
        detector = load_detector(options.weights, torch.device(options.device))
    except WeightsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rounds = []
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(measure(clips, detector, preparation, options.workers, Path(folder)))
        print(f"round {number + 1} of {options.rounds}: {rounds[-1]}", file=sys.stderr)
    print(describe(rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
