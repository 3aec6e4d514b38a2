"""`python3 -m tests [--long] [--here] [PYTEST ARGUMENTS]`: environment, lint, types, import rules, tests.

Starts on a bare Python 3.10, 3.11 or 3.12 (standard library only). Without `--here` it sets up .venv first. `--long`
adds the campaigns that take minutes. Tests run side by side, one process a core where memory allows. Each test has a
time limit of its own, and a summary is printed whatever is killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from debug.environment import BuildError
from tests import outcomes
from tests.environment import build_environment

ROOT = Path(__file__).resolve().parent.parent
WORKER_BYTES = 3 << 30  # of a test process with the networks loaded and the processes that it starts
CHECKS = (
    ("lint", ("-m", "ruff", "check", ".")),
    ("format", ("-m", "ruff", "format", "--check", ".")),
    ("types", ("-m", "mypy")),
    ("imports run one way", ("-c", "from importlinter.cli import lint_imports_command as main; main()")),
)


def count_workers() -> int:
    """Test processes side by side: one a core, and no more than memory holds."""
    # What the system could give, its cache of files included: that fills all memory on a machine just installed.
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    available = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    return max(1, min(len(os.sched_getaffinity(0)), available // WORKER_BYTES))


def run_checks(python: Path) -> int:
    """Returns the exit code of the first check that fails, 0 if none does."""
    for name, command in CHECKS:
        started = time.monotonic()
        result = subprocess.run([python, *command], cwd=ROOT)
        verdict = "FAILED" if result.returncode else "ok"
        print(f"{name}: {verdict} ({time.monotonic() - started:.0f} s)", flush=True)
        if result.returncode:
            return result.returncode
    return 0


def main(arguments: list[str]) -> int:
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        print(f"Python {sys.version.split()[0]} is not supported; run this with 3.10, 3.11 or 3.12", file=sys.stderr)
        return 2
    here = "--here" in arguments
    arguments = [argument for argument in arguments if argument != "--here"]
    try:
        python = Path(sys.executable) if here else build_environment(ROOT)
    except BuildError as error:
        print(f"no environment for the tests: {error}", file=sys.stderr)
        return 2
    return run_checks(python) or outcomes.run_pytest(python, arguments, ROOT, workers=count_workers())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
