"""Reading with PyAV: a sound file, or a video's sound track, becomes mono samples at 16 kHz.

Any container, codec, sampling rate and channel count that FFmpeg decodes. Channels count alike: mono is their mean.
Resampling is libswresample's with a long Kaiser window, which PyAV always brings. On speech it differs from soxr's
high quality by less than 0.001 of full scale below 7 kHz (tests/audio/test_reading.py).
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from ..config import MAX_SOUND_SECONDS, LimitsConfig
from ..modality import Refused, Unreadable
from ..source import UnnamedFile, checked_source
from ..text import one_line

log = logging.getLogger(__name__)

SAMPLE_RATE = 16_000
_MAX_RATE, _MAX_CHANNELS = 768_000, 64
# Containers that hold one sound track or video in one file. Left out: playlists, manifests and patterns (hls, dash,
# concat, sdp, ...), which would make FFmpeg open whatever files and addresses they name; instrument and tracker files.
_FORMATS = (
    "3gp aac ac3 aiff amr amrnb amrwb ape aptx aptx_hd asf asf_o au avi caf codec2 dsf dts eac3 ea flac flv g722 g729"
    " gsm ircam iff ivf live_flv loas m4v matroska mov mp2 mp3 mp4 mpeg mpegts mxf nistsphere nsv nut ogg oma pvf rm"
    " rso sbc smjpeg sox spdif truehd tta voc w64 wav webm wsvqa wtv wv xa xwma"
).replace(" ", ",")
_VALUES_A_BLOCK = 1 << 16  # mixed in one go, at least
# A window of 128 taps at the lower rate; its pass band ends at 0.95 of half the rate.
_RESAMPLER = f"{SAMPLE_RATE}:filter_type=kaiser:kaiser_beta=9:filter_size=128:cutoff=0.95:internal_sample_fmt=fltp"
# What PyAV raises on damaged files, besides its own errors: tables that do not fit, time bases of 1/0.
_ERRORS = (av.FFmpegError, OSError, ValueError, ArithmeticError, IndexError)
_Blocks = list[tuple[int, np.ndarray]]  # sampling rate (it changes in some broadcasts), float32 mono samples
_SCALES = {"u8": 128.0, "s16": 32768.0, "s32": 2147483648.0, "s64": 9223372036854775808.0, "flt": 1.0, "dbl": 1.0}


@dataclass(frozen=True)
class Sound:
    """What was read of a file. samples: float32 (N,), mono at 16 kHz, not clipped. num_read: at the file's rate."""

    samples: np.ndarray
    rate: int  # of the file
    num_read: int
    duration_seconds: float  # as the container tells it; nan if it does not
    note: str = ""  # what was lost on the way


def read_sound(source: bytes | str, limits: LimitsConfig, *, max_seconds: float = MAX_SOUND_SECONDS) -> Sound:
    """Decode the first `max_seconds` of the main sound track. Keeps what does decode of a damaged file.

    source: the file's bytes, or its path. Raises: Unreadable, and nothing else for a bad file.
    """
    deadline = time.process_time() + limits.soft_seconds
    source = checked_source(source, limits.max_file_bytes)
    problems: list[str] = []
    blocks: _Blocks = []
    seconds = 0.0
    try:
        with _open(source, limits) as (container, stream):
            stream.codec_context.thread_count = 1
            duration = _duration(container, stream)
            for block, rate in _mono_blocks(_decode(container, stream, deadline, problems)):
                block = block[: round((max_seconds - seconds) * rate)]
                blocks.append((rate, block))
                seconds += len(block) / rate
                if seconds >= max_seconds or not len(block):
                    break
    except _ERRORS as error:
        raise Unreadable(one_line(error)) from error
    if not seconds:
        late = time.process_time() >= deadline
        reason = f"no sound decoded in {limits.soft_seconds:g} s" if late else "no sound can be decoded"
        raise Unreadable("; ".join([reason, *problems[:1]]))
    return _sound(blocks, duration, problems)


