"""The run: rows are read, decoded on every core and scored in batches, all at once, into the result file."""

from __future__ import annotations

import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from ..atomic import replace_file
from ..config import PipelineConfig, available_cores
from ..modality import AnyPreparation
from ..rows.dataset import ClipDataset
from ..rows.submission import ResultFile
from ..verdict import is_inconclusive
from .collect import Collected, SegmentCollector
from .pool import Crash, DecodedClip, DecodePool

log = logging.getLogger(__name__)

_STALL_SECONDS = 1.0  # a batch is not held back longer than this waiting for clips
_NOTHING = np.empty(0, np.uint8)


class Scored(NamedTuple):
    """A clip's score, nan if the network has none. network_seconds: the clip's share of its batch's time."""

    id: str
    score: float
    network_seconds: float = 0.0


class Scorer(Protocol):
    """What the pipeline asks of whatever turns content into scores."""

    network_seconds: float  # spent in it so far

    def add(self, clip_id: str, content: np.ndarray) -> Iterator[Scored]:
        """Take one clip's content, uint8 (n,), as prepared; yields what became ready."""
        ...

    def flush(self) -> Iterator[Scored]:
        """Score everything that was added."""
        ...


@dataclass
class RunStats:
    """What happened. Seconds are by stage, summed over workers."""

    rows: int = 0
    scored: int = 0
    generated: int = 0  # of these, with a score above 0
    inconclusive: int = 0  # of these, with a score near 0
    salvaged: int = 0  # of these, with something lost on the way
    fallbacks: Counter[str] = field(default_factory=Counter)  # reason -> rows left unscored for it
    reasons: dict[str, str] = field(default_factory=dict)  # id -> why it has no score, or what was lost on the way
    crashes: list[Crash] = field(default_factory=list)
    started_at: float = 0.0  # on time.time()
    first_decode_seconds: float | None = None  # after the start
    first_score_seconds: float | None = None
    read_seconds: float = 0.0  # waiting for the dataset
    decode_seconds: float = 0.0
    transform_seconds: float = 0.0
    transfer_seconds: float = 0.0
    network_seconds: float = 0.0
    write_seconds: float = 0.0
    wall_seconds: float = 0.0

    @property
    def unscored(self) -> int:
        return self.rows - self.scored

    def count(self, clip_id: str, score: float | None, reason: str) -> None:
        """A row that is done. reason: why there is no score, or what was lost on the way."""
        if score is None:
            self.fallbacks[reason] += 1
        else:
            self.scored += 1
            self.generated += score > 0
            self.inconclusive += is_inconclusive(score)
            self.salvaged += bool(reason)
        if reason or score is None:
            self.reasons[clip_id] = reason

    def write(self, path: Path) -> None:
        """As JSON: the fields, with `unscored`. Raises: OSError."""
        fallbacks = dict(self.fallbacks.most_common())  # `asdict` makes a counter of pairs of it
        text = json.dumps({**asdict(self), "fallbacks": fallbacks, "unscored": self.unscored}, indent=1)
        replace_file(path, f"{text}\n".encode())


