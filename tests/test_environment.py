"""The tests' own environment: a layer on the evaluation's, made where there is none, completed where it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.environment import PATH_FILE, add_layer, site_packages


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """An environment with one package."""
    folder = tmp_path / "base"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    (site_packages(python) / "below.py").write_text("ANSWER = 42\n")
    return python


def _layer(base: Path, tmp_path: Path, pins: str = "# nothing\n") -> Path:
    (tmp_path / "pins.txt").write_text(pins)
    (tmp_path / "requirements.txt").write_text("# nothing\n")
    return add_layer(base, tmp_path / "venv", tmp_path / "pins.txt", tmp_path / "requirements.txt")


def test_a_layer_sees_what_is_below_it(base: Path, tmp_path: Path) -> None:
    """Before, the README's two commands left two copies of torch on the disk."""
    python = _layer(base, tmp_path)
    done = subprocess.run([python, "-c", "import below; print(below.__file__)"], capture_output=True, text=True)
    assert done.stdout.strip() == str(site_packages(base) / "below.py"), done.stderr
    assert subprocess.run([base, "-c", "import pip"], capture_output=True).returncode == 1, "the base got something"


def test_an_environment_that_a_user_made_is_completed(base: Path, tmp_path: Path) -> None:
    """Before, after the README's `python3 -m venv .venv`, the README's test command ended in SameFileError."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = _layer(base, tmp_path)
    subprocess.run([python, "-m", "pip", "--version"], check=True, stdout=subprocess.DEVNULL)


def test_a_layer_is_made_again_for_other_pins_alone(base: Path, tmp_path: Path) -> None:
    path_file = site_packages(_layer(base, tmp_path)) / PATH_FILE
    path_file.write_text("# as it was\n")
    _layer(base, tmp_path)
    assert path_file.read_text() == "# as it was\n"
    _layer(base, tmp_path, "# other pins\n")
    assert "addsitedir" in path_file.read_text()
