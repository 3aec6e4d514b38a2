"""Opening a file with PyAV: bytes only, no name and no protocol, and which of its streams is the video."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator

import av

from ..config import LimitsConfig
from ..modality import Refused
from ..source import UnnamedFile
from ..text import shortened

# Containers that hold one video in one file. Left out: playlists, manifests and patterns (hls, dash, concat, sdp,
# image2, ...), which would make FFmpeg open whatever files and addresses they name.
_VIDEO_FORMATS = (
    "3gp apng asf asf_o av1 avi dv flv gif h261 h263 h264 hevc ivf jpeg_pipe live_flv m4v matroska mjpeg mov mp4 mpeg"
    " mpegts mpegvideo mxf nsv nut obu ogg rm vc1 vc1test webm wtv yuv4mpegpipe"
)
_OTHER_FORMATS = (  # opened as well, to say what they are
    "aac ac3 aiff amr ape au bmp_pipe caf dts eac3 flac jpegls_pipe jpegxl_pipe mp3 png_pipe psd_pipe qoi_pipe svg_pipe"
    " tiff_pipe tta w64 wav webp_pipe wv"
)
_FORMATS = f"{_VIDEO_FORMATS} {_OTHER_FORMATS}".replace(" ", ",")
_MAYBE_MOTION_JPEG = "jpeg_pipe"  # so FFmpeg calls a bare one, which can also be one picture
_DEFAULT, _ATTACHED_PICTURE, _TIMED_THUMBNAILS, _DEPENDENT, _STILL = 0x1, 0x400, 0x800, 0x80000, 0x100000
_NO_VIDEO = _ATTACHED_PICTURE | _TIMED_THUMBNAILS | _STILL  # AV_DISPOSITION_*
_ENOUGH_FRAMES = 5  # FFmpeg counts no further where it chooses among streams
# What PyAV raises on damaged files, besides its own errors: tables that do not fit, time bases of 1/0.
ERRORS = (av.FFmpegError, OSError, ValueError, ArithmeticError, IndexError)


def cause_of(error: BaseException) -> str:
    """One line, without what FFmpeg has logged before: its whole list of formats, say."""
    return f"{type(error).__name__}: {shortened(str(getattr(error, 'strerror', None) or error))}"


@contextlib.contextmanager
def open_video(
    source: bytes | str, limits: LimitsConfig, *, passed_over: frozenset[int] = frozenset(), decoding: bool = True
) -> Iterator[tuple[av.container.InputContainer, av.video.stream.VideoStream]]:
    """The open container and its main video stream. FFmpeg gets bytes alone: no name to guess from, no protocol.

    passed_over: numbers of streams that turned out to be no video. decoding: FFmpeg may decode a few frames, to know
    pixel format and reordering. Raises: Refused: not a video, or over a limit.
    """
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "none", "max_streams": str(limits.max_streams + 1),
               "max_pixels": str(limits.max_frame_pixels)}  # fmt: skip
    if not decoding:
        options |= {"codec_whitelist": "none", "probesize": "32", "analyzeduration": "1", "fpsprobesize": "0"}
    with contextlib.ExitStack() as stack:
        try:
            file = io.BytesIO(source) if isinstance(source, bytes) else stack.enter_context(UnnamedFile(source))
            container = stack.enter_context(av.open(file, mode="r", metadata_errors="ignore", options=options))
            stream = _main_video_stream(container, limits, passed_over)
        except MemoryError as error:  # also what FFmpeg says of too many streams
            raise Refused(f"the file has more than {limits.max_streams} streams, or a header too large") from error
        except ERRORS as error:
            raise Refused(f"not a readable video: {cause_of(error)}") from error
        yield container, stream


def duration_of(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> float:
    """Seconds, of the whole file, as the container tells; nan if it does not."""
    if container.duration:
        return container.duration / av.time_base
    return float(stream.duration * stream.time_base) if stream.duration and stream.time_base else math.nan


def refuse_still_picture(container: av.container.InputContainer, num_frames: int) -> None:
    """Raises: Refused: what was taken for bare Motion JPEG is one picture."""
    if container.format.name == _MAYBE_MOTION_JPEG and num_frames <= 1:
        raise Refused("not a video: a still picture (jpeg)")


def _main_video_stream(
    container: av.container.InputContainer, limits: LimitsConfig, passed_over: frozenset[int]
) -> av.video.stream.VideoStream:
    """The stream that players show: never a still; by default flag, then number of frames, then size, then place."""
    if len(container.streams) > limits.max_streams:
        raise Refused(f"the file has more than {limits.max_streams} streams")
    name = container.format.name
    if name.endswith("_pipe") and name != _MAYBE_MOTION_JPEG:
        raise Refused(f"not a video: a still picture ({name.removesuffix('_pipe')})")
    pictures = [stream for stream in container.streams.video if stream.index not in passed_over]
    streams = [one for one in pictures if one.codec_context is not None and not _disposition(one) & _NO_VIDEO]
    if streams:
        return max(streams, key=_preference)
    if container.streams.audio and all(_disposition(one) & _NO_VIDEO for one in pictures):
        raise Refused("not a video: it holds sound only, no picture")
    raise Refused("the file holds no video stream that can be decoded")


def _preference(stream: av.video.stream.VideoStream) -> tuple[int, ...]:
    disposition, context = _disposition(stream), stream.codec_context
    return (
        not disposition & _DEPENDENT,
        stream.frames != 1,
        disposition & _DEFAULT,
        min(stream.frames or _ENOUGH_FRAMES, _ENOUGH_FRAMES),  # 0: the container does not tell
        context.width * context.height,
    )


def _disposition(stream: av.stream.Stream) -> int:
    return int(getattr(stream, "disposition", 0))
