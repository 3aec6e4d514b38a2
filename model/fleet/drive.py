"""The driver: hands pieces to actors, pass after pass, until every shard is there.

An actor has one piece at a time, so nothing piles up. One that died, or whose node was lost, gets no other in this
pass. Its piece goes into the next pass, which starts actors anew on the nodes that are left. So a run that is started a
second time does what a pass does: only what is missing.

Ray Data's pool is not used: it restarts a lost actor for ever, and waits for a node that may never come back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

from ..modality import Preparation
from ..run.pipeline import Scorer
from ..text import one_line
from .actor import ActorConfig, DetectorActor
from .pieces import CutDataset
from .store import FleetError, RunRecord, Store

log = logging.getLogger(__name__)

_FRUITLESS_PASSES = 3  # in a row, after which the run gives up
_PATIENCE_SECONDS = 30.0  # without a finished piece, after which the nodes are counted


@dataclass(frozen=True)
class FleetConfig:
    """How the run is spread. cores, gpus: of one actor."""

    cores: int = 1
    gpus: float = 0.0
    max_actors: int = 0  # 0: as many as the cluster holds when a pass starts


def run_fleet(
    cut: CutDataset,
    store: Store,
    weights_sha256: str,
    build: Callable[[], tuple[Preparation, Scorer]],
    config: FleetConfig,
) -> int:
    """Score all pieces that are missing in `store`, then merge. Needs `ray.init`. Returns the rows of submission.csv.

    build: see `ActorConfig`. Raises: FleetError.
    """
    record = build_record(cut, weights_sha256)
    store.begin(record)
    actor_config = ActorConfig(store.uri, record, build, config.cores)
    fruitless, before = 0, _state(store, record)
    while missing := sorted(set(range(record.pieces)) - store.finished(record)):
        log.info("run %s: %d of %d pieces to do", record.run_id, len(missing), record.pieces)
        _pass(cut, set(missing), actor_config, config)
        after = _state(store, record)
        fruitless, before = (fruitless + 1 if after == before else 0), after
        if fruitless == _FRUITLESS_PASSES:
            raise FleetError(
                f"{len(missing)} of {record.pieces} pieces cannot be finished, e.g. {missing[0]}: see the actors' log;"
                " what is done stays, and the same command goes on from there"
            )
    return store.merge(record, cut.modality)


def build_record(cut: CutDataset, weights_sha256: str) -> RunRecord:
    """The run's id comes from what decides its rows and scores, so that the same run finds itself."""
    import hashlib

    digest = hashlib.sha256(f"{cut.fingerprint}\0{weights_sha256}".encode()).hexdigest()
    return RunRecord(digest[:12], cut.description, weights_sha256, cut.modality.name, cut.num_pieces)


def _state(store: Store, record: RunRecord) -> tuple[int, int]:
    """Grows whenever something came of a pass: (finished pieces, deaths that were noted)."""
    return len(store.finished(record)), store.deaths()


def _pass(cut: CutDataset, missing: set[int], actor_config: ActorConfig, config: FleetConfig) -> None:
    count = min(config.max_actors or _capacity(config), len(missing))
    remote = ray.remote(num_cpus=config.cores, num_gpus=config.gpus, max_restarts=0)(DetectorActor)
    actors = [remote.remote(actor_config) for _ in range(count)]
    pieces = (piece for piece in cut.pieces() if piece.number in missing)
    at_work: dict[Any, Any] = {}  # what an actor owes -> the actor
    silent = set(actors)  # they may never have been placed
    started, rows, done = time.monotonic(), 0, 0
    for actor, piece in zip(actors, pieces, strict=False):
        at_work[actor.do.remote(piece)] = actor
    while at_work:
        ready, _ = ray.wait(list(at_work), timeout=_PATIENCE_SECONDS)
        if not ready:
            if waiting := _beyond_capacity(list(at_work.values()), silent, config):
                ray.kill(waiting)
            continue
        actor = at_work.pop(ready[0])
        silent.discard(actor)
        try:
            account = ray.get(ready[0])
        except ray.exceptions.RayActorError as error:
            log.warning("an actor was lost, its piece comes later: %s", one_line(error))
            continue
        except ray.exceptions.RayTaskError as error:
            log.warning("a piece failed and comes later: %s", one_line(error))
        else:
            rows, done = rows + account["rows"], done + 1
            log.info(
                "piece %d: %d rows, %d without a score, %.1f s, attempt %d, process %d on %s; %d of %d pieces,"
                " %.1f rows/s",
                account["piece"], account["rows"], account["unscored"], account["seconds"], account["attempts"],
                account["process"], account["node"], done, len(missing), rows / (time.monotonic() - started),
            )  # fmt: skip
        if (piece := next(pieces, None)) is not None:
            at_work[actor.do.remote(piece)] = actor
    for actor in actors:
        ray.kill(actor)


def _beyond_capacity(at_work: list[Any], silent: set[Any], config: FleetConfig) -> Any:
    """An actor that waits for a node that was lost; None if the nodes hold all of them."""
    return next((actor for actor in at_work if actor in silent), None) if _capacity(config) < len(at_work) else None


def _capacity(config: FleetConfig) -> int:
    """Actors that the nodes hold. Raises: FleetError: none."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    per_node = [
        int(min(node.get("CPU", 0) // config.cores, node.get("GPU", 0) // config.gpus if config.gpus else 1 << 30))
        for node in nodes
    ]
    if sum(per_node) == 0:
        raise FleetError(
            f"no node has {config.cores} cores and {config.gpus:g} GPUs for one actor; the nodes have"
            f" {[(node.get('CPU', 0), node.get('GPU', 0)) for node in nodes]}: give --cores or --gpus"
        )
    return sum(per_node)
