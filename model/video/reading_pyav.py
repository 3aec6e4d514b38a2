"""Reading with PyAV: one pass over the packets finds the key frames, then each run is decoded from its own."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from ..config import LimitsConfig, SamplingConfig
from ..text import one_line
from .reading import Clip, RefusedError, VideoReadError, check_frame_size, max_frames_in_memory
from .sampling import choose_runs

log = logging.getLogger(__name__)

# Containers that hold one video in one file. Left out: playlists, manifests and patterns (hls, dash, concat, sdp,
# image2, ...), which would make FFmpeg open whatever files and addresses they name.
_FORMATS = (
    "3gp apng asf asf_o av1 avi dv flv gif h261 h263 h264 hevc ivf live_flv m4v matroska mjpeg mov mp4 mpeg mpegts"
    " mpegvideo mxf nsv nut obu ogg rm vc1 vc1test webm wtv yuv4mpegpipe"
).replace(" ", ",")
_SCAN_SHARE = 0.4  # of the time that is left, to look for key frames
_SEEK_MARGIN_SECONDS = 0.2
_MAX_BLANK_FRAMES = 60  # passed over at the start of a run: two seconds of black before a clip fades in
_BLANK_DEVIATION = 4.0  # grey levels, of the pixels of a frame that shows nothing
_ATTACHED_PICTURE = 0x400  # AV_DISPOSITION_ATTACHED_PIC
# What PyAV raises on damaged files, besides its own errors: tables that do not fit, time bases of 1/0.
_ERRORS = (av.FFmpegError, OSError, ValueError, ArithmeticError, IndexError)


@dataclass(frozen=True)
class _Packet:
    """A packet's stamps in the stream's time base. shown: where its frame is shown, `at`: where to seek to."""

    shown: int
    at: int
    is_key: bool


def read(source: bytes | str, sampling: SamplingConfig, limits: LimitsConfig, deadline: float) -> Clip:
    """See `video.Reader`. Keeps the frames that do decode of a damaged file."""
    try:
        with open_video(source, limits) as (container, stream):
            max_frames = _prepare(stream, limits)
            packets = _scan(container, stream, limits, deadline)
            keys = [position for position, packet in enumerate(packets) if packet.is_key]
            planned = choose_runs(keys, len(packets), sampling, max_frames=max_frames)
            ends = [packets[run.start].shown for run in planned[1:]]
            runs = [
                _decode_run(_decode_from(container, stream, packets[run.start], deadline), len(run), end, limits)
                for run, end in itertools.zip_longest(planned, ends)
            ]
        if not any(frames for frames, _ in runs):  # no stamps, or no way to seek: one run from the start is left to try
            with open_video(source, limits) as (container, stream):
                planned = [range(min(_prepare(stream, limits), sampling.max_run_frames))]
                packets = []
                decoded = _decode(_until_error(container.demux(stream)), deadline)
                runs = [_decode_run(decoded, len(planned[0]), None, limits)]
    except _ERRORS as error:
        raise VideoReadError(one_line(error)) from error
    runs = [(frames, stamps) for frames, stamps in runs if frames]
    if not runs:
        late = time.process_time() >= deadline
        raise VideoReadError(f"no frame decoded in {limits.soft_seconds:g} s" if late else "no frame can be decoded")
    got, wanted = sum(len(frames) for frames, _ in runs), sum(len(run) for run in planned)
    return Clip(
        tuple(np.stack(frames) for frames, _ in runs),
        tuple(np.asarray(stamps, dtype=np.float64) for _, stamps in runs),
        "pyav",
        f"{got} of {wanted} frames decoded" if got < wanted and packets else "",
    )


def _prepare(stream: av.video.stream.VideoStream, limits: LimitsConfig) -> int:
    """Set the decoder's limits before it opens. Returns how many frames of this size may be held."""
    context = stream.codec_context
    check_frame_size(context.width, context.height, limits)
    context.thread_count = 1
    context.options = {"max_pixels": str(limits.max_frame_pixels)}  # the header may lie
    return max_frames_in_memory(context.width, context.height, limits)


