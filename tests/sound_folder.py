"""A small folder of labelled sounds, made on the spot: whispers as pristine, formant voices as generated."""

from __future__ import annotations

from pathlib import Path

from debug.audio_examples import SOUND_ENCODINGS, encode_samples
from debug.voices import VOICES, WHISPER, speak

RATE = 16_000
SOURCES = {"pristine": ("library", "radio"), "generated": ("formants", "robot")}


def make_sound_folder(root: Path, *, clips_per_source: int = 1, seconds: float = 1.0) -> Path:
    """root/<label>/<source>/<k>.<suffix> for every source in SOURCES, encodings in turn."""
    encodings = list(SOUND_ENCODINGS.values())
    for label, sources in SOURCES.items():
        for number, source in enumerate(sources):
            for k in range(clips_per_source):
                encoding = encodings[(number + k) % len(encodings)]
                voice = WHISPER if label == "pristine" else VOICES[2 * number]
                path = root / label / source / f"{k}{encoding.suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encode_samples(speak(voice, seconds, RATE, 10 * number + k), RATE, encoding))
    return root