def run(
    dataset: ClipDataset,
    result: ResultFile,
    preparation: AnyPreparation,
    build_scorer: Callable[[], Scorer],
    *,
    config: PipelineConfig,
    show_progress: bool = True,
    stats: RunStats | None = None,
) -> RunStats:
    """Score every row of `dataset` into `result`.

    build_scorer: loads the network; called after the decode workers were started, so that both start at once.
    stats: filled as the run goes on, for a caller that may be interrupted.
    """
    stats = RunStats() if stats is None else stats
    stats.rows, stats.started_at = len(dataset.ids), time.time()
    started = time.monotonic()
    num_workers = config.workers or available_cores()
    waiting: dict[str, DecodedClip] = {}  # for their scores
    windows = SegmentCollector()
    with DecodePool(dataset.rows(), preparation, num_workers=num_workers, pipeline=config) as pool:
        stats.crashes = pool.crashes
        scorer = build_scorer()
        progress = tqdm(total=stats.rows, unit="clip", smoothing=0.05, mininterval=1.0, disable=not show_progress)
        waiting_since = time.monotonic()

        def record_if_complete(clip_id: str) -> None:
            if (file := windows.take(clip_id)) is not None:
                _record_windows(file, result, stats)
                progress.update()

        def record(scored: Scored) -> None:
            stats.network_seconds = scorer.network_seconds
            if clip_id := windows.put(scored.id, scored.score, scored.network_seconds):
                record_if_complete(clip_id)
                return
            clip = waiting.pop(scored.id)
            _record(scored, clip, result, stats)
            progress.update()
            if stats.first_score_seconds is None and stats.scored:
                stats.first_score_seconds = time.monotonic() - started
                log.info("first clip scored")

        for clip in pool.results():
            if clip is not None:
                if stats.first_decode_seconds is None:
                    first_decoded = pool.first_decoded or time.monotonic()  # while the network was still loading
                    stats.first_decode_seconds = first_decoded - started
                if clip.more or clip.num_windows:
                    stats.decode_seconds += clip.seconds if clip.more else 0.0
                    name = windows.add(clip)
                    for scored in scorer.add(name, clip.prepared.content) if name and clip.prepared else ():
                        record(scored)
                        waiting_since = time.monotonic()
                    record_if_complete(clip.id)
                    continue
                _count(clip, stats)
                if clip.prepared is None:
                    result.set_unscored(clip.id, clip.reason, refused=clip.refused, seconds=clip.seconds)
                    progress.update()
                else:
                    content = clip.prepared.content
                    waiting[clip.id] = replace(clip, prepared=replace(clip.prepared, content=_NOTHING))
                    for scored in scorer.add(clip.id, content):
                        record(scored)
                        waiting_since = time.monotonic()
            # The first clip waits for no others: a score soon.
            if not stats.scored or time.monotonic() - waiting_since > _STALL_SECONDS:
                for scored in scorer.flush():
                    record(scored)
                waiting_since = time.monotonic()
            write_started = time.perf_counter()
            result.write_if_due()
            stats.write_seconds += time.perf_counter() - write_started
            stats.read_seconds, stats.wall_seconds = pool.read_seconds, time.monotonic() - started
        for scored in scorer.flush():
            record(scored)
        progress.close()
        stats.network_seconds = scorer.network_seconds
    stats.wall_seconds = time.monotonic() - started
    return stats


def _record(scored: Scored, clip: DecodedClip, result: ResultFile, stats: RunStats) -> None:
    """The score of a decoded clip, into the result. Its time is that of its decoding and its share of the network."""
    assert clip.prepared is not None
    seconds = clip.seconds + scored.network_seconds
    if not math.isfinite(scored.score):
        reason = "the network gives no finite score"
        result.set_unscored(clip.id, reason, seconds=seconds)
        stats.count(clip.id, None, reason)
        log.warning("clip %s: not scored: %s", clip.id, reason)
        return
    result.set_score(
        clip.id, scored.score, reason=clip.prepared.note, seconds=seconds,
        duration_seconds=clip.prepared.duration_seconds, num_frames=clip.prepared.num_frames,
    )  # fmt: skip
    stats.count(clip.id, scored.score, clip.prepared.note)


def _record_windows(file: Collected, result: ResultFile, stats: RunStats) -> None:
    """A file of which every window is scored."""
    result.set_segments(file.id, file.segments, file.score, reason=file.reason, seconds=file.seconds)
    stats.count(file.id, file.score, file.reason)


def _count(clip: DecodedClip, stats: RunStats) -> None:
    """What decoding a file took; and if it failed, that."""
    stats.transfer_seconds += clip.transfer_seconds
    prepared = clip.prepared
    if prepared is None:
        stats.decode_seconds += clip.seconds
        stats.count(clip.id, None, clip.reason)
        log.warning("clip %s: not scored: %s", clip.id, clip.reason)
        return
    stats.decode_seconds += clip.seconds - prepared.cut_seconds
    stats.transform_seconds += prepared.cut_seconds
    if prepared.note:
        log.info("clip %s: scored with %s: %s", clip.id, prepared.reader, prepared.note)
