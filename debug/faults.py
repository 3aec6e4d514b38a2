"""The fault campaign: `python -m debug.faults [--modality audio] [--files 2000] [--run-kills 100]`.

Damages clips of every codec and container (mutations.py), mixes them with whole ones and scores them all through the
pipeline, twice over: without and with the damaged ones, killing random decode workers on the way. Then it starts whole
runs and kills them with SIGKILL at random moments (kills.py). The network is replaced by a plain average of the views,
so that the figures are about everything around it; --weights puts the real one in. --script-kills kills `script.py`
itself, with the committed weights, on a few clips of the debug dataset.

Promised, and checked: every id once in a valid file at any moment; a score for every whole clip, equal to that of the
run without damage; no clip over its time limit; no process left behind. Exit code: 0 if all of it held, else 1.
A file that crashed a worker is kept in --keep.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from debug.kills import ROOT, STAGES, KillOutcome, kill_runs, process_tree, read_scores
from debug.layouts import Example, write_two_shards
from debug.mutations import mutate
from model.config import LimitsConfig, PipelineConfig
from model.modality import AUDIO, MODALITIES, VIDEO, Modality, Preparation
from model.rows.dataset import ClipDataset, Row
from model.rows.submission import ResultFile
from model.run.pipeline import RunStats, Scored, Scorer, run

_WHOLE_EVERY = 5  # one whole clip after so many damaged ones
_LOOK_SECONDS = 0.05  # how often the result file is looked at
RUN_CLIPS = 16  # of a run that is killed
_SCRIPT_CLIPS = 8  # the same of script.py, which takes its time over each


@dataclass
class Outcome:
    """What the campaign counted. The last seven must be 0."""

    files: int = 0
    whole_clips: int = 0
    scored_damaged: int = 0
    reasons: Counter[str] = field(default_factory=Counter)  # of damaged files that fell back, numbers taken out
    crashes: int = 0  # worker deaths that the damaged files caused
    worker_kills: int = 0
    killed: dict[str, KillOutcome] = field(default_factory=dict)  # what was killed -> what came of it
    looks: int = 0  # at the result file while it was being replaced
    rows_lost: int = 0
    wrong_ids: int = 0
    whole_without_score: int = 0
    whole_with_other_score: int = 0
    invalid_files: int = 0
    hangs: int = 0

    @property
    def broken_promises(self) -> int:
        killed = sum(len(outcome.broken) + outcome.processes_left for outcome in self.killed.values())
        rows = self.rows_lost + self.wrong_ids + self.whole_without_score + self.whole_with_other_score
        return rows + self.invalid_files + self.hangs + killed

    def report(self) -> str:
        fell_back = self.files - self.scored_damaged
        lines = [
            f"{self.files} damaged files among {self.whole_clips} whole clips: {self.scored_damaged} scored all the"
            f" same, {fell_back} fell back",
            *(f"  {number} x {reason}" for reason, number in self.reasons.most_common(25)),
            f"worker deaths by damaged files: {self.crashes}; workers killed: {self.worker_kills}",
            *(line for name, outcome in self.killed.items() for line in outcome.report(name)),
            f"result file looked at {self.looks} times",
            f"rows lost {self.rows_lost}, wrong ids {self.wrong_ids}, whole clips without score"
            f" {self.whole_without_score}, with another score {self.whole_with_other_score}, invalid files"
            f" {self.invalid_files}, hangs {self.hangs}",
        ]
        return "\n".join(lines)


class AverageScorer:
    """Stands in for the network: the mean of the views, 127 becoming 0. A `scoring.Scorer`."""

    network_seconds = 0.0

    def add(self, clip_id: str, content: np.ndarray) -> Iterator[Scored]:
        yield Scored(clip_id, float(content.mean()) - 127.0)

    def flush(self) -> Iterator[Scored]:
        return iter(())


@dataclass(frozen=True)
class Material:
    """What is damaged, and how it is read. clip: name of a family -> the bytes of its file."""

    modality: Modality
    families: tuple[str, ...]
    clip: Callable[[str], bytes]
    build_examples: Callable[[Mapping[str, bytes]], list[Example]]  # of the debug set
    prepare: Callable[[LimitsConfig], Preparation]  # with small views, for the average


def load_material(modality: Modality) -> Material:
    """Small files of every codec and container."""
    if modality == VIDEO:
        from debug import toy_videos, video_examples
        from debug.field_clips import FIELD_FAMILIES, field_clip
        from model.video.prepare import VideoPreparation
        from model.video.views import ViewConfig

        def clip(name: str) -> bytes:
            return field_clip(name) if name in FIELD_FAMILIES else toy_videos.clip(name)

        families = (*toy_videos.FAMILIES, *FIELD_FAMILIES)
        return Material(
            VIDEO, families, clip, video_examples.build_examples,
            lambda limits: VideoPreparation(limits=limits, views=ViewConfig(size=64)),
        )  # fmt: skip
    from debug import audio_examples, toy_sounds
    from model.audio.prepare import AudioPreparation

    return Material(AUDIO, toy_sounds.FAMILIES, toy_sounds.clip, audio_examples.build_examples, AudioPreparation)


def damaged_rows(files: int, seed: int, material: Material) -> Iterator[Row]:
    """`files` damaged clips of all families in turn, the same for the same seed."""
    rng = random.Random(seed)
    for number in range(files):
        family = material.families[number % len(material.families)]
        content = mutate(material.clip(family), material.clip(rng.choice(material.families)), rng)
        yield Row(f"damaged-{number}-{family}", content)


def whole_rows(number: int, material: Material) -> list[Row]:
    families = material.families
    return [Row(f"whole-{index}", material.clip(families[index % len(families)])) for index in range(number)]


def score(
    rows: list[Row], output: Path, material: Material, *, workers: int, limits: LimitsConfig,
    weights: Path | None = None,
) -> tuple[dict[str, str], RunStats]:  # fmt: skip
    """Run the pipeline over rows. Returns the scores as the result file has them, "" where there is none."""
    preparation: Preparation = material.prepare(limits)
    build_scorer: Callable[[], Scorer] = AverageScorer
    if weights is not None:
        preparation, build_scorer = _real_network(weights, material.modality, limits)
    dataset = ClipDataset([row.id for row in rows], "fault campaign", lambda: iter(rows))
    config = PipelineConfig(workers=workers, write_seconds=0.1)
    result = ResultFile(output, dataset.ids, material.modality, write_seconds=config.write_seconds)
    result.write()
    show = sys.stderr.isatty()
    stats = run(dataset, result, preparation, build_scorer, config=config, show_progress=show)
    result.write()
    return read_scores(output), stats


def _real_network(weights: Path, modality: Modality, limits: LimitsConfig) -> tuple[Preparation, Callable[[], Scorer]]:
    import torch

    from model.run.parts import load_detector, load_preparation
    from model.run.scoring import BatchScorer

    def build_scorer() -> Scorer:
        return BatchScorer(lambda on: load_detector(modality, weights, on), torch.device("cpu"))

    return load_preparation(modality, weights, limits), build_scorer


@contextlib.contextmanager
def _repeating(action: Callable[[], object], pause_seconds: Callable[[], float]) -> Iterator[None]:
    """Call `action` again and again from a thread, with a pause before each call."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(pause_seconds()):
            action()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def watched(path: Path, ids: set[str], outcome: Outcome) -> contextlib.AbstractContextManager[None]:
    """Look at the result file all the while: it must be complete and valid whenever somebody does."""

    def look() -> None:
        if path.exists():
            outcome.looks += 1
            try:
                outcome.invalid_files += set(read_scores(path)) != ids
            except ValueError:
                outcome.invalid_files += 1

    return _repeating(look, lambda: _LOOK_SECONDS)


