"""The run: rows are read, decoded on every core and scored in batches, all at once, into the result file."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tqdm import tqdm

from ..config import PipelineConfig, available_cores
from ..rows.dataset import ClipDataset
from ..rows.submission import ResultFile
from .pool import DecodedClip, DecodePool
from .worker import WorkerConfig

if TYPE_CHECKING:
    from .scoring import Scorer

log = logging.getLogger(__name__)

_STALL_SECONDS = 1.0  # a batch is not held back longer than this waiting for clips


@dataclass
class RunStats:
    """What happened. fallbacks: reason -> number of rows left unscored; seconds by stage, summed over workers."""

    rows: int = 0
    scored: int = 0
    fallbacks: Counter[str] = field(default_factory=Counter)
    salvaged: int = 0
    first_decode_seconds: float | None = None
    read_seconds: float = 0.0
    decode_seconds: float = 0.0
    transform_seconds: float = 0.0
    transfer_seconds: float = 0.0
    network_seconds: float = 0.0
    write_seconds: float = 0.0
    wall_seconds: float = 0.0

    @property
    def unscored(self) -> int:
        return self.rows - self.scored


def run(
    dataset: ClipDataset,
    result: ResultFile,
    worker_config: WorkerConfig,
    build_scorer: Callable[[], Scorer],
    *,
    config: PipelineConfig,
    show_progress: bool = True,
) -> RunStats:
    """Score every row of `dataset` into `result`.

    build_scorer: loads the network; called after the decode workers were started, so that both start at once.
    """
    stats = RunStats(rows=len(dataset.ids))
    started = time.monotonic()
    num_workers = config.workers or available_cores()
    seconds_by_clip: dict[str, float] = {}
    with DecodePool(dataset.rows(), worker_config, num_workers=num_workers, pipeline=config) as pool:
        scorer = build_scorer()
        progress = tqdm(total=stats.rows, unit="clip", smoothing=0.05, mininterval=1.0, disable=not show_progress)
        waiting_since = time.monotonic()

        def record(clip_id: str, score: float) -> None:
            seconds = seconds_by_clip.pop(clip_id, None)
            progress.update()
            if not math.isfinite(score):
                result.set_unscored(clip_id, seconds=seconds)
                stats.fallbacks["the network gives no finite score"] += 1
                log.warning("clip %s: not scored: the network gives no finite score", clip_id)
                return
            result.set_score(clip_id, score, seconds=seconds)
            stats.scored += 1
            if stats.scored == 1:
                log.info("first clip scored")

        for clip in pool.results():
            if clip is not None:
                if stats.first_decode_seconds is None:
                    first_decoded = pool.first_decoded or time.monotonic()  # while the network was still loading
                    stats.first_decode_seconds = first_decoded - started
                    log.info("first clip decoded %.1f s ago", time.monotonic() - first_decoded)
                _count(clip, stats)
                seconds_by_clip[clip.id] = clip.decode_seconds + clip.transform_seconds
                if clip.views is None:
                    result.set_unscored(clip.id, seconds=seconds_by_clip.pop(clip.id))
                    progress.update()
                else:
                    for scored in scorer.add(clip.id, clip.views):
                        record(*scored)
                        waiting_since = time.monotonic()
            if time.monotonic() - waiting_since > _STALL_SECONDS:
                for scored in scorer.flush():
                    record(*scored)
                waiting_since = time.monotonic()
            write_started = time.perf_counter()
            result.write_if_due()
            stats.write_seconds += time.perf_counter() - write_started
        for scored in scorer.flush():
            record(*scored)
        progress.close()
        stats.read_seconds = pool.read_seconds
        stats.network_seconds = scorer.network_seconds
    stats.wall_seconds = time.monotonic() - started
    return stats


def _count(clip: DecodedClip, stats: RunStats) -> None:
    stats.decode_seconds += clip.decode_seconds
    stats.transform_seconds += clip.transform_seconds
    stats.transfer_seconds += clip.transfer_seconds
    if clip.views is None:
        stats.fallbacks[clip.note] += 1
        log.warning("clip %s: not scored: %s", clip.id, clip.note)
    elif clip.note:
        stats.salvaged += 1
        log.info("clip %s: scored with %s: %s", clip.id, clip.decoder, clip.note)
