"""One decode worker process as its supervising thread sees it: start, hand over a video, take the views, kill."""

from __future__ import annotations

import math
import multiprocessing
import os
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import numpy as np

from .worker import READY, Job, Reply, WorkerConfig, serve

_SPAWN = multiprocessing.get_context("spawn")
_SPAWN_LOCK = threading.Lock()  # multiprocessing's own tables are not made for several threads
_START_SECONDS = 60.0  # for a new worker process to import NumPy and the decoders on a busy machine
_KILL_SECONDS = 10.0
_MAX_REPLY_BYTES = 1 << 16
# What reading one raises that a healthy worker would not send.
NOT_A_REPLY = (ValueError, TypeError, KeyError, AttributeError, multiprocessing.ProcessError)

read_reply = Reply.from_bytes


class WorkerDied(Exception):
    """The process is gone: crashed, or killed for overrunning its time. from_outside: killed, and not by this pool."""

    def __init__(self, cause: str, *, from_outside: bool = False) -> None:
        super().__init__(cause)
        self.from_outside = from_outside


class WorkerStartError(Exception):
    """No worker process can be had at the moment."""


class WorkerProcess:
    """One worker process and the pipe to it. `kill_if_late` is called from another thread than the rest."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self._deadline = math.inf
        self._queued_before = 0.0
        self._overran = False

    def start(self) -> None:
        """Have a live process, ready for a job. Raises: WorkerStartError."""
        if self._process is not None and self._process.is_alive() and not self._hung_up():
            return
        self.stop()
        try:
            ours, theirs = _SPAWN.Pipe()
            with theirs:
                self._connection = ours
                with _SPAWN_LOCK:
                    process = _SPAWN.Process(target=serve, args=(theirs, self._config, os.getpid()), daemon=True)
                    process.start()
            self._process = process
            self._set_deadline(_START_SECONDS)
            ready = ours.recv_bytes(_MAX_REPLY_BYTES)
        except (EOFError, OSError, RuntimeError) as error:  # RuntimeError: no more threads
            cause = f"it ended at once ({self._end()})" if isinstance(error, EOFError) else str(error)
            self.stop()
            raise WorkerStartError(f"no decode process can be started: {cause}") from error
        finally:
            self._set_deadline(math.inf)
        assert ready == READY, ready

    def run(self, video: bytes | str, decoders: tuple[str, ...], *, seconds: float) -> tuple[Reply, np.ndarray | None]:
        """Decode one video on a started worker. Raises: WorkerDied, with the cause; `start` then starts another."""
        connection = self._connection
        assert connection is not None
        self._set_deadline(seconds)
        try:
            connection.send(Job(video, 0, decoders) if isinstance(video, str) else Job(None, len(video), decoders))
            if isinstance(video, bytes):
                connection.send_bytes(video)
            reply = read_reply(connection.recv_bytes(_MAX_REPLY_BYTES))
            views = receive_views(connection, self._config.views.num_bytes) if reply.decoded else None
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
        return reply, views

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
            process.join(timeout=_KILL_SECONDS)  # longer only if the kernel holds it, on a dead disk say

    def _set_deadline(self, seconds: float) -> None:
        with self._lock:
            self._deadline = time.monotonic() + seconds
            self._queued_before = queued_seconds(self._process.pid) if self._process is not None else 0.0

    def _hung_up(self) -> bool:
        """Whether an idle worker's end is closed (a message from an idle worker would be disorder as well)."""
        assert self._connection is not None
        return self._connection.poll(0)

    def _end(self) -> str:
        """How the process ended."""
        if self._process is None:
            return "unknown"
        self._process.join(timeout=5)
        return f"exit code {self._process.exitcode}"

    def _died(self, seconds: float) -> WorkerDied:
        end = self._end()
        if self._overran:
            return WorkerDied(f"decoding took more than {seconds:g} s")
        return WorkerDied(f"the decoder crashed ({end})", from_outside=end == "exit code -9")


def queued_seconds(pid: int | None) -> float:
    """How long a process has been ready to run without a processor; 0 where the kernel does not tell."""
    try:
        with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def receive_views(connection: Connection, num_bytes: int) -> np.ndarray:
    """The views, uint8 (num_bytes,), which follow a reply. Raises: NOT_A_REPLY: more or fewer bytes."""
    views = np.empty(num_bytes, dtype=np.uint8)
    if connection.recv_bytes_into(memoryview(views)) != num_bytes:
        raise ValueError(f"views cut short of {num_bytes} bytes")
    return views
