"""Fetch the wheels that SHA256SUMS names, and check them: `python wheels/refresh.py`.

With `--update NAME==VERSION ...` it fetches those releases instead and rewrites SHA256SUMS: then adapt README.md here.
Needs pip and the package index, so never the evaluation machine.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from model.wheels import CHECKSUMS, VendoredError, load_checksums  # noqa: E402 - the path is set just above

OLDEST_PYTHON = "3.10"  # a wheel that serves it by the stable ABI, or needs no ABI, serves every newer Python too
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux2010_x86_64")


def fetch(requirement: str, folder: Path) -> Path:
    """Download one wheel that does not depend on the Python minor version.

    Raises: VendoredError: the index has none, or cannot be reached.
    """
    before = set(folder.iterdir())
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--dest", str(folder), "--python-version", OLDEST_PYTHON, "--implementation", "cp"]
    command += ["--abi", "abi3", "--abi", "none"]
    for name in PLATFORMS:
        command += ["--platform", name]
    if subprocess.run([*command, requirement], check=False).returncode != 0:
        raise VendoredError(f"pip could not download {requirement}; see its message above")
    (wheel,) = set(folder.iterdir()) - before
    return wheel


def refresh(updates: list[str]) -> None:
    """Bring every wheel into this folder; without updates each must have the hash on record."""
    checksums = load_checksums(HERE)
    wanted = updates or ["==".join(name.split("-")[:2]) for name in checksums]
    with tempfile.TemporaryDirectory(dir=HERE) as folder:
        for requirement in wanted:
            wheel = fetch(requirement, Path(folder))
            digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
            if not updates and checksums.get(wheel.name) != digest:
                raise VendoredError(f"{wheel.name} from the index has SHA-256 {digest}, not the one in {CHECKSUMS}")
            if updates:
                for old in [name for name in checksums if name.split("-")[0] == wheel.name.split("-")[0]]:
                    del checksums[old]
                    (HERE / old).unlink(missing_ok=True)
                checksums[wheel.name] = digest
            wheel.replace(HERE / wheel.name)
            print(f"{digest}  {wheel.name}")
    if updates:
        lines = (f"{checksums[name]}  {name}\n" for name in sorted(checksums))
        (HERE / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", nargs="+", default=[], metavar="NAME==VERSION", help="other releases, new hashes")
    try:
        refresh(parser.parse_args().update)
    except VendoredError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
