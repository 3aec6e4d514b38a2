"""Post-process labelled clips as Task 2 may: `python -m debug.postprocess CLIPS OUT`.

Every clip, real and generated alike, goes through a ladder of operations and severities (model.video.copies).
OUT/clips/<operation>/<severity>/… holds the results and OUT/manifest.csv names them, in the form that debug.labelled
and the training read. A run that was stopped goes on where it stood when the same command is given again.

    python -m debug.postprocess CLIPS OUT --operations found resize h264 --severities 1 3
    python -m debug.labelled OUT DATASET
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import multiprocessing
import os
import random
import shutil
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from debug.labelled import probe, select_records
from model.config import LimitsConfig, SamplingConfig, available_cores
from model.modality import VIDEO
from model.training.clips import LabelledDataError, Record, fingerprint, load_records
from model.video import copies
from model.video.reading import VideoReadError, read_clip

FOUND = "found"  # a copy of the file itself: what every step is compared with
PLAIN = "none"  # encoded only, as every pixel operation's result is
CHAIN = "chain"  # a random chain of operations that ends in a codec, as the training draws them
OPERATIONS = (FOUND, PLAIN, *copies.OPERATIONS, CHAIN)
_UNGRADED = (FOUND, PLAIN, CHAIN)  # they have no severity of their own: 0
_TRANSPARENT_CRF = 17  # H.264 quality that hardly changes a pixel: what carries pixel operations' results
_DEFAULT_FPS = 25.0  # where the container does not tell
MANIFEST_COLUMNS = (
    "file", "label", "source", "family", "width", "height", "fps", "operation", "severity", "original",
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One clip through one operation."""

    record: Record
    operation: str
    severity: int

    @property
    def file(self) -> str:
        """Path below the output folder; the clip's own path and suffix keep names apart."""
        suffix = "" if self.operation == FOUND else ".mkv"
        return f"clips/{self.operation}/{self.severity}/{self.record.file}{suffix}"


def plan_variants(
    records: Sequence[Record],
    operations: Sequence[str],
    severities: Sequence[int],
    *,
    per_clip: int | None = None,
    seed: int = 0,
) -> list[Variant]:
    """Every clip with every operation and severity, or `per_clip` of these drawn for each clip; `found` is never drawn.

    Raises: LabelledDataError: unknown operation or severity.
    """
    for operation in operations:
        if operation not in OPERATIONS:
            raise LabelledDataError(f"operation {operation!r}; valid operations: {', '.join(OPERATIONS)}")
    for severity in severities:
        if severity not in copies.SEVERITIES:
            raise LabelledDataError(f"severity {severity}; valid severities: {copies.SEVERITIES}")
    steps = [
        (operation, severity)
        for operation in operations
        for severity in ((0,) if operation in _UNGRADED else severities)
    ]
    variants = []
    for record in records:
        chosen = steps
        if per_clip is not None:
            rng = random.Random(f"{seed}:{record.file}")
            drawn = [step for step in steps if step[0] != FOUND]
            rng.shuffle(drawn)  # so that a larger number adds to the steps of a smaller one
            chosen = [step for step in steps if step[0] == FOUND or step in drawn[:per_clip]]
        variants += [Variant(record, operation, severity) for operation, severity in chosen]
    return variants


def process_frames(
    frames_thwc: np.ndarray, operation: str, severity: int, rng: np.random.Generator, *, fps: float
) -> bytes:
    """One operation, then the encoding that carries it: the codec itself if the operation is one.

    A change of frame rate keeps the clip's duration, so the rate follows the number of frames.
    """
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


def process_clip(variant: Variant, out: str, seed: int, max_frames: int) -> str:
    """Read, process and write one variant. Returns what went wrong, empty if nothing.

    The file appears under its name only when it is whole. Memory: the reader's limit on decoded bytes, a few times.
    """
    path = Path(out, variant.file)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    if variant.operation == FOUND:
        shutil.copyfile(variant.record.path, partial)
        partial.replace(path)
        return ""
    sampling = SamplingConfig(max_runs=1, max_run_frames=max_frames)
    try:
        clip = read_clip(str(variant.record.path), sampling, LimitsConfig())
    except VideoReadError as error:
        return str(error)
    fps = float(str(probe(variant.record.path, VIDEO).get("fps") or _DEFAULT_FPS))
    name = f"{seed}:{variant.record.file}:{variant.operation}:{variant.severity}"
    rng = np.random.default_rng(list(hashlib.sha256(name.encode()).digest()))
    video = process_frames(clip.runs[0], variant.operation, variant.severity, rng, fps=fps)
    partial.write_bytes(video)
    partial.replace(path)
    return ""


