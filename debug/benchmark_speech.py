"""Speed on speech: `python -m debug.benchmark_speech [FOLDER] [--rounds 3] [--workers N]`.

Clips a second of decoding, of the network and of both together, and the ratio to a serial submission: one file at a
time, loaded whole and resampled by librosa where that is installed (else by PyAV and SciPy), then the same network as
PyTorch runs it. Rounds are interleaved; a ratio is taken within its round. Then script.py on few and on many rows:
first score and memory. Without FOLDER it makes clips of 10 s from a formant synthesiser, in four formats.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from debug import benchmark_stages as stages
from debug.audio_examples import SOUND_ENCODINGS, encode_samples
from debug.voices import VOICES, speak
from model.audio import copies
from model.audio.detector import load_detector, load_network
from model.audio.prepare import AudioPreparation, load_preparation
from model.audio.reading import SAMPLE_RATE
from model.audio.views import WINDOWS
from model.config import available_cores
from model.modality import AUDIO, Detector
from model.rows.dataset import open_dataset
from model.run.scoring import BatchScorer
from model.weights import WeightsError, load_manifest

_SECONDS, _CLIPS = 10.0, 12
_FORMATS = ("pcm", "mp3", "opus", "flac")
_MIN_ROWS = 48  # filling and emptying the pipeline should count for little


@dataclass(frozen=True)
class Round:
    """Clips a second, measured one after the other. network, end_to_end: by precision."""

    naive: float
    decoding: float
    network: dict[str, float]
    end_to_end: dict[str, float]


def make_clips(count: int = _CLIPS, seconds: float = _SECONDS) -> list[bytes]:
    """Speech of different voices in `_FORMATS` in turn; the same every time."""
    spoken = (speak(VOICES[k % len(VOICES)], seconds, SAMPLE_RATE, k) for k in range(count))
    return [
        encode_samples(samples, SAMPLE_RATE, SOUND_ENCODINGS[_FORMATS[k % len(_FORMATS)]])
        for k, samples in enumerate(spoken)
    ]


def load_naively() -> tuple[str, Callable[[bytes], np.ndarray]]:
    """(what it is, file -> float32 (N,) at 16 kHz): librosa where it is installed, else a stand-in."""
    try:
        import librosa
    except ImportError:
        return "PyAV and SciPy", lambda content: copies.resample(*copies.decode(content), SAMPLE_RATE)
    return "librosa", lambda content: librosa.load(io.BytesIO(content), sr=SAMPLE_RATE, mono=True)[0]


@torch.inference_mode()
def naive_rate(
    clips: Sequence[bytes], plain: Callable[[torch.Tensor], torch.Tensor], detector: Detector,
    preparation: AudioPreparation,
) -> float:  # fmt: skip
    """Of the serial submission. plain: the network as PyTorch runs it, windows -> features."""
    load = load_naively()[1]
    load(clips[0])  # librosa imports and compiles at the first call
    threads = torch.get_num_threads()
    torch.set_num_threads(available_cores())  # as torch does by default: all of them inside each operator
    started = time.perf_counter()
    for content in clips:
        windows = detector.split(preparation.cut(load(content)))[WINDOWS]
        detector.score({WINDOWS: plain(torch.from_numpy(windows)).numpy()})
    seconds = time.perf_counter() - started
    torch.set_num_threads(threads)
    return len(clips) / seconds


def measure(
    clips: Sequence[bytes], plain: Callable[[torch.Tensor], torch.Tensor], detectors: Mapping[str, Detector],
    preparation: AudioPreparation, workers: int, folder: Path,
) -> Round:  # fmt: skip
    """One round of all. detectors: by precision."""
    rows = max(_MIN_ROWS, 2 * len(clips))
    stages.write_rows(stages.repeated(clips, rows), folder / "rows", AUDIO)
    dataset = open_dataset(folder / "rows", AUDIO)
    naive = naive_rate(clips, plain, next(iter(detectors.values())), preparation)
    decoding, _ = stages.decoding(dataset, preparation, workers)
    network, whole = {}, {}
    for name, detector in detectors.items():
        scorer = BatchScorer(lambda _, chosen=detector: chosen, detector.device)  # type: ignore[misc]
        network[name], _ = stages.network_rate(clips, 1, preparation, scorer)
        whole[name], _ = stages.end_to_end(dataset, preparation, scorer, workers, folder / f"{name}.csv")
    return Round(naive, decoding, network, whole)


def describe(rounds: Sequence[Round]) -> str:
    """Medians and ranges over the rounds, as a table."""
    rows = {
        f"naive: one file at a time, loaded by {load_naively()[0]}": [r.naive for r in rounds],
        "decoding alone": [r.decoding for r in rounds],
    }
    for name in rounds[0].network:
        rows[f"network alone, {name}"] = [r.network[name] for r in rounds]
        rows[f"end to end, {name}"] = [r.end_to_end[name] for r in rounds]
        rows[f"end to end over naive (ratio), {name}"] = [r.end_to_end[name] / r.naive for r in rounds]
    head = f"| clips a second, {len(rounds)} rounds | median | range |\n| --- | --- | --- |"
    return "\n".join([head, *(stages.table_row(name, values) for name, values in rows.items())])


def describe_memory(rows: Sequence[int], workers: int, weights: Path, folder: Path) -> str:
    """script.py on clips of 10 s, mp3, as a table."""
    clip = encode_samples(speak(VOICES[0], _SECONDS, SAMPLE_RATE, 0), SAMPLE_RATE, SOUND_ENCODINGS["mp3"])
    arguments = ["--weights", str(weights), "--workers", str(workers), "--device", "cpu"]
    lines = ["| rows | first clip scored | all | peak memory | of it script.py |", "|" + " --- |" * 5]
    for count in rows:
        ran = stages.run_on_rows(clip, count, arguments, folder, AUDIO)
        lines.append(
            f"| {count} | {ran.first_score_seconds:.1f} s | {ran.wall_seconds:.0f} s | {ran.peak_megabytes:.0f} MB |"
            f" {ran.peak_main_megabytes:.0f} MB |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="sound files; default: clips of our own")
    parser.add_argument("--clips", type=int, default=_CLIPS, help="at most so many (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=available_cores(), help="default: one per core")
    parser.add_argument("--weights", type=Path, default=root / "weights" / "audio")
    parser.add_argument("--memory-rows", type=int, nargs="*", default=(200, 1000), help="of script.py; none: left out")
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
        plain = load_network(load_manifest(options.weights))[0].eval()
        device = torch.device("cpu")
        detectors = {name: load_detector(options.weights, device, name) for name in ("float32", "bfloat16")}
    except WeightsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            rounds.append(measure(clips, plain, detectors, preparation, options.workers, Path(folder, str(number))))
            print(f"round {number + 1} of {options.rounds}: {rounds[-1]}", file=sys.stderr)
        print(describe(rounds))
        if options.memory_rows:
            print("\n" + describe_memory(options.memory_rows, options.workers, options.weights, Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
