"""Windows over a whole video: frames of one plain decode, at the right times, wherever key frames are."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from model.config import LimitsConfig, SamplingConfig, SegmentConfig
from model.modality import Refused, Unreadable
from model.video.copies import encode
from model.video.reading import READERS, read_clip
from model.video.windows import Window, read_windows
from tests.toy_clips import PLAYABLE, SPECS, ClipSpec, clip, picture, render

CONFIG, SAMPLING, LIMITS = SegmentConfig(1.0), SamplingConfig(), LimitsConfig()
EVERYTHING = SamplingConfig(max_runs=1, max_run_frames=10_000)
PYAV = {"pyav": READERS["pyav"]}


def windows_of(source: bytes | str, config: SegmentConfig = CONFIG) -> list[Window]:
    return list(read_windows(source, config, SAMPLING, LIMITS))


def places_of(window: Window, frames: np.ndarray) -> list[int]:
    """Where each frame of the window stands in the whole video, by its pixels."""
    places = []
    for frame in (frame for run in window.runs for frame in run):
        same = np.flatnonzero([np.array_equal(frame, one) for one in frames])
        assert len(same) == 1, "a frame of a window is not in the video, or twice"
        places.append(int(same[0]))
    return places


def check(source: bytes, rate: float) -> list[list[int]]:
    """Windows lie side by side from the first frame to the last; each has frames of its own time. Returns places."""
    whole = read_clip(source, EVERYTHING, LIMITS, readers=PYAV).runs[0]
    found = windows_of(source)
    assert found[0].start_seconds == 0 and found[-1].end_seconds == pytest.approx(len(whole) / rate, abs=0.2)
    places = [places_of(window, whole) for window in found]
    for before, after in zip(found, found[1:], strict=False):
        assert before.end_seconds == after.start_seconds
    for window, at in zip(found, places, strict=True):
        assert window.note == "" and at == sorted(set(at)) and len(at) >= min(2, len(whole))
        assert all(window.start_seconds - 1e-6 <= place / rate < window.end_seconds for place in at)
    return places


@pytest.mark.parametrize("name", [name for name in PLAYABLE if not SPECS[name].variable_rate])
def test_frames_of_every_format(name: str) -> None:
    check(clip(name), SPECS[name].rate)


def test_frames_of_variable_rate_go_by_their_times() -> None:
    whole = read_clip(clip("h264_variable_rate"), EVERYTHING, LIMITS, readers=PYAV)
    seconds = whole.pts_seconds[0] - whole.pts_seconds[0][0]
    found = windows_of(clip("h264_variable_rate"))
    assert len(found) > 1
    for window in found:
        at = places_of(window, whole.runs[0])
        assert all(window.start_seconds <= seconds[place] < window.end_seconds for place in at)


def long_clip(**changes: object) -> bytes:
    """Ten seconds."""
    return render(replace(ClipSpec(width=160, height=120, num_frames=120), **changes))  # type: ignore[arg-type]


def test_closed_groups_key_frames_are_taken() -> None:
    places = check(long_clip(keyframe_every=6), 12)
    assert places == [[12 * k, 12 * k + 1, 12 * k + 6, 12 * k + 7] for k in range(10)]


@pytest.mark.parametrize("options", ["bframes=0", "bframes=3", "open-gop=1:bframes=3"])
def test_long_groups_are_decoded_between_key_frames(options: str) -> None:
    """A key frame in 4 s: windows without one take their first frames."""
    places = check(long_clip(keyframe_every=48, options={"x264-params": f"{options}:scenecut=0"}), 12)
    assert [at[0] for at in places] == [12 * k for k in range(10)]


def test_one_key_frame_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every window has frames of its own, and no frame is decoded twice."""
    content = long_clip(keyframe_every=10_000)
    decoded = []
    from model.video.reading_pyav import OpenVideo

    plain = OpenVideo.decode

    def counting(self: OpenVideo, packets: object) -> object:
        for frame in plain(self, packets):  # type: ignore[arg-type]
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(OpenVideo, "decode", counting)
    found = windows_of(content)
    assert len(found) == 10 and all(len(window.runs) == 1 for window in found)
    assert len(decoded) <= 120 + 2, "the look at the packets decodes the first frame, windows the rest"


def test_a_bare_stream_goes_by_its_rate() -> None:
    """No container, so no times and nothing to seek by."""
    with av.open(io.BytesIO(clip("h264_ts"))) as container:
        bare = b"".join(bytes(packet) for packet in container.demux(video=0))
    whole = read_clip(bare, EVERYTHING, LIMITS, readers=PYAV).runs[0]
    places = [place for window in windows_of(bare) for place in places_of(window, whole)]
    assert places == sorted(set(places)) and places[0] == 0


def test_a_broken_tail_is_told(tmp_path: Path) -> None:
    """A Matroska file cut in the middle, and one whose tail is overwritten."""
    whole = long_clip(keyframe_every=12, container="matroska")
    *good, rest = windows_of(whole[: len(whole) * 6 // 10])
    assert 4 <= len(good) <= 7 and all(window.runs for window in good[:-1])
    assert (rest.note, rest.runs) == ("no picture can be read here", ()) and rest.end_seconds == pytest.approx(10)
    whole = long_clip(keyframe_every=12)
    spoiled = bytearray(whole)
    start, end = len(whole) * 7 // 10, whole.rindex(b"moov") - 4  # the index comes last
    spoiled[start:end] = bytes(end - start)
    found = windows_of(bytes(spoiled))
    assert len(found) == 10 and all(window.runs for window in found[:6])
    assert not any(window.runs for window in found[8:]) and all(window.note for window in found[8:])


def test_windows_are_limited_and_the_rest_is_told() -> None:
    *windows, rest = windows_of(long_clip(), SegmentConfig(1.0, max_windows=3))
    assert [window.start_seconds for window in windows] == [0, 1, 2]
    assert (rest.start_seconds, rest.end_seconds) == (3, 10) and "at most 3 windows" in rest.note and not rest.runs


def test_a_blank_window_is_no_evidence() -> None:
    pictures = np.stack([picture(index, 160, 160) for index in range(25)])
    black = np.zeros((100, 160, 160, 3), np.uint8)
    found = windows_of(encode(np.concatenate([pictures, black, pictures]), "h264", 20))
    assert [bool(window.runs) for window in found] == [True, False, False, False, False, True]
    assert {window.note for window in found} == {"", "one colour all over"}


def test_bad_files_end_in_the_reader_s_own_error() -> None:
    with pytest.raises(Refused, match="sound only"):
        windows_of(clip("audio_only"))
    for content in (b"", b"no video at all"):
        with pytest.raises(Exception, match="empty|not a readable video"):
            windows_of(content)
    with pytest.raises(Unreadable):
        windows_of(clip("h264")[:600])


@pytest.mark.parametrize("seconds", [0.5, 601, float("nan")])
def test_lengths_of_windows(seconds: float) -> None:
    with pytest.raises(ValueError, match="a window has 1 to 600 seconds"):
        SegmentConfig(seconds)