def run_variants(variants: Sequence[Variant], out: Path, *, seed: int, max_frames: int, workers: int) -> dict[str, str]:
    """Process what is not there yet, with a few jobs per worker under way. Returns file -> reason of failures."""
    waiting = [variant for variant in variants if not (out / variant.file).is_file()]
    if len(waiting) < len(variants):
        print(f"{len(variants) - len(waiting)} of {len(variants)} are there already", flush=True)
    failures: dict[str, str] = {}
    # spawn: a forked copy of a process with decoder threads can deadlock
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(workers, mp_context=context) as pool,
        tqdm(total=len(variants), initial=len(variants) - len(waiting), unit="file", smoothing=0.05) as progress,
    ):
        running: dict[Future[str], Variant] = {}
        jobs = iter(waiting)
        while True:
            while len(running) < 3 * workers and (variant := next(jobs, None)) is not None:
                running[pool.submit(process_clip, variant, str(out), seed, max_frames)] = variant
            if not running:
                return failures
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                variant = running.pop(future)
                if reason := future.result():
                    failures[variant.file] = reason
                progress.update()


def write_manifest(variants: Sequence[Variant], out: Path) -> int:
    """Name every variant that exists, and keep the lines of those that earlier commands made. Returns how many."""
    manifest, partial = out / "manifest.csv", out / ".manifest.csv.partial"
    planned = {variant.file for variant in variants}
    lines: list[dict[str, object]] = []
    if manifest.is_file():
        with manifest.open(newline="", encoding="utf-8") as file:
            lines += [row for row in csv.DictReader(file) if row["file"] not in planned]
    for variant in variants:
        record = variant.record
        named = {"file": variant.file, "label": record.label, "source": record.source, "family": record.family}
        step = {"operation": variant.operation, "severity": variant.severity, "original": record.file}
        lines.append({**named, **step})
    lines = [line for line in lines if (out / str(line["file"])).is_file()]
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, MANIFEST_COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({**line, **probe(out / str(line["file"]), VIDEO)} for line in lines)
    partial.replace(manifest)
    return len(lines)


def check_settings(out: Path, settings: dict[str, object]) -> None:
    """Refuse to mix results of different settings in one folder; note the settings of a new one.

    Raises: LabelledDataError: OUT was begun with other settings.
    """
    path = out / "settings.json"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(name for name in settings if before.get(name) != settings[name])
        if changed:
            raise LabelledDataError(
                f"{out} was begun with another {changed[0]} ({before.get(changed[0])!r}, now {settings[changed[0]]!r});"
                " name another folder"
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    partial = out / ".settings.json.partial"
    partial.write_text(json.dumps(settings, indent=2), encoding="utf-8")
    partial.replace(path)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m debug.postprocess",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("clips", type=Path, help="folder with manifest.csv, or real/<source>/, generated/<source>/")
    parser.add_argument("out", type=Path, help="folder to make or to go on with")
    parser.add_argument("--operations", nargs="+", default=list(OPERATIONS), metavar="NAME", help=", ".join(OPERATIONS))
    parser.add_argument("--severities", nargs="+", type=int, default=list(copies.SEVERITIES), metavar="N")
    parser.add_argument("--per-clip", type=int, metavar="N", help="draw N steps for each clip, not all")
    parser.add_argument("--limit", type=int, help="at most this many clips, spread over sources and classes")
    parser.add_argument("--max-frames", type=int, default=64, help="frames kept of each clip (default: 64)")
    parser.add_argument("--workers", type=int, default=available_cores(), help="default: one per core")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        records = select_records(load_records(options.clips), limit=options.limit, sources=[], seed=options.seed)
        variants = plan_variants(
            records, options.operations, options.severities, per_clip=options.per_clip, seed=options.seed
        )
        settings: dict[str, object] = {"seed": options.seed, "max_frames": options.max_frames}
        check_settings(options.out, settings | {"clips": fingerprint(records)})
    except LabelledDataError as error:
        parser.exit(2, f"error: {error}\n")
    try:
        failures = run_variants(
            variants, options.out, seed=options.seed, max_frames=options.max_frames, workers=options.workers
        )
    except (KeyboardInterrupt, BrokenProcessPool) as error:
        parser.exit(1, f"\nstopped ({type(error).__name__}); the same command goes on from here\n")
    count = write_manifest(variants, options.out)
    for file, reason in sorted(failures.items())[:10]:
        print(f"failed: {file}: {reason}")
    print(f"{count} files of {len(records)} clips in {options.out}, {len(failures)} failed")
    print(f"next: python -m debug.labelled {options.out} DATASET")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