class _UnnamedFile(io.BufferedReader):
    """A file whose name FFmpeg does not get to see: it guesses formats from names."""

    name = "<none>"

    def __init__(self, path: str) -> None:
        super().__init__(io.FileIO(path))


@contextlib.contextmanager
def open_video(
    source: bytes | str, limits: LimitsConfig
) -> Iterator[tuple[av.container.InputContainer, av.video.stream.VideoStream]]:
    """The open container and its main video stream. FFmpeg gets bytes alone: no name to guess from, no protocol.

    Raises: RefusedError: not a video, or over a limit.
    """
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "none", "max_streams": str(limits.max_streams + 1),
               "max_pixels": str(limits.max_frame_pixels)}  # fmt: skip
    with contextlib.ExitStack() as stack:
        try:
            file = io.BytesIO(source) if isinstance(source, bytes) else stack.enter_context(_UnnamedFile(source))
            container = stack.enter_context(av.open(file, mode="r", metadata_errors="ignore", options=options))
            stream = _main_video_stream(container, limits)
        except MemoryError as error:  # also what FFmpeg says of too many streams
            raise RefusedError(f"the file has more than {limits.max_streams} streams, or a header too large") from error
        except _ERRORS as error:
            raise RefusedError(f"not a readable video: {one_line(error)}") from error
        yield container, stream


def _main_video_stream(container: av.container.InputContainer, limits: LimitsConfig) -> av.video.stream.VideoStream:
    """The stream a player would show: the largest moving one, the first of equals."""
    if len(container.streams) > limits.max_streams:
        raise RefusedError(f"the file has more than {limits.max_streams} streams")
    streams = [
        stream for stream in container.streams.video
        if stream.codec_context is not None and not int(getattr(stream, "disposition", 0)) & _ATTACHED_PICTURE
    ]  # fmt: skip
    if not streams:
        raise RefusedError("the file holds no video stream that can be decoded")
    return max(streams, key=lambda stream: stream.codec_context.width * stream.codec_context.height)


def _scan(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, limits: LimitsConfig, deadline: float
) -> list[_Packet]:
    """Demux without decoding: the packets in the order their frames are shown.

    Empty if a packet has no timestamp, or most share theirs: then nothing can be told about the order, or sought.
    """
    packets: list[_Packet] = []
    now = time.process_time()
    until = now + _SCAN_SHARE * (deadline - now)
    try:
        for packet in container.demux(stream):
            if packet.size == 0 or getattr(packet, "is_discard", False):
                continue
            shown = packet.pts if packet.pts is not None else packet.dts
            if shown is None:
                return []
            packets.append(_Packet(shown, packet.dts if packet.dts is not None else shown, packet.is_keyframe))
            if len(packets) >= limits.max_scanned_packets or time.process_time() > until:
                break
    except av.FFmpegError as error:
        log.debug("scan ended early: %s", one_line(error))
    if 2 * len({packet.shown for packet in packets}) < len(packets):  # half of them: two fields of one frame each
        return []
    return sorted(packets, key=lambda packet: packet.shown)


def _decode_from(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, first: _Packet, deadline: float
) -> Iterator[av.VideoFrame]:
    """Frames in display order from the one of packet `first` on; none if there is no way to get there."""
    for frame in _decode(_demux_from(container, stream, first), deadline):
        shown = frame.pts if frame.pts is not None else frame.dts
        if shown is None or shown >= first.shown:
            yield frame


def _decode(packets: Iterator[av.Packet], deadline: float) -> Iterator[av.VideoFrame]:
    """Frames in display order; a packet that does not decode is passed over."""
    for packet in packets:
        if time.process_time() >= deadline:
            return
        try:
            yield from packet.decode()
        except av.FFmpegError as error:
            log.debug("packet passed over: %s", one_line(error))


