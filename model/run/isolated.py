"""Files prepared one at a time, on demand, each in a worker process as in a run."""

from __future__ import annotations

import itertools
import math
import queue
import threading
import time
import weakref
from collections.abc import Iterator

from ..config import PipelineConfig
from ..modality import AnyPreparation
from ..rows.dataset import Row
from .pool import DecodedClip, DecodePool

TOO_LONG = "it took longer than a file may"  # the reason where a deadline passed


class IsolatedPreparation:
    """One worker process that lives until `close`, the end of a `with` block, or the end of the program.

    Any thread may call it; files are taken one after the other.
    """

    def __init__(self, preparation: AnyPreparation) -> None:
        """Raises: RuntimeError: the system gives no threads."""
        self._rows: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        config = PipelineConfig(stall_seconds=math.inf)
        pool = DecodePool(iter(self._rows.get, None), preparation, num_workers=1, pipeline=config).__enter__()
        self._results = pool.results()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._closer = weakref.finalize(self, _close, pool, self._rows)

    def __call__(self, source: bytes | str, *, deadline: float = math.inf) -> DecodedClip:
        """source: the file's bytes, or its path. Raises: RuntimeError: it was closed.

        deadline: on time.monotonic(); what is not there by then never comes, and it is closed.
        """
        *_, clip = self.windows(source, deadline=deadline)
        return clip

    def windows(self, source: bytes | str, *, deadline: float = math.inf) -> Iterator[DecodedClip]:
        """Of a preparation that gives windows each as it is done; the last one is what came of the file."""
        with self._lock:
            number = str(next(self._numbers))
            self._rows.put(Row(number, source))
            while self._closer.alive:
                clip = next(self._results)
                if clip is not None and clip.id == number:  # another one: of a call that was interrupted
                    yield clip
                    if not clip.more:
                        return
                if time.monotonic() > deadline:
                    self.close()
                    yield DecodedClip(number, None, TOO_LONG, refused=True)
                    return
            raise RuntimeError("the detector was closed")

    @property
    def closed(self) -> bool:
        return not self._closer.alive

    def close(self) -> None:
        """End the worker process. Twice does no harm."""
        self._closer()

    def __enter__(self) -> IsolatedPreparation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _close(pool: DecodePool, rows: queue.SimpleQueue[Row | None]) -> None:
    rows.put(None)
    pool.__exit__()
