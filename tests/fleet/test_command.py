"""python -m model.fleet as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install -r model/fleet/requirements.txt")


def _run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=900)


def test_what_cannot_start_says_why(repository: Path, tmp_path: Path) -> None:
    done = _run("-m", "model.fleet", "--dataset", tmp_path / "none", "--output", tmp_path / "out", cwd=repository)
    assert done.returncode == 2
    assert f"ERROR no dataset at {tmp_path / 'none'}" in done.stderr
    assert not (tmp_path / "out").exists()
