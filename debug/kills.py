"""Whole runs killed with SIGKILL at seeded moments, from start-up to the last write; `debug.faults` calls this.

A first run is left alone: it tells how long the stages take and which scores there are. Every other one is killed,
by turns the main process alone and the whole process group, at a moment of one of STAGES. Moments follow what the run
has got to, not the clock alone, so that a machine that slows down still has its runs killed in every stage.
"""

from __future__ import annotations

import contextlib
import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from debug.check_submission import COLUMNS, GENUINE, is_valid

ALL_COLUMNS = [columns for allowed in COLUMNS.values() for columns in allowed]
ROOT = Path(__file__).resolve().parent.parent
# Scoring twice, as most of a real run is that. "write": while the temporary file is there; "end": all scores are in.
# "first scores": the moment they stand in the file, which script.py replaces again two seconds later at the earliest.
STAGES = ("start-up", "first file", "loading", "first scores", "scoring", "write", "scoring", "end")
_POLL_SECONDS = 0.002
_RUN_SECONDS = 600.0  # no run is waited for longer
_ORPHAN_SECONDS = 60.0
_SCORE_TOLERANCE = 0.01  # batches fill otherwise from run to run; scores move in the third digit


@dataclass
class KillOutcome:
    """What was counted. kills: by stage; broken: what was wrong, one line each, empty if every promise held."""

    kills: Counter[str] = field(default_factory=Counter)
    ended_before: int = 0  # the run was over when the kill came
    before_file: int = 0  # no file yet, and none promised
    complete_files: int = 0
    with_some_scores: int = 0  # of those, the ones with part of the scores in them
    with_all_scores: int = 0
    broken: list[str] = field(default_factory=list)
    processes_left: int = 0

    def report(self, name: str) -> list[str]:
        stages = ", ".join(f"{stage} {number}" for stage, number in self.kills.items())
        return [
            f"{name} killed {sum(self.kills.values())} times ({stages}): {self.before_file} before the first file;"
            f" {self.complete_files} complete valid files, {self.with_some_scores} with part of the scores and"
            f" {self.with_all_scores} with all of them ({self.ended_before} runs were over before the kill);"
            f" broken {len(self.broken)}, processes left {self.processes_left}",
            *(f"  {line}" for line in self.broken),
        ]


@dataclass(frozen=True)
class _Whole:
    """The run that is left alone. Seconds from its start."""

    file_seconds: float
    score_seconds: float
    scores: dict[str, str]
    num_scores: int


def kill_runs(
    build_command: Callable[[Path], Sequence[str | Path]], ids: set[str], folder: Path, *, kills: int, seed: int,
    stages: Sequence[str] = STAGES,
) -> KillOutcome:  # fmt: skip
    """Start runs and kill them.

    build_command: from the path of the result file. ids: what the file must hold, each once. stages: taken in turn.
    """
    rng, outcome = random.Random(seed), KillOutcome()
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    whole = _run_whole(build_command, folder / "whole.csv")
    if set(whole.scores) != ids or not whole.num_scores:
        raise ValueError(f"the run that was left alone gives {whole.num_scores} scores, {len(whole.scores)} ids")
    for number in range(kills):
        path, stage = folder / f"killed-{number}.csv", stages[number % len(stages)]
        process = _start(build_command, path)
        try:
            _wait(process, path, whole, stage, rng)
            outcome.ended_before += process.poll() is not None
        except ValueError as error:
            outcome.broken.append(f"kill {number} ({stage}): while it ran: {error}")
        finally:
            _kill(process, whole_group=rng.random() < 0.5)
        outcome.kills[stage] += 1
        _check(path, ids, whole, outcome, f"kill {number} ({stage})")
        left = session_outlives(process.pid, seconds=_ORPHAN_SECONDS)
        outcome.processes_left += left
        if left:
            os.killpg(process.pid, signal.SIGKILL)
        seconds = time.monotonic() - started
        print(f"{seconds:.0f} s: {number + 1}/{kills} runs killed, {len(outcome.broken)} broken", file=sys.stderr)
    return outcome


def _start(build_command: Callable[[Path], Sequence[str | Path]], path: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"TMPDIR": str(path.parent)}  # a killed run leaves its temporary folder behind
    return subprocess.Popen(
        build_command(path), cwd=ROOT, env=environment, start_new_session=True, stderr=subprocess.DEVNULL
    )


def _run_whole(build_command: Callable[[Path], Sequence[str | Path]], path: Path) -> _Whole:
    started = time.monotonic()
    process = _start(build_command, path)
    try:
        _until(process, lambda: path.exists())
        file_seconds = time.monotonic() - started
        _until(process, lambda: _scores_in(path) > 0)
        score_seconds = time.monotonic() - started
        process.wait(timeout=_RUN_SECONDS)
    finally:
        _kill(process, whole_group=True)
    scores = read_scores(path)
    return _Whole(file_seconds, score_seconds, scores, _count(scores))


