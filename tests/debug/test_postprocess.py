"""The ladder of Task 2 on real files: complete, seeded, resumed after a kill."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest

from debug import postprocess
from debug.ladders import load_ladder, process_frames
from model.modality import VIDEO
from model.training.clips import LabelledDataError, load_records
from tests.clip_folder import make_clip_folder, render_frames

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = load_ladder(VIDEO).operations


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip_folder(tmp_path_factory.mktemp("clips"), clips_per_source=1)


def read(path: Path) -> tuple[str, np.ndarray, float]:
    with av.open(str(path), mode="r") as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate or 0)
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        return stream.codec_context.name, frames, rate


def test_every_operation_writes_a_video_that_shows_it(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert postprocess.main([str(clips), str(out), "--limit", "2", "--severities", "2", "--workers", "2"]) == 0
    manifest = pd.read_csv(out / "manifest.csv")
    assert set(manifest["operation"]) == set(OPERATIONS)
    assert manifest.groupby("operation")["label"].nunique().eq(2).all()  # both classes alike
    assert (
        manifest["severity"] == manifest["operation"].map(lambda o: 0 if o in ("found", "none", "chain") else 2)
    ).all()
    codecs = {"h264": "h264", "hevc": "hevc", "vp9": "vp9"}
    for row in manifest.itertuples():
        codec, frames, rate = read(out / row.file)
        _, before, _ = read(clips / row.original)
        if row.operation == "found":
            assert (out / row.file).read_bytes() == (clips / row.original).read_bytes()
        if row.operation != "chain":
            assert codec.startswith(codecs.get(row.operation, "h264")), row.file
        if row.operation == "crop":
            assert frames.shape[1] < before.shape[1] and frames.shape[2] < before.shape[2]
        if row.operation in ("none", "blur", "h264"):
            assert frames.shape == before.shape
            assert rate == pytest.approx(12.0)
            error = np.abs(frames.astype(int) - before).mean()
            assert (error < 6) if row.operation == "none" else (error > 0.5)
    reloaded = load_records(out)
    assert len(reloaded) == len(manifest)


def test_frame_rate_change_keeps_the_duration() -> None:
    frames = render_frames(0, generated=False, num_frames=24)
    for seed in range(4):
        video = process_frames(frames, "frame_rate", 3, np.random.default_rng(seed), fps=12.0)

        with av.open(io.BytesIO(video), mode="r") as container:
            stream = container.streams.video[0]
            count = len(list(container.decode(stream)))
            assert count != 24
            assert count / float(stream.average_rate or 0) == pytest.approx(2.0, rel=0.1)


def assert_same_video(first: Path, second: Path) -> None:
    """Equal but for the encoder: x264's AVX-512 code reads memory it has not set and varies by some grey levels."""
    (_, frames, rate), (_, others, other_rate) = read(first), read(second)
    assert frames.shape == others.shape
    assert rate == other_rate
    assert np.abs(frames.astype(int) - others).mean() < 4


def test_seed_decides(clips: Path, tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        command = [str(clips), str(tmp_path / name), "--limit", "2", "--operations", "crop", "--severities", "3"]
        assert postprocess.main([*command, "--seed", seed, "--workers", "1"]) == 0
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.mkv")]
    assert len(files) == 2
    for file in files:
        assert_same_video(tmp_path / "a" / file, tmp_path / "b" / file)
    shapes = {name: [read(path)[1].shape for path in sorted((tmp_path / name).rglob("*.mkv"))] for name in "ac"}
    assert shapes["a"] != shapes["c"]


def test_a_killed_run_goes_on_and_ends_the_same(clips: Path, tmp_path: Path) -> None:
    def command(out: Path) -> list[str]:
        arguments = ["--operations", "noise", "resize", "vp9", "--workers", "1"]
        return [sys.executable, "-m", "debug.postprocess", str(clips), str(out), *arguments]

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(
        command(killed),
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while len(list(killed.rglob("*.mkv"))) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in killed.rglob("[!.]*.mkv")}
    assert 3 <= len(done) < 45 and not (killed / "manifest.csv").exists()
    again = subprocess.run(command(killed), cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"{len(done)} of 45 are there already" in again.stdout
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in done.items())  # none made twice
    subprocess.run(command(whole), cwd=ROOT, capture_output=True, check=True)
    assert (killed / "manifest.csv").read_text() == (whole / "manifest.csv").read_text()
    for path in whole.rglob("*.mkv"):
        assert_same_video(path, killed / path.relative_to(whole))


def test_other_settings_are_refused(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(clips), str(tmp_path / "out"), "--limit", "2", "--operations", "none", "--workers", "1"]
    assert postprocess.main(command) == 0
    with pytest.raises(SystemExit):
        postprocess.main([*command, "--seed", "9"])
    assert "was begun with another seed (0, now 9)" in capsys.readouterr().err


def test_per_clip_draws_and_unknown_names(clips: Path) -> None:
    records = load_records(clips)
    everything = postprocess.plan_variants(records, OPERATIONS, (1, 2, 3))
    assert len(everything) == len(records) * (11 * 3 + 3)
    drawn = postprocess.plan_variants(records, OPERATIONS, (1, 2, 3), per_clip=4)
    assert len(drawn) == 5 * len(records) and len({v.file for v in drawn}) == len(drawn)
    assert sum(v.operation == "found" for v in drawn) == len(records)  # what the others are compared with
    assert {v.file for v in drawn} <= {v.file for v in everything}
    more = postprocess.plan_variants(records, OPERATIONS, (1, 2, 3), per_clip=9)
    assert {v.file for v in drawn} < {v.file for v in more}  # a run can be extended
    with pytest.raises(LabelledDataError, match="operation 'sharpen'; valid operations: found, none, resize"):
        postprocess.plan_variants(records, ["sharpen"], (1,))
    with pytest.raises(LabelledDataError, match="severity 4"):
        postprocess.plan_variants(records, ["blur"], (4,))


def test_another_command_adds_to_the_folder(clips: Path, tmp_path: Path) -> None:
    for operation, limit in (("none", "4"), ("found", "4")):
        command = [str(clips), str(tmp_path / "out"), "--limit", limit, "--operations", operation, "--workers", "1"]
        assert postprocess.main(command) == 0
    manifest = pd.read_csv(tmp_path / "out" / "manifest.csv")
    assert manifest["operation"].value_counts().to_dict() == {"none": 4, "found": 4}
    assert len(load_records(tmp_path / "out")) == 8


def test_clips_that_differ_in_their_suffix_alone_stay_apart(clips: Path) -> None:
    first = load_records(clips)[0]
    records = [dataclasses.replace(first, file=name) for name in ("a/1.mp4", "a/1.webm")]
    assert len({variant.file for variant in postprocess.plan_variants(records, ["none", "found"], (1,))}) == 4


def test_a_broken_clip_is_named_and_the_rest_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_clip_folder(tmp_path / "data", clips_per_source=1)
    (data / "real" / "phone" / "broken.mp4").write_bytes(b"not a video")
    out = tmp_path / "out"
    assert postprocess.main([str(data), str(out), "--operations", "none", "--workers", "1"]) == 1
    printed = capsys.readouterr().out
    assert "failed: clips/none/0/real/phone/broken.mp4.mkv: " in printed
    assert len(pd.read_csv(out / "manifest.csv")) == 5
