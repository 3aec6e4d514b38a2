"""One list of suffixes for script.py, debug and training: what it names opens; what does not open is not named."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from imageio_ffmpeg import get_ffmpeg_exe

from model.audio.reading import read_sound
from model.config import LimitsConfig, SamplingConfig
from model.modality import AUDIO, MODALITIES, VIDEO, Unreadable
from model.rows.dataset import open_dataset
from model.training.clips import load_records
from model.video.reading import read_clip

PICTURE = ("-f", "lavfi", "-i", "testsrc2=s=176x144:r=25:d=1", "-pix_fmt", "yuv420p")
TONE = ("-f", "lavfi", "-i", "sine=frequency=300:sample_rate=16000:duration=1")
# Suffix -> what ffmpeg makes of it; a name that FFmpeg does not know is given the format that such files have.
AUDIO_RECIPES: dict[str, tuple[str, ...]] = {
    ".wav": (), ".flac": (), ".mp3": (), ".mp2": (), ".ogg": ("-c:a", "libvorbis"),
    ".oga": ("-c:a", "flac", "-f", "oga"),
    ".opus": (), ".spx": ("-c:a", "libspeex", "-f", "spx"), ".m4a": (), ".m4b": ("-f", "ipod"),
    ".mka": ("-c:a", "aac", "-f", "matroska"), ".weba": ("-c:a", "libopus", "-f", "webm"), ".aac": (), ".wma": (),
    ".amr": ("-ar", "8000", "-c:a", "libopencore_amrnb", "-b:a", "12200"),
    ".aif": ("-f", "aiff"), ".aiff": (), ".aifc": ("-c:a", "pcm_mulaw", "-f", "aiff"), ".au": (), ".snd": ("-f", "au"),
    ".caf": (), ".w64": (), ".rf64": ("-rf64", "always", "-f", "wav"), ".wv": (), ".tta": (), ".ac3": (),
    ".eac3": (),
    ".dts": ("-ar", "48000", "-strict", "-2", "-c:a", "dca"), ".gsm": ("-ar", "8000", "-c:a", "libgsm"), ".voc": (),
}  # fmt: skip


def build(source: tuple[str, ...], recipe: tuple[str, ...], path: Path) -> Path:
    command = [get_ffmpeg_exe(), "-nostdin", "-v", "error", "-y", *source, *recipe, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if "Unknown encoder" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[0])
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.parametrize("suffix", sorted(AUDIO.suffixes - {".sph"}))
def test_a_sound_of_every_suffix_opens(suffix: str, tmp_path: Path) -> None:
    path = build(TONE, AUDIO_RECIPES[suffix], tmp_path / f"tone{suffix}")
    sound = read_sound(str(path), LimitsConfig())
    assert 0.9 < len(sound.samples) / 16_000 < 1.2 and sound.samples.std() > 0.02


def test_a_sphere_file_opens(tmp_path: Path) -> None:
    """ffmpeg writes none: the header of NIST, as TIMIT's files have it, before plain samples."""
    build(TONE, ("-f", "s16le", "-c:a", "pcm_s16le"), tmp_path / "samples")
    fields = "sample_rate -i 16000\nchannel_count -i 1\nsample_n_bytes -i 2\nsample_byte_format -s2 01\n"
    fields += "sample_coding -s3 pcm\nsample_count -i 16000\nend_head\n"
    header = f"NIST_1A\n   1024\n{fields}".encode().ljust(1024)
    sound = read_sound(header + (tmp_path / "samples").read_bytes(), LimitsConfig())
    assert len(sound.samples) == pytest.approx(16_000, abs=200) and sound.samples.std() > 0.02


def test_a_suffix_that_does_not_open_is_not_named(tmp_path: Path) -> None:
    """Animated WebP: FFmpeg tells it from a picture only by reading it as one."""
    path = build(PICTURE, ("-c:v", "libwebp_anim", "-f", "webp"), tmp_path / "clip.webp")
    with pytest.raises(Unreadable, match="still picture"):
        read_clip(str(path), SamplingConfig(), LimitsConfig())
    assert ".webp" not in VIDEO.suffixes


def test_no_suffix_is_of_two_modalities() -> None:
    assert not VIDEO.suffixes & AUDIO.suffixes
    for modality in MODALITIES.values():
        assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in modality.suffixes)


def test_script_and_training_look_for_the_same_files(tmp_path: Path) -> None:
    for label in ("real", "generated"):
        for suffix in VIDEO.suffixes:
            (tmp_path / label / "source").mkdir(parents=True, exist_ok=True)
            (tmp_path / label / f"source/clip{suffix.upper()}").write_bytes(b"x")
    (tmp_path / "real/source/notes.txt").write_bytes(b"x")
    ids = open_dataset(tmp_path).ids
    assert len(ids) == 2 * len(VIDEO.suffixes)
    assert sorted(record.file for record in load_records(tmp_path)) == sorted(ids)
