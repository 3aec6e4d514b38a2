"""Windows over the whole length of a video: one look at the packets, then frames of each window from its key frames.

A window without a key frame takes its first frames, for which all that lie behind the last key frame are decoded; the
decoder goes on where it stands, so no frame is decoded twice. Where no seek leads to a key frame (palettes, bare
streams, files that lie) everything is decoded, in one pass.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import av
import numpy as np

from ..config import LimitsConfig, SamplingConfig, SegmentConfig
from ..modality import Prepared, Unreadable
from ..segments import not_looked_at, window_edges
from ..source import checked_source
from .opening import ERRORS, cause_of, duration_of, open_video, refuse_still_picture
from .prepare import VideoPreparation
from .reading_pyav import OpenVideo, Scan, rgb_converter, scan_packets, set_limits
from .runs import Run, is_blank
from .sampling import choose_runs
from .views import cut_views, trim_bars

_SCAN_SECONDS = 25.0  # processor time; scan_packets takes a share of it
_FRAMES_PER_SECOND = 25.0  # where nothing tells
_NOTHING = np.empty(0, np.uint8)


@dataclass(frozen=True)
class Window:
    """Frames of one window. runs: uint8 RGB (T_i, H, W, 3) each; none where `note` says why."""

    start_seconds: float
    end_seconds: float
    runs: tuple[np.ndarray, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class _Planned:
    start_seconds: float
    end_seconds: float
    runs: list[range]  # of places among the frames that are shown
    end: int  # the first place that is not in the window


@dataclass(frozen=True)
class VideoSegments:
    """A `modality.Preparation` that gives windows. Always read by PyAV; decord gives equal pixels, for whole clips."""

    video: VideoPreparation
    config: SegmentConfig

    @property
    def limits(self) -> LimitsConfig:
        return self.config.limits(self.video.limits)

    @property
    def max_bytes(self) -> int:
        return self.video.max_bytes

    @property
    def attempts(self) -> int:
        return 1

    def __call__(self, source: bytes | str, attempt: int = 0) -> Iterator[Prepared]:
        """Raises: Unreadable, while it is iterated over."""
        started = time.perf_counter()
        for window in read_windows(source, self.config, self.video.sampling, self.limits):
            read = time.perf_counter()
            content = cut_views(trim_bars(window.runs, self.video.bars), self.video.views) if window.runs else _NOTHING
            yield Prepared(
                content, "pyav", window.note, read - started, time.perf_counter() - read,
                num_frames=sum(map(len, window.runs)), num_places=len(window.runs),
                start_seconds=window.start_seconds, end_seconds=window.end_seconds,
            )  # fmt: skip
            started = time.perf_counter()


def read_windows(
    source: bytes | str, config: SegmentConfig, sampling: SamplingConfig, limits: LimitsConfig
) -> Iterator[Window]:
    """Windows in order of time, as they are read. The last one may stand for all that was not looked at.

    Raises: Unreadable, and nothing else for a bad file.
    """
    source = checked_source(source, limits.max_file_bytes)
    over = time.process_time() + config.total_seconds
    try:
        with open_video(source, limits) as (container, stream):
            max_frames = set_limits(stream, limits)
            to_rgb = rgb_converter(source, container, stream)
            video = OpenVideo(container, stream, to_rgb, limits, time.process_time() + _SCAN_SECONDS)
            scan = scan_packets(video, Run(1, limits))
            refuse_still_picture(container, scan.num_packets)
            times = _times(scan, stream)
            if not len(times):
                raise Unreadable("no frame can be decoded")
            end = float(times[-1]) + (times[-1] / (len(times) - 1) if len(times) > 1 else 1 / _FRAMES_PER_SECOND)
            planned = _plan(times, window_edges(end, config.seconds, config.max_windows), scan, sampling, max_frames)
            started = float(scan.packets[0].shown * stream.time_base) if scan.packets and stream.time_base else 0.0
            left = duration_of(container, stream) - max(started, 0.0)  # Matroska counts from 0, others from the start
            video.deadline = over
            done = 0
            if scan.seekable and scan.packets:
                cursor = _Cursor(video, scan)
                for window in planned:
                    runs, note = cursor.read(window)
                    if cursor.lost:
                        break
                    done += 1
                    yield _window(window, runs, note)
        if done < len(planned):
            with open_video(source, limits) as (container, stream):
                set_limits(stream, limits)
                cursor = _Cursor(OpenVideo(container, stream, to_rgb, limits, over))
                for window in planned[done:]:
                    yield _window(window, *cursor.read(window))
    except ERRORS as error:
        raise Unreadable(cause_of(error)) from error
    if planned[-1].end_seconds < end:
        yield Window(planned[-1].end_seconds, end, note=not_looked_at(config.max_windows))
    elif left > end + max(1.0, config.seconds / 2):
        yield Window(end, left, note="no picture can be read here")


def _times(scan: Scan, stream: av.video.stream.VideoStream) -> np.ndarray:
    """Seconds of each frame after the first one, float64 (T,); by the rate where the file has no times."""
    if scan.packets and stream.time_base:
        shown = np.array([packet.shown for packet in scan.packets], np.int64)
        return (shown - shown[0]) * float(stream.time_base)
    rate = stream.average_rate or stream.guessed_rate
    return np.arange(scan.num_shown) / float(rate or _FRAMES_PER_SECOND)


def _keys(scan: Scan) -> list[int]:
    """Places of key frames among the frames that are shown."""
    if scan.packets:
        return [place for place, packet in enumerate(scan.packets) if packet.is_key]
    return scan.keys_in_file


def _plan(
    times: np.ndarray, edges: Sequence[float], scan: Scan, sampling: SamplingConfig, max_frames: int
) -> list[_Planned]:
    """Windows between the edges, each with runs as a clip of its length has them."""
    keys, planned = _keys(scan), []
    places = np.searchsorted(times, edges).tolist()
    for number, (first, end) in enumerate(zip(places[:-1], places[1:], strict=True)):
        last = max(first, end - sampling.min_run_frames + 1)  # behind it a run has no room
        inside = [key - first for key in keys[bisect.bisect_left(keys, first) : bisect.bisect_left(keys, last)]]
        runs = choose_runs(inside, end - first, sampling, max_frames=max_frames)
        shifted = [range(first + run.start, first + run.stop) for run in runs]
        planned.append(_Planned(edges[number], edges[number + 1], shifted, end))
    return planned


class _Cursor:
    """Frames at ascending places. With a scan by seeking, from key frame to key frame; without, in one pass."""

    def __init__(self, video: OpenVideo, scan: Scan | None = None) -> None:
        self._video, self._scan = video, scan
        self._keys = [] if scan is None else _keys(scan)
        self._frames: Iterator[av.VideoFrame] | None = None if scan else video.decode(video.packets())
        self._place = 0  # of the next frame
        self.lost = False  # a seek led to no key frame

    def read(self, window: _Planned) -> tuple[tuple[np.ndarray, ...], str]:
        """(runs, what was lost)."""
        until = min(time.process_time() + self._video.limits.soft_seconds, self._video.deadline)
        runs = []
        for run, following in zip(window.runs, [*window.runs[1:], None], strict=True):
            filled = self._fill(run, window.end if following is None else following.start, until)
            if self.lost:
                return (), ""
            if filled.frames:
                runs.append(np.stack(filled.frames))
        got, wanted = sum(map(len, runs)), sum(map(len, window.runs))
        if got == wanted:
            return tuple(runs), ""
        late = time.process_time() >= until
        return tuple(runs), "decoding took too long" if late else f"{got} of {wanted} frames decoded"

    def _fill(self, run: range, end: int, until: float) -> Run:
        """The frames of a run, which lie before the place `end`."""
        if self._scan is None:
            filled = Run(len(run), self._video.limits)
            return self._video.fill(filled, self._by_place(run.start, end, until))
        packets = self._scan.packets
        filled = Run(len(run), self._video.limits, packets[end].shown if end < len(packets) else None)
        key = bisect.bisect_right(self._keys, run.start) - 1
        if self._frames is None or (key >= 0 and self._keys[key] >= self._place):
            self._frames = self._video.decode_from(packets[run.start])
        errors = self._video.num_errors
        self._video.fill(filled, self._by_stamp(packets[run.start].shown, until))
        self._place = run.start + max(1, len(filled.frames))
        late = time.process_time() >= until
        nothing = not filled.frames and self._video.num_errors == errors and not late
        self.lost = not self._video.landed_on_key or nothing
        return filled

    def _by_stamp(self, first: int, until: float) -> Iterator[av.VideoFrame]:
        for frame in self._frames or ():
            if time.process_time() >= until:
                return
            shown = frame.pts if frame.pts is not None else frame.dts
            if shown is None or shown >= first:
                yield frame

    def _by_place(self, first: int, end: int, until: float) -> Iterator[av.VideoFrame]:
        while self._place < end and time.process_time() < until:
            frame = next(self._frames or iter(()), None)
            if frame is None:
                return
            self._place += 1
            if self._place > first:
                yield frame


def _window(planned: _Planned, runs: tuple[np.ndarray, ...], note: str) -> Window:
    window = Window(planned.start_seconds, planned.end_seconds, runs, note)
    if not planned.runs:
        return replace(window, note="no frame begins here")
    if runs and all(is_blank(run[0]) for run in runs):
        return replace(window, runs=(), note="one colour all over")
    return window