def read_parts(
    source: bytes | str, seconds: float, limits: LimitsConfig, total_seconds: float
) -> Generator[Sound, None, None]:
    """The main sound track in parts, as they are decoded: `seconds` each, the last one 0.5 to 1.5 times as long.

    total_seconds: of processor time. Raises: Unreadable, and nothing else for a bad file.
    """
    deadline = time.process_time() + total_seconds
    source = checked_source(source, limits.max_file_bytes)
    problems: list[str] = []
    blocks: _Blocks = []
    waiting, decoded = 0.0, False  # seconds in `blocks`
    try:
        with _open(source, limits) as (container, stream):
            stream.codec_context.thread_count = 1
            duration = _duration(container, stream)
            for block, rate in _mono_blocks(_decode(container, stream, deadline, problems)):
                blocks.append((rate, block))
                waiting += len(block) / rate
                while waiting >= 1.5 * seconds:
                    part, blocks = _take(blocks, seconds)
                    waiting = sum(len(block) / rate for rate, block in blocks)
                    decoded = True
                    yield _sound(part, duration, problems)
                    problems.clear()
    except _ERRORS as error:
        raise Unreadable(one_line(error)) from error
    if blocks:
        yield _sound(blocks, duration, problems)
    elif not decoded:
        raise Unreadable("; ".join(["no sound can be decoded", *problems[:1]]))


def _take(blocks: _Blocks, seconds: float) -> tuple[_Blocks, _Blocks]:
    """(the first `seconds`, what follows)."""
    taken: _Blocks = []
    for number, (rate, block) in enumerate(blocks):
        wanted = round(seconds * rate)
        if len(block) >= wanted:
            rest = [(rate, block[wanted:])] if len(block) > wanted else []
            return [*taken, (rate, block[:wanted])], [*rest, *blocks[number + 1 :]]
        taken.append((rate, block))
        seconds -= len(block) / rate
    return taken, []


def _sound(blocks: _Blocks, duration: float, problems: list[str]) -> Sound:
    """Blocks of one rate are resampled together."""
    runs = [
        (rate, np.concatenate([block for _, block in run]))
        for rate, run in itertools.groupby(blocks, lambda one: one[0])
    ]
    samples = np.concatenate([resample(block, rate) for rate, block in runs])
    return Sound(samples, runs[0][0], sum(len(block) for _, block in runs), duration, "; ".join(problems[:2]))


@contextlib.contextmanager
def _open(
    source: bytes | str, limits: LimitsConfig
) -> Iterator[tuple[av.container.InputContainer, av.audio.stream.AudioStream]]:
    """The open container and its main sound track. FFmpeg gets bytes alone: no name to guess from, no protocol.

    Raises: Refused: no sound, or over a limit.
    """
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "none", "max_streams": str(limits.max_streams + 1)}
    with contextlib.ExitStack() as stack:
        try:
            file = io.BytesIO(source) if isinstance(source, bytes) else stack.enter_context(UnnamedFile(source))
            container = stack.enter_context(av.open(file, mode="r", metadata_errors="ignore", options=options))
            stream = _main_track(container, limits)
        except MemoryError as error:  # also what FFmpeg says of too many streams
            raise Refused(f"the file has more than {limits.max_streams} streams, or a header too large") from error
        except _ERRORS as error:
            raise Refused(f"not a readable sound file: {one_line(error)}") from error
        yield container, stream


def _main_track(container: av.container.InputContainer, limits: LimitsConfig) -> av.audio.stream.AudioStream:
    """The one that a player plays, as FFmpeg chooses it."""
    if len(container.streams) > limits.max_streams:
        raise Refused(f"the file has more than {limits.max_streams} streams")
    stream = container.streams.best("audio")
    if not isinstance(stream, av.audio.stream.AudioStream) or stream.codec_context is None:
        raise Refused("the file holds no sound track that can be decoded")
    return stream


