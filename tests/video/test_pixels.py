"""Pixels equal those of ffmpeg's command where containers and codecs play tricks: no frame but one that it shows, and
the first run starts with the first one that it shows.
"""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import numpy as np
import pytest

from debug.field_clips import PALETTE, X264, X265, Workshop, source, with_clean_aperture
from model.config import LimitsConfig, SamplingConfig
from model.modality import Refused
from model.video.clip import Clip
from model.video.reading import read_clip

from .ffmpeg import ffmpegs_frames, with_encryption, without_later_parameter_sets

LIMITS = LimitsConfig()


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("built"))


def read(path: Path) -> Clip:
    return read_clip(path.read_bytes(), SamplingConfig(), LIMITS)


def check(path: Path, *options: str, num_runs: int | None = None) -> None:
    """Every frame is one of ffmpeg's, in order, and the first is its first. Tolerance: one level."""
    clip = read(path)
    shown = ffmpegs_frames(path, *clip.runs[0].shape[1:3], *options)
    assert abs(shown[0] - clip.runs[0][0]).max() <= 1, "the first run does not start with the first shown frame"
    if num_runs is not None:
        assert len(clip.runs) == num_runs
    last = -1
    for run in clip.runs:
        for frame in run:
            later = abs(shown[last + 1 :] - frame).reshape(len(shown) - last - 1, -1).max(axis=1)
            assert later.size and later.min() <= 1, "a frame that ffmpeg does not show, or out of order"
            last += 1 + int(later.argmin())


# What decoders remember from frame to frame is lost by a seek.
STATE = {
    "raw.avi": (*PALETTE, "-c:v", "rawvideo", "-pix_fmt", "pal8"),
    "raw.mov": (*PALETTE, "-c:v", "rawvideo", "-pix_fmt", "pal8"),
    "raw.nut": (*PALETTE, "-c:v", "rawvideo", "-pix_fmt", "pal8"),
    "qtrle.mov": (*PALETTE, "-c:v", "qtrle", "-pix_fmt", "pal8", "-g", "5"),
    "smc.mov": (*PALETTE, "-c:v", "smc", "-g", "5"),
    "msrle.avi": (*PALETTE, "-c:v", "msrle", "-g", "5"),
    "zmbv.avi": (*PALETTE, "-c:v", "zmbv", "-pix_fmt", "pal8", "-g", "5"),
    "png.mkv": (*PALETTE, "-c:v", "png", "-pix_fmt", "pal8"),
    "cinepak.avi": ("-c:v", "cinepak", "-g", "5"),
    "rpza.mov": ("-c:v", "rpza", "-g", "5"),
    "msvideo1.avi": ("-c:v", "msvideo1", "-g", "5"),
    "flashsv.flv": ("-c:v", "flashsv", "-g", "5"),
    "snow.avi": ("-c:v", "snow", "-g", "5", "-strict", "-2"),
    "svq1.mov": ("-c:v", "svq1", "-g", "5"),
    "ffv1.mkv": ("-c:v", "ffv1", "-g", "5", "-context", "1", "-coder", "1"),
    "canvas.apng": ("-c:v", "apng", "-plays", "0"),
    "canvas.gif": (),
    "intra_refresh.mp4": ("-c:v", "libx264", "-intra-refresh", "1", "-g", "5"),
    "intra_refresh.ts": ("-c:v", "libx264", "-intra-refresh", "1", "-g", "5"),
    "intra_refresh_hevc.mp4": (*X265[:3], X265[3] + ":intra-refresh=1"),
    "open_gop.mkv": ("-c:v", "libx264", "-g", "5", "-x264-params", "open-gop=1:bframes=3:scenecut=0"),
    "open_gop.ts": (*X265[:3], X265[3] + ":open-gop=1:bframes=3"),
    "alternate_references.webm": ("-c:v", "libvpx", "-auto-alt-ref", "1", "-lag-in-frames", "8", "-g", "5"),
    "packed.avi": ("-c:v", "libxvid", "-bf", "2", "-g", "5"),
}


@pytest.mark.parametrize("name", STATE)
def test_no_frame_differs_from_a_plain_forward_decode(workshop, name):
    """The palette of a raw AVI was lost by the seek, and black frames were scored."""
    check(workshop.build(name, *source(), *STATE[name]))


@pytest.mark.parametrize("container", ["h264", "avi", "mkv", "mp4", "flv", "nut"])
def test_parameter_sets_that_change_mid_stream_are_not_sought_past(workshop, container):
    """The second half has other ones under the same numbers, and says so once."""
    halves = [
        workshop.build(f"half{quality}.h264", *source(), "-c:v", "libx264", "-g", 5, "-bf", 0, "-crf", quality,
                       "-x264-params", f"cabac={int(quality == 18)}:8x8dct={int(quality == 18)}")
        for quality in (18, 40)
    ]  # fmt: skip
    bare = workshop.write("changing.h264", b"".join(without_later_parameter_sets(half.read_bytes()) for half in halves))
    options = ("-fflags", "+genpts", "-r", 10, "-i", bare, "-c", "copy")
    check(bare if container == "h264" else workshop.build(f"changing.{container}", *options), num_runs=4)


