"""`python3 -m tests [PYTEST ARGUMENTS]`: set up .venv from the pinned requirements, then lint, type-check and test.

Standard library only, so that it starts on a bare Python 3.10, 3.11 or 3.12. An environment whose requirements have
not changed is used again. `--here` uses the running interpreter instead.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
REQUIREMENTS = (
    ROOT / "requirements.txt",
    ROOT / "tests" / "requirements.txt",
)
TEST_SECONDS = 2700  # five times what a quiet machine with two cores takes
CHECKS = (
    ("lint", ("-m", "ruff", "check", ".")),
    ("format", ("-m", "ruff", "format", "--check", ".")),
    ("types", ("-m", "mypy")),
)


def build_environment(folder: Path, requirements: tuple[Path, ...]) -> Path:
    """A virtual environment with `requirements` in `folder`, made or brought up to date. Returns its interpreter."""
    python = folder / "bin" / "python"
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in requirements)).hexdigest()
    stamp = folder / "requirements.sha256"
    if stamp.is_file() and stamp.read_text() == digest and python.exists():
        return python
    print(f"installing into {folder} (about 5 GB, most of it torch with CUDA; minutes)", flush=True)
    venv.create(folder, symlinks=True, with_pip=True)  # as `python -m venv`: copies fail over such a folder
    files = [argument for path in requirements for argument in ("-r", str(path))]
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *files], check=True)
    stamp.write_text(digest)
    return python


def main(arguments: list[str]) -> int:
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        print(f"Python {sys.version.split()[0]} is not supported; run this with 3.10, 3.11 or 3.12", file=sys.stderr)
        return 2
    if "--here" in arguments:
        python, arguments = Path(sys.executable), [argument for argument in arguments if argument != "--here"]
    else:
        python = build_environment(ENVIRONMENT, REQUIREMENTS)
    for name, command in CHECKS:
        started = time.monotonic()
        result = subprocess.run([python, *command], cwd=ROOT)
        verdict = "FAILED" if result.returncode else "ok"
        print(f"{name}: {verdict} ({time.monotonic() - started:.0f} s)", flush=True)
        if result.returncode:
            return result.returncode
    try:
        return subprocess.run([python, "-m", "pytest", *arguments], cwd=ROOT, timeout=TEST_SECONDS).returncode
    except subprocess.TimeoutExpired:
        print(f"tests: stopped, not finished after {TEST_SECONDS} s (the last test named above hangs)", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
