"""Every suffix that a video may have names a format that is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from debug.field_clips import X264, X265, Workshop, source
from model.config import LimitsConfig, SamplingConfig
from model.modality import VIDEO
from model.video.reading import read_clip

from .ffmpeg import ffmpegs_frames

MPEG1 = ("-r", "25", "-c:v", "mpeg1video", "-g", "12")
MPEG2 = ("-r", "25", "-c:v", "mpeg2video", "-g", "12")
MPEG4 = ("-c:v", "mpeg4", "-g", "5")
AV1 = ("-c:v", "libsvtav1", "-preset", "12", "-g", "5")
H263 = ("-s", "176x144", "-c:v", "h263", "-g", "5")
REAL = ("-s", "176x144", "-c:v", "rv20", "-g", "5", "-f", "rm")
# suffix -> ffmpeg's options for a file that usually bears it
FORMATS: dict[str, tuple[str, ...]] = {
    ".264": (*X264, "-f", "h264"),
    ".265": (*X265, "-f", "hevc"),
    ".3g2": H263,
    ".3gp": H263,
    ".3gp2": (*H263, "-f", "3g2"),
    ".3gpp": (*H263, "-f", "3gp"),
    ".apng": ("-plays", "0"),
    ".asf": ("-c:v", "msmpeg4", "-g", "5"),
    ".av1": (*AV1, "-f", "obu"),
    ".avc": (*X264, "-f", "h264"),
    ".avi": MPEG4,
    ".divx": ("-c:v", "libxvid", "-g", "5", "-f", "avi"),
    ".dv": ("-s", "720x576", "-r", "25", "-pix_fmt", "yuv420p", "-t", "0.4"),
    ".dvr-ms": (*MPEG2, "-f", "asf"),
    ".f4v": X264,
    ".flv": ("-c:v", "flv", "-g", "5"),
    ".gif": (),
    ".h261": ("-s", "176x144", "-c:v", "h261"),
    ".h263": H263,
    ".h264": X264,
    ".h265": (*X265, "-f", "hevc"),
    ".hevc": X265,
    ".insv": (*X265, "-f", "mp4"),
    ".ivf": ("-c:v", "libvpx", "-g", "5"),
    ".lrv": (*X264, "-f", "mp4"),
    ".m1v": (*MPEG1, "-f", "mpeg1video"),
    ".m2t": (*MPEG2, "-f", "mpegts"),
    ".m2ts": X264,
    ".m2v": MPEG2,
    ".m4v": (*X264, "-f", "mp4"),
    ".mjpeg": ("-c:v", "mjpeg"),
    ".mjpg": ("-c:v", "mjpeg"),
    ".mk3d": (*X264, "-f", "matroska"),
    ".mkv": X264,
    ".mov": ("-c:v", "prores_ks"),
    ".mp4": X264,
    ".mp4v": (*MPEG4, "-f", "mp4"),
    ".mpe": (*MPEG1, "-f", "mpeg"),
    ".mpeg": MPEG1,
    ".mpg": MPEG2,
    ".mpv": (*MPEG2, "-f", "mpeg2video"),
    ".mts": (*X264, "-f", "mpegts"),
    ".mxf": MPEG2,
    ".nut": MPEG4,
    ".obu": AV1,
    ".ogm": ("-c:v", "libtheora", "-g", "5", "-f", "ogg"),
    ".ogv": ("-c:v", "libtheora", "-g", "5"),
    ".qt": (*X264, "-f", "mov"),
    ".rm": REAL,
    ".rmvb": REAL,
    ".ts": X264,
    ".vob": MPEG2,
    ".webm": ("-c:v", "libvpx-vp9", "-g", "5", "-cpu-used", "8"),
    ".wmv": ("-c:v", "wmv2", "-g", "5"),
    ".wtv": MPEG2,
    ".xvid": ("-c:v", "libxvid", "-g", "5", "-f", "avi"),
    ".y4m": (),
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("formats"))


@pytest.mark.parametrize("suffix", sorted(VIDEO.suffixes))
def test_a_file_of_each_suffix_is_read(workshop, suffix):
    """Raw Motion JPEG was in the list and never opened."""
    path: Path = workshop.build(f"clip{suffix}", *source(), *FORMATS[suffix])
    clip = read_clip(str(path), SamplingConfig(), LimitsConfig())
    shown = ffmpegs_frames(path, *clip.runs[0].shape[1:3])
    assert clip.num_frames > 1 and clip.note == ""
    assert abs(shown[0] - clip.runs[0][0]).max() <= 1
    assert read_clip(path.read_bytes(), SamplingConfig(), LimitsConfig()).decoder == clip.decoder


def test_no_format_is_left_without_a_suffix():
    assert set(FORMATS) == VIDEO.suffixes