def killing_workers(
    kills: int, every_seconds: float, seed: int, outcome: Outcome
) -> contextlib.AbstractContextManager[None]:
    """Kill random decode workers of this process."""
    rng = random.Random(seed)

    def kill() -> None:
        children = process_tree(os.getpid())[1:]
        if children and outcome.worker_kills < kills:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(children), signal.SIGKILL)
                outcome.worker_kills += 1

    return _repeating(kill, lambda: rng.uniform(0.5, 1.5) * every_seconds)


def run_mutations(
    outcome: Outcome, folder: Path, material: Material, *, files: int, seed: int, workers: int, worker_kills: int,
    limits: LimitsConfig,
    weights: Path | None = None, keep: Path | None = None,
) -> None:  # fmt: skip
    """Sound clips alone, then among damaged ones with workers being killed; compare."""
    whole = whole_rows(max(len(material.families), files // _WHOLE_EVERY), material)
    expected, _ = score(whole, folder / "whole.csv", material, workers=workers, limits=limits, weights=weights)
    damaged = list(damaged_rows(files, seed, material))
    rows = whole + damaged
    random.Random(seed).shuffle(rows)
    path, started = folder / "mixed.csv", time.monotonic()
    with watched(path, {row.id for row in rows}, outcome), killing_workers(worker_kills, 2.0, seed, outcome):
        scores, stats = score(rows, path, material, workers=workers, limits=limits, weights=weights)
    outcome.files += files
    outcome.whole_clips += len(whole)
    ids = Counter(row.id for row in rows)
    outcome.rows_lost += len(ids.keys() - scores.keys())
    outcome.wrong_ids += len(scores.keys() - ids.keys())
    outcome.whole_without_score += sum(not scores.get(row.id) for row in whole)
    outcome.whole_with_other_score += sum(scores.get(row.id) != expected[row.id] for row in whole)
    outcome.scored_damaged += sum(bool(scores.get(row.id)) for row in damaged)
    by_id = {row.id: row for row in damaged}
    outcome.reasons.update(_general(stats.reasons[clip_id]) for clip_id in by_id if not scores.get(clip_id))
    for crash in stats.crashes:
        outcome.crashes += crash.id in by_id and not crash.from_outside
        outcome.hangs += crash.id not in by_id and crash.late
        if keep is not None and crash.id in by_id:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / crash.id).write_bytes(by_id[crash.id].media)  # type: ignore[arg-type]
    seconds = time.monotonic() - started
    print(f"{len(rows)} clips in {seconds:.0f} s", file=sys.stderr)


def _general(note: str) -> str:
    """A reason without its numbers and names, for counting."""
    words = ("#" if any(letter.isdigit() for letter in word) else word for word in note.split())
    return " ".join(words)[:160]


def kill_pipelines(folder: Path, material: Material, *, kills: int, seed: int) -> KillOutcome:
    """Kill runs of the pipeline with the average for a network."""
    command = (sys.executable, "-m", "debug.faults", "--modality", material.modality.name, "--one-run")
    ids = {row.id for row in whole_rows(RUN_CLIPS, material)}
    return kill_runs(lambda output: (*command, output), ids, folder, kills=kills, seed=seed)


def kill_scripts(
    folder: Path,
    material: Material,
    *,
    kills: int,
    seed: int,
    clips: int = _SCRIPT_CLIPS,
    stages: Sequence[str] = STAGES,
) -> KillOutcome:
    """Kill runs of script.py on `clips` whole clips of the debug dataset and its broken ones."""
    built = material.build_examples({})
    examples = [one for one in built if one.readable][:clips] + [one for one in built if not one.readable]
    write_two_shards(examples, folder / "dataset", material.modality)
    options = "--device", "cpu", "--columns", "challenge", "--dataset", folder / "dataset", "--output"
    command = sys.executable, ROOT / "script.py", *options
    ids = {example.id for example in examples}
    return kill_runs(lambda output: (*command, output), ids, folder, kills=kills, seed=seed, stages=stages)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modality", choices=MODALITIES, default="video", help="default: %(default)s")
    parser.add_argument("--files", type=int, default=2000, help="damaged files; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--worker-kills", type=int, default=20)
    parser.add_argument("--run-kills", type=int, default=100, help="of the pipeline alone; default: %(default)s")
    parser.add_argument("--script-kills", type=int, default=100, help="of script.py; default: %(default)s")
    parser.add_argument("--hard-seconds", type=float, default=LimitsConfig().hard_seconds, help="limit of one clip")
    parser.add_argument("--weights", type=Path, help="score with the network in this folder, on the CPU")
    parser.add_argument("--keep", type=Path, help="where files that crashed a worker go")
    parser.add_argument("--one-run", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    limits = LimitsConfig(soft_seconds=min(10.0, options.hard_seconds / 2), hard_seconds=options.hard_seconds)
    material = load_material(MODALITIES[options.modality])
    if options.one_run:
        score(whole_rows(RUN_CLIPS, material), options.one_run, material, workers=options.workers, limits=limits)
        return 0
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as folder:
        if options.files:
            run_mutations(
                outcome, Path(folder), material, files=options.files, seed=options.seed, workers=options.workers,
                worker_kills=options.worker_kills, limits=limits, weights=options.weights, keep=options.keep,
            )  # fmt: skip
        for name, kill, kills in (
            ("pipelines", kill_pipelines, options.run_kills),
            ("script.py", kill_scripts, options.script_kills),
        ):
            if kills:
                outcome.killed[name] = kill(Path(folder, name), material, kills=kills, seed=options.seed)
    print(outcome.report())
    return 1 if outcome.broken_promises else 0


if __name__ == "__main__":
    sys.exit(main())
