"""The tests' own environment: made where there is none, brought up to date where a user has made one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.__main__ import build_environment


def test_an_environment_that_a_user_made_is_brought_up_to_date(tmp_path: Path) -> None:
    """Before, after the README's `python3 -m venv .venv`, the README's test command ended in SameFileError."""
    folder, requirements = tmp_path / "venv", tmp_path / "requirements.txt"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    requirements.write_text("# nothing\n")
    python = build_environment(folder, (requirements,))
    assert (folder / "requirements.sha256").is_file()
    subprocess.run([python, "-m", "pip", "--version"], check=True, stdout=subprocess.DEVNULL)