def _demux_from(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, first: _Packet
) -> Iterator[av.Packet]:
    """Packets in decoding order, from a key frame at or before packet `first` on.

    Some demuxers seek by pts, others by dts; where the first lands too late, the second is tried. In an MPEG program
    stream both may land behind the start of the packet, whose rest then passes for no key frame: a little earlier.
    """
    earlier = first.at - round(_SEEK_MARGIN_SECONDS / stream.time_base) if stream.time_base else first.at
    for stamp in (first.shown, first.at, earlier):
        try:
            container.seek(stamp, stream=stream, backward=True)
        except av.FFmpegError as error:
            log.debug("seek failed: %s", one_line(error))
            continue
        packets = _until_error(container.demux(stream))
        landed = next((one for one in packets if one.is_keyframe or (one.pts or first.at) > first.shown), None)
        if landed is not None and landed.is_keyframe and (landed.pts is None or landed.pts <= first.shown):
            yield landed
            yield from packets
            return


def _until_error(packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
    """Packets until the demuxer gives up, with the empty one at the end that drains the decoder."""
    try:
        yield from packets
    except av.FFmpegError as error:
        log.debug("demuxing ended early: %s", one_line(error))


def _decode_run(
    decoded: Iterator[av.VideoFrame], num_frames: int, end: int | None, limits: LimitsConfig
) -> tuple[list[np.ndarray], list[float]]:
    """The first `num_frames` frames and their times in seconds; fewer up to `end` (a pts) or the memory limit.

    Of a run that starts with blank frames, those from the first picture on.
    """
    frames: list[np.ndarray] = []
    stamps: list[float] = []
    num_blank = 0
    to_rgb = _RgbConverter()
    for frame in decoded:
        check_frame_size(frame.width, frame.height, limits)
        if end is not None and frame.pts is not None and frame.pts >= end:
            break
        pixels = to_rgb(frame)
        if frames and pixels.shape != frames[0].shape:
            break  # the size changes mid-stream: a run has one size
        wanted = min(num_frames, max_frames_in_memory(frame.width, frame.height, limits))
        if len(frames) >= wanted:  # the first of them is blank
            del frames[0], stamps[0]
        frames.append(pixels)
        stamps.append(math.nan if frame.time is None else frame.time)
        if len(frames) >= wanted:
            if num_blank == _MAX_BLANK_FRAMES or not _is_blank(frames[0]):
                break
            num_blank += 1
    return frames, stamps


def _is_blank(pixels: np.ndarray) -> bool:
    """One colour all over."""
    return bool((pixels[::8, ::8].std(axis=(0, 1)) < _BLANK_DEVIATION).all())


class _RgbConverter:
    """Frames -> uint8 RGB (H, W, 3) as displayed, with the pixels that `ffmpeg -pix_fmt rgb24` gives.

    That is ffmpeg's own scale filter. PyAV's `to_ndarray` differs from it by up to 25 levels on 10-bit frames (chroma
    interpolation) and 170 on interlaced ones (it takes their fields apart).
    """

    def __init__(self) -> None:
        self._graph: av.filter.Graph | None = None
        self._input: tuple[int, int, str] | None = None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        kind = (frame.width, frame.height, frame.format.name)
        if self._graph is None or kind != self._input:
            self._graph, self._input = _build_rgb_graph(frame), kind
        self._graph.push(frame)
        pixels = self._graph.pull().to_ndarray()
        quarter_turns = round(getattr(frame, "rotation", 0) / 90) % 4
        return np.ascontiguousarray(np.rot90(pixels, quarter_turns))


def _build_rgb_graph(frame: av.VideoFrame) -> av.filter.Graph:
    graph = av.filter.Graph()
    with contextlib.suppress(AttributeError):  # an older PyAV
        graph.threads = 1
    filters = [
        graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)),
        graph.add("scale", "flags=bicubic:interl=0"),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    ]
    for left, right in itertools.pairwise(filters):
        left.link_to(right)
    graph.configure()
    return graph
