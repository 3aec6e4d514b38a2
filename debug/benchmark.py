"""Measure the submission on this machine: `python -m debug.benchmark [FOLDER] [--output debug/BENCHMARK.md]`.

One run prints everything: clips a second of decoding alone, of the network alone and of both at once; the ratio to a
serial submission (decord, 16 frames spread evenly, one clip at a time, the same network); the same with 1, 2, ...
workers; what each sampling policy costs; start-up; peak memory with few and with many rows; where the time goes.
Without FOLDER it makes its own clips (see benchmark_clips.py) and keeps them in .cache/benchmark.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from debug import benchmark_stages as stages
from debug.benchmark_clips import ClipPlan, make_clips, plan_clips
from model.config import available_cores
from model.modality import VIDEO
from model.rows.dataset import open_dataset
from model.run.pipeline import RunStats
from model.video.prepare import VideoPreparation, load_preparation
from model.weights import MANIFEST_NAME

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "benchmark"
LONG_ROWS = 96  # at least: filling and emptying the pipeline should count for little
DEVICE_SPEEDS = (1.0, 4.0)  # of a stand-in for a GPU, over decoding: as fast, and as an L4 is projected to be
# (runs, frames of each)
POLICIES = ((1, 2), (1, 4), (1, 12), (2, 2), (2, 6), (3, 2), (3, 4), (4, 2), (4, 6), (8, 2), (16, 2))
BY_HAND = "## What this means"  # from this heading on, the results file is kept as it is
MEMORY_CLIP = ClipPlan(320, 240, seconds=2, rate=30, crf=14)  # about 0.5 MB


@dataclass(frozen=True)
class Round:
    """Rates, in clips a second, measured one after the other. by_workers: (decoding, end to end).

    by_device: end to end with the most workers and a network that waits on a device of its own, which is so many times
    as fast as decoding.
    """

    naive: stages.Naive
    network: float
    network_processor_seconds: float  # a clip
    by_workers: dict[int, tuple[float, float]]
    decode_processor_seconds: float  # a clip
    stats: RunStats  # of the last end-to-end run
    by_device: dict[float, float] = field(default_factory=dict)

    @property
    def most(self) -> int:
        return max(self.by_workers)

    def slower_stage(self, workers: int) -> float:
        return min(self.by_workers[workers][0], self.network)

    def shared_bound(self, workers: int, cores: int) -> float:
        """The slower stage, or what the cores allow that both stages share: a clip costs processor seconds in both."""
        return min(self.slower_stage(workers), cores / (self.decode_processor_seconds + self.network_processor_seconds))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="folder of videos; default: clips of our own")
    parser.add_argument("--clips", type=int, default=12, help="how many clips; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each rate; default: %(default)s")
    parser.add_argument("--weights", type=Path, default=ROOT / "weights" / "video", help="folder with manifest.json")
    parser.add_argument("--device", help="torch device; default: CUDA if there is one")
    parser.add_argument("--workers", type=int, nargs="+", help="default: 1, 2, 4, ... and one per core")
    parser.add_argument("--memory-rows", type=int, nargs=2, default=(200, 2000), metavar=("FEW", "MANY"))
    parser.add_argument("--no-memory", action="store_true", help="leave the two runs for memory and start-up out")
    parser.add_argument("--note", default="", help="what else ran on the machine; goes into the table")
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    if options.folder is None:
        files = make_clips(CACHE, plan_clips(options.clips))
    else:
        found = (file for file in options.folder.rglob("*") if file.suffix.lower() in VIDEO.suffixes)
        files = sorted(found)[: options.clips]
    if not files:
        print(f"no video in {options.folder}", file=sys.stderr)
        return 1
    clips = [file.read_bytes() for file in files]
    worker = load_preparation(options.weights)
    counts = options.workers or sorted({*(2**k for k in range(10) if 2**k < available_cores()), available_cores()})
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        rounds = [_measure(clips, worker, options, counts, Path(folder)) for _ in range(options.rounds)]
        lines = [*_describe_machine(options), *_describe_clips(files, options), *_describe_rates(rounds)]
        lines += _describe_policies(clips, worker)
        if not options.no_memory:
            lines += _describe_memory(options, counts[-1], Path(folder))
    text = "\n".join(lines) + "\n"
    print(text)
    if options.output:
        old = options.output.read_text(encoding="utf-8") if options.output.exists() else ""
        by_hand = old[old.index(BY_HAND) :] if BY_HAND in old else ""
        options.output.write_text("\n".join(filter(None, [text, by_hand])), encoding="utf-8")
    return 0


def _measure(
    clips: Sequence[bytes], worker: VideoPreparation, options: argparse.Namespace, counts: Sequence[int], folder: Path
) -> Round:
    from model.run.scoring import BatchScorer, choose_device
    from model.video.detector import load_detector

    device = choose_device(options.device)
    scorer = BatchScorer(lambda on: load_detector(options.weights, on), device)
    repeats = 2 if device.type == "cpu" else 20
    stages.write_rows(stages.repeated(clips, repeats * len(clips)), folder / "short")
    stages.write_rows(stages.repeated(clips, max(LONG_ROWS, 2 * repeats * len(clips))), folder / "long")
    short, long = open_dataset(folder / "short"), open_dataset(folder / "long")
    naive = stages.naive(
        clips, worker, load_detector(options.weights, device), stages.build_plain_network(options.weights, device)
    )
    network, network_busy = stages.network_rate(clips, repeats, worker, scorer)
    print(f"naive: {naive.rate:.2f}, network alone: {network:.2f} clips/s", file=sys.stderr)
    by_workers = {}
    for count in counts:
        decoding, busy = stages.decoding(long, worker, count)
        rate, stats = stages.end_to_end(long, worker, scorer, count, folder / "submission.csv")
        by_workers[count] = decoding, rate
        print(f"{count} workers: decoding {decoding:.2f}, end to end {rate:.2f} clips/s", file=sys.stderr)
    by_device = {}
    for speed in DEVICE_SPEEDS:
        waiting = stages.WaitingScorer(speed * by_workers[counts[-1]][0])
        by_device[speed], _ = stages.end_to_end(long, worker, waiting, counts[-1], folder / "submission.csv")
        print(f"device of its own, {speed:g} times decoding: {by_device[speed]:.2f} clips/s", file=sys.stderr)
    # Twice, with different numbers of rows: the difference is free of the workers' start-up.
    extra_rows = len(long.ids) - len(short.ids)
    busy -= stages.decoding(short, worker, counts[-1])[1]
    return Round(naive, network, network_busy, by_workers, busy / extra_rows, stats, by_device)


def _describe_machine(options: argparse.Namespace) -> list[str]:
    import torch

    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), platform.machine())
    vectors = torch.backends.cpu.get_cpu_capability()  # such as AVX2 or AVX512: the network's speed hangs on them
    amx = "with AMX" if torch.cpu._is_amx_tile_supported() else "without AMX"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return [
        "# Speed, measured by `python -m debug.benchmark`",
        "",
        f"- machine: {available_cores()} cores of {model} ({vectors}, {amx}), {gpu};"
        f" Python {platform.python_version()}, torch {torch.__version__}",
        f"- {time.strftime('%Y-%m-%d', time.gmtime())}; load average at the end {load}. {options.note}".rstrip(),
    ]


def _describe_clips(files: Sequence[Path], options: argparse.Namespace) -> list[str]:
    import av

    seconds, keys, sizes = [], [], []
    for file in files:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            sizes.append(min(stream.width, stream.height))
            seconds.append((container.duration or 0) / 1e6)
            keys.append(sum(packet.is_keyframe for packet in container.demux(stream)))
    rates = [8 * file.stat().st_size / 1e6 / max(length, 0.1) for file, length in zip(files, seconds, strict=True)]
    what = f"{len(files)} clips" if options.folder else f"{len(files)} clips of our own, H.264"
    return [
        f"- {what}: {min(seconds):.0f} to {max(seconds):.0f} s,"
        f" {min(sizes)} to {max(sizes)} lines, {min(rates):.1f} to {max(rates):.1f} Mbit/s, {min(keys)} to {max(keys)}"
        f" key frames a clip (median {statistics.median(keys):g})",
        "",
    ]


def _describe_rates(rounds: Sequence[Round]) -> list[str]:
    """Medians over the rounds; a ratio is taken within its round, where both sides saw the same machine."""
    most, row = rounds[0].most, stages.table_row
    lines = [f"## Rates ({len(rounds)} rounds)", "", "| clips a second | median | range |", "| --- | --- | --- |"]
    lines.append(row("naive: decoding", [r.naive.decode_rate for r in rounds]))
    lines.append(row("naive: decoding and network, one after the other", [r.naive.rate for r in rounds]))
    lines.append(row("naive, its network as PyTorch runs it", [r.naive.plain_rate for r in rounds]))
    lines.append(row("network alone", [r.network for r in rounds]))
    for count in rounds[0].by_workers:
        lines.append(row(f"decoding alone, {count} workers", [r.by_workers[count][0] for r in rounds]))
        lines.append(row(f"end to end, {count} workers", [r.by_workers[count][1] for r in rounds]))
    busy = [r.naive.decode_processor_seconds / r.naive.clips for r in rounds]
    lines.append(row("naive decoding, processor seconds a clip", busy, 3))
    lines.append(row("our decoding, processor seconds a clip", [r.decode_processor_seconds for r in rounds], 3))
    lines.append(row("network, processor seconds a clip", [r.network_processor_seconds for r in rounds], 3))
    lines += ["", f"| ratio, {most} workers | median | range |", "| --- | --- | --- |"]
    lines.append(row("decoding over naive decoding", [r.by_workers[most][0] / r.naive.decode_rate for r in rounds], 1))
    less = [naive / r.decode_processor_seconds for naive, r in zip(busy, rounds, strict=True)]
    lines.append(row("naive decoding's processor seconds over ours", less, 1))
    lines.append(row("end to end over naive end to end", [r.by_workers[most][1] / r.naive.rate for r in rounds], 1))
    plain = [r.by_workers[most][1] / r.naive.plain_rate for r in rounds]
    lines.append(row("end to end over naive end to end, its network as PyTorch runs it", plain, 1))
    for count in rounds[0].by_workers:
        efficiency = [r.by_workers[count][1] / r.slower_stage(count) for r in rounds]
        lines.append(row(f"end to end over the slower stage alone, {count} workers", efficiency))
        shared = [r.by_workers[count][1] / r.shared_bound(count, available_cores()) for r in rounds]
        lines.append(row(f"end to end over what the shared cores allow, {count} workers", shared))
    for speed in rounds[0].by_device:
        alone = [r.by_device[speed] / r.by_workers[most][0] for r in rounds]
        name = f"end to end over decoding alone, network on a device {speed:g} times as fast (a wait stands in)"
        lines.append(row(name, alone))
    return [*lines, "", *_describe_time(rounds[-1].stats, most), ""]


def _describe_time(stats: RunStats, workers: int) -> list[str]:
    lines = ["## Where the time goes", "", f"Seconds a clip, {workers} workers; the stages overlap.", ""]
    lines += ["| stage | where | seconds |", "| --- | --- | --- |"]
    parts = {
        "read": ("reader thread", stats.read_seconds),
        "decode": ("workers, summed", stats.decode_seconds),
        "transform": ("workers, summed", stats.transform_seconds),
        "transfer": ("job to the worker and views back, summed", stats.transfer_seconds),
        "network": ("main thread", stats.network_seconds),
        "write": ("main thread", stats.write_seconds),
    }
    return lines + [f"| {name} | {where} | {value / stats.rows:.4f} |" for name, (where, value) in parts.items()]


def _describe_policies(clips: Sequence[bytes], worker: VideoPreparation) -> list[str]:
    lines = ["## Sampling policies: decoding and cutting", ""]
    lines += ["| runs at most | frames of each | frames read | processor seconds a clip |", "| --- | --- | --- | --- |"]
    for runs, frames in POLICIES:
        sampling = replace(worker.sampling, max_runs=runs, max_run_frames=frames)
        seconds, read = stages.policy_cost(clips, sampling, worker)
        chosen = " (used)" if sampling == worker.sampling else ""
        lines.append(f"| {runs}{chosen} | {frames} | {read:.1f} | {seconds:.3f} |")
    return [*lines, ""]


def _describe_memory(options: argparse.Namespace, workers: int, folder: Path) -> list[str]:
    """script.py itself on rows of 0.5 MB; one view a clip: 2,000 rows would take half an hour without a GPU."""
    weights = folder / "weights"
    shutil.copytree(options.weights, weights)
    manifest = json.loads((weights / MANIFEST_NAME).read_text(encoding="utf-8"))
    manifest["input"]["views"] |= {"num_patches": 1, "num_resized": 0}
    (weights / MANIFEST_NAME).write_text(json.dumps(manifest), encoding="utf-8")
    [clip] = make_clips(CACHE / "memory", [MEMORY_CLIP])
    lines = [
        "## Start-up and memory of script.py",
        "",
        f"Rows of {clip.stat().st_size / 1e6:.1f} MB, one view a clip; peak over the whole process tree.",
        "",
    ]
    lines += ["| rows | first clip decoded | first clip scored | all | peak | of it script.py |", "|" + " --- |" * 6]
    for rows in options.memory_rows:
        arguments = ["--weights", str(weights), "--workers", str(workers)]
        arguments += ["--device", options.device] if options.device else []
        result = stages.run_on_rows(clip.read_bytes(), rows, arguments, folder)
        lines.append(
            f"| {rows} | {result.first_decode_seconds:.1f} s | {result.first_score_seconds:.1f} s |"
            f" {result.wall_seconds:.0f} s | {result.peak_megabytes:.0f} MB | {result.peak_main_megabytes:.0f} MB |"
        )
    return [*lines, ""]


if __name__ == "__main__":
    sys.exit(main())
