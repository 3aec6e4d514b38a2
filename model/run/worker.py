"""The decode worker: a process of its own that turns one video after the other into views.

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
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection
from types import TracebackType

import numpy as np

from ..config import LimitsConfig, SamplingConfig
from ..text import shortened
from ..video.reading import READERS, Reader, RefusedError, VideoReadError, read_clip
from ..video.views import ViewConfig, cut_views, trim_bars

NICENESS = 5  # the network's threads go first where both want the same core
READY = b"ready"  # sent once, when everything is imported
_PR_SET_PDEATHSIG = 1
_COPIES_OF_FILE = 4  # held at once while a file's bytes arrive and are handed to a decoder
_RETIRE_SHARE = (
    0.5  # of the memory a worker may take: having kept that much between two clips, it makes room for another
)


@dataclass(frozen=True)
class WorkerConfig:
    sampling: SamplingConfig
    limits: LimitsConfig
    views: ViewConfig
    readers: Mapping[str, Reader] = field(default_factory=lambda: READERS)  # decoder name -> function, first to last


@dataclass(frozen=True)
class Job:
    """One video to decode. path: None if its bytes follow in a message of their own. decoders: which, in order."""

    path: str | None
    num_bytes: int  # that follow
    decoders: tuple[str, ...]


@dataclass(frozen=True)
class Reply:
    """What became of a job. decoded: the views follow in a message of their own."""

    decoded: bool
    decoder: str = ""
    note: str = ""  # why it failed, or what was lost
    decode_seconds: float = 0.0
    transform_seconds: float = 0.0
    refused: bool = False  # no other decoder is to try
    leaving: bool = False  # the worker ends after this reply, to give its memory back
    failed: bool = False  # the worker ends because of an error that no reader should raise

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, message: bytes) -> Reply:
        """Raises: ValueError, TypeError: not a reply."""
        reply = cls(**json.loads(message))
        if not isinstance(reply.decoded, bool):
            raise TypeError(f"decoded is {reply.decoded!r}")
        return reply


def serve(connection: Connection, config: WorkerConfig, parent: int) -> None:
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
    connection.send_bytes(READY)
    while True:
        try:
            job: Job = connection.recv()
            limit_memory(own_bytes + config.limits.worker_memory_bytes + _COPIES_OF_FILE * job.num_bytes)
            source = job.path if job.path is not None else connection.recv_bytes()
        except EOFError:
            return
        with _LastWords(connection):
            reply, views = _run(source, job.decoders, config)
        del source
        leaving = _data_bytes() - own_bytes > _RETIRE_SHARE * config.limits.worker_memory_bytes
        connection.send_bytes(replace(reply, leaving=leaving).to_bytes())
        if views is not None:
            connection.send_bytes(views)
        if leaving:
            return


def _run(source: bytes | str, decoders: tuple[str, ...], config: WorkerConfig) -> tuple[Reply, np.ndarray | None]:
    started = time.perf_counter()
    try:
        clip = read_clip(source, config.sampling, config.limits, decoders=decoders, readers=config.readers)
        decoded = time.perf_counter()
        views = cut_views(trim_bars(clip.runs), config.views)
    except VideoReadError as error:
        refused = isinstance(error, RefusedError)
        return Reply(False, note=str(error), decode_seconds=time.perf_counter() - started, refused=refused), None
    except MemoryError:
        note = f"needs more than {config.limits.worker_memory_bytes >> 20} MiB"
        return Reply(False, note=note, decode_seconds=time.perf_counter() - started), None
    return Reply(True, clip.decoder, clip.note, decoded - started, time.perf_counter() - decoded), views


class _LastWords:
    """Tells the parent of an error that nobody foresaw; the worker then ends with it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None or at is None:
            return
        while at.tb_next is not None:
            at = at.tb_next
        place = f"{os.path.basename(at.tb_frame.f_code.co_filename)}:{at.tb_lineno}"
        text = shortened(str(error))
        with contextlib.suppress(OSError):
            self._connection.send_bytes(Reply(False, note=f"{kind.__name__}: {text} ({place})", failed=True).to_bytes())


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
