"""A pool of decode workers: bounded queues in front and behind, and one supervising thread per worker process.

The sandbox denies the socket calls that DataLoader workers, forkserver and Manager need; plain pipes and spawned
processes work there. A worker that dies or overruns its time is replaced; its file is tried once more, in the next of
the preparation's ways, then given up. No other file is touched.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..config import PipelineConfig
from ..modality import AnyPreparation, Prepared
from ..rows.dataset import Row
from .process import WorkerDied, WorkerProcess, WorkerStartError

log = logging.getLogger(__name__)

_START_ATTEMPTS = 8  # of one worker in a row, with pauses that double: a minute in all
_START_PAUSE_SECONDS = 0.5
_RETRY_SECONDS = 30.0  # between two attempts to replace a worker that could not be had, while others do the work
_FORGIVEN_KILLS = 2  # from outside, of one clip: most likely not its fault, so the same attempt is repeated
_POLL_SECONDS = 0.2
_EMPTY = np.empty(0, np.uint8)


@dataclass(frozen=True)
class DecodedClip:
    """What came of a row. prepared: None if its file cannot be used; `reason` then says why.

    Of a row that is taken in windows each comes as it is done, with `more`; then one without content for the row, whose
    reason is what kept it from the rest.
    """

    id: str
    prepared: Prepared | None
    reason: str = ""
    refused: bool = False  # by a limit, or for being no media of this kind: not damaged
    seconds: float = 0.0  # wall time in workers, over all attempts
    transfer_seconds: float = 0.0  # the job's way to the worker and the content's way back
    more: bool = False
    num_windows: int = 0  # that came before


@dataclass(frozen=True)
class Crash:
    """A worker that was lost on a clip. from_outside: killed, and not by its pool. late: killed by it, for its time."""

    id: str
    cause: str
    from_outside: bool
    late: bool


class DecodePool:
    """Decode rows on `num_workers` processes; iterate over `results` to get them as they are done, in any order.

    Back-pressure: rows are read no further than `jobs_ahead` per worker and `queued_bytes` in all, and results wait in
    a queue as long, so a bounded number of clips is in memory however large the dataset is.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        preparation: AnyPreparation,
        *,
        num_workers: int,
        pipeline: PipelineConfig | None = None,
    ) -> None:
        pipeline = pipeline or PipelineConfig()
        self._rows = rows
        self._preparation = preparation
        self._stall_seconds = pipeline.stall_seconds
        self._workers = [WorkerProcess(preparation) for _ in range(num_workers)]
        self._jobs: queue.Queue[Row | None] = queue.Queue(maxsize=num_workers * pipeline.jobs_ahead)
        self._results: queue.Queue[DecodedClip | None] = queue.Queue(maxsize=num_workers * pipeline.jobs_ahead)
        self._bytes = _ByteBudget(pipeline.queued_bytes)
        self._stopping = threading.Event()
        self._all_taken = threading.Event()  # no row will come any more
        self._supervisors = 0  # threads that will put a None into the results when they end
        self._able: set[WorkerProcess] = set()  # the workers that could be started when that was last tried
        self._rows_read = 0
        self._reader = 0  # the reading thread's number in the system
        self.read_seconds = 0.0  # spent waiting for the dataset
        self.first_decoded: float | None = None  # on time.monotonic()
        self.crashes: list[Crash] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> DecodePool:
        """Raises: RuntimeError: the system gives not even three threads."""
        self._start_thread(self._read, "reader")
        self._start_thread(self._watch, "watch")
        for number, worker in enumerate(self._workers):
            self._supervisors = number + 1
            self._able.add(worker)  # so that those before it leave it its rows until it has tried
            try:
                self._start_thread(self._supervise, f"worker-{number}", worker)
            except RuntimeError as error:  # no more threads: fewer workers do it
                self._supervisors = number
                self._able.discard(worker)
                if number == 0:
                    raise
                log.warning("only %d of %d decode workers: %s", number, len(self._workers), error)
                break
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._all_taken.set()
        for worker in self._workers:
            worker.kill()
        for thread in self._threads[1:]:  # all but the reader: it may wait for the dataset for ever
            thread.join(timeout=10)

    def _start_thread(self, target: object, name: str, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)  # type: ignore[arg-type]
        thread.start()
        self._threads.append(thread)

    def results(self, *, wait_seconds: float = 0.5) -> Iterator[DecodedClip | None]:
        """Decoded clips as they come; None whenever none came for `wait_seconds`, for the caller to do its rounds.

        Ends with the dataset, or when reading it stands still: nothing waits to be decoded, and for `stall_seconds`
        the reading thread got neither a row nor a byte.
        """
        finished = clips = 0
        progress, progress_at = (0, 0), time.monotonic()
        while finished < self._supervisors:
            try:
                clip = self._results.get(timeout=wait_seconds)
            except queue.Empty:
                now = (self._rows_read, bytes_read(self._reader))
                if now != progress or self._rows_read > clips:
                    progress, progress_at = now, time.monotonic()
                elif time.monotonic() - progress_at > self._stall_seconds:
                    log.error("nothing came from the dataset for %g s: ending without the rest", self._stall_seconds)
                    return
                yield None
                continue
            if clip is None:
                finished += 1
            else:
                clips += not clip.more
                yield clip

    def _read(self) -> None:
        self._reader = threading.get_native_id()
        rows = iter(self._rows)
        try:
            while True:
                started = time.perf_counter()
                row = next(rows, None)
                self.read_seconds += time.perf_counter() - started
                self._rows_read += row is not None
                if row is None or not self._wait_for_room(row) or not self._put(self._jobs, row):
                    break
        finally:  # also when the dataset breaks off: what was read is still scored
            for _ in self._workers:
                self._put(self._jobs, None)

    def _wait_for_room(self, row: Row) -> bool:
        while not self._stopping.is_set():
            if self._bytes.take(_size(row), timeout=_POLL_SECONDS):
                return True
        return False

    def _watch(self) -> None:
        while not self._stopping.wait(_POLL_SECONDS):
            for worker in self._workers:
                worker.kill_if_late()

    def _supervise(self, worker: WorkerProcess) -> None:
        try:
            unable = self._start(worker)
            while not self._stopping.is_set():
                if unable and self._able:  # the rows are left to others; a new attempt from time to time
                    if self._all_taken.wait(_RETRY_SECONDS):
                        break
                    unable = self._start(worker, attempts=1)
                    continue
                try:
                    row = self._jobs.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    continue
                if row is None:
                    self._all_taken.set()
                    break
                unable = unable and self._start(worker, attempts=1)  # before every row: memory may be back
                clip = self._decode(worker, row) if not unable else DecodedClip(row.id, None, unable)
                self.first_decoded = self.first_decoded or time.monotonic()
                self._bytes.give_back(_size(row))
                del row
                if not self._put(self._results, clip):
                    break
                unable = unable or self._start(worker)  # a dead one is replaced at once
        finally:
            worker.stop()
            self._put(self._results, None)

    def _start(self, worker: WorkerProcess, *, attempts: int = _START_ATTEMPTS) -> str:
        """Start the worker if it is not there. Returns why it cannot be had, after `attempts`; "" if it is."""
        for attempt in range(attempts):
            try:
                worker.start()
                self._able.add(worker)
                return ""
            except WorkerStartError as error:
                cause = str(error)
                log.warning("%s", cause)
            if attempt == attempts - 1 or self._stopping.wait(_START_PAUSE_SECONDS * 2**attempt):
                break
        self._able.discard(worker)
        return cause

    def _decode(self, worker: WorkerProcess, row: Row) -> DecodedClip:
        limit = self._preparation.limits.max_file_bytes
        if not row.media:
            return DecodedClip(row.id, None, row.problem or "the row holds no file")
        if _size(row) > limit:
            return DecodedClip(row.id, None, f"the file has {_size(row)} bytes; the limit is {limit}", refused=True)
        causes: list[str] = []
        started = time.perf_counter()
        for attempt in range(self._preparation.attempts):
            clip = self._attempt(attempt, worker, row, causes)
            if clip is not None:
                return replace(clip, seconds=time.perf_counter() - started - clip.transfer_seconds)
        return DecodedClip(row.id, None, _told_once(causes), seconds=time.perf_counter() - started)

    def _attempt(self, attempt: int, worker: WorkerProcess, row: Row, causes: list[str]) -> DecodedClip | None:
        """One way to read a clip, so that one that crashes takes no other's attempt along. None: `causes` says why."""
        assert row.media
        kills = 0
        while not self._stopping.is_set():
            if unable := self._start(worker):
                causes.append(unable)
                break
            asked, num_windows = time.perf_counter(), 0
            try:
                reply, content = worker.run(row.media, attempt)
                while reply.more:
                    window = reply.with_content(_EMPTY if content is None else content)
                    seconds = reply.read_seconds + reply.cut_seconds
                    clip = DecodedClip(row.id, window, seconds=seconds, more=True, num_windows=num_windows)
                    if not self._put(self._results, clip):
                        return None
                    num_windows += 1
                    reply, content = worker.run(None)
            except WorkerDied as died:
                if self._stopping.is_set():
                    break
                log.warning("clip %s: attempt %d: %s", row.id, attempt + 1, died)
                self.crashes.append(Crash(row.id, str(died), died.from_outside, died.late))
                if num_windows:  # those that came are not done twice
                    return DecodedClip(row.id, None, f"the rest: {died}", num_windows=num_windows)
                if died.from_outside and kills < _FORGIVEN_KILLS:
                    kills += 1
                    continue
                causes.append(str(died))
                break
            if num_windows:
                return DecodedClip(row.id, None, reply.note, num_windows=num_windows)
            if content is None and not reply.refused:
                causes.append(reply.note)
                break
            note = _told_once([*causes, reply.note])
            if content is None:
                return DecodedClip(row.id, None, note, refused=True)
            transfer = time.perf_counter() - asked - reply.read_seconds - reply.cut_seconds
            return DecodedClip(row.id, replace(reply, note=note).with_content(content), transfer_seconds=transfer)
        return None

    def _put(self, target: queue.Queue, item: object) -> bool:
        """Put with an eye on the stop signal. Returns whether the item went in."""
        while not self._stopping.is_set():
            try:
                target.put(item, timeout=_POLL_SECONDS)
                return True
            except queue.Full:
                continue
        return False


class _ByteBudget:
    """Bytes of rows that were read and not yet decoded. One row always fits, however large it is."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._changed = threading.Condition()

    def take(self, size: int, *, timeout: float) -> bool:
        with self._changed:
            if not self._changed.wait_for(lambda: not self._taken or self._taken + size <= self._limit, timeout):
                return False
            self._taken += size
            return True

    def give_back(self, size: int) -> None:
        with self._changed:
            self._taken -= size
            self._changed.notify()


def bytes_read(thread: int) -> int:
    """By a thread of this process since its start, from files and pipes; 0 where the kernel does not tell."""
    try:
        with open(f"/proc/self/task/{thread}/io", "rb") as file:  # bytes: see process.queued_seconds
            return int(file.readline().split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def _told_once(causes: Iterable[str]) -> str:
    """In one line; what several attempts met alike, once."""
    return "; ".join(dict.fromkeys(filter(None, causes)))


def _size(row: Row) -> int:
    """Bytes of memory the row holds; a path is read by its worker."""
    return len(row.media) if isinstance(row.media, bytes) else 0
