"""Small speech files for the fault campaign and the tests: every codec and container that PyAV can write."""

from __future__ import annotations

import functools

from debug.audio_examples import SOUND_ENCODINGS, SoundEncoding, encode_samples
from debug.voices import VOICES, speak

_SECONDS, _RATE = 1.5, 16_000
_ENCODINGS = {
    **SOUND_ENCODINGS,
    "pcm_u8": SoundEncoding(".wav", "wav", "pcm_u8", 11_025),
    "pcm_s24": SoundEncoding(".wav", "wav", "pcm_s24le", 96_000, "stereo"),
    "alaw": SoundEncoding(".wav", "wav", "pcm_alaw", 8_000),
    "adpcm_ima": SoundEncoding(".wav", "wav", "adpcm_ima_wav", 22_050),
    "adpcm_ms": SoundEncoding(".wav", "wav", "adpcm_ms", 22_050),
    "g722": SoundEncoding(".wav", "wav", "g722"),
    "mp2": SoundEncoding(".mpga", "mp2", "mp2", bit_rate=64_000),
    "adts": SoundEncoding(".aac", "adts", "aac", 24_000, bit_rate=48_000),
    "alac": SoundEncoding(".m4a", "mp4", "alac", 44_100),
    "ac3": SoundEncoding(".ac3", "ac3", "ac3", 48_000, "stereo", bit_rate=128_000),
    "amr": SoundEncoding(".amr", "amr", "libopencore_amrnb", 8_000, bit_rate=12_200),
    "wma": SoundEncoding(".wma", "asf", "wmav2", 44_100, bit_rate=64_000),
    "aiff": SoundEncoding(".aiff", "aiff", "pcm_s16be", 22_050),
    "au": SoundEncoding(".au", "au", "pcm_s16be"),
    "caf": SoundEncoding(".caf", "caf", "pcm_s16be", 44_100, "stereo"),
    "opus_webm": SoundEncoding(".webm", "webm", "libopus", 48_000),
    "flac_mkv": SoundEncoding(".mka", "matroska", "flac", 48_000),
    "aac_ts": SoundEncoding(".ts", "mpegts", "aac", 48_000, "stereo"),
}
FAMILIES = tuple(_ENCODINGS)


@functools.cache
def clip(name: str) -> bytes:
    """A file of one family; the same bytes every time."""
    voice = VOICES[FAMILIES.index(name) % len(VOICES)]
    return encode_samples(speak(voice, _SECONDS, _RATE, FAMILIES.index(name)), _RATE, _ENCODINGS[name])
