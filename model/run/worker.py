"""The decode worker: a process of its own that prepares one file after the other for the networks.

A decoder that crashes, hangs or eats memory takes this process down and nothing else. It imports NumPy and the
decoders only: it starts in a fraction of a second and forks nothing that holds CUDA. It can write no file, and it dies
with its parent. Replies are JSON, so that whatever a broken decoder left in memory, the parent unpickles nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from multiprocessing.connection import Connection

import numpy as np

from ..modality import AnyPreparation, Prepared, Refused, Unreadable
from ..text import one_line

NICENESS = 5  # the network's threads go first where both want the same core
READY = b"ready"  # sent once, when everything is imported
_PR_SET_PDEATHSIG = 1
_COPIES_OF_FILE = 4  # held at once while a file's bytes arrive and are handed to a decoder
_RETIRE_SHARE = 0.5  # of the memory a worker may take: having kept that much between two clips, it makes room
_TOLD = tuple(one.name for one in fields(Prepared) if one.name != "content")  # that a reply has too


@dataclass(frozen=True)
class Job:
    """One file to prepare. path: None if its bytes follow in a message of their own."""

    path: str | None
    num_bytes: int  # that follow
    attempt: int  # which of the preparation's


@dataclass(frozen=True)
class Reply:
    """What became of a job. num_bytes: of the content, which follows in a message of its own if `prepared`."""

    prepared: bool = False
    num_bytes: int = 0
    reader: str = ""
    note: str = ""  # why it failed, or what was lost
    read_seconds: float = 0.0
    cut_seconds: float = 0.0
    duration_seconds: float = float("nan")
    num_frames: int = 0
    num_places: int = 0
    start_seconds: float = float("nan")
    end_seconds: float = float("nan")
    more: bool = False  # this is a window; another reply follows
    refused: bool = False  # no other attempt is to be made
    leaving: bool = False  # the worker ends after this reply, to give its memory back
    failed: bool = False  # the worker ends because of an error that no reader should raise

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, message: bytes) -> Reply:
        """Raises: ValueError, TypeError: not a reply."""
        reply = cls(**json.loads(message))
        for one in fields(cls):
            value = getattr(reply, one.name)
            if type(value) is not type(one.default):
                raise TypeError(f"{one.name} is {value!r}")
        return reply

    def with_content(self, content: np.ndarray) -> Prepared:
        """content: uint8 (num_bytes,)."""
        return Prepared(content, *(getattr(self, name) for name in _TOLD))


def main(descriptor: int, parent: int) -> None:
    """Of the worker process. descriptor: of its end of the pipe; the preparation comes first. parent: its process id.

    sys.path is that of the parent.
    """
    with Connection(descriptor) as connection:
        serve(connection, connection.recv(), parent)


def serve(connection: Connection, preparation: AnyPreparation, parent: int) -> None:
    """Answer jobs until the other end closes. parent: its process id."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    leave_real_time()
    os.nice(NICENESS)
    _die_with(parent)
    _be_first_to_be_killed()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash must not fill the working directory
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    own_bytes = _data_bytes()
    memory_bytes = preparation.limits.worker_memory_bytes
    connection.send_bytes(READY)
    while True:
        try:
            job: Job = connection.recv()
            limit_memory(own_bytes + memory_bytes + _COPIES_OF_FILE * job.num_bytes)
            source = job.path if job.path is not None else connection.recv_bytes()
        except EOFError:
            return
        try:
            for reply, content in _run(source, job.attempt, preparation):
                kept = _data_bytes() - own_bytes - job.num_bytes
                leaving = not reply.more and kept > _RETIRE_SHARE * memory_bytes
                connection.send_bytes(replace(reply, leaving=leaving).to_bytes())
                if content is not None:
                    connection.send_bytes(content)
        except BaseException as error:  # one that nobody foresaw: the parent is told, and the worker ends with it
            *_, (frame, line) = traceback.walk_tb(error.__traceback__)
            note = f"{one_line(error)} ({os.path.basename(frame.f_code.co_filename)}:{line})"
            with contextlib.suppress(OSError):
                connection.send_bytes(Reply(note=note, failed=True).to_bytes())
            raise
        del source, reply, content
        if leaving:
            return


def _run(source: bytes | str, attempt: int, preparation: AnyPreparation) -> Iterator[tuple[Reply, np.ndarray | None]]:
    """The file's reply, or one for each window and a last one without content."""
    started = time.perf_counter()
    try:
        done = preparation(source, attempt)
        if isinstance(done, Prepared):
            yield _reply(done)
            return
        for window in done:
            yield _reply(window, more=True)
        yield Reply(), None
    except Unreadable as error:
        seconds = time.perf_counter() - started
        yield Reply(note=str(error), read_seconds=seconds, refused=isinstance(error, Refused)), None
    except MemoryError:
        note = f"needs more than {preparation.limits.worker_memory_bytes >> 20} MiB"
        yield Reply(note=note, read_seconds=time.perf_counter() - started), None


def _reply(done: Prepared, *, more: bool = False) -> tuple[Reply, np.ndarray | None]:
    content = np.ascontiguousarray(done.content)
    told = {name: type(getattr(Reply, name))(getattr(done, name)) for name in _TOLD}  # plain types, for JSON
    reply = Reply(content.nbytes > 0, content.nbytes, **told, more=more)
    return reply, content if reply.prepared else None


def leave_real_time() -> None:
    """SVT-AV1's encoder, run by root, puts its process in real time, children inherit that, and a loop starves all."""
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _die_with(parent: int) -> None:
    """Be killed when the parent is, hung or not: a closed pipe is only seen between two clips."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        raise SystemExit("the parent process is gone")


def _be_first_to_be_killed() -> None:
    """Where the machine runs out of memory all the same, the kernel takes a worker, not the run."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("800")


def limit_memory(data_bytes: int) -> None:
    """Let private memory grow to `data_bytes`; past that allocations fail, in Python with a MemoryError."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = data_bytes if hard == resource.RLIM_INFINITY else min(data_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _data_bytes() -> int:
    """Private writable memory of this process, as RLIMIT_DATA counts it (nearly: stacks are in it)."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[5]) * resource.getpagesize()
