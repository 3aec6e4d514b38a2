"""Spliced files (real, generated, real) from labelled clips, and how well windows find their borders.

`python -m debug.splices CLIPS [--modality audio] [--count 20] [--segments 2 5]`. Clips of one label are put behind each
other until a stretch is long enough, videos cropped to one size, not resized; then the whole is encoded once more.
Videos: with key frames at cuts and at most 2 s apart, and with one key frame in 10 s and none at cuts. Sounds: without
loss, and as AAC.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
import tempfile
import wave
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from model.audio.copies import encode as encode_sound
from model.audio.reading import SAMPLE_RATE, read_sound
from model.config import LimitsConfig
from model.metric import cllr
from model.modality import AUDIO, GENERATED, MODALITIES, VIDEO, Modality
from model.run.files import FileDetector
from model.segments import generated_stretches
from model.training.clips import Record, load_records
from model.verdict import INCONCLUSIVE, Segment

WIDTH, HEIGHT, FRAMES_PER_SECOND = 480, 360, 25
CLIPS = 40  # of each label, from which splices draw
CLIPS_OF_SPLICE = 10  # of each label
MAX_WIDTH = 1280
GROUPS = {"key frames at cuts": {"g": "50"}, "one key frame in 10 s": {"g": "250", "sc_threshold": "0"}}
SOUNDS = {"lossless": {}, "AAC, 64 kbit/s": {"bit_rate": 64.0}}
_ENCODER = {"crf": "18", "preset": "veryfast"}


@dataclass(frozen=True)
class Splice:
    """A file. borders: seconds, where the generated stretch begins and ends; None: all of it is real."""

    path: Path
    borders: tuple[float, float] | None


def is_of_use(clip: Path) -> bool:
    """Large enough, and quickly decoded."""
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        return WIDTH <= stream.width <= MAX_WIDTH and stream.height >= HEIGHT


@functools.lru_cache(maxsize=2 * CLIPS)
def frames_of(clip: Path) -> np.ndarray:
    """uint8 RGB (T, HEIGHT, WIDTH, 3), the middle of each frame."""
    with av.open(str(clip)) as container:
        frames = []
        for frame in container.decode(video=0):
            top, left = (frame.height - HEIGHT) // 2, (frame.width - WIDTH) // 2
            frames.append(frame.to_ndarray(format="rgb24")[top : top + HEIGHT, left : left + WIDTH])
    return np.stack(frames)


def write_splice(
    path: Path, real: Sequence[Path], generated: Sequence[Path], lengths: tuple[float, float, float], options: dict
) -> Splice:
    """lengths: seconds of the real, the generated and the second real stretch. Each uses its clips in turn."""
    half = len(real) // 2
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options={**_ENCODER, **options})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        number = itertools.count()
        for clips, seconds in zip((real[:half], generated, real[half:]), lengths, strict=True):
            endless = (frame for clip in itertools.cycle(clips) for frame in frames_of(clip))
            for pixels in itertools.islice(endless, round(seconds * FRAMES_PER_SECOND)):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = next(number), Fraction(1, FRAMES_PER_SECOND)
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Splice(path, (lengths[0], lengths[0] + lengths[1]) if lengths[1] else None)


@functools.lru_cache(maxsize=2 * CLIPS)
def samples_of(clip: Path) -> np.ndarray:
    """float32 (N,) at 16 kHz."""
    return read_sound(str(clip), LimitsConfig()).samples


def write_sound_splice(
    path: Path, real: Sequence[Path], generated: Sequence[Path], lengths: tuple[float, float, float], options: dict
) -> Splice:
    """As `write_splice`, a sound. options: `bit_rate` in kbit/s, else 16 bits without loss."""
    half = len(real) // 2
    parts = []
    for clips, seconds in zip((real[:half], generated, real[half:]), lengths, strict=True):
        count, endless = round(seconds * SAMPLE_RATE), itertools.cycle(clips)
        while count > 0:
            parts.append(samples_of(next(endless))[:count])
            count -= len(parts[-1])
    samples = np.concatenate(parts)
    if options:
        path.write_bytes(encode_sound(samples, "aac", rate=SAMPLE_RATE, **options))
    else:
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE, len(samples), "NONE", ""))
            file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return Splice(path, (lengths[0], lengths[0] + lengths[1]) if lengths[1] else None)


@dataclass(frozen=True)
class Recipe:
    """How files of one modality are spliced."""

    groups: Mapping[str, dict]  # how the whole is encoded
    suffix: str
    write: Callable[..., Splice]
    seconds_of: Callable[[Path], float]
    is_of_use: Callable[[Path], bool]
    windows: tuple[float, ...]  # seconds
    stretches: tuple[float, float]  # seconds, the shortest and the longest


RECIPES = {
    VIDEO.name: Recipe(
        GROUPS, ".mp4", write_splice, lambda clip: len(frames_of(clip)) / FRAMES_PER_SECOND, is_of_use, (2, 5), (4, 7)
    ),
    AUDIO.name: Recipe(
        SOUNDS, ".wav", write_sound_splice, lambda clip: len(samples_of(clip)) / SAMPLE_RATE, lambda clip: True,
        (3, 6), (6, 10),
    ),
}  # fmt: skip


def truth_of(segment: Segment, splice: Splice) -> float:
    """The share of a window that is generated."""
    if splice.borders is None:
        return 0.0
    start, end = (min(max(border, segment.start_seconds), segment.end_seconds) for border in splice.borders)
    return (end - start) / (segment.end_seconds - segment.start_seconds)


def border_errors(segments: Sequence[Segment], splice: Splice) -> list[float] | None:
    """Seconds from each border to that of the longest stretch found; None where none was found."""
    found = generated_stretches(segments)
    if not found or splice.borders is None:
        return None
    longest = max(found, key=lambda one: one.end_seconds - one.start_seconds)
    return [abs(longest.start_seconds - splice.borders[0]), abs(longest.end_seconds - splice.borders[1])]


def spread_of(scores: Sequence[tuple[bool, float]]) -> list[str]:
    """Median score of real and of generated, and Cllr. scores: (is generated, score) each."""
    labels = np.array([label for label, _ in scores])
    values = np.array([score for _, score in scores])
    medians = f"{np.median(values[~labels]):+.1f} / {np.median(values[labels]):+.1f}"
    return [medians, f"{cllr(values, labels, np.ones(len(values))):.2f}"]


def measure(splices: Sequence[Splice], seconds: float, modality: Modality, weights: Path | None = None) -> list[str]:
    """The figures of a table's row."""
    right, clear, mixed = [], [], []
    errors: list[float] = []
    wrong = found = false_alarms = 0
    alike: list[tuple[bool, float]] = []
    with FileDetector(modality.name, weights=weights, segments=seconds, device="cpu") as detector:
        for splice in tqdm(splices, unit="file", leave=False):
            segments = detector.score(splice.path).segments
            scored = [(truth_of(one, splice), one.score) for one in segments if one.score is not None]
            pure = [(share, score) for share, score in scored if share in (0.0, 1.0)]
            alike += [(bool(share), score) for share, score in pure]
            right += [(score > 0) == bool(share) for share, score in pure]
            clear += [abs(score) >= INCONCLUSIVE for _, score in pure]
            wrong += sum((score > 0) != bool(share) and abs(score) >= INCONCLUSIVE for share, score in pure)
            mixed += [(score > 0) == (share > 0.5) for share, score in scored if 0 < share < 1]
            if splice.borders is None:
                false_alarms += bool(generated_stretches(segments))
            elif (error := border_errors(segments, splice)) is not None:
                found, errors = found + 1, errors + error
    spliced = sum(splice.borders is not None for splice in splices)
    return [
        f"{sum(right)} of {len(right)} ({np.mean(right):.1%})", f"{np.mean(clear):.1%}", f"{wrong}",
        f"{sum(mixed)} of {len(mixed)}", f"{found} of {spliced}",
        f"{np.median(errors):.1f} / {np.quantile(errors, 0.9):.1f}" if errors else "",
        f"{false_alarms} of {len(splices) - spliced}", *spread_of(alike),
    ]  # fmt: skip


