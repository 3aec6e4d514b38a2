"""Packages out of wheels/, for an environment that lacks one or has it too old.

The evaluation's default environment has no decord, timm or safetensors, and the evaluation has no network. The wheels
serve every Python from 3.10 on. A wheel is used only if its SHA-256 is the one in wheels/SHA256SUMS; it is unpacked
into a private temporary folder, removed at exit, which comes first on `sys.path` and, for worker processes, in
PYTHONPATH. Standard library only; nothing happens at import.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib
import importlib.metadata
import importlib.util
import logging
import os
import platform
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

WHEELS_DIR = Path(__file__).resolve().parent.parent / "wheels"
CHECKSUMS = "SHA256SUMS"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class VendoredError(Exception):
    """A wheel cannot be used. The message names the file and the remedy."""


@dataclass(frozen=True)
class Package:
    """module: what is imported. distributions: the names it may be installed under. minimum: oldest release used."""

    module: str
    distributions: tuple[str, ...]
    minimum: tuple[int, ...]


PACKAGES = {
    "decord": Package("decord", ("decord2", "decord"), (0, 6, 0)),
    "timm": Package("timm", ("timm",), (1, 0)),
    "safetensors": Package("safetensors", ("safetensors",), (0, 4)),
}


def ensure(names: Iterable[str] = tuple(PACKAGES), *, wheels_dir: Path = WHEELS_DIR) -> list[str]:
    """Make the packages importable, each from wheels/ only if the environment does not serve. Call before using them.

    Returns: the file names of the wheels now in use. A wheel that cannot be used is logged and left out: the caller
    meets an ordinary ImportError, and what needs another package only still works.
    """
    used: list[str] = []
    root: Path | None = None
    for name in names:
        reason = find_defect(PACKAGES[name])
        if reason is None:
            continue
        try:
            wheel = verified_wheel(name, wheels_dir)
            if root is None:
                root = _private_folder()
            _put_first(_unpack(wheel, root / name))
        except VendoredError as error:
            log.error("%s; %s", reason, error)
            continue
        log.info("%s: using wheels/%s", reason, wheel.name)
        used.append(wheel.name)
    return used


def find_defect(package: Package) -> str | None:
    """Why the environment does not serve the package, without importing it; None if it does."""
    try:
        spec = importlib.util.find_spec(package.module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        return f"{package.module} is not installed"
    versions = []
    for distribution in package.distributions:
        try:
            versions.append(importlib.metadata.version(distribution))
        except importlib.metadata.PackageNotFoundError:
            continue
    if not versions or any(_parse_version(version) >= package.minimum for version in versions):
        return None
    needed = ".".join(map(str, package.minimum))
    return f"{package.module} {versions[0]} is installed, but {needed} or newer is needed"


def load_checksums(wheels_dir: Path) -> dict[str, str]:
    """Wheel file name -> SHA-256 in hexadecimal, from the list in wheels/.

    Raises: VendoredError: no list, or a line that is not one.
    """
    path = wheels_dir / CHECKSUMS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise VendoredError(f"cannot read {path}: {error}; restore it with `git checkout wheels`") from error
    checksums = {}
    for line in filter(str.strip, lines):
        match = re.fullmatch(r"([0-9a-f]{64}) [ *]([^/\s]+\.whl)", line.strip())
        if match is None:
            raise VendoredError(f"{path}: not a line of sha256sum: {line[:100]!r}; run `python wheels/refresh.py`")
        checksums[match[2]] = match[1]
    return checksums


def verified_wheel(name: str, wheels_dir: Path = WHEELS_DIR) -> Path:
    """The wheel of a package, after its hash and its platform were checked.

    Raises: VendoredError: it is missing, altered, or not for this machine.
    """
    checksums = load_checksums(wheels_dir)
    path = next((wheels_dir / file for file in checksums if file.startswith(f"{name}-")), None)
    if path is None:
        raise VendoredError(f"{wheels_dir / CHECKSUMS} lists no wheel of {name}; run `pip install -r requirements.txt`")
    if not path.name.endswith("-none-any.whl") and (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise VendoredError(f"{path.name} is for Linux on x86_64 only; run `pip install -r requirements.txt`")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise VendoredError(f"cannot read {path}: {error.strerror}; run `python wheels/refresh.py`") from error
    if content.startswith(_LFS_POINTER):
        raise VendoredError(f"{path} is a Git LFS pointer, not the wheel; run `git lfs pull`")
    found = hashlib.sha256(content).hexdigest()
    if found != checksums[path.name]:
        raise VendoredError(
            f"{path} has SHA-256 {found}, but {CHECKSUMS} says {checksums[path.name]}: the file is damaged or was"
            " exchanged and is not used; run `python wheels/refresh.py` to fetch the right one"
        )
    return path


def _parse_version(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def _private_folder() -> Path:
    """A new folder that only this user can read, on a file system that lets libraries be loaded; removed at exit."""
    errors = []
    for parent in (tempfile.gettempdir(), os.getcwd()):
        try:
            if os.statvfs(parent).f_flag & os.ST_NOEXEC:
                errors.append(f"{parent} is mounted noexec")
                continue
            folder = Path(tempfile.mkdtemp(prefix=".wheels-", dir=parent))
        except OSError as error:
            errors.append(f"{parent}: {error.strerror}")
            continue
        atexit.register(_remove_own, folder, os.getpid())
        return folder
    raise VendoredError(f"no place to unpack wheels to: {'; '.join(errors)}; set TMPDIR to a folder that is writable")


def _remove_own(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child must not take the folder from its parent
        shutil.rmtree(folder, ignore_errors=True)


def _unpack(wheel: Path, folder: Path) -> Path:
    """Into a folder of its own, so that a wheel that cannot be unpacked whole leaves nothing on the path."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    except (OSError, zipfile.BadZipFile) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise VendoredError(
            f"cannot unpack {wheel} into {folder}: {error}; set TMPDIR to a folder with space"
        ) from error
    return folder


def _put_first(folder: Path) -> None:
    """First on the path: an older release in the environment must not be found before."""
    sys.path.insert(0, str(folder))
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), inherited] if inherited else [str(folder)])
    importlib.invalidate_caches()
