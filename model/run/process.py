"""One decode worker process as its supervising thread sees it: start, hand over a file, take the content, kill.

The process is started by `subprocess`, not by `multiprocessing`: that would run the caller's main module again in every
worker, with all that it imports, or fail where it has no `if __name__ == "__main__"`.
"""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection

import numpy as np

from ..modality import AnyPreparation
from .worker import READY, Job, Reply

# argv: the parent's sys.path, the pipe's file descriptor, the parent's process id
_CODE = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from model.run.worker import main
main(int(sys.argv[2]), int(sys.argv[3]))
"""
_START_SECONDS = 60.0  # for a new worker process to import NumPy and the decoders on a busy machine
_KILL_SECONDS = 10.0
_MAX_REPLY_BYTES = 1 << 16
# What reading one raises that a healthy worker would not send.
NOT_A_REPLY = (ValueError, TypeError, KeyError, AttributeError, multiprocessing.ProcessError)


class WorkerDied(Exception):
    """The process is gone: crashed, or killed for overrunning its time. from_outside: killed, and not by this pool."""

    def __init__(self, cause: str, *, from_outside: bool = False, late: bool = False) -> None:
        super().__init__(cause)
        self.from_outside, self.late = from_outside, late


class WorkerStartError(Exception):
    """No worker process can be had at the moment."""


class WorkerProcess:
    """One worker process and the pipe to it. `kill_if_late` is called from another thread than the rest."""

    def __init__(self, preparation: AnyPreparation) -> None:
        self._preparation = preparation
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self._deadline = math.inf
        self._queued_before = 0.0
        self._overran = False

    def start(self) -> None:
        """Have a live process, ready for a job. Raises: WorkerStartError."""
        if self._process is not None and self._process.poll() is None and not self._hung_up():
            return
        self.stop()
        try:
            ours, theirs = multiprocessing.Pipe()
            with theirs:
                self._connection = ours
                arguments = json.dumps(sys.path), str(theirs.fileno()), str(os.getpid())
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _CODE, *arguments], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
                )
            self._set_deadline(_START_SECONDS)
            ours.send(self._preparation)
            ready = ours.recv_bytes(_MAX_REPLY_BYTES)
        except (EOFError, OSError) as error:
            cause = f"it ended at once ({self._end()})" if isinstance(error, EOFError | ConnectionError) else str(error)
            self.stop()
            raise WorkerStartError(f"no decode process can be started: {cause}") from error
        finally:
            self._set_deadline(math.inf)
        if ready != READY:
            self.stop()
            raise WorkerStartError(f"no decode process can be started: it began with {ready[:20]!r}")

    def run(self, source: bytes | str | None, attempt: int = 0) -> tuple[Reply, np.ndarray | None]:
        """Prepare one file on a started worker. Returns the reply and, if the file is prepared, its content.

        Where `reply.more` is true, the source None gets the next window, with a time limit of its own. Raises:
        WorkerDied, with the cause; `start` then starts another.
        """
        connection = self._connection
        if connection is None:
            raise WorkerDied("no decode process was started")
        seconds = self._preparation.limits.hard_seconds
        self._set_deadline(seconds)
        try:
            if isinstance(source, str):
                connection.send(Job(source, 0, attempt))
            elif source is not None:
                connection.send(Job(None, len(source), attempt))
                connection.send_bytes(source)
            reply = Reply.from_bytes(connection.recv_bytes(_MAX_REPLY_BYTES))
            content = receive_content(connection, reply, self._preparation.max_bytes) if reply.prepared else None
        except (EOFError, OSError) as error:
            died = self._died(seconds)
            self.stop()
            raise died from error
        except NOT_A_REPLY as error:
            self.stop()
            raise WorkerDied(f"the decoder left its process in disorder ({type(error).__name__})") from error
        finally:
            self._set_deadline(math.inf)
        if reply.failed or reply.leaving or self._overran:  # overran: killed, but only after its reply
            self.stop()
        if reply.failed:
            raise WorkerDied(f"the decoder failed: {reply.note}")
        return reply, content

    def kill_if_late(self) -> None:
        """Kill a worker that is past its deadline, not counting the time that it waited for a busy processor."""
        with self._lock:
            if self._process is None or time.monotonic() <= self._deadline:
                return
            if time.monotonic() > self._deadline + queued_seconds(self._process.pid) - self._queued_before:
                self._overran = True
                self._process.kill()

    def kill(self) -> None:
        with self._lock:
            if self._process is not None:
                self._process.kill()

    def stop(self) -> None:
        with self._lock:
            connection, process = self._connection, self._process
            self._connection = self._process = None
            self._overran = False
        if connection is not None:
            connection.close()
        if process is not None:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # the kernel holds it, on a dead disk say
                process.wait(timeout=_KILL_SECONDS)

    def _set_deadline(self, seconds: float) -> None:
        with self._lock:
            self._deadline = time.monotonic() + seconds
            self._queued_before = queued_seconds(self._process.pid) if self._process is not None else 0.0

    def _hung_up(self) -> bool:
        """Whether an idle worker's end is closed (a message from an idle worker would be disorder as well)."""
        return self._connection is None or self._connection.poll(0)

    def _end(self) -> str:
        """How the process ended."""
        if self._process is None:
            return "unknown"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        return f"exit code {self._process.returncode}"

    def _died(self, seconds: float) -> WorkerDied:
        end = self._end()
        if self._overran:
            return WorkerDied(f"decoding took more than {seconds:g} s", late=True)
        return WorkerDied(f"the decoder crashed ({end})", from_outside=end == "exit code -9")


def queued_seconds(pid: int | None) -> float:
    """How long a process has been ready to run without a processor; 0 where the kernel does not tell.

    Read as bytes: naming a codec imports it, and a thread that waits for the import lock, which a signal's exit may
    have left taken, holds its worker's lock for ever. Found where SIGTERM came while the first workers were started.
    """
    try:
        with open(f"/proc/{pid}/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def receive_content(connection: Connection, reply: Reply, max_bytes: int) -> np.ndarray:
    """The content, uint8 (reply.num_bytes,), which follows a reply. Raises: NOT_A_REPLY: more or fewer bytes."""
    if not 0 < reply.num_bytes <= max_bytes:
        raise ValueError(f"content of {reply.num_bytes} bytes; at most {max_bytes} are expected")
    content = np.empty(reply.num_bytes, dtype=np.uint8)
    if connection.recv_bytes_into(memoryview(content)) != reply.num_bytes:
        raise ValueError(f"content cut short of {reply.num_bytes} bytes")
    return content
