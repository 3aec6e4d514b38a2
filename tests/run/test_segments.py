"""Windows through worker, pool, network and result file: each scored as a short clip is, and lost alone."""

from __future__ import annotations

import csv
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from debug.kills import process_tree
from model.config import LimitsConfig, PipelineConfig, SamplingConfig, SegmentConfig
from model.modality import AUDIO, VIDEO, Prepared, Unreadable
from model.rows.dataset import Row, open_files
from model.rows.submission import ResultFile
from model.run.files import FileDetector
from model.run.isolated import IsolatedPreparation
from model.run.parts import default_weights, load_detector, load_windows
from model.run.pipeline import RunStats, run
from model.run.pool import DecodePool
from model.run.scoring import BatchScorer, score_clip
from model.run.words import sound_line, verdict_json
from model.video.detector import VideoDetector
from model.video.views import cut_views, trim_bars
from model.video.windows import read_windows
from tests.run.bad_readers import FAULTS
from tests.toy_clips import ClipSpec, clip, render

CONFIG = SegmentConfig(2.0)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8.5 s, a key frame in 4 s."""
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    path.write_bytes(render(ClipSpec(width=160, height=120, num_frames=102, keyframe_every=48)))
    return path


@pytest.fixture(scope="module")
def detector() -> VideoDetector:
    return load_detector(VIDEO, default_weights(VIDEO), torch.device("cpu"), "float32")  # type: ignore[return-value]


@pytest.fixture(scope="module")
def expected(film: Path, detector: VideoDetector) -> list[float]:
    """The plain way: each window's frames as one short clip."""
    windows = read_windows(str(film), CONFIG, SamplingConfig(), LimitsConfig())
    config = detector.view_config
    return [score_clip(detector, cut_views(trim_bars(window.runs), config)) for window in windows]


def test_windows_score_as_short_clips(film: Path, expected: list[float]) -> None:
    with FileDetector("video", device="cpu", precision="float32", segments=CONFIG.seconds) as files:
        verdict = files.score(film)
        assert [one.score for one in verdict.segments] == pytest.approx(expected, abs=2e-3)
        assert [one.start_seconds for one in verdict.segments] == [0, 2, 4, 6]
        assert verdict.duration_seconds == verdict.segments[-1].end_seconds == pytest.approx(8.5)
        assert verdict.num_frames == sum(one.num_frames for one in verdict.segments) and verdict.num_places >= 4
        nothing = files.score(b"no video")
        assert (nothing.status, nothing.segments) == ("refused", ()) and "not a readable video" in nothing.note


