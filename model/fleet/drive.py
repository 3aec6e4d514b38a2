"""The driver: hands pieces to a pool of actors with Ray Data, again and again until every shard is there.

Ray Data holds back what the actors are not ready for. A piece whose actor died, or whose node was lost, is missing
after the pass and goes into the next one, whichever actors are left then. So a run that is started a second time does
what a pass does: only what is missing.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray import cloudpickle

from ..modality import Preparation
from ..run.pipeline import Scorer
from .actor import ActorConfig, DetectorActor
from .pieces import CutDataset
from .store import FleetError, RunRecord, Store

log = logging.getLogger(__name__)

_FRUITLESS_PASSES = 3  # in a row, after which the run gives up


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
        gc.collect()  # tracebacks of lost pieces hold the pass's actors, and these their cores
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
    context = ray.data.DataContext.get_current()
    context.max_errored_blocks = -1  # a lost piece is missed afterwards
    context.enable_progress_bars = False
    actors = min(config.max_actors or _capacity(config), len(missing))
    pieces: Iterator[Any] = (piece for piece in cut.pieces() if piece.number in missing)
    items = [{"piece": cloudpickle.dumps(piece)} for piece in pieces]
    accounts = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        DetectorActor,
        fn_constructor_args=(actor_config,),
        compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2),
        batch_size=1,
        num_cpus=config.cores,
        num_gpus=config.gpus or None,
        max_task_retries=0,  # on the same actor, which may never come back: the next pass does it
    )
    started, rows = time.monotonic(), 0
    for number, account in enumerate(accounts.iter_rows() if items else (), start=1):
        rows += int(account["rows"])
        log.info(
            "piece %d: %d rows, %d without a score, %.1f s, attempt %d, process %d on %s; %d of %d pieces, %.1f rows/s",
            account["piece"], account["rows"], account["unscored"], account["seconds"], account["attempts"],
            account["process"], account["node"], number, len(items), rows / (time.monotonic() - started),
        )  # fmt: skip


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
