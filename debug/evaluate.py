"""Run the evaluation on this machine, step by step as the organisers do: `python -m debug.evaluate`.

1. An environment from requirements.txt alone, or by `--environment default` from the organisers' default list.
2. The dataset in place: the small debug dataset (of speech by --modality audio), or your own by --data-dir.
3. A clean copy of the repository: only what git tracks at HEAD, as the hub delivers it.
4. `python script.py` there, under the sandbox's system-call filter, with a time limit that kills.
5. The metric against solution.csv, and what can be checked of the file: columns, every id once, which rows fell back.

Starts on a bare Python 3.10, 3.11 or 3.12 on Linux (standard library only). Arguments after `--` go to script.py.
Exit code: 0 all checks passed; 1 one did not, or script.py failed or was killed; 2 a step could not be carried out.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from debug.check_submission import GENUINE, check_result, find_modality, read_rows
from debug.environment import ENVIRONMENTS, BuildError, get_interpreter, get_pyseccomp
from debug.sandbox import SandboxError, run_sandboxed

ROOT = Path(__file__).resolve().parent.parent
EVALUATION_DATA = Path("/tmp/data")  # where the evaluation puts the dataset
NUM_STEPS = 5


class StepError(Exception):
    """A step cannot be carried out. The message says why and what to do."""


def say(line: str) -> None:
    print(f"      {line}", flush=True)


@contextlib.contextmanager
def step(number: int, title: str) -> Iterator[None]:
    print(f"[{number}/{NUM_STEPS}] {title}", flush=True)
    started = time.monotonic()
    yield
    say(f"({time.monotonic() - started:.1f} s)")


def build_debug_dataset(interpreter: Path, out: Path, options: argparse.Namespace) -> tuple[Path, Path]:
    """(data folder, solution.csv), built by the evaluated environment: it has PyAV, NumPy and PyArrow."""
    command = [str(interpreter), "-m", "debug.challenge_set", str(out / "dataset"), "--layout", options.layout]
    command += ["--modality", options.modality or "video", "--cache", str(options.cache)]
    command += ["--no-recordings"] if options.no_recordings else []
    result = subprocess.run(command, cwd=ROOT, env=clean_environment(interpreter), check=False)
    if result.returncode != 0:
        raise StepError(f"the debug dataset could not be built (exit code {result.returncode}; see above)")
    return out / "dataset" / "data", out / "dataset" / "solution.csv"


def export_repository(repository: Path, target: Path, *, working_tree: bool) -> str:
    """Copy what the hub would deliver to `target`: git's HEAD, or the working tree less what git ignores.

    Returns: what was copied, in words. A repository that is not under git is copied whole, less hidden files.
    """
    target.mkdir(parents=True)
    git = ["git", "-C", str(repository)]
    if not (repository / ".git").exists():
        hidden = shutil.ignore_patterns(".*", "__pycache__", "output")
        shutil.copytree(repository, target, ignore=hidden, dirs_exist_ok=True)
        return f"all visible files of {repository} (no git repository)"
    if working_tree:
        listed = _git([*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]).split("\0")
        names = [name for name in listed if name and (repository / name).is_file()]
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(repository / name, target / name)
        return f"{len(names)} files of the working tree"
    archive = target.with_suffix(".tar")
    _git([*git, "archive", "--output", str(archive), "HEAD"])
    shutil.unpack_archive(archive, target)
    archive.unlink()
    changed = [line for line in _git([*git, "status", "--porcelain"]).splitlines() if line]
    if changed:
        say(f"note: {len(changed)} uncommitted changes are not part of it; --working-tree takes them along")
    return f"commit {_git([*git, 'rev-parse', '--short', 'HEAD']).strip()}"


def read_requirements(repository: Path, *, working_tree: bool) -> str | None:
    """The text of requirements.txt as the hub would deliver it; None if there is none."""
    path = repository / "requirements.txt"
    if working_tree or not (repository / ".git").exists():
        return path.read_text(encoding="utf-8") if path.is_file() else None
    git = ["git", "-C", str(repository)]
    if not _git([*git, "ls-tree", "--name-only", "HEAD", "requirements.txt"]):
        return None
    return _git([*git, "show", "HEAD:requirements.txt"])


def _git(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise StepError(f"{' '.join(command)} failed: {result.stderr.strip()}")
    return result.stdout


@contextlib.contextmanager
def place_dataset(data: Path, place: str) -> Iterator[dict[str, str]]:
    """Put the dataset where script.py finds it; yields the environment variables that this takes.

    place: `tmp-data`: a link at /tmp/data, removed afterwards; `variable`: DATASET_PATH; `auto`: the first if free.
    """
    if data.resolve() == EVALUATION_DATA.resolve():
        say(f"it is at {EVALUATION_DATA} already")
        yield {}
        return
    taken = EVALUATION_DATA.exists() or EVALUATION_DATA.is_symlink()
    if place == "tmp-data" and taken:
        raise StepError(f"{EVALUATION_DATA} exists; move it away, or use --place variable")
    if place == "variable" or taken:
        say(f"DATASET_PATH={data}" + (f" ({EVALUATION_DATA} exists and is left alone)" if taken else ""))
        yield {"DATASET_PATH": str(data)}
        return
    EVALUATION_DATA.symlink_to(data)
    say(f"{EVALUATION_DATA} -> {data}")
    try:
        yield {}
    finally:
        EVALUATION_DATA.unlink()


def clean_environment(interpreter: Path, **extra: str) -> dict[str, str]:
    """The variables of this process, less those that would let something else in; `python` is the environment's."""
    unwanted = {"DATASET_PATH", "HF_TOKEN", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return {**kept, "PATH": f"{interpreter.parent}{os.pathsep}{os.environ.get('PATH', '')}", **extra}


def print_metric(interpreter: Path, solution: Path, submission: Path, out: Path) -> None:
    """Print the table, and keep it as metrics.txt."""
    command = [str(interpreter), "-m", "debug.metric", str(solution), str(submission), "--sources", "1000"]
    result = subprocess.run(
        command, cwd=ROOT, env=clean_environment(interpreter), capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise StepError(f"the metric cannot be computed: {result.stderr.strip()}")
    (out / "metrics.txt").write_text(result.stdout, encoding="utf-8")
    print("\n" + result.stdout, flush=True)


def evaluate(options: argparse.Namespace) -> int:
    """All five steps. Returns the exit code. Raises: StepError, BuildError, SandboxError."""
    out: Path = options.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with step(1, f"environment: {options.environment}"):
        requirements = read_requirements(options.repository, working_tree=options.working_tree)
        interpreter = get_interpreter(
            options.environment, requirements, options.python, options.cache, say, options.modality or "video"
        )
        pyseccomp = get_pyseccomp(interpreter, options.cache, say)
    with step(2, "dataset"):
        if options.data_dir is None:
            data, solution = build_debug_dataset(interpreter, out, options)
        else:
            data, solution = options.data_dir.resolve(), options.solution
            if not data.exists():
                raise StepError(f"no dataset at {data}")
    with step(3, "clean copy of the repository"):
        say(export_repository(options.repository, out / "repository", working_tree=options.working_tree))
    title = " ".join(["python script.py", *options.arguments])
    with (
        step(4, f"{title}, at most {options.time_limit:g} s"),
        place_dataset(data, options.place) as variables,
    ):
        started = time.monotonic()
        process = run_sandboxed(
            [str(interpreter), "script.py", *options.arguments],
            timeout=options.time_limit,
            cwd=out / "repository",
            env=clean_environment(interpreter, **variables),
            capture_output=False,
            pyseccomp_dir=pyseccomp,
        )
        seconds = time.monotonic() - started
    with step(5, "metric"):
        submission = out / "repository" / "submission.csv"
        if not submission.is_file():
            raise StepError(f"script.py left no submission.csv (exit code {process.returncode}): the submission fails")
        if solution is not None:
            print_metric(interpreter, solution, submission, out)
    ended = "killed at the time limit" if process.timed_out else f"exit code {process.returncode}"
    rows = read_rows(solution) if solution else None
    modality = options.modality or find_modality(rows or [])
    checks = check_result(submission, rows, modality)
    print(f"{'ok  ' if process.returncode == 0 else 'FAIL'}  script.py: {ended} after {seconds:.1f} s")
    for check in checks:
        print(f"{'ok  ' if check.passed else 'FAIL'}  {check.text}")
    passed = process.returncode == 0 and all(check.passed for check in checks)
    verdict = "passed" if passed else "FAILED"
    print(f"{verdict}: {interpreter} on {data}; everything is in {out}", flush=True)
    return 0 if passed else 1


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m debug.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--environment", choices=ENVIRONMENTS, default="requirements", help="default: %(default)s")
    parser.add_argument(
        "--python", default=sys.executable, metavar="EXE", help="interpreter to build on; default: this"
    )
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="a dataset of your own; default: the debug dataset"
    )
    parser.add_argument("--solution", type=Path, metavar="CSV", help="id,pred,source,split for --data-dir")
    parser.add_argument("--layout", default="parquet", help="see debug.challenge_set; default: parquet")
    parser.add_argument(
        "--modality", choices=GENUINE, help="of the debug dataset (default: video), or of --data-dir without --solution"
    )
    parser.add_argument("--no-recordings", action="store_true", help="debug dataset without fetched recordings")
    parser.add_argument(
        "--place", choices=("auto", "tmp-data", "variable"), default="auto",
        help="where script.py finds it: /tmp/data, DATASET_PATH, or (default) /tmp/data unless something is there",
    )  # fmt: skip
    parser.add_argument("--working-tree", action="store_true", help="evaluate uncommitted changes too")
    parser.add_argument("--repository", type=Path, default=ROOT, metavar="DIR", help="what to evaluate; default: this")
    parser.add_argument(
        "--time-limit", type=float, default=3600, metavar="S", help="then SIGKILL; default: %(default)s"
    )
    parser.add_argument(
        "--cache", type=Path, default=ROOT / ".cache" / "debug", metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "debug" / "output" / "evaluate", metavar="DIR",
                        help="replaced; gets the copy, the result and the table; default: %(default)s")  # fmt: skip
    parser.add_argument("arguments", nargs="*", metavar="-- ARGUMENTS", help="for script.py; the evaluation gives none")
    options = parser.parse_args(arguments)
    if options.solution is not None and options.data_dir is None:
        parser.error("--solution belongs to --data-dir")
    return options


def _stop(number: int, _frame: object) -> None:
    raise StepError(f"stopped from outside by {signal.Signals(number).name}, as a time limit does; run it again")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    options.cache = options.cache.resolve()
    try:
        return evaluate(options)
    except (StepError, BuildError, SandboxError) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):  # else it would end without a word, and leave the link at /tmp/data
        signal.signal(number, _stop)
    sys.exit(main())