def test_a_second_sequence_header_in_flv_is_not_sought_past(workshop):
    parts = []
    for quality, start in ((18, 0), (40, 2)):
        options = ("-c:v", "libx264", "-g", 5, "-bf", 0, "-crf", quality, "-output_ts_offset", start)
        coder = f"cabac={int(quality == 18)}"
        parts.append(workshop.build(f"part{quality}.flv", *source(), *options, "-x264-params", coder).read_bytes())
    check(workshop.write("parts.flv", parts[0] + parts[1][13:]), num_runs=4)


BARE = {
    "bare.m2v": ("-r", "25", "-c:v", "mpeg2video", "-bf", "2", "-g", "12"),
    "bare.m1v": ("-r", "25", "-c:v", "mpeg1video", "-bf", "2", "-g", "12"),
    "bare.mpg": ("-r", "25", "-c:v", "mpeg2video", "-bf", "2", "-g", "12"),
    "bare.vob": ("-r", "25", "-c:v", "mpeg2video", "-bf", "2", "-g", "12"),
    "bare.264": X264,
    "bare.265": X265,
    "bare.obu": ("-c:v", "libsvtav1", "-preset", "12", "-g", "5"),
    "bare.ivf": ("-c:v", "libvpx", "-g", "5"),
    "bare.m4v": ("-c:v", "mpeg4", "-g", "5"),
    "bare.mjpeg": ("-c:v", "mjpeg"),
    "bare.h263": ("-s", "176x144", "-c:v", "h263", "-g", "5"),
}


@pytest.mark.parametrize("name", BARE)
def test_streams_without_an_index(workshop, name):
    check(workshop.build(name, *source(), *BARE[name]))


