"""Reading with PyAV: one pass over the packets finds the key frames, and decodes the first run on its way.

Each later run is decoded from its own key frame; where a seek would lose what frames in between tell the decoder (a
palette, other parameter sets), or there is nothing to seek by, one pass decodes them all.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import av
import numpy as np

from ..config import LimitsConfig, SamplingConfig
from ..modality import Refused, Unreadable
from .boxes import read_track_header
from .clip import Clip, check_frame_size, max_frames_in_memory
from .codecs import SEEKABLE, parameter_sets
from .opening import ERRORS, cause_of, duration_of, open_video, refuse_still_picture
from .pixels import RgbConverter
from .runs import Run
from .sampling import choose_runs

log = logging.getLogger(__name__)

_SCAN_SHARE = 0.4  # of the time that is left, to look for key frames
_SEEK_MARGIN_SECONDS = 0.2
_PLACEHOLDER_BYTES = 8  # a packet as small stands for a frame that another holds (packed DivX), whatever its flags say
_INTRA = 1  # AV_PICTURE_TYPE_I
_BARE_STREAMS = ("av1", "h261", "h263", "h264", "hevc", "jpeg_pipe", "m4v", "mjpeg", "mpegvideo", "obu", "vc1")
_NEW_STATE = ("palette", "new_extradata", "param_change")  # side data of packets that a seek passes over


@dataclass(frozen=True)
class Packet:
    """A packet's stamps in the stream's time base. shown: where its frame is shown, `at`: where to seek to."""

    shown: int
    at: int
    is_key: bool


@dataclass
class Scan:
    """What a pass over the packets found."""

    packets: list[Packet] = field(default_factory=list)  # in the order they are shown; empty if none is told
    keys_in_file: list[int] = field(default_factory=list)  # places of key frames among the packets as they stand there
    num_packets: int = 0
    num_shown: int = 0  # of these packets, those that no edit list leaves out
    seekable: bool = True  # no seek loses what the decoder has to know


def read(
    source: bytes | str,
    sampling: SamplingConfig,
    limits: LimitsConfig,
    deadline: float,
    _header: object = None,
    *,
    passed_over: frozenset[int] = frozenset(),
) -> Clip:
    """See `reading.Reader`. Keeps the frames that do decode of a damaged file. passed_over: see `open_video`."""
    try:
        with open_video(source, limits, passed_over=passed_over) as (container, stream):
            max_frames = set_limits(stream, limits)
            to_rgb = rgb_converter(source, container, stream)
            video = OpenVideo(container, stream, to_rgb, limits, deadline)
            first = Run(min(sampling.max_run_frames, max_frames), limits)
            scan = scan_packets(video, first)
            refuse_still_picture(container, scan.num_packets)
            planned = _plan(scan, first, sampling, max_frames)
            runs = [first.cut(len(planned[0]), None)] if len(planned) == 1 and first.frames else []
            if not runs and scan.seekable and scan.packets:
                runs = _read_by_seeking(video, scan, planned, first)
            duration = duration_of(container, stream)
            looked_at = passed_over | {stream.index}
            another = scan.num_packets == 1 and len(container.streams.video) > len(looked_at)
        if another:
            with contextlib.suppress(Unreadable):  # one picture: another stream may be the video
                return read(source, sampling, limits, deadline, passed_over=looked_at)
        if not any(run.frames for run in runs):
            with open_video(source, limits, passed_over=passed_over) as (container, stream):
                set_limits(stream, limits)
                runs = _read_in_one_pass(OpenVideo(container, stream, to_rgb, limits, deadline), planned)
    except ERRORS as error:
        raise Unreadable(cause_of(error)) from error
    return _clip_of(runs, planned, bool(scan.packets), duration, limits, deadline)


def rgb_converter(source: bytes | str, container: av.container.InputContainer, stream: av.VideoStream) -> RgbConverter:
    """With the crop that the container asks for. Raises: Refused: the track is encrypted."""
    number = [one.index for one in container.streams.video].index(stream.index)
    header = read_track_header(source, track_id=stream.id, number=number)
    if header.encrypted:
        raise Refused("the video is encrypted")
    return RgbConverter(header.crop)


def _clip_of(
    runs: list[Run], planned: list[range], counted: bool, duration: float, limits: LimitsConfig, deadline: float
) -> Clip:
    """counted: whether the number of frames is known. Raises: Unreadable: no run has a frame."""
    runs = [run for run in runs if run.frames]
    if not runs:
        late = time.process_time() >= deadline
        raise Unreadable(f"no frame decoded in {limits.soft_seconds:g} s" if late else "no frame can be decoded")
    got, wanted = sum(len(run.frames) for run in runs), sum(len(run) for run in planned)
    return Clip(
        tuple(np.stack(run.frames) for run in runs),
        tuple(np.asarray(run.seconds, dtype=np.float64) for run in runs),
        "pyav",
        f"{got} of {wanted} frames decoded" if got < wanted and counted else "",
        duration,
    )


def set_limits(stream: av.video.stream.VideoStream, limits: LimitsConfig) -> int:
    """Set the decoder's limits before it opens. Returns how many frames of this size may be held."""
    context = stream.codec_context
    check_frame_size(context.width, context.height, limits)
    context.thread_count = 1
    context.options = {"max_pixels": str(limits.max_frame_pixels)}  # the header may lie
    return max_frames_in_memory(context.width, context.height, limits)


