"""The tests' environment: .venv holds what the tests need on top of the evaluation's own environment.

`debug.evaluate` builds an environment from requirements.txt alone. .venv sees its packages through a path file, so
that torch is on disk once. Standard library only.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

from debug.environment import get_interpreter, pip_install

PATH_FILE = "evaluation_environment.pth"


def build_environment(root: Path) -> Path:
    """`root`/.venv, made or brought up to date. Returns its interpreter. Raises: BuildError."""
    requirements = (root / "requirements.txt").read_text(encoding="utf-8")
    base = get_interpreter("requirements", requirements, sys.executable, root / ".cache" / "debug", print)
    return add_layer(base, root / ".venv", root / "requirements.txt", root / "tests" / "requirements.txt")


def add_layer(base: Path, folder: Path, pins: Path, requirements: Path) -> Path:
    """A virtual environment in `folder` with `requirements`, on top of the environment of the interpreter `base`.

    pins: constraints; what they name comes from `base`. An environment that holds this already is used as it is; one
    that a user made is completed. Returns its interpreter. Raises: BuildError.
    """
    python, stamp = folder / "bin" / "python", folder / "layer.sha256"
    held = (str(base), sys.version, pins.read_text(), requirements.read_text())
    digest = hashlib.sha256("\0".join(held).encode()).hexdigest()
    if python.exists() and stamp.is_file() and stamp.read_text() == digest:
        return python
    print(f"installing into {folder} what the tests need on top of it", flush=True)
    venv.create(folder, symlinks=True, with_pip=True)  # as `python -m venv`: copies fail over such a folder
    own, seen = (site_packages(path) for path in (python, base))
    (own / PATH_FILE).write_text(f"import site; site.addsitedir({str(seen)!r})\n")
    pip_install([str(python), "-m", "pip", "install", "-c", str(pins), "-r", str(requirements)], folder, print)
    stamp.write_text(digest)
    return python


def site_packages(python: Path) -> Path:
    """Where the packages of an interpreter's environment are."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip())
