"""Post-process labelled clips as the challenges may: `python -m debug.postprocess CLIPS OUT`.

Every clip, of both classes alike, goes through a ladder of operations and severities (debug.ladders).
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
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from debug.labelled import probe, select_records, write_csv
from debug.ladders import FOUND, load_ladder
from model.atomic import replace_file
from model.config import available_cores
from model.modality import VIDEO, Modality, Unreadable
from model.training.clips import LabelledDataError, Record, find_modality, fingerprint, load_records

MANIFEST_COLUMNS = (
    "file", "label", "source", "family", "width", "height", "fps", "sampling_rate", "channels", "operation",
    "severity", "original",
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One clip through one operation."""

    record: Record
    operation: str
    severity: int
    modality: Modality = VIDEO

    @property
    def file(self) -> str:
        """Path below the output folder; the clip's own path and suffix keep names apart."""
        suffix = "" if self.operation == FOUND else load_ladder(self.modality).suffix
        return f"clips/{self.operation}/{self.severity}/{self.record.file}{suffix}"


def plan_variants(
    records: Sequence[Record],
    operations: Sequence[str],
    severities: Sequence[int],
    *,
    modality: Modality = VIDEO,
    per_clip: int | None = None,
    seed: int = 0,
) -> list[Variant]:
    """Every clip with every operation and severity, or `per_clip` of these drawn for each clip; `found` is never drawn.

    Raises: LabelledDataError: unknown operation or severity.
    """
    ladder = load_ladder(modality)
    for operation in operations:
        if operation not in ladder.operations:
            raise LabelledDataError(f"operation {operation!r}; valid operations: {', '.join(ladder.operations)}")
    for severity in severities:
        if severity not in ladder.severities:
            raise LabelledDataError(f"severity {severity}; valid severities: {ladder.severities}")
    steps = ladder.steps(operations, severities)
    variants = []
    for record in records:
        chosen = steps
        if per_clip is not None:
            rng = random.Random(f"{seed}:{record.file}")
            drawn = [step for step in steps if step[0] != FOUND]
            rng.shuffle(drawn)  # so that a larger number adds to the steps of a smaller one
            chosen = [step for step in steps if step[0] == FOUND or step in drawn[:per_clip]]
        variants += [Variant(record, operation, severity, modality) for operation, severity in chosen]
    return variants


def process_clip(variant: Variant, out: str, seed: int, max_frames: int) -> str:
    """Read, process and write one variant. Returns what went wrong, empty if nothing.

    The file appears under its name only when it is whole. Memory: the reader's limit on decoded bytes, a few times.
    """
    path = Path(out, variant.file)
    path.parent.mkdir(parents=True, exist_ok=True)
    if variant.operation == FOUND:
        replace_file(path, variant.record.path.read_bytes())
        return ""
    name = f"{seed}:{variant.record.file}:{variant.operation}:{variant.severity}"
    rng = np.random.default_rng(list(hashlib.sha256(name.encode()).digest()))
    process = load_ladder(variant.modality).process
    try:
        replace_file(path, process(variant.record.path, variant.operation, variant.severity, rng, max_frames))
    except Unreadable as error:
        return str(error)
    return ""


def run_variants(variants: Sequence[Variant], out: Path, *, seed: int, max_frames: int, workers: int) -> dict[str, str]:
    """Process what is not there yet. Returns file -> reason of failures."""
    waiting = [variant for variant in variants if not (out / variant.file).is_file()]
    there = len(variants) - len(waiting)
    if there:
        print(f"{there} of {len(variants)} are there already", flush=True)
    process = partial(process_clip, out=str(out), seed=seed, max_frames=max_frames)
    # spawn: a forked copy of a process with decoder threads can deadlock
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        reasons = pool.map(process, waiting)
        progress = tqdm(reasons, total=len(variants), initial=there, unit="file", smoothing=0.05)
        return {variant.file: reason for variant, reason in zip(waiting, progress, strict=True) if reason}


def write_manifest(variants: Sequence[Variant], out: Path, modality: Modality = VIDEO) -> int:
    """Name every variant that exists, and keep the lines of those that earlier commands made. Returns how many."""
    manifest = out / "manifest.csv"
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
    write_csv(manifest, MANIFEST_COLUMNS, ({**line, **probe(out / str(line["file"]), modality)} for line in lines))
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
    replace_file(path, json.dumps(settings, indent=2).encode())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m debug.postprocess",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("clips", type=Path, help="folder with manifest.csv, or real/<source>/, generated/<source>/")
    parser.add_argument("out", type=Path, help="folder to make or to go on with")
    parser.add_argument("--operations", nargs="+", default=[], metavar="NAME", help="default: all; see debug.ladders")
    parser.add_argument("--severities", nargs="+", type=int, default=[1, 2, 3], metavar="N")
    parser.add_argument("--per-clip", type=int, metavar="N", help="draw N steps for each clip, not all")
    parser.add_argument("--limit", type=int, help="at most this many clips, spread over sources and classes")
    parser.add_argument("--max-frames", type=int, default=64, help="frames kept of each clip (default: 64)")
    parser.add_argument("--workers", type=int, default=available_cores(), help="default: one per core")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        modality = find_modality(options.clips)
        records = load_records(options.clips, modality)
        records = select_records(records, limit=options.limit, sources=[], seed=options.seed)
        variants = plan_variants(
            records, options.operations or load_ladder(modality).operations, options.severities, modality=modality,
            per_clip=options.per_clip, seed=options.seed,
        )  # fmt: skip
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
    count = write_manifest(variants, options.out, modality)
    for file, reason in sorted(failures.items())[:10]:
        print(f"failed: {file}: {reason}")
    print(f"{count} files of {len(records)} clips in {options.out}, {len(failures)} failed")
    print(f"next: python -m debug.labelled {options.out} DATASET")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