def scan_packets(video: OpenVideo, first: Run) -> Scan:
    """Demux to the end, decoding no further than `first` needs: so it starts with the first frame that is shown,
    whatever key frames say, and the decoder has seen what stands at the file's start.

    Raises: Refused: the stream is encrypted.
    """
    scan = Scan()
    context, codec, ordered = video.stream.codec_context, video.stream.codec_context.name, True
    extradata = bytes(context.extradata or b"")
    sets: list[bytes] = []  # of each packet that has any
    lacking = 0  # key frames without
    now = time.process_time()
    until = now + _SCAN_SHARE * (video.deadline - now)
    for packet in video.packets():
        if not first.done:
            video.fill(first, video.decode([packet]))
        if packet.size == 0:
            break
        if packet.has_sidedata("encryption_info"):
            raise Refused("the video is encrypted")
        is_key = packet.is_keyframe and packet.size > _PLACEHOLDER_BYTES
        found = parameter_sets(codec, memoryview(packet), extradata)
        if found:
            sets.append(found)
        lacking += is_key and not found
        scan.seekable &= not any(packet.has_sidedata(kind) for kind in _NEW_STATE)
        scan.num_packets += 1
        if getattr(packet, "is_discard", False):
            continue
        if is_key:
            scan.keys_in_file.append(scan.num_shown)
        scan.num_shown += 1
        shown = packet.pts if packet.pts is not None else packet.dts
        if shown is None:
            ordered = False
        elif ordered:
            scan.packets.append(Packet(shown, packet.dts if packet.dts is not None else shown, is_key))
        if scan.num_packets >= video.limits.max_scanned_packets or time.process_time() > until:
            break
    if not ordered or 2 * len({packet.shown for packet in scan.packets}) < len(scan.packets):
        scan.packets.clear()  # nothing tells the order, or two fields of one frame share each stamp
    scan.packets.sort(key=lambda packet: packet.shown)
    if first.first_stamp is not None:  # what is shown earlier does not decode: it needs frames before the file's first
        scan.packets = [packet for packet in scan.packets if packet.shown >= first.first_stamp]
    palette = context.format is not None and context.format.name == "pal8"
    scan.seekable &= codec in SEEKABLE and not palette and video.container.format.name not in _BARE_STREAMS
    scan.seekable &= not (lacking and len(set(sets)) > 1)
    return scan


def _plan(scan: Scan, first: Run, sampling: SamplingConfig, max_frames: int) -> list[range]:
    """Runs as places among the frames that are shown. The first frame starts one, whether it is a key frame or not."""
    keys = scan.keys_in_file
    if scan.packets:
        keys = [place for place, packet in enumerate(scan.packets) if packet.is_key]
    num_frames = max(len(scan.packets) or scan.num_shown, len(first.frames), 1)
    return choose_runs([0, *keys] if first.frames else keys, num_frames, sampling, max_frames=max_frames)