@pytest.mark.parametrize("name", [name for name in BARE if name.split(".")[1] not in ("obu", "ivf", "h263", "mjpeg")])
def test_streams_without_an_index_that_start_in_the_middle(workshop, name):
    content = workshop.build(name, *source(), *BARE[name]).read_bytes()
    check(workshop.write("cut." + name, content[len(content) // 5 :]))


CUTS = {
    "cut.mp4": ("-ss", "0.75"),
    "cut.mov": ("-ss", "0.75"),
    "cut.mkv": ("-ss", "0.75"),
    "cut.ts": ("-ss", "0.75"),
    "cut.flv": ("-ss", "0.75"),
    "cut_fragments.mp4": ("-ss", "0.75", "-movflags", "frag_keyframe+empty_moov"),
    "late.mp4": ("-itsoffset", "1.5"),
    "negative.mp4": ("-movflags", "negative_cts_offsets"),
}


@pytest.mark.parametrize("codec", ["h264", "hevc"])
@pytest.mark.parametrize("name", CUTS)
def test_the_first_run_starts_with_the_first_shown_frame(workshop, name, codec):
    """An edit list leaves out the first key frame of a clip cut without encoding; all up to the second was lost."""
    before = [option for option in CUTS[name] if not option.startswith(("-movflags", "frag", "negative"))]
    after = CUTS[name][len(before) :]
    check(workshop.build(f"{codec}_{name}", *before, "-i", getattr(workshop, codec), "-c", "copy", *after))


@pytest.mark.parametrize("codec", ["mpeg2", "h264"])
def test_a_transport_stream_cut_between_packets(workshop, codec):
    path = workshop.mpeg2 if codec == "mpeg2" else workshop.build("h264.ts", *source(), *X264)
    content = path.read_bytes()
    check(workshop.write(f"cut_{codec}.ts", content[188 * (len(content) // 188 // 5) :]))


@pytest.mark.parametrize("flagged", ["not the first", "none", "wrong ones"])
def test_key_frames_that_are_flagged_wrongly(workshop, flagged):
    content = bytearray(workshop.h264.read_bytes())
    at = content.index(b"stss")
    count = struct.unpack(">I", content[at + 8 : at + 12])[0]
    places = struct.unpack(f">{count}I", content[at + 12 : at + 12 + 4 * count])
    if flagged == "not the first":
        content[at + 12 : at + 16] = struct.pack(">I", places[1])
    elif flagged == "none":
        content[at : at + 4] = b"free"
    else:
        content[at + 12 : at + 12 + 4 * count] = struct.pack(f">{count}I", *(place + 2 for place in places))
    check(workshop.write("flags.mp4", bytes(content)))


ANGLES = (0, 90, 180, 270, 45)
FLIPS = ((), ("-display_hflip",), ("-display_vflip",), ("-display_hflip", "-display_vflip"))
# MOV is read by the same code as MP4, Matroska as WebM: of these two one angle will do
SHOWN = [
    (container, degrees, flips)
    for container, angles in (("mp4", ANGLES), ("webm", ANGLES), ("mov", (90,)), ("mkv", (90,)))
    for degrees, flips in itertools.product(angles, FLIPS)
]


@pytest.mark.parametrize(("container", "degrees", "flips"), SHOWN)
def test_display_matrices_turn_and_mirror(workshop, container, degrees, flips):
    """A mirrored clip was taken for a turned one, and stood on its head."""
    coded = workshop.vp9 if container == "webm" else workshop.hevc if container == "mov" else workshop.h264
    name = f"shown_{degrees}_{len(flips)}.{container}"
    check(workshop.build(name, "-display_rotation", degrees, *flips, "-i", coded, "-c", "copy"), num_runs=4)


CROPS = {
    "centred": (120, 1, 100, 1, 0, 1, 0, 1),
    "moved by halves": (121, 1, 99, 1, 5, 2, -7, 2),
    "one column and row": (159, 1, 119, 1, 1, 2, 1, 2),
    "all": (160, 1, 120, 1, 0, 1, 0, 1),
    "outside": (150, 1, 120, 1, 20, 1, 0, 1),
    "nothing": (0, 1, 0, 1, 0, 1, 0, 1),
    "by zero": (100, 0, 100, 1, 0, 1, 0, 1),
}


@pytest.mark.parametrize("turned", [False, True], ids=["upright", "turned"])
@pytest.mark.parametrize("container", ["mp4", "mkv"])
@pytest.mark.parametrize("crop", CROPS)
def test_the_containers_crop_is_applied(workshop, crop, container, turned):
    path = workshop.write("crop.mp4", with_clean_aperture(workshop.h264.read_bytes(), *CROPS[crop]))
    if turned or container == "mkv":
        options = ("-display_rotation", 90) if turned else ()
        path = workshop.build(f"cropped.{container}", *options, "-i", path, "-c", "copy")
    check(path, num_runs=4)


TAGGED = {
    "h264": ("h264_metadata", "mp4", range(18)),
    "hevc": ("hevc_metadata", "mp4", range(18)),
    "mpeg2": ("mpeg2_metadata", "ts", (3, 8, 10, 11)),
}


@pytest.mark.parametrize(
    ("codec", "matrix"), [(codec, matrix) for codec, (_, _, matrices) in TAGGED.items() for matrix in matrices]
)
def test_a_matrix_that_cannot_be_converted_counts_as_missing(workshop, codec, matrix):
    """ICtCp on 8 bits from a phone had no score. Pixels are ffmpeg's, or where it fails those without the tag."""
    kind, suffix, _ = TAGGED[codec]
    options = ("-c", "copy", "-bsf:v", f"{kind}=matrix_coefficients={matrix}")
    path = workshop.build(f"matrix_{codec}.{suffix}", "-i", getattr(workshop, codec), *options)
    if matrix in (3, 8) or matrix >= 10:
        np.testing.assert_array_equal(read(path).runs, read(getattr(workshop, codec)).runs)
    else:
        check(path)


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("matrix", [1, 8, 10, 11, 14])
def test_the_same_at_more_than_eight_bits(workshop, bits, matrix):
    plain = workshop.build(f"deep{bits}.mp4", *source(), "-pix_fmt", f"yuv420p{bits}", *X265)
    options = ("-c", "copy", "-bsf:v", f"hevc_metadata=matrix_coefficients={matrix}:transfer_characteristics={matrix}")
    tagged = workshop.build(f"deep{bits}_tagged.mp4", "-i", plain, *options)
    if matrix == 1:
        check(tagged)
    else:
        np.testing.assert_array_equal(read(tagged).runs, read(plain).runs)


@pytest.mark.parametrize("tag", ["transfer_characteristics", "colour_primaries"])
@pytest.mark.parametrize("value", [0, 1, 3, 9, 10, 11, 16, 19, 22])
def test_a_transfer_or_primaries_that_cannot_be_converted_leave_the_matrix(workshop, tag, value):
    options = ("-c", "copy", "-bsf:v")
    tagged = f"h264_metadata=matrix_coefficients=1:{tag}={value}"
    plain = workshop.build("matrix.mp4", "-i", workshop.h264, *options, "h264_metadata=matrix_coefficients=1")
    path = workshop.build("tagged.mp4", "-i", workshop.h264, *options, tagged)
    np.testing.assert_array_equal(read(path).runs, read(plain).runs)
    assert abs(read(path).runs[0].astype(np.int16) - read(workshop.h264).runs[0]).max() > 4, "the matrix does nothing"


def test_mpeg2_with_reserved_colour_tags(workshop):
    """Camcorders write zeros; FFmpeg's own filters write no such value."""
    content = bytearray(workshop.build("bt709.ts", *source(rate=25), "-c:v", "mpeg2video", "-colorspace", "bt709",
                                       "-color_primaries", "bt709", "-color_trc", "bt709").read_bytes())  # fmt: skip
    at = -1
    while (at := content.find(b"\0\0\1\xb5", at + 1)) >= 0:
        if content[at + 4] >> 4 == 2 and content[at + 4] & 1:
            content[at + 5 : at + 8] = b"\0\0\0"
    assert len(read(workshop.write("reserved.ts", bytes(content))).runs) == 4


SMALL, LARGE = source("160x120"), source("320x240", picture="testsrc")
BOTH = ("-map", "0:v", "-map", "1:v")


@pytest.mark.parametrize("container", ["mp4", "mkv", "nut", "avi"])
@pytest.mark.parametrize("defaults", [(0, 0), (0, 1), (1, 0), (1, 1)], ids=str)
def test_the_track_that_ffmpeg_shows_is_read(workshop, container, defaults):
    """The largest was read, whatever the default flag says. (AVI has no such flag.)"""
    flags = [f for place, on in enumerate(defaults) for f in (f"-disposition:v:{place}", "default" if on else "0")]
    check(workshop.build(f"tracks.{container}", *SMALL, *LARGE, *BOTH, "-c:v", "mpeg4", "-g", 5, *flags))


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv", "nut", "avi"])
@pytest.mark.parametrize("flag", ["default", "0", "attached_pic"])
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_a_still_is_never_read_beside_a_video(workshop, container, flag, first):
    """ffmpeg itself takes a large still; players count frames."""
    inputs = ("-i", workshop.still, *SMALL) if first else (*SMALL, "-i", workshop.still)
    place = 0 if first else 1
    options = (f"-c:v:{place}", "mjpeg", f"-c:v:{1 - place}", "mpeg4", f"-disposition:v:{place}", flag)
    path = workshop.build(f"still.{container}", *inputs, *BOTH, *options)
    clip = read(path)
    assert clip.runs[0].shape[1:3] == (120, 160) and clip.num_frames > 1


@pytest.mark.parametrize("fragments", [False, True])
def test_an_encrypted_mp4_is_refused(workshop, fragments):
    """Its noise was scored."""
    options = ["-encryption_scheme", "cenc-aes-ctr", "-encryption_key", "76a6c65c5ea762046bd749a2e632ccbb"]
    options += ["-encryption_kid", "a7e61c373e219033c21091fa607bf3b8"]
    options += ["-movflags", "frag_keyframe"] if fragments else []
    with pytest.raises(Refused, match="the video is encrypted"):
        read(workshop.build("encrypted.mp4", "-i", workshop.h264, "-c", "copy", *options))


def test_an_encrypted_webm_is_refused(workshop):
    with pytest.raises(Refused, match="the video is encrypted"):
        read(workshop.write("encrypted.webm", with_encryption(workshop.vp9.read_bytes())))


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("a.png", ("-frames:v", "1"), r"not a video: a still picture \(png\)"),
        ("a.jpg", ("-frames:v", "1"), r"not a video: a still picture \(jpeg\)"),
        ("a.webp", ("-frames:v", "1"), r"not a video: a still picture \(webp\)"),
        ("a.bmp", ("-frames:v", "1"), r"not a video: a still picture \(bmp\)"),
        ("a.tiff", ("-frames:v", "1"), r"not a video: a still picture \(tiff\)"),
        ("a.mp3", (), "not a video: it holds sound only, no picture"),
        ("a.flac", (), "not a video: it holds sound only, no picture"),
        ("a.wav", (), "not a video: it holds sound only, no picture"),
        ("a.m4a", (), "not a video: it holds sound only, no picture"),
        ("a.ogg", (), "not a video: it holds sound only, no picture"),
    ],
)
def test_pictures_and_sound_are_refused_in_one_line(workshop, name, options, reason):
    """FFmpeg's whole list of formats was printed, twice."""
    inputs = source() if options else ("-f", "lavfi", "-i", "sine=d=1")
    with pytest.raises(Refused, match=f"^{reason}$"):
        read(workshop.build(name, *inputs, *options))


def test_a_song_with_a_cover_is_sound(workshop):
    inputs = ("-f", "lavfi", "-i", "sine=d=1", "-i", workshop.still, "-map", "0:a", "-map", "1:v")
    with pytest.raises(Refused, match="sound only"):
        read(workshop.build("song.mp3", *inputs, "-c:v", "mjpeg", "-disposition:v", "attached_pic"))


def test_the_files_duration_is_told(workshop):
    assert read(workshop.h264).duration_seconds == pytest.approx(2.0, abs=0.05)
