"""The evaluation's Python environments, built here and kept by the hash of what they hold. Standard library only."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What the organisers install where there is no requirements.txt. The list for video also names `sklearn`, which never
# installs; the one for audio does not name `datasets`, which their example imports. There NumPy is of version 1.
DEFAULT_PACKAGES = {
    "video": ("torch", "torchvision", "av", "pandas", "tqdm", "datasets", "pytorch_lightning", "torchmetrics"),
    "audio": (
        "onnxruntime-gpu==1.18.0", "av==14.2.0", "torchaudio==2.4.0", "torch==2.4.0", "transformers==4.44.1", "h5py",
        "webrtcvad", "scipy", "soundfile==0.13.1", "librosa==0.10.2", "omegaconf", "hydra-core", "numpy<2", "datasets",
    ),
}  # fmt: skip
ENVIRONMENTS = ("requirements", "default", "current")
_REMIND_SECONDS = 60.0  # how often one reads that pip is still at work: it is silent for minutes while it unpacks
_STAMP = "complete"  # written last: an environment whose building was interrupted is built again
_LARGE = re.compile(r"Downloading (\S+) \((\d{3,}(?:\.\d+)? MB|[\d.]+ GB)\)")


class BuildError(Exception):
    """The environment cannot be had. The message says which step failed and why."""


def get_interpreter(
    kind: str, requirements: str | None, python: str, cache_dir: Path, say: Callable[[str], None],
    modality: str = "video",
) -> Path:  # fmt: skip
    """The interpreter of an environment of this kind, built if it is not in the cache.

    kind: `requirements` (the text of requirements.txt, or None), `default` (the organisers' list for the modality) or
    `current` (`python` itself). python: the interpreter to build on. say: takes progress lines. Raises: BuildError.
    """
    if kind == "current":
        return Path(shutil.which(python) or python).absolute()
    version = _run([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], python).strip()
    if kind == "requirements":
        if requirements is None:
            raise BuildError(
                "no requirements.txt: the evaluation would take its default list; use --environment default"
            )
        # As theirs, the runner takes the file alone, and drops lines that start with a single dash.
        requirements = "\n".join(line for line in requirements.splitlines() if not re.match(r"-(?!-)", line)) + "\n"
    else:
        requirements = "\n".join(DEFAULT_PACKAGES[modality]) + "\n"
        kind = "default" if modality == "video" else f"default-{modality}"
    digest = hashlib.sha256(requirements.encode()).hexdigest()[:12]
    prefix = f"{kind}-py{version}-"
    folder = cache_dir / f"{prefix}{digest}"
    interpreter = folder / "bin" / "python"
    if (folder / _STAMP).is_file() and interpreter.exists():
        say(f"from the cache: {folder}")
        return interpreter
    for old in cache_dir.glob(f"{prefix}*"):
        say(f"removing {old.name}: other requirements, or not finished")
        shutil.rmtree(old)
    say(f"building {folder} with Python {version} (first time only; about 7 GB, minutes)")
    folder.mkdir(parents=True)
    (folder / "requirements.txt").write_text(requirements, encoding="utf-8")
    _run([python, "-m", "venv", str(folder)], "python -m venv")
    pip_install([str(interpreter), "-m", "pip", "install", "-r", "requirements.txt"], folder, say)
    (folder / _STAMP).touch()
    return interpreter


def get_pyseccomp(pip_python: Path, cache_dir: Path, say: Callable[[str], None]) -> Path | None:
    """A folder with pyseccomp for the running interpreter, None if it has the package itself. Raises: BuildError.

    The evaluated environment does not get it: there it is not either. pip_python: an interpreter that has pip.
    """
    if importlib.util.find_spec("pyseccomp") is not None:
        return None
    lines = (ROOT / "tests" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    requirement = next(line for line in lines if line.startswith("pyseccomp=="))
    folder = cache_dir / f"tools-{requirement}"
    if not (folder / "pyseccomp.py").is_file():
        say(f"fetching {requirement} for the sandbox")
        command = [str(pip_python), "-m", "pip", "install", "--no-deps", "--target", str(folder), requirement]
        pip_install(command, ROOT, say)
    return folder


def pip_install(command: list[str], folder: Path, say: Callable[[str], None]) -> None:
    """Run pip, telling of the downloads that take long. Raises: BuildError with pip's last error."""
    command = [*command, "--disable-pip-version-check", "--progress-bar", "off"]
    if "CI" not in os.environ:  # its cache would keep a second copy of all of it, and is of use to who installs often
        command.append("--no-cache-dir")
    last = "no message"
    with (
        subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process,
        _reminding(say),
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if large := _LARGE.search(line):
                    say(f"downloading {large[1].rsplit('/', 1)[-1]} ({large[2]})")
                elif line.startswith("Installing collected packages"):
                    say(f"installing {line.count(',') + 1} packages")
                elif line.startswith("ERROR"):
                    last = line.strip()
        except BaseException:  # Ctrl-C or a signal: it would be waited for
            process.kill()
            raise
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        raise BuildError(f"pip was ended by {name} (SIGKILL: often for want of memory); run this again")
    if process.returncode != 0:
        raise BuildError(
            f"pip failed: {last} (exit code {process.returncode}); the evaluation would log that and go on without the"
            " packages"
        )


@contextlib.contextmanager
def _reminding(say: Callable[[str], None]) -> Iterator[None]:
    """Say now and then that pip goes on."""
    started, done = time.monotonic(), threading.Event()

    def remind() -> None:
        while not done.wait(_REMIND_SECONDS):
            say(f"pip is still at work after {time.monotonic() - started:.0f} s")

    thread = threading.Thread(target=remind)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _run(command: list[str], what: str) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"cannot run {what}: {error.strerror}") from error
    if result.returncode != 0:
        lines = (result.stderr or result.stdout).strip().splitlines()
        raise BuildError(f"{what} failed: {lines[-1] if lines else result.returncode}")
    return result.stdout
