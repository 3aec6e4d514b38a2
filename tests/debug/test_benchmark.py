"""debug.benchmark: its clips are as promised, its arithmetic is right, and it runs."""

from __future__ import annotations

import time
from pathlib import Path

import av
import numpy as np
import pytest

from debug import benchmark, benchmark_stages
from debug.benchmark_clips import ClipPlan, make_clips, plan_clips
from model.rows.dataset import open_dataset
from model.run.pipeline import RunStats

SMALL = [ClipPlan(192, 128, seconds=1.5, rate=12), ClipPlan(128, 192, seconds=2, rate=12, shots=2, key_frames_apart=20)]


def test_planned_clips_are_as_the_challenge_has_them() -> None:
    plans = plan_clips(24)
    assert all(5 <= plan.seconds <= 20 and 480 <= min(plan.width, plan.height) <= 1080 for plan in plans)
    assert {plan.key_frames_apart for plan in plans} == {250}
    assert plan_clips(24) == plans
    assert len(set(plans)) > 12


def test_clips_are_made_once_and_are_what_was_planned(tmp_path: Path) -> None:
    files = make_clips(tmp_path, SMALL)
    before = [file.read_bytes() for file in files]
    assert [file.read_bytes() for file in make_clips(tmp_path, SMALL)] == before
    for file, plan in zip(files, SMALL, strict=True):
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            packets = [packet for packet in container.demux(stream) if packet.size]
            assert (stream.codec_context.name, stream.width, stream.height) == ("h264", plan.width, plan.height)
            assert len(packets) == plan.num_frames
            keys = [packet.is_keyframe for packet in packets]
        assert keys[0]
        assert sum(keys) == (1 if plan.shots == 1 else 2), "one key frame a shot"


def test_rates_are_what_they_say() -> None:
    naive = benchmark_stages.Naive(clips=10, decode_seconds=5, network_seconds=15, plain_network_seconds=35)
    assert (naive.decode_rate, naive.rate, naive.plain_rate) == (2, 0.5, 0.25)
    measured = benchmark.Round(
        naive, network=4, network_processor_seconds=0.3, by_workers={1: (6, 2), 2: (12, 3)},
        decode_processor_seconds=0.2, stats=RunStats(),
    )  # fmt: skip
    assert measured.most == 2
    assert [measured.slower_stage(count) for count in (1, 2)] == [4, 4]
    assert measured.shared_bound(2, cores=1) == pytest.approx(2)  # 0.3 + 0.2 processor seconds a clip
    assert measured.shared_bound(2, cores=8) == pytest.approx(4)  # the slower stage
    assert benchmark_stages.steady_rate(50, 2, 12) == 4


def test_a_device_of_its_own_takes_its_time_and_loses_no_clip() -> None:
    scorer = benchmark_stages.WaitingScorer(100.0)
    started, views = time.perf_counter(), np.zeros((1, 1, 1, 1, 3), np.uint8)
    scored = [one.id for number in range(7) for one in scorer.add(str(number), views)]
    assert scored == ["0", "1", "2", "3"], "the third batch is on its way, the fourth is not full"
    scored += [one.id for one in scorer.flush()]
    assert scored == [str(number) for number in range(7)]
    assert time.perf_counter() - started >= 7 / 100
    assert 0 < scorer.network_seconds <= time.perf_counter() - started


def test_repeated_rows_have_ids_of_their_own(tmp_path: Path) -> None:
    benchmark_stages.write_rows(benchmark_stages.repeated([b"one", b"two"], 25), tmp_path)
    rows = list(open_dataset(tmp_path).rows())
    assert len({row.id for row in rows}) == 25
    assert [row.media for row in rows[:3]] == [b"one", b"two", b"one"]


@pytest.mark.long
def test_the_benchmark_runs_on_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "LONG_ROWS", 12)
    make_clips(tmp_path / "clips", SMALL)
    output = tmp_path / "results.md"
    output.write_text(f"old tables\n\n{benchmark.BY_HAND}\n\nWords.\n")
    arguments = [str(tmp_path / "clips"), "--rounds", "1", "--workers", "1", "2", "--no-memory", "--device", "cpu"]
    assert benchmark.main([*arguments, "--note", "A test.", "--output", str(output)]) == 0
    text = output.read_text()
    assert capsys.readouterr().out.strip() in text
    assert "old tables" not in text
    assert text.endswith(f"\n\n{benchmark.BY_HAND}\n\nWords.\n")
    for line in (
        "2 clips: 2 to 2 s, 128 to 128 lines",
        "| decoding over naive decoding |",
        "what the shared cores allow, 2 workers |",
        "| end to end over decoding alone, network on a device 1 times as fast (a wait stands in) |",
        "| transfer |",
        "A test.",
    ):
        assert line in text
    assert len([line for line in text.splitlines() if line.startswith("| 4 (used) | 2 |")]) == 1


def test_an_empty_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main([str(tmp_path)]) == 1
    assert "no video in" in capsys.readouterr().err


@pytest.mark.long
def test_memory_and_start_up_of_a_run(tmp_path: Path) -> None:
    [file] = make_clips(tmp_path, SMALL[:1])
    rows = 24  # more than wait between the stages: workers that are done before the network is loaded are gone
    benchmark_stages.write_rows(benchmark_stages.repeated([file.read_bytes()], rows), tmp_path / "data")
    result = benchmark_stages.run_script(["--dataset", str(tmp_path / "data")], tmp_path / "submission.csv")
    assert result.exit_code == 0, result.log
    assert 0 < result.first_decode_seconds < result.first_score_seconds < result.wall_seconds
    assert 100 < result.peak_main_megabytes < result.peak_megabytes