def _read_by_seeking(video: OpenVideo, scan: Scan, planned: Sequence[range], first: Run) -> list[Run]:
    """Each run from its own key frame. Empty if one of them turns out to be no key frame to the decoder."""
    runs = []
    for run, following in zip(planned, [*planned[1:], None], strict=True):
        end = None if following is None else scan.packets[following.start].shown
        stamp = first.stamps[0] if first.stamps else None
        if run.start == 0 and first.frames and (end is None or stamp is None or stamp < end):
            runs.append(first.cut(len(run), end))
            continue
        # Also where the first run has passed over blank frames into the next one.
        runs.append(video.fill(Run(len(run), video.limits, end), video.decode_from(scan.packets[run.start])))
        if not video.landed_on_key or (not runs[-1].frames and not video.num_errors):
            return []
    return runs


def _read_in_one_pass(video: OpenVideo, planned: Sequence[range]) -> list[Run]:
    """Decode from the file's start to the last run's end, counting frames as they come."""
    runs = [Run(len(run), video.limits) for run in planned]
    current = 0
    for place, frame in enumerate(video.decode(video.packets())):
        if current + 1 < len(planned) and place >= planned[current + 1].start:
            current += 1
        if place >= planned[current].start and not runs[current].done:
            video.fill(runs[current], [frame])
        if runs[-1].done:
            break
    return runs


@dataclass
class OpenVideo:
    """An open video, read until the deadline (on time.process_time())."""

    container: av.container.InputContainer
    stream: av.video.stream.VideoStream
    to_rgb: RgbConverter
    limits: LimitsConfig
    deadline: float
    num_errors: int = 0  # packets that did not decode
    landed_on_key: bool = True  # the last seek, says the decoder

    def decode(self, packets: Iterable[av.Packet]) -> Iterator[av.VideoFrame]:
        """Frames in display order; a packet that does not decode is passed over."""
        for packet in packets:
            if time.process_time() >= self.deadline:
                return
            try:
                yield from packet.decode()
            except av.FFmpegError as error:
                self.num_errors += 1
                log.debug("packet passed over: %s", cause_of(error))

    def fill(self, run: Run, frames: Iterable[av.VideoFrame]) -> Run:
        """Add frames until the run is done."""
        for frame in frames:
            check_frame_size(frame.width, frame.height, self.limits)
            if run.is_over(frame.pts):
                break
            run.add(self.to_rgb(frame), frame.pts, frame.time)
            if run.done:
                break
        return run

    def decode_from(self, first: Packet) -> Iterator[av.VideoFrame]:
        """Frames in display order from the one of packet `first` on; none if there is no way to get there."""
        self.landed_on_key = True
        for number, frame in enumerate(self.decode(self._packets_from(first))):
            if number == 0:  # containers mark frames as key frames that are none
                self.landed_on_key = bool(frame.key_frame) or frame.pict_type == _INTRA
            shown = frame.pts if frame.pts is not None else frame.dts
            if shown is None or shown >= first.shown:
                yield frame

    def packets(self) -> Iterator[av.Packet]:
        """Packets until the demuxer gives up, then an empty one that drains the decoder.

        Empty ones before that are left out: in AVI they stand for a frame shown twice, and would end the decoding.
        """
        try:
            for packet in self.container.demux(self.stream):
                if packet.size:
                    yield packet
        except av.FFmpegError as error:
            log.debug("demuxing ended early: %s", cause_of(error))
        last = av.Packet()
        last.stream, last.time_base = self.stream, self.stream.time_base
        yield last

    def _packets_from(self, first: Packet) -> Iterator[av.Packet]:
        """Packets in decoding order, from a key frame at or before packet `first` on.

        Some demuxers seek by pts, others by dts; where the first lands too late, the second is tried. In an MPEG
        program stream both may land behind the start of the packet, whose rest then passes for no key frame: a little
        earlier.
        """
        margin = round(_SEEK_MARGIN_SECONDS / self.stream.time_base) if self.stream.time_base else 0
        for stamp in (first.shown, first.at, first.at - margin):
            try:
                self.container.seek(stamp, stream=self.stream, backward=True)
            except av.FFmpegError as error:
                log.debug("seek failed: %s", cause_of(error))
                continue
            packets = self.packets()
            landed = next((one for one in packets if one.is_keyframe or (one.pts or first.at) > first.shown), None)
            if landed is not None and landed.is_keyframe and (landed.pts is None or landed.pts <= first.shown):
                yield landed
                yield from packets
                return
