"""The test command prints a summary whatever is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
_RUN = """
import sys
from pathlib import Path
from tests.outcomes import run_pytest
sys.exit(run_pytest(Path(sys.executable), ["-p", "no:cacheprovider", "-q"], Path(sys.argv[1]), workers=1))
"""
_TESTS = {
    "passes": "def test_passes(): pass\n",
    "kills its process": "import os, signal\ndef test_killed(): os.kill(os.getpid(), signal.SIGKILL)\n",
    "kills pytest": (  # once pytest has heard that this test has started
        "import os, pathlib, signal, time\ndef test_killer():\n"
        "    outcomes = pathlib.Path(os.environ['SAFE_TEST_OUTCOMES'])\n"
        "    while 'test_killer' not in outcomes.read_text():\n        time.sleep(0.01)\n"
        "    os.kill(os.getppid(), signal.SIGKILL)\n    signal.pause()\n"
    ),
    "waits": "import pathlib, signal\ndef test_waits():\n    pathlib.Path('waiting').touch()\n    signal.pause()\n",
    "outlives its limit": ("import pytest, signal\n@pytest.mark.timeout(1)\ndef test_endless(): signal.pause()\n"),
}


def _start(folder: Path, *names: str) -> subprocess.Popen[str]:
    for number, name in enumerate(names):
        (folder / f"test_{number}.py").write_text(_TESTS[name])
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "SAFE_TEST"))}
    return subprocess.Popen(
        [sys.executable, "-c", _RUN, str(folder)], cwd=folder, env=variables | {"PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("passes", "kills its process", "passes"), r"worker 'gw0' crashed while running[\s\S]*1 failed, 2 passed"),
        (
            ("passes", "kills pytest", "passes"),
            r"pytest was killed by signal 9\nSTARTED test_1.py::test_killer\n"
            r"1 tests had not finished\n1 passed, 0 failed, 0 skipped",
        ),
        (("outlives its limit", "passes"), r"Timeout[\s\S]*1 failed, 1 passed"),
    ],
)
def test_a_summary_is_printed(names: tuple[str, ...], said: str, tmp_path: Path) -> None:
    process = _start(tmp_path, *names)
    output, _ = process.communicate()
    assert re.search(said, output), output
    assert process.returncode == 1


def test_a_summary_is_printed_when_the_command_itself_is_ended(tmp_path: Path) -> None:
    process = _start(tmp_path, "passes", "waits")
    while not (tmp_path / "waiting").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert re.search(r"1 passed", output), output
    assert process.returncode != 0
