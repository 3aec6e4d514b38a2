"""The debug dataset's sounds: real speech as shipped and re-encoded, voices of a formant synthesiser as "generated"."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from debug.check_submission import BROKEN
from debug.layouts import Example, with_spoilt
from debug.voices import VOICES, WHISPER, Voice, speak

GENUINE = "pristine"
_RATE = 16_000  # of the recording
_SECONDS = 4.0  # of a synthesised clip
# Of the recording, by its own annotation: (speaker, from, to, seconds)
_UTTERANCES = {
    "speaker90": ((10.57, 14.5), (18.05, 21.5)),
    "speaker91": ((14.5, 17.9), (21.78, 28.5)),
}


@dataclass(frozen=True)
class SoundEncoding:
    """How samples become a file."""

    suffix: str
    container: str
    codec: str
    rate: int = 16_000
    layout: str = "mono"
    bit_rate: int | None = None


SOUND_ENCODINGS = {
    "pcm": SoundEncoding(".wav", "wav", "pcm_s16le"),
    "float": SoundEncoding(".wav", "wav", "pcm_f32le", 48_000),
    "telephone": SoundEncoding(".wav", "wav", "pcm_mulaw", 8_000),
    "flac": SoundEncoding(".flac", "flac", "flac", 24_000),
    "mp3": SoundEncoding(".mp3", "mp3", "libmp3lame", 22_050, bit_rate=64_000),
    "aac": SoundEncoding(".m4a", "mp4", "aac", 44_100, "stereo", bit_rate=96_000),
    "opus": SoundEncoding(".opus", "ogg", "libopus", 48_000, bit_rate=24_000),
    "vorbis": SoundEncoding(".ogg", "ogg", "vorbis", 44_100, "stereo"),
}
_SPOKEN: tuple[tuple[int, str], ...] = (  # (voice, encoding)
    (0, "pcm"), (0, "mp3"), (0, "opus"), (0, "telephone"),
    (1, "flac"), (1, "aac"), (1, "vorbis"), (1, "pcm"),
    (2, "pcm"), (2, "float"), (2, "mp3"), (2, "aac"),
)  # fmt: skip


def build_examples(recordings: Mapping[str, bytes]) -> list[Example]:
    """Every clip of the debug dataset. Without recordings whispers stand in for them, so that both labels occur."""
    examples = list(_build_real(recordings["sample"])) if recordings else list(_build_stand_ins())
    for number, (voice, encoding) in enumerate(_SPOKEN):
        split = "private" if voice == len(VOICES) - 1 else "public"
        examples.append(_synthesised(VOICES[voice], "generated", split, encoding, number))
    spoken = speak(VOICES[0], _SECONDS, _RATE, 99)
    whole = encode_samples(spoken, _RATE, SOUND_ENCODINGS["mp3"])
    damaged = Example("damaged-salvageable", "generated", VOICES[0].name, "public", ".mp3", whole)
    unfinished = encode_samples(spoken, _RATE, SOUND_ENCODINGS["aac"])  # its index comes last, and is cut
    return with_spoilt(examples, damaged, Example("broken", GENUINE, BROKEN, "public", ".m4a", unfinished))


def _build_real(recording: bytes) -> Iterator[Example]:
    yield Example("conversation-as-shipped", GENUINE, "conversation", "private", ".wav", recording)
    samples = decode_samples(recording)
    encodings = iter(("pcm", "flac", "mp3", "opus", "aac", "telephone", "vorbis", "float"))
    for speaker, utterances in _UTTERANCES.items():
        split = "private" if speaker == "speaker91" else "public"
        for number, (start, stop) in enumerate(utterances):
            part = samples[round(start * _RATE) : round(stop * _RATE)]
            for name in (next(encodings), next(encodings)):
                encoding = SOUND_ENCODINGS[name]
                content = encode_samples(part, _RATE, encoding)
                yield Example(f"{speaker}-{number}-{name}", GENUINE, speaker, split, encoding.suffix, content)


def _build_stand_ins() -> Iterator[Example]:
    for number, encoding in enumerate(SOUND_ENCODINGS):
        split = "public" if number % 2 == 0 else "private"
        yield _synthesised(WHISPER, GENUINE, split, encoding, number)


def _synthesised(voice: Voice, label: str, split: str, encoding: str, seed: int) -> Example:
    chosen = SOUND_ENCODINGS[encoding]
    content = encode_samples(speak(voice, _SECONDS, _RATE, seed), _RATE, chosen)
    source = voice.name if label == "generated" else f"stand-in {split}"
    return Example(f"{voice.name.replace(' ', '-')}-{seed}-{encoding}", label, source, split, chosen.suffix, content)


def encode_samples(samples: np.ndarray, rate: int, encoding: SoundEncoding) -> bytes:
    """float32 mono (N,) in [-1, 1] at `rate` to a sound file in memory."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=encoding.container, options={"fflags": "+bitexact"}) as container:
        options = {"strict": "experimental"}  # FFmpeg's own Vorbis encoder asks for it
        stream = container.add_stream(encoding.codec, rate=encoding.rate, layout=encoding.layout, options=options)
        if encoding.bit_rate:
            stream.bit_rate = encoding.bit_rate
        stream.codec_context.thread_count = 1
        frame = av.AudioFrame.from_ndarray(samples.astype(np.float32)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        resampler = av.AudioResampler(stream.format.name, encoding.layout, encoding.rate, stream.frame_size or None)
        for part in (frame, None):
            for resampled in resampler.resample(part):
                container.mux(stream.encode(resampled))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def decode_samples(content: bytes) -> np.ndarray:
    """The first sound track as mono at its own rate, float32 (N,)."""
    with av.open(io.BytesIO(content)) as container:
        resampler = av.AudioResampler("fltp", "mono")
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])
