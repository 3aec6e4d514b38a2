"""One detector of the fleet: takes a piece, decodes and scores it as script.py does, writes its shard."""

from __future__ import annotations

import fcntl
import logging
import math
import os
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from ..config import PipelineConfig
from ..modality import Preparation
from ..rows.dataset import ClipDataset
from ..rows.submission import UNREADABLE, Result, ResultFile
from ..run.pipeline import RunStats, Scorer, run
from .pieces import Piece, scratch_folder
from .store import Journal, RunRecord, Store

log = logging.getLogger(__name__)

_FORGIVEN_DEATHS = 1  # of the actor over a row: the first may have had another cause, such as a lost node
_MAX_ATTEMPTS = 20  # at a piece; whatever has no score then stays without


@dataclass(frozen=True)
class ActorConfig:
    """What every actor of a run works with. build: (preparation, scorer), called once, on the actor's own cores."""

    output: str
    record: RunRecord
    build: Callable[[], tuple[Preparation, Scorer]]
    cores: int


class DetectorActor:
    """Lives as long as a pass; the driver hands it one piece after the other."""

    def __init__(self, config: ActorConfig) -> None:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", force=True)
        self._config = config
        self._store = Store(config.output)
        self._cores = claim_cores(config.cores)
        self._preparation, self._scorer = config.build()

    def do(self, piece: Piece) -> dict[str, Any]:
        """Score a piece. Returns a line of account; its rows are on disk then."""
        started = time.time()
        journal = self._store.read_journal(piece.number)
        journal.attempts += 1
        if journal.current is not None:
            journal.deaths[journal.current] = journal.deaths.get(journal.current, 0) + 1
            journal.current = None
        self._store.write_journal(piece.number, journal)
        with scratch_folder() as scratch:
            dataset = piece.open(scratch)
            score = self._score if journal.attempts == 1 else self._score_one_by_one
            rows = score(dataset, piece.number, journal, scratch)
        self._store.write_shard(self._config.record, piece.number, rows)
        unscored = sum(row.score is None for row in rows.values())
        return {
            "piece": piece.number, "rows": len(rows), "unscored": unscored, "attempts": journal.attempts,
            "seconds": time.time() - started, "node": socket.gethostname(), "process": os.getpid(),
        }  # fmt: skip

    def _score(self, dataset: ClipDataset, number: int, journal: Journal, scratch: Path) -> dict[str, Result]:
        return self._run(dataset, scratch)

    def _score_one_by_one(
        self, dataset: ClipDataset, number: int, journal: Journal, scratch: Path
    ) -> dict[str, Result]:
        """An actor has died over this piece: each row is named before it is read, and one that kills is left out."""
        places = {clip_id: place for place, clip_id in enumerate(dataset.ids)}
        found: dict[str, Result] = {}
        for clip_id, place in places.items():
            deaths = journal.deaths.get(place, 0)
            if deaths > _FORGIVEN_DEATHS or journal.attempts > _MAX_ATTEMPTS:
                reason = f"the process that scored it died {max(deaths, 1)} times"
                log.error("clip %s: not scored: %s", clip_id, reason)
                found[clip_id] = Result(UNREADABLE, None, reason)
        rows = replace(dataset, ids=[clip_id for clip_id in places if clip_id not in found]).rows()
        while expected := next((clip_id for clip_id in places if clip_id not in found), None):
            self._name(number, journal, places[expected])
            row = next(rows)
            if row.id != expected:
                self._name(number, journal, places[row.id])
            found |= self._run(replace(dataset, ids=[row.id], _iterate=partial(iter, [row])), scratch)
        return {clip_id: found[clip_id] for clip_id in places}

    def _name(self, number: int, journal: Journal, place: int) -> None:
        journal.current = place
        self._store.write_journal(number, journal)

    def _run(self, dataset: ClipDataset, scratch: Path) -> dict[str, Result]:
        result = ResultFile(scratch / "rows.csv", dataset.ids, dataset.modality, write_seconds=math.inf)
        config = PipelineConfig(workers=len(self._cores))
        stats = RunStats()
        run(dataset, result, self._preparation, lambda: self._scorer, config=config, show_progress=False, stats=stats)
        return dict(result.rows)


_claimed: list[IO[str]] = []  # locks; held until the process ends


def claim_cores(count: int, folder: Path | None = None) -> set[int]:
    """Run on `count` cores of this machine that no other actor has claimed, on what is left if they are fewer.

    All that follows, threads and processes, runs there. folder: of the locks. Returns the cores.
    """
    folder = folder or Path(tempfile.gettempdir()) / "safe-fleet-cores"
    folder.mkdir(parents=True, exist_ok=True)
    allowed = os.sched_getaffinity(0)
    cores: set[int] = set()
    for core in sorted(allowed):
        if len(cores) == count:
            break
        lock = open(folder / f"core-{core}.lock", "w")  # noqa: SIM115  (held until the process ends)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        _claimed.append(lock)
        cores.add(core)
    if not cores:
        log.warning("every core is claimed by another actor: sharing them")
        return allowed
    os.sched_setaffinity(0, cores)
    return cores