def measure_alone(
    clips: Mapping[str, Sequence[Path]], count: int, path: Path, encoder: dict, modality: Modality,
    weights: Path | None = None,
) -> list[tuple[bool, float]]:  # fmt: skip
    """What windows' scores are to be like: `count` clips of each label, cropped and encoded alike, each as `path`."""
    scores, recipe = [], RECIPES[modality.name]
    with FileDetector(modality.name, weights=weights, device="cpu") as detector:
        for label, paths in clips.items():
            for clip in paths[:count]:
                recipe.write(path, [], [clip], (0, recipe.seconds_of(clip), 0), encoder)
                score = detector.score(path).score
                scores += [] if score is None else [(label == GENERATED, score)]
    return scores


def _draw_pool(records: Sequence[Record], is_of_use: Callable[[Path], bool], rng: np.random.Generator) -> list[Path]:
    """At most `CLIPS` clips that are of use, one a source."""
    order = [records[place] for place in rng.permutation(len(records))]
    one_each = {record.source: record.path for record in order}.values()
    return list(itertools.islice(filter(is_of_use, one_each), CLIPS))


def _draw(clips: Sequence[Path], rng: np.random.Generator) -> list[Path]:
    return [clips[place] for place in rng.permutation(len(clips))[:CLIPS_OF_SPLICE]]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m debug.splices", description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, help="folder of labelled clips")
    parser.add_argument("--modality", choices=MODALITIES, default=VIDEO.name, help="default: %(default)s")
    parser.add_argument("--weights", type=Path, help="default: the repository's")
    parser.add_argument("--count", type=int, default=20, help="spliced files; a fifth as many are real all through")
    parser.add_argument("--segments", type=float, nargs="+", help="default: 2 5, of sounds 3 6")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    modality, recipe, weights = MODALITIES[options.modality], RECIPES[options.modality], options.weights
    rng = np.random.default_rng(options.seed)
    records = load_records(options.clips, modality)
    clips = {
        label: _draw_pool([one for one in records if one.label == label], recipe.is_of_use, rng)
        for label in modality.labels
    }
    for label, paths in clips.items():
        print(f"{label}: {len(paths)} clips, each of another source", file=sys.stderr)
    # fmt: off
    print("| encoded | window | windows right | outside the band | of these wrong | windows on a border |"
          " stretches found | border off by, median / 90% (s) | real files flagged | median score | Cllr |")
    # fmt: on
    print("| --- " * 11 + "|")
    with tempfile.TemporaryDirectory() as folder:
        splices: dict[str, list[Splice]] = {name: [] for name in recipe.groups}
        for number in tqdm(range(options.count * 6 // 5), desc="encode"):
            real, generated = (_draw(clips[label], rng) for label in modality.labels)
            before, inside, behind = rng.uniform(*recipe.stretches, 3).round(2).tolist()
            lengths = before, inside if number < options.count else 0.0, behind
            for place, (name, encoder) in enumerate(recipe.groups.items()):
                path = Path(folder, f"{place}-{number}{recipe.suffix}")
                splices[name].append(recipe.write(path, real, generated, lengths, encoder))
        for name, encoder in recipe.groups.items():
            for seconds in options.segments or recipe.windows:
                cells = measure(splices[name], seconds, modality, weights)
                print("| " + " | ".join([name, f"{seconds:g} s", *cells]) + " |", flush=True)
            path = Path(folder, f"alone{recipe.suffix}")
            alone = spread_of(measure_alone(clips, options.count, path, encoder, modality, weights))
            print("| " + " | ".join([name, "clips alone", *[""] * 7, *alone]) + " |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