def test_a_run_writes_a_row_a_window(
    film: Path, detector: VideoDetector, expected: list[float], tmp_path: Path
) -> None:
    """Two films and a broken file at once, the network's batches across their windows."""
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(film.read_bytes())
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    dataset = open_files(sorted(tmp_path.glob("*.mp4")), tmp_path)
    result = ResultFile(tmp_path / "scores.csv", dataset.ids, detailed=True, segments=CONFIG.seconds)
    preparation = load_windows(VIDEO, default_weights(VIDEO), CONFIG)
    scorer = BatchScorer(lambda _: detector, torch.device("cpu"), batch_views=3 * detector.views_per_clip)
    stats = RunStats()
    run(
        dataset, result, preparation, lambda: scorer, config=PipelineConfig(workers=2), show_progress=False, stats=stats
    )
    assert (stats.rows, stats.scored, stats.unscored) == (3, 2, 1)
    assert result.write()
    with open(tmp_path / "scores.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["segment"] for row in rows] == [*["whole", "1", "2", "3", "4"] * 2, "whole"]
    for first in (1, 6):
        assert [float(row["score"]) for row in rows[first : first + 4]] == pytest.approx(expected, abs=2e-3)
    assert rows[-1]["status"] == "refused" and rows[0]["status"] == "scored" and float(rows[0]["seconds"]) > 0


@dataclass(frozen=True)
class TwoThen:
    """A preparation whose files give two windows and then do what the file says."""

    limits: LimitsConfig = LimitsConfig()
    max_bytes: int = 1 << 16
    attempts: int = 1

    def __call__(self, source: bytes | str, attempt: int = 0) -> Iterator[Prepared]:
        assert isinstance(source, bytes)
        for number in range(1000 if source == b"many" else 2):
            content = np.full(self.max_bytes, number % 256, np.uint8)
            yield Prepared(content, "two", start_seconds=float(number), end_seconds=number + 1.0)
        if source == b"unreadable":
            raise Unreadable("the file breaks off")
        if source.decode() in FAULTS:
            FAULTS[source.decode()]()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("segfault", "the rest: the decoder crashed"),
        ("leave", "the rest: the decoder crashed"),
        ("raise_the_unforeseen", "the rest: the decoder failed: ZeroDivisionError"),
        ("sleep_for_ever", "the rest: decoding took more than 2 s"),
        ("unreadable", "the file breaks off"),
        ("good", ""),
    ],
)
def test_what_was_read_before_a_crash_is_kept(fault: str, reason: str) -> None:
    """And the next file is read by another worker."""
    limits = replace(LimitsConfig(), soft_seconds=1.0, hard_seconds=2.0)
    with IsolatedPreparation(TwoThen(limits)) as preparation:
        for name in (fault, "good"):
            *windows, end = preparation.windows(name.encode())
            assert [window.prepared.start_seconds for window in windows if window.prepared] == [0, 1]
            assert end.prepared is None and end.num_windows == 2 and not end.more
            assert end.reason.startswith(reason) if name == fault else end.reason == ""


def test_few_windows_wait_however_long_a_file_is() -> None:
    with DecodePool(iter([Row("a", b"many")]), TwoThen(), num_workers=1, pipeline=PipelineConfig(jobs_ahead=2)) as pool:
        clips = pool.results()
        assert next(clip for clip in clips if clip is not None).more
        time.sleep(1.0)  # long enough for a worker that does not wait to be done
        assert pool._results.qsize() <= 2
        numbers = [clip.num_windows for clip in clips if clip is not None]
        assert numbers == list(range(1, 1001))


def test_a_worker_that_is_killed_from_outside_loses_the_rest_alone() -> None:
    with IsolatedPreparation(TwoThen()) as preparation:
        clips = preparation.windows(b"many")
        first = next(clips)
        assert first.more
        children = process_tree(os.getpid())[1:]
        workers = [pid for pid in children if b"model.run.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert workers
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        *_, end = clips
        assert end.reason.startswith("the rest: the decoder crashed") and 0 < end.num_windows < 1000
        assert len(list(preparation.windows(b"good"))) == 3


def test_a_video_s_sound_has_a_verdict_of_its_own(film: Path) -> None:
    """The picture's is the same with and without; a video without sound says so, and its sound loads no networks."""
    with FileDetector(device="cpu", precision="float32", sound=True) as files:
        silent = files.score(film)
        assert silent.sound is not None and silent.sound.score is None
        assert "no sound track" in silent.sound.note and files._loaded["audio"]._detector is None
        heard = files.score(clip("h264_audio"))
        assert heard.sound is not None and heard.sound.label in ("generated", "pristine")
        assert heard.segments == () and heard.num_places == 3, "three key frames"
        line = sound_line(heard, heard.sound)
        assert line.startswith("    picture: ") and line.endswith(", if it is speech") and "; sound: " in line
        told = verdict_json("a.mp4", heard, VIDEO)
        assert told["sound"]["modality"] == "audio"
        assert told["sound"]["score"] == pytest.approx(heard.sound.score, abs=1e-3)
        assert "sound" not in verdict_json("a.mp4", heard.sound, AUDIO)
    with FileDetector("video", device="cpu", precision="float32") as files:
        alone = files.score(clip("h264_audio"))
        assert alone.sound is None and alone.score == pytest.approx(heard.score, abs=1e-6)
