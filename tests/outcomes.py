"""Runs pytest so that a summary is printed whatever is killed. A plugin of it keeps each outcome as it comes.

A test process that dies costs the test at hand: pytest-xdist reports it and starts another. Where pytest itself is
killed, the summary comes from the outcomes kept so far.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

_FILE_VARIABLE = "SAFE_TEST_OUTCOMES"
_LEAVE_SECONDS = 60.0  # that pytest gets for its own summary once it is asked to end
_FINISHED = "finished\t"


class OutcomeFile:
    """A pytest plugin: appends `started`, `passed`, `failed` or `skipped` and the test's name to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _add(self, outcome: str, test: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{outcome}\t{test}\n")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._add("started", nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self._add(report.outcome, report.nodeid)

    def pytest_unconfigure(self) -> None:
        self._add("finished", "")


def pytest_configure(config: pytest.Config) -> None:
    """Register the plugin in the process that reports, if this module runs it."""
    path = os.environ.get(_FILE_VARIABLE)
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(OutcomeFile(Path(path)))


def run_pytest(python: Path, arguments: Sequence[str], root: Path, *, workers: int) -> int:
    """Run pytest in `root` with that many test processes. Returns its exit code, 1 if it was killed."""
    command = [
        str(python),
        "-m",
        "pytest",
        "-p",
        "tests.outcomes",
        "-n",
        str(workers),
        "--dist",
        "worksteal",
        *arguments,
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "outcomes.tsv")
        path.touch()  # a test can read it before pytest has written of it
        # The test processes share the cores: one thread for each.
        variables = os.environ | {_FILE_VARIABLE: str(path), "OMP_NUM_THREADS": "1"}
        # In a session of its own, so that all test processes can be asked to end at once.
        with (
            _signals_as_exceptions(),
            subprocess.Popen(command, cwd=root, env=variables, start_new_session=True) as process,
        ):
            try:
                code = process.wait()
            except KeyboardInterrupt:
                code = _end(process)
        lines = path.read_text(encoding="utf-8").splitlines()
    if _FINISHED in lines:
        return code
    print(summary(lines, f"pytest ended with {code}" if code >= 0 else f"pytest was killed by signal {-code}"))
    return code if code > 0 else 1


def summary(lines: Sequence[str], ended: str) -> str:
    """What pytest would have said: the failures, the tests that had not finished, the counts."""
    last = {test: outcome for outcome, test in (line.split("\t", 1) for line in lines)}  # the latest of each test
    counts = Counter(last.values())
    named = [f"{outcome.upper()} {test}" for test, outcome in last.items() if outcome in ("failed", "started")]
    count = ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped"))
    return "\n".join(["", ended, *named, f"{counts['started']} tests had not finished", count])


@contextlib.contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt here, as Ctrl-C does."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(process: subprocess.Popen[bytes]) -> int:
    """Ask pytest and all that it started to end, as Ctrl-C does; kill them if it does not. Returns its exit code."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        return process.wait(timeout=_LEAVE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()