def _wait(process: subprocess.Popen[bytes], path: Path, whole: _Whole, stage: str, rng: random.Random) -> None:
    """Until a moment of `stage`, or the end of the run."""
    if stage == "start-up":
        _until(process, lambda: False, seconds=rng.uniform(0, whole.file_seconds))
        return
    _until(process, lambda: path.exists())
    if stage == "first file":
        time.sleep(rng.choice((0.0, rng.uniform(0, 0.1))))
    elif stage == "loading":
        _until(process, lambda: False, seconds=rng.uniform(0, whole.score_seconds - whole.file_seconds))
    elif stage == "first scores":
        _until(process, lambda: _scores_in(path) > 0)
    elif stage == "scoring":
        wanted = rng.randint(1, max(1, whole.num_scores - 1))
        _until(process, lambda: _scores_in(path) >= wanted)
        _until(process, lambda: False, seconds=rng.uniform(0, 1.0))
    elif stage == "write":
        wanted = rng.randint(0, max(0, whole.num_scores - 1))
        partial = path.with_name(f".{path.name}.partial")
        _until(process, lambda: _scores_in(path) >= wanted)
        _until(process, lambda: partial.exists(), pause=0.0)
    elif stage == "end":
        _until(process, lambda: _scores_in(path) >= whole.num_scores)
        _until(process, lambda: False, seconds=rng.uniform(0, 0.3))
    else:
        raise ValueError(f"no stage {stage!r}; the stages are {STAGES}")


def _until(
    process: subprocess.Popen[bytes], done: Callable[[], bool], *, seconds: float = _RUN_SECONDS,
    pause: float = _POLL_SECONDS,
) -> None:  # fmt: skip
    until = time.monotonic() + seconds
    while process.poll() is None and not done() and time.monotonic() < until:
        time.sleep(pause)


def _kill(process: subprocess.Popen[bytes], *, whole_group: bool) -> None:
    if process.poll() is None:
        if whole_group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _check(path: Path, ids: set[str], whole: _Whole, outcome: KillOutcome, name: str) -> None:
    if not path.exists():
        outcome.before_file += 1
        if "start-up" not in name:
            outcome.broken.append(f"{name}: there was a file, and it is gone")
        return
    try:
        scores = read_scores(path)
    except (ValueError, OSError) as error:
        outcome.broken.append(f"{name}: {error}")
        return
    strange = {
        clip_id: text
        for clip_id, text in scores.items()
        if text and not abs(float(text) - float(whole.scores.get(clip_id) or "nan")) <= _SCORE_TOLERANCE
    }
    if set(scores) != ids or strange:
        outcome.broken.append(f"{name}: {len(ids - set(scores))} ids missing, other scores: {strange}")
        return
    outcome.complete_files += 1
    outcome.with_some_scores += 0 < _count(scores) < whole.num_scores
    outcome.with_all_scores += _count(scores) == whole.num_scores


def _scores_in(path: Path) -> int:
    return _count(read_scores(path)) if path.exists() else 0


def _count(scores: dict[str, str]) -> int:
    return sum(map(bool, scores.values()))


def read_scores(path: Path) -> dict[str, str]:
    """id -> score text of a result file. Raises: ValueError: not a valid one."""
    with open(path, newline="", encoding="utf-8") as file:
        table = csv.DictReader(file, strict=True)
        header, rows = table.fieldnames, list(table)
    if header not in ALL_COLUMNS:
        raise ValueError(f"header {header}")
    scores: dict[str, str] = {}
    for row in rows:
        whole = None not in row and None not in row.values()  # no cell too many, none too few
        if not whole or row["id"] in scores or not is_valid(row, GENUINE.values()):
            raise ValueError(f"row {row}")
        scores[row["id"]] = row["score"]
    return scores


def session_outlives(session: int, *, seconds: float) -> int:
    """How many processes of a session are left after `seconds`."""
    until = time.monotonic() + seconds
    while True:
        left = 0
        for entry in Path("/proc").iterdir():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # no process, or one that has just ended
                continue
            left += len(fields) > 3 and fields[3] == str(session) and fields[0] != "Z"
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.05)


def process_tree(pid: int) -> list[int]:
    """A process, its children, their children, and so on."""
    found = [pid]
    for process in found:  # grows while it is walked
        tasks: list[str] = []
        with contextlib.suppress(OSError):  # it has ended
            tasks = os.listdir(f"/proc/{process}/task")
        for task in tasks:
            with contextlib.suppress(OSError):
                children = Path(f"/proc/{process}/task/{task}/children").read_text(encoding="ascii")
                found += map(int, children.split())
    return found
