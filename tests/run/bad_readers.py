"""Readers for decode workers that do what a broken decoder does, on files that ask for it; others are read as usual.

A file that starts with b"FAULT:name" is given to FAULTS[name]. Workers import this module by its name.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np

from model.config import LimitsConfig, SamplingConfig
from model.modality import Prepared, Unreadable
from model.video.clip import Clip, Header
from model.video.reading import READERS

PREFIX = b"FAULT:"


def _segfault() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _abort() -> None:
    os.abort()


def _leave() -> None:
    os._exit(0)


def _sleep_for_ever() -> None:
    while True:
        time.sleep(3600)


def _spin_for_ever() -> None:
    """Says so first, by a folder with its process's number (workers can write no file)."""
    os.mkdir(os.path.join(os.environ["SPIN_MARKERS"], str(os.getpid())))
    while True:
        pass


def _allocate_without_end() -> None:
    held = []
    while True:
        held.append(np.ones(1 << 22, dtype=np.float64))  # 32 MiB, touched


def _raise_the_unforeseen() -> None:
    raise ZeroDivisionError("nobody thought of this")


def _recurse() -> None:
    _recurse()


def _exit() -> None:
    sys.exit(3)


def _write_a_file() -> None:
    with open("/tmp/written-by-a-decoder", "wb", buffering=0) as file:
        file.write(b"x" * 100)


def _leak() -> None:
    """Keeps 300 MiB for good, then reads on."""
    _leaked.append(np.ones(300 << 17, dtype=np.float64))


def _kill_once() -> None:
    """As the kernel does when memory is short: the first time only."""
    marker = os.environ["KILL_ONCE_MARKER"]
    if not os.path.exists(marker):
        os.mkdir(marker)  # a folder, since workers can write no file
        os.kill(os.getpid(), signal.SIGKILL)


_leaked: list[np.ndarray] = []
FAULTS = {
    function.__name__.strip("_"): function
    for function in (
        _segfault, _abort, _leave, _sleep_for_ever, _spin_for_ever, _allocate_without_end, _raise_the_unforeseen,
        _recurse, _exit, _write_a_file, _leak, _kill_once,
    )
}  # fmt: skip


def _read(
    name: str,
    source: bytes | str,
    sampling: SamplingConfig,
    limits: LimitsConfig,
    deadline: float,
    header: Header | None,
) -> Clip:
    if isinstance(source, bytes) and source.startswith(PREFIX):
        fault, _, rest = source[len(PREFIX) :].partition(b"\n")
        FAULTS[fault.decode()]()
        if not rest:
            raise Unreadable("nothing but a fault")
        source, header = rest, None
    return READERS[name](source, sampling, limits, deadline, header)


def read_with_pyav(
    source: bytes | str, sampling: SamplingConfig, limits: LimitsConfig, deadline: float, header: Header | None
) -> Clip:
    return _read("pyav", source, sampling, limits, deadline, header)


def read_with_decord(
    source: bytes | str, sampling: SamplingConfig, limits: LimitsConfig, deadline: float, header: Header | None
) -> Clip:
    return _read("decord", source, sampling, limits, deadline, header)


def read_without_faults(
    source: bytes | str, sampling: SamplingConfig, limits: LimitsConfig, deadline: float, header: Header | None
) -> Clip:
    """The other decoder, where a fault belongs to one decoder alone: reads what follows the fault's line."""
    assert isinstance(source, bytes)
    return READERS["pyav"](source.partition(b"\n")[2], sampling, limits, deadline, None)


class AsItIs:
    """A preparation of no modality at all: the file's bytes are the content."""

    limits = LimitsConfig()
    max_bytes = 65536
    attempts = 1

    def __call__(self, source: bytes | str, attempt: int = 0) -> Prepared:
        assert isinstance(source, bytes)
        return Prepared(np.frombuffer(source, np.uint8), "as it is", duration_seconds=len(source) / 1000)


BOTH_BAD = {"pyav": read_with_pyav, "decord": read_with_decord}
FIRST_BAD = {"pyav": read_with_pyav, "decord": read_without_faults}
