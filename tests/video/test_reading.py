"""Decoding: every codec and oddity against the rendered pictures, and against the ffmpeg command's."""

from __future__ import annotations

import io
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe

from model.config import LimitsConfig, SamplingConfig
from model.modality import Refused, Unreadable
from model.video.copies import encode
from model.video.header import read_header
from model.video.reading import READERS, read_clip, reader_order
from tests.toy_clips import PLAYABLE, SPECS, clip, picture, render

# More than script.py reads: the frames after a key frame are looked at as well.
SAMPLING, LIMITS = SamplingConfig(max_runs=3, max_run_frames=4), LimitsConfig()
PYAV, DECORD = ({name: READERS[name]} for name in ("pyav", "decord"))
ONE_KEY = {"h264_one_key", "gif"}  # clips with one key frame
# Clips whose third run is whole: they are long, or have more key frames. Of the others the clip's end cuts it to two.
THREE_WHOLE_RUNS = {
    "h264_b_frames", "h264_intra", "h264_open_gop", "h264_interlaced", "h264_avi", "mpeg2_ps", "mjpeg_avi", "mjpeg_mov",
    "prores", "prores_alpha", "ffv1_mkv", "mjpeg_mkv", "prores_mkv",
}  # fmt: skip


def displayed(name: str, index: int) -> np.ndarray:
    """What frame `index` shows, from its rendering."""
    spec = SPECS[name]
    return np.rot90(picture(index, spec.width, spec.height, grey=spec.grey), -spec.turn // 90)


# MP4 and Matroska files that decord reads wrongly, or refuses.
FOR_PYAV = {
    "h264_open_gop", "h264_portrait", "h264_tiny", "h264_turned_90", "h264_turned_270", "h264_odd",
    "vp9_odd", "two_videos", "hevc", "hevc_10bit", "hevc_hdr10", "hevc_hlg", "hevc_mov", "hevc_mkv",
    "qtrle_alpha", "ffv1_mkv",
}  # fmt: skip


def error_of(frame: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(frame.astype(np.int16) - expected).mean())


def colour_error_of(frame: np.ndarray, expected: np.ndarray) -> float:
    """Mean error of 8x8 blocks: compression noise averages out, a wrong matrix (5.6) or range (8 and more) does not."""
    height, width = frame.shape[0] // 8 * 8, frame.shape[1] // 8 * 8
    difference = frame[:height, :width].astype(np.float64) - expected[:height, :width]
    return float(np.abs(difference.reshape(height // 8, 8, width // 8, 8, 3).mean(axis=(1, 3))).mean())


@pytest.mark.parametrize("name", PLAYABLE)
def test_frames_are_the_rendered_ones(name):
    """Right frames in the right order, upright, with the right matrix and range."""
    spec = SPECS[name]
    clip_ = read_clip(clip(name), SAMPLING, LIMITS, readers=PYAV)
    shown = [displayed(name, index) for index in range(spec.num_frames)]
    found = [int(np.argmin([error_of(frame, one) for one in shown])) for run in clip_.runs for frame in run]
    assert found == sorted(set(found)), "frames repeat, or are out of order"
    planned = 4 if name in ONE_KEY else 12 if name in THREE_WHOLE_RUNS else 10
    assert len(found) == min(spec.num_frames, planned) and clip_.note == ""
    if spec.alpha or spec.transfer != 2:  # transparency, and the renderer knows no BT.2020: ffmpeg tells below
        return
    for frame, index in zip((frame for run in clip_.runs for frame in run), found, strict=True):
        assert colour_error_of(frame, shown[index]) < 4.0
    if not spec.variable_rate:
        seconds = np.concatenate(clip_.pts_seconds) - clip_.pts_seconds[0][0]
        np.testing.assert_allclose(seconds * spec.rate, np.array(found) - found[0], atol=0.05)
    for run in clip_.runs:
        assert run.dtype == np.uint8 and run.shape[1:] == (*shown[0].shape[:2], 3)


@pytest.mark.parametrize("name", PLAYABLE)
def test_decord_gives_the_same_pixels_where_it_is_first(name):
    """And the same times. Where it is not, tests/video/test_reader_order.py shows why."""
    decord = pytest.importorskip("model.video.reading_decord")
    header = read_header(clip(name), LIMITS)
    if reader_order(header)[0] != "decord":
        assert header is None or name in FOR_PYAV, "decord should read this first"
        return
    ours = read_clip(clip(name), SAMPLING, LIMITS, readers=PYAV)
    try:
        theirs = read_clip(clip(name), SAMPLING, LIMITS, readers=DECORD)
    except Unreadable:
        if "av1" in name and decord.decord.__version__ == "0.6.0":
            pytest.skip("decord 0.6.0 knows no AV1, and says so: PyAV reads it then")
        raise
    assert theirs.decoder == "decord" and theirs.note == ours.note == ""
    for mine, other in zip(ours.runs, theirs.runs, strict=True):
        np.testing.assert_array_equal(mine, other)
    for mine, other in zip(ours.pts_seconds, theirs.pts_seconds, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-6)
    assert theirs.duration_seconds == ours.duration_seconds > 0


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize("num_blank", [0, 1, 20, 60, 70])
def test_both_decoders_pass_over_blank_frames(num_blank, decoder):
    black = np.zeros((num_blank, 160, 160, 3), np.uint8)
    pictures = np.stack([picture(index, 160, 160) for index in range(75 - num_blank)])
    video = encode(np.concatenate([black, pictures]), "h264", 20)
    clip_ = read_clip(video, SamplingConfig(max_runs=1), LIMITS, readers={decoder: READERS[decoder]})
    np.testing.assert_allclose(clip_.pts_seconds[0] * 25, [min(num_blank, 60), min(num_blank, 60) + 1], atol=0.05)


@pytest.mark.parametrize("name", PLAYABLE)
def test_pixels_equal_ffmpegs(name, tmp_path):
    """Tolerance: one level, for other versions of ffmpeg; 5.1, 8.1 and 9.0 agree exactly."""
    path = tmp_path / "clip"
    path.write_bytes(clip(name))
    command = f"-v quiet -i {path} -fps_mode passthrough -f rawvideo -pix_fmt rgb24 -"
    raw = subprocess.run([get_ffmpeg_exe(), *command.split()], stdout=subprocess.PIPE, check=True).stdout
    clip_ = read_clip(str(path), SAMPLING, LIMITS, readers=PYAV)
    frames = np.frombuffer(raw, dtype=np.uint8).reshape(-1, *clip_.runs[0].shape[1:]).astype(np.int16)
    for run in clip_.runs:
        for frame in run:
            assert min(np.abs(frames - frame).reshape(len(frames), -1).max(axis=1)) <= 1


def test_the_main_stream_of_several_is_read():
    assert read_clip(clip("two_videos"), SAMPLING, LIMITS).runs[0].shape[1:3] == (128, 192)


def test_open_groups_of_pictures_are_read_in_display_order():
    """The encoder sends a key frame before the frames shown ahead of it: its place in the file is not its index."""
    clip_ = read_clip(clip("hevc"), SAMPLING, LIMITS)
    assert [len(run) for run in clip_.runs] == [4, 4, 2] and clip_.note == ""


def test_a_clip_without_timestamps_is_read_in_one_pass():
    """A bare H.264 stream has no container, so no stamps and no index: nothing to seek by."""
    with av.open(io.BytesIO(clip("h264_ts"))) as container:
        bare = b"".join(bytes(packet) for packet in container.demux(video=0))
    clip_ = read_clip(bare, SAMPLING, LIMITS)
    assert [len(run) for run in clip_.runs] == [4, 4, 2]
    for run, first in zip(clip_.runs, (0, 8, 16), strict=True):
        assert colour_error_of(run[0], displayed("h264_ts", first)) < 4.0


def test_path_and_bytes_give_the_same(tmp_path):
    path = tmp_path / "clip%03d.jpg"  # a name that FFmpeg would take for a pattern of pictures
    path.write_bytes(clip("vp9"))
    for mine, other in zip(
        read_clip(str(path), SAMPLING, LIMITS).runs, read_clip(clip("vp9"), SAMPLING, LIMITS).runs, strict=True
    ):
        np.testing.assert_array_equal(mine, other)


_PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
REFUSED: dict[str, tuple[bytes | str, str]] = {
    "empty": (b"", "the file is empty"),
    "text": (b"not a video at all " * 50, "not a readable video"),
    "audio only": ("audio_only", "not a video: it holds sound only, no picture"),
    "first bytes only": (clip("h264")[:300], "not a readable video"),
    "playlist": (_PLAYLIST, "not a readable video"),
    "concatenation": (b"ffconcat version 1.0\nfile /etc/passwd\n", "not a readable video"),
    "manifest": (
        b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"></MPD>',
        "not a readable",
    ),
    "session description": (
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 1 RTP/AVP 96\n",
        "not a readable",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_reason(case):
    source, reason = REFUSED[case]
    with pytest.raises(Unreadable, match=reason):
        read_clip(clip(source) if isinstance(source, str) else source, SAMPLING, LIMITS)


def test_a_playlist_opens_no_other_file(tmp_path):
    """FFmpeg would read the clip that the list names, from anywhere on the disk."""
    (tmp_path / "good.ts").write_bytes(clip("h264_ts"))
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"ffconcat version 1.0\nfile {tmp_path}/good.ts\n")
    with pytest.raises(Unreadable, match="not a readable video"):
        read_clip(str(playlist), SAMPLING, LIMITS)
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{tmp_path}/good.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(Unreadable, match="not a readable video"):
        read_clip(playlist.read_bytes(), SAMPLING, LIMITS)


@pytest.mark.parametrize("path", ["http://127.0.0.1/x.mp4", "concat:a|b", "pipe:0", "lavfi:testsrc", "nul\0.mp4", "-"])
def test_a_path_is_only_a_path(path):
    with pytest.raises(Unreadable, match="cannot read the file"):
        read_clip(path, SAMPLING, LIMITS)


def test_only_plain_files_are_opened(tmp_path):
    """Opening a named pipe waits until somebody writes to it."""
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "dangling.mp4").symlink_to("nowhere")
    for name, reason in {
        "pipe.mp4": "not a plain file",
        "folder.mp4": "not a plain file",
        "dangling.mp4": "cannot read",
    }.items():
        with pytest.raises(Unreadable, match=reason):
            read_clip(str(tmp_path / name), SAMPLING, LIMITS)
    with pytest.raises(Unreadable, match="not a plain file"):
        read_clip("/dev/zero", SAMPLING, LIMITS)


def test_a_linked_file_is_read(tmp_path):
    """The hub's cache holds links to the files."""
    (tmp_path / "blob").write_bytes(clip("h264"))
    (tmp_path / "clip.mp4").symlink_to("blob")
    assert read_clip(str(tmp_path / "clip.mp4"), SAMPLING, LIMITS).num_frames == 10


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ({"max_file_bytes": 1000}, "bytes; the limit is 1000"),
        ({"max_frame_pixels": 10_000}, "192x128 pixels; the limit is 10000"),
        ({"max_streams": 1}, "more than 1 streams"),
    ],
)
def test_limits_are_checked_on_the_header(limit, reason):
    with pytest.raises(Refused, match=reason):
        read_clip(clip("h264_audio"), SAMPLING, replace(LIMITS, **limit))


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_huge_pictures_cost_nothing(decoder):
    """Where each frame is a picture of its own, FFmpeg drops a size over the limit, and decord would decode it."""
    pytest.importorskip("decord")
    limits = replace(LIMITS, max_frame_pixels=10_000)
    with pytest.raises(Unreadable, match="no frame can be decoded|one over the limit of 10000 pixels"):
        read_clip(clip("mjpeg_avi"), SAMPLING, limits, readers={decoder: READERS[decoder]})


@pytest.mark.parametrize("tracks", [70, 5000])
def test_thousands_of_tracks_are_refused(tracks):
    content = clip("h264")
    moov = content.index(b"moov") - 4
    track = content.index(b"trak") - 4
    end = track + int.from_bytes(content[track : track + 4], "big")
    size = int.from_bytes(content[moov : moov + 4], "big") + (tracks - 1) * (end - track)
    many = content[:moov] + size.to_bytes(4, "big") + content[moov + 4 : track] + tracks * content[track:end]
    with pytest.raises(Refused, match="more than 64 streams"):
        read_clip(many + content[end:], SAMPLING, LIMITS)


def lying(box: bytes, at: int, *numbers: int) -> bytes:
    """The H.264 clip with 32-bit numbers written `at` bytes into a box of its header."""
    content = bytearray(clip("h264"))
    at += content.index(box) + 4
    content[at : at + 4 * len(numbers)] = b"".join(number.to_bytes(4, "big") for number in numbers)
    return bytes(content)


LIES = {
    "movie of 136 years": lying(b"mvhd", 12, 1, 0xFFFFFFFE),
    "track of 136 years": lying(b"mdhd", 12, 1, 0xFFFFFFFE),
    "two thousand million frames": lying(b"stts", 8, 0x7FFFFFFF, 0x7FFFFFFF),
    "sixteen million edits": lying(b"elst", 4, 0xFFFFFF),
}


@pytest.mark.parametrize("lie", LIES)
def test_absurd_durations_and_counts_are_not_believed(lie):
    started = time.process_time()
    assert read_clip(LIES[lie], SAMPLING, LIMITS).num_frames > 0
    assert time.process_time() - started < LIMITS.soft_seconds / 2


@pytest.mark.parametrize("lie", [lying(b"elst", 8, 0xFFFFFFFF, 0x7FFFFFFF), lying(b"stsz", 4, 1, 0x7FFFFFFF)])
def test_absurd_tables_are_refused_with_a_reason(lie):
    started = time.process_time()
    with pytest.raises(Unreadable, match="pyav: no frame can be decoded; decord: "):
        read_clip(lie, SAMPLING, LIMITS)
    assert time.process_time() - started < LIMITS.soft_seconds


def stamped(container: str, pts_of: Callable[[int], int]) -> bytes:
    """A clip whose packets have the timestamps that `pts_of` gives their numbers."""
    file = io.BytesIO()
    with av.open(io.BytesIO(clip("mjpeg_mov"))) as source, av.open(file, "w", format=container) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(one for one in source.demux(video=0) if one.size):
            packet.stream, packet.pts, packet.dts = stream, pts_of(number), pts_of(number)
            target.mux(packet)
    return file.getvalue()


@pytest.mark.parametrize(
    ("container", "pts_of", "first", "frames"),
    [
        ("matroska", lambda number: (number - 9) * 1000, 0, 12),
        ("mov", lambda number: (number - 9) * 1000, 9, 9),  # an edit list leaves out what comes before time 0
        ("matroska", lambda number: number // 3 * 1000, 0, 12),  # nothing to seek by
        ("matroska", lambda number: 0, 0, 12),
        ("matroska", lambda number: number * 10**9, 0, 12),
    ],
    ids=["negative", "negative in mov", "thrice each", "all zero", "hours apart"],
)
def test_strange_timestamps(container, pts_of, first, frames):
    clip_ = read_clip(stamped(container, pts_of), SAMPLING, LIMITS, readers=PYAV)
    assert clip_.num_frames == frames
    assert colour_error_of(clip_.runs[0][0], displayed("mjpeg_mov", first)) < 4.0


@pytest.mark.parametrize(
    ("num_blank", "first"),
    [(0, 0), (1, 1), (20, 20), (60, 60), (70, 60)],  # after two seconds of black the run starts all the same
)
def test_a_run_starts_with_its_first_picture(num_blank, first):
    black = np.zeros((num_blank, 128, 192, 3), np.uint8)
    pictures = np.stack([picture(index, 192, 128) for index in range(75 - num_blank)])
    video = encode(np.concatenate([black, pictures]), "h264", 20)
    clip_ = read_clip(video, SamplingConfig(max_runs=1), LIMITS)  # the encoder makes a key frame at the picture
    assert [len(run) for run in clip_.runs] == [2] and clip_.note == ""
    np.testing.assert_allclose(clip_.pts_seconds[0] * 25, [first, first + 1], atol=0.05)


def test_a_black_clip_is_read():
    clip_ = read_clip(encode(np.zeros((9, 64, 64, 3), np.uint8), "h264", 20), SamplingConfig(), LIMITS)
    assert clip_.num_frames == 2


@pytest.mark.parametrize("sizes", [[(192, 128), (320, 240)], [(320, 240), (64, 48)]])
def test_a_size_that_changes_mid_stream(sizes):
    """Each run has one size, and the frames before the change are the right ones."""
    parts = [render(replace(SPECS["h264_ts"], width=width, height=height)) for width, height in sizes]
    clip_ = read_clip(b"".join(parts), SAMPLING, LIMITS, readers=PYAV)
    width, height = sizes[0]
    assert clip_.runs[0].shape[1:3] == (height, width) and clip_.num_frames >= 6
    assert colour_error_of(clip_.runs[0][0], picture(0, width, height)) < 4.0


def test_a_header_that_lies_about_the_frame_size():
    """The container says 16x16, the stream holds 192x128: the limit holds for what is decoded."""
    content = clip("h264_mkv")
    lying = content.replace(b"\xb0\x81\xc0", b"\xb0\x81\x10").replace(b"\xba\x81\x80", b"\xba\x81\x10")
    assert lying != content
    with pytest.raises(Unreadable):
        read_clip(lying, SAMPLING, replace(LIMITS, max_frame_pixels=100 * 100))


def test_huge_frames_give_shorter_runs():
    limits = replace(LIMITS, max_decoded_bytes=4 * 192 * 128 * 3)
    assert read_clip(clip("h264"), SAMPLING, limits).num_frames <= 4


@pytest.mark.parametrize("kept", [0.9, 0.6, 0.3])
def test_a_truncated_stream_is_salvaged(kept):
    content = clip("h264_ts")
    clip_ = read_clip(content[: int(len(content) * kept)], SAMPLING, LIMITS)
    assert clip_.num_frames >= 2
    assert colour_error_of(clip_.runs[0][0], displayed("h264_ts", 0)) < 4.0


def test_time_is_up_at_the_soft_limit():
    with pytest.raises(Unreadable, match="no frame decoded in 1e-06 s"):
        read_clip(clip("h264"), SAMPLING, replace(LIMITS, soft_seconds=1e-6), readers=PYAV)


def test_each_decoder_is_named_when_none_can_read():
    def fails(*_):
        raise Unreadable("broken")

    def is_greedy(*_):
        raise MemoryError

    readers = {"one": fails, "two": is_greedy}
    with pytest.raises(Unreadable, match="one: broken; two: needs more than [0-9]+ MiB"):
        read_clip(clip("h264"), SAMPLING, LIMITS, readers=readers)


def test_the_next_decoder_reads_what_the_first_cannot():
    def fails(*_):
        raise Unreadable("broken")

    clip_ = read_clip(clip("h264"), SAMPLING, LIMITS, readers={"decord": fails, **PYAV})
    assert (clip_.decoder, clip_.note) == ("pyav", "decord: broken")


def test_without_pyav_decord_reads(monkeypatch):
    import sys

    pytest.importorskip("decord")
    for module in ("header", "opening", "reading_pyav"):
        monkeypatch.setitem(sys.modules, f"model.video.{module}", None)
    clip_ = read_clip(clip("h264"), SAMPLING, LIMITS)
    assert clip_.decoder == "decord" and "pyav: not installed" in clip_.note
    assert [len(run) for run in clip_.runs] == [4, 4, 2]


def test_source_stays_relative_to_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "clip.mp4").write_bytes(clip("h264"))
    monkeypatch.chdir(tmp_path)
    assert read_clip(str(Path("clip.mp4")), SAMPLING, LIMITS).num_frames == 10