def _duration(container: av.container.InputContainer, stream: av.audio.stream.AudioStream) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else float("nan")


def _decode(
    container: av.container.InputContainer, stream: av.audio.stream.AudioStream, deadline: float, problems: list[str]
) -> Iterator[av.AudioFrame]:
    """Frames until the end, the deadline or a demuxer that gives up; a packet that does not decode is passed over."""
    packets = container.demux(stream)
    while True:
        if time.process_time() >= deadline:
            problems.append("reading took too long; the rest is left out")
            return
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.FFmpegError as error:
            problems.append(f"the file breaks off: {one_line(error)}")
            return
        try:
            yield from packet.decode()
        except av.FFmpegError as error:
            problems.append(f"a packet does not decode: {one_line(error)}")


def _mono_blocks(frames: Iterator[av.AudioFrame]) -> Iterator[tuple[np.ndarray, int]]:
    """(mono samples, rate) of frames in order; short frames alike are mixed together, as each call costs its time."""
    for kind, alike in itertools.groupby(frames, _kind):
        waiting: list[np.ndarray] = []
        for frame in alike:
            waiting.append(frame.to_ndarray())
            if waiting[0].size * len(waiting) >= _VALUES_A_BLOCK:
                yield _mono(waiting, *kind)
                waiting = []
        if waiting:
            yield _mono(waiting, *kind)


def _kind(frame: av.AudioFrame) -> tuple[str, int, int]:
    """Sample format, number of channels and rate. Raises: Refused: over a limit."""
    num_channels = len(frame.layout.channels) if frame.layout.channels else frame.layout.nb_channels
    if not 0 < num_channels <= _MAX_CHANNELS or not 0 < frame.sample_rate <= _MAX_RATE:
        raise Refused(f"{num_channels} channels at {frame.sample_rate} Hz; limits: {_MAX_CHANNELS} and {_MAX_RATE}")
    return frame.format.name, num_channels, frame.sample_rate


def _mono(blocks: list[np.ndarray], sample_format: str, num_channels: int, rate: int) -> tuple[np.ndarray, int]:
    """The mean of the channels, float32 (N,), full scale 1; and the rate. blocks: as PyAV gives them."""
    name = sample_format.removesuffix("p")
    scale = _SCALES[name]
    values = np.concatenate(blocks, axis=1).astype(np.float64 if scale > 1e6 else np.float32)
    if name == "u8":
        values -= 128
    channels = values if sample_format.endswith("p") else values.reshape(-1, num_channels).T
    with np.errstate(invalid="ignore", over="ignore"):  # damaged floats: what is no number becomes one below
        mixed = channels.mean(axis=0) / scale
    return np.nan_to_num(mixed, nan=0.0, posinf=1.0, neginf=-1.0).clip(-8, 8).astype(np.float32), rate


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """float32 (N,) at `rate` -> float32 at 16 kHz, the first sample at the same time."""
    if rate == SAMPLE_RATE or not len(samples):
        return samples
    return run_filters(samples, rate, [("aresample", _RESAMPLER)])


def run_filters(samples: np.ndarray, rate: int, filters: Sequence[tuple[str, str]]) -> np.ndarray:
    """float32 mono (N,) at `rate` through FFmpeg's filters, (name, arguments) each: float32, at the last one's rate."""
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add_abuffer(format="flt", sample_rate=rate, layout="mono", time_base=Fraction(1, rate)),
        *(graph.add(name, arguments) for name, arguments in filters),
        graph.add("abuffersink"),
    ).configure()
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples, np.float32)[None], "flt", "mono")
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
    graph.push(frame)
    graph.push(None)
    parts: list[np.ndarray] = []
    while True:
        try:
            parts.append(graph.pull().to_ndarray().reshape(-1).astype(np.float32))
        except (EOFError, BlockingIOError):
            return np.concatenate(parts) if parts else np.zeros(0, np.float32)
