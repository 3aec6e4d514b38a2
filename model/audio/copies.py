"""Seeded post-processing of speech: what happens to a recording between the voice or the machine and the listener.

Every operation is a pure function on float32 samples (N,) at 16 kHz with a severity from 1 (light) to 3 (heavy) and a
NumPy generator; both classes get them alike, in training (augmentation) and in measurement (robustness ladder).
`CODEC_OPERATIONS` are those of the challenge's second task, `LAUNDERING_OPERATIONS` those of its third.
"""

from __future__ import annotations

import io
import itertools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import av
import numpy as np
from scipy import signal

from .reading import SAMPLE_RATE, run_filters

Operation = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]

CODED, LAUNDERED = "codec", "laundered"  # copies of tasks 2 and 3
VARIANTS = (CODED, LAUNDERED)
SEVERITIES = (1, 2, 3)
_MIN_SAMPLES = SAMPLE_RATE // 10  # no operation makes a clip shorter than this, nor takes a shorter one


@dataclass(frozen=True)
class Codec:
    """How a codec is written. bit_rates: in kbit/s by severity, a range each; none for codecs of one rate."""

    encoder: str
    container: str
    rates: tuple[int, ...]  # sampling rates it takes, one is drawn
    bit_rates: dict[int, tuple[float, float]] | None = None


CODECS = {
    "mp3": Codec("libmp3lame", "mp3", (16_000, 22_050, 24_000, 44_100), {1: (96, 160), 2: (48, 96), 3: (24, 40)}),
    "aac": Codec("aac", "adts", (16_000, 22_050, 24_000, 44_100), {1: (96, 128), 2: (40, 80), 3: (20, 32)}),
    "opus": Codec("libopus", "ogg", (16_000, 24_000, 48_000), {1: (48, 96), 2: (16, 32), 3: (7, 12)}),
    "vorbis": Codec("vorbis", "ogg", (22_050, 44_100), {1: (96, 128), 2: (64, 80), 3: (48, 56)}),
    "wma": Codec("wmav2", "asf", (16_000, 22_050, 44_100), {1: (96, 128), 2: (48, 64), 3: (24, 32)}),
    "amr": Codec("libopencore_amrnb", "amr", (8_000,), {1: (12.2, 12.2), 2: (7.4, 10.2), 3: (4.75, 5.9)}),
    "g722": Codec("g722", "wav", (16_000,)),
    "g723": Codec("g723_1", "wav", (8_000,), {1: (6.3, 6.3), 2: (6.3, 6.3), 3: (6.3, 6.3)}),
    "mulaw": Codec("pcm_mulaw", "wav", (8_000, 16_000)),
    "alaw": Codec("pcm_alaw", "wav", (8_000, 16_000)),
    "adpcm": Codec("adpcm_ima_wav", "wav", (8_000, 16_000, 22_050)),
}  # fmt: skip
_AMR_BIT_RATES = (4.75, 5.15, 5.9, 6.7, 7.4, 7.95, 10.2, 12.2)  # kbit/s; the encoder takes no other
_CHUNK = 1024  # samples handed to an encoder of variable frame size


def resample(samples: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Polyphase resampling with scipy's default filter, a plain one as much software has."""
    if rate == new_rate:
        return samples
    ratio = Fraction(new_rate, rate)
    return signal.resample_poly(samples, ratio.numerator, ratio.denominator).astype(np.float32)


def encode(samples: np.ndarray, name: str, *, rate: int, bit_rate: float | None) -> bytes:
    """float32 (N,) at `rate` -> a file. bit_rate: kbit/s. Raises: ValueError: an unknown codec."""
    if name not in CODECS:
        raise ValueError(f"codec is {name!r}; valid codecs: {sorted(CODECS)}")
    codec, buffer = CODECS[name], io.BytesIO()
    with av.open(buffer, "w", format=codec.container, container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(codec.encoder, rate=rate, layout="stereo" if name == "vorbis" else "mono")
        context = stream.codec_context
        if bit_rate is not None:
            stream.bit_rate = round(bit_rate * 1000)
        context.options = {"strict": "experimental"}
        context.thread_count = 1
        context.open()
        resampler = av.AudioResampler(context.format, context.layout, rate, frame_size=context.frame_size or _CHUNK)
        frame = av.AudioFrame.from_ndarray(np.clip(samples, -1, 1).astype(np.float32)[None], "flt", "mono")
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        for part in itertools.chain(resampler.resample(frame), resampler.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def decode(content: bytes) -> tuple[np.ndarray, int]:
    """Samples of a file that `encode` made, float32 (N,), and their rate."""
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.audio[0]
        stream.codec_context.thread_count = 1
        rate = stream.codec_context.sample_rate
        resampler = av.AudioResampler("flt", "mono", rate)
        frames = [part for frame in container.decode(stream) for part in resampler.resample(frame)]
        frames += resampler.resample(None)
        return np.concatenate([frame.to_ndarray()[0] for frame in frames]), rate


def through(name: str, samples: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Into a codec at a drawn sampling rate and bit rate, and back to 16 kHz."""
    codec = CODECS[name]
    rate, bit_rate = int(rng.choice(codec.rates)), None
    if codec.bit_rates is not None:
        bit_rate = float(rng.uniform(*codec.bit_rates[severity]))
        if name == "amr":
            bit_rate = min(_AMR_BIT_RATES, key=lambda one: abs(one - (bit_rate or 0)))
    decoded, rate = decode(encode(resample(samples, SAMPLE_RATE, rate), name, rate=rate, bit_rate=bit_rate))
    return resample(decoded, rate, SAMPLE_RATE)


def rate(samples: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A lower sampling rate and back."""
    low = int(rng.choice({1: (14_000, 12_000), 2: (11_025, 10_000), 3: (8_000, 6_000)}[severity]))
    return resample(resample(samples, SAMPLE_RATE, low), low, SAMPLE_RATE)


def noise(samples: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Steady noise, from white to brown."""
    spectrum = np.fft.rfft(rng.standard_normal(len(samples)))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1) ** -rng.uniform(0, 1)
    return _add(samples, np.fft.irfft(spectrum, len(samples)), _decibels(severity, rng))


def babble(samples: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The clip's own voice six times over, shifted, backwards, faster and slower: talk without words."""
    total = np.zeros(len(samples), np.float32)
    for _ in range(6):
        voice = samples[::-1] if rng.random() < 0.5 else samples
        length = round(len(voice) * float(rng.uniform(0.8, 1.25)))
        voice = np.interp(np.linspace(0, len(voice) - 1, length), np.arange(len(voice)), voice)
        total += np.roll(np.resize(voice, len(samples)), int(rng.integers(len(samples))))
    return _add(samples, total, _decibels(severity, rng))


def room(samples: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A synthetic room: exponentially decaying noise behind the direct sound."""
    seconds = float(rng.uniform(*{1: (0.1, 0.25), 2: (0.25, 0.5), 3: (0.5, 0.9)}[severity]))
    response = _room_response(seconds, float(rng.uniform(*{1: (8, 14), 2: (3, 8), 3: (-2, 3)}[severity])), rng)
    return signal.fftconvolve(samples, response)[: len(samples)].astype(np.float32)


def _room_response(seconds: float, direct_decibels: float, rng: np.random.Generator) -> np.ndarray:
    """seconds: until 60 dB below. direct_decibels: of the direct sound over all that follows."""
    times = np.arange(max(2, round(1.2 * seconds * SAMPLE_RATE))) / SAMPLE_RATE
    tail = rng.standard_normal(len(times)) * 10 ** (-3 * times / seconds)
    tail = signal.lfilter([1], [1, -float(rng.uniform(0.2, 0.7))], tail)
    tail[: round(float(rng.uniform(0.001, 0.01)) * SAMPLE_RATE)] = 0
    tail *= 10 ** (-direct_decibels / 20) / np.sqrt((tail**2).sum() + 1e-12)
    tail[0] = 1.0
    return tail


def rerecord(samples: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Played by a small loudspeaker into a room and recorded again: band limits, room, noise."""
    limited = _filter(samples, float(rng.uniform(100, 400)), float(rng.uniform(4_000, 7_000)), order=2)
    return noise(room(_soft_clip(limited, severity), severity, rng), max(1, severity - 1), rng)


def speed(samples: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Faster or slower, pitch included."""
    factor = _factor(severity, rng)
    return resample(samples, round(100 * factor), 100)


def tempo(samples: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Faster or slower at the same pitch (FFmpeg's overlap and add)."""
    return _filtered(samples, "atempo", f"{_factor(severity, rng):.4f}")


def pitch(samples: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Higher or lower at the same tempo."""
    factor = _factor(severity, rng)
    return _filtered(resample(samples, round(100 * factor), 100), "atempo", f"{1 / factor:.4f}")


def _factor(severity: int, rng: np.random.Generator) -> float:
    change = float(rng.uniform(*{1: (0.02, 0.05), 2: (0.05, 0.1), 3: (0.1, 0.2)}[severity]))
    return 1 + change if rng.random() < 0.5 else 1 - change


def band(samples: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Low and high frequencies cut off; heavy: the telephone's band."""
    low = float(rng.uniform(*{1: (50, 100), 2: (100, 200), 3: (200, 400)}[severity]))
    high = float(rng.uniform(*{1: (6_500, 7_500), 2: (5_000, 6_500), 3: (3_200, 5_000)}[severity]))
    return _filter(samples, low, high, order=int(rng.integers(2, 7)))


def equaliser(samples: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth random curve over frequency."""
    decibels = {1: 3, 2: 6, 3: 12}[severity]
    points = rng.uniform(-decibels, decibels, 7)
    spectrum = np.fft.rfft(samples)
    curve = np.interp(np.linspace(0, 6, len(spectrum)), np.arange(7), points)
    return np.fft.irfft(spectrum * 10 ** (curve / 20), len(samples)).astype(np.float32)


def compressor(samples: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Dynamic range compression: loud parts are turned down by how far they stand over a threshold."""
    below = float(rng.uniform(*{1: (5, 10), 2: (10, 20), 3: (20, 30)}[severity]))
    ratio = float(rng.uniform(*{1: (1.5, 2.5), 2: (2.5, 5), 3: (5, 10)}[severity]))
    smoothing = float(np.exp(-1 / (SAMPLE_RATE * rng.uniform(0.005, 0.05))))
    envelope = signal.lfilter([1 - smoothing], [1, -smoothing], np.abs(samples)) + 1e-6
    over = np.maximum(0, 20 * np.log10(envelope / np.max(envelope)) + below)
    return (samples * 10 ** (-over * (1 - 1 / ratio) / 20)).astype(np.float32)


def clip(samples: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Overdriven: peaks are cut off, or bent."""
    if rng.random() < 0.5:
        return _soft_clip(samples, severity)
    top = float(np.quantile(np.abs(samples), {1: 0.998, 2: 0.99, 3: 0.96}[severity])) + 1e-6
    return np.clip(samples, -top, top)


def denoise(samples: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Noise reduction by spectral subtraction (FFmpeg's afftdn)."""
    reduction = float(rng.uniform(*{1: (6, 12), 2: (12, 25), 3: (25, 50)}[severity]))
    return _filtered(samples, "afftdn", f"nr={reduction:.1f}:nf=-40")


def _soft_clip(samples: np.ndarray, severity: int) -> np.ndarray:
    loud = float(np.sqrt(np.mean(samples**2))) + 1e-6
    return np.tanh(samples / loud * {1: 0.15, 2: 0.4, 3: 1.0}[severity]).astype(np.float32)


def _decibels(severity: int, rng: np.random.Generator) -> float:
    return float(rng.uniform(*{1: (20, 30), 2: (12, 20), 3: (4, 12)}[severity]))


def _add(samples: np.ndarray, other: np.ndarray, decibels: float) -> np.ndarray:
    """Sum with `other` at a signal-to-noise ratio."""
    share = np.sqrt(np.mean(samples**2) / (np.mean(other**2) + 1e-12)) * 10 ** (-decibels / 20)
    return (samples + share * other).astype(np.float32)


def _filter(samples: np.ndarray, low: float, high: float, *, order: int) -> np.ndarray:
    sections = signal.butter(order, (low, high), "bandpass", fs=SAMPLE_RATE, output="sos")
    return signal.sosfilt(sections, samples).astype(np.float32)


def _filtered(samples: np.ndarray, name: str, arguments: str) -> np.ndarray:
    """Through one of FFmpeg's filters."""
    last = "aformat", f"sample_fmts=flt:sample_rates={SAMPLE_RATE}:channel_layouts=mono"
    return run_filters(samples, SAMPLE_RATE, [(name, arguments), last])


CODEC_OPERATIONS: dict[str, Operation] = {name: partial(through, name) for name in CODECS} | {"rate": rate}
LAUNDERING_OPERATIONS: dict[str, Operation] = {
    "noise": noise,
    "babble": babble,
    "room": room,
    "rerecord": rerecord,
    "speed": speed,
    "tempo": tempo,
    "pitch": pitch,
    "band": band,
    "equaliser": equaliser,
    "compressor": compressor,
    "clip": clip,
    "denoise": denoise,
}
OPERATIONS = {**CODEC_OPERATIONS, **LAUNDERING_OPERATIONS}
Chain = list[tuple[str, int]]


def apply_operation(samples: np.ndarray, name: str, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Run one named operation. Raises: ValueError for an unknown name, severity or layout."""
    if name not in OPERATIONS:
        raise ValueError(f"operation is {name!r}; valid operations: {sorted(OPERATIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity is {severity}; it must be one of {SEVERITIES}")
    if samples.ndim != 1 or samples.dtype != np.float32 or len(samples) < _MIN_SAMPLES:
        raise ValueError(f"samples are {samples.dtype} {samples.shape}; expected float32 (N,), N >= {_MIN_SAMPLES}")
    return OPERATIONS[name](samples, severity, rng)


def apply_chain(samples: np.ndarray, chain: Chain, rng: np.random.Generator) -> np.ndarray:
    """Run the operations of a chain one after the other; the loudest sample never passes 1."""
    for name, severity in chain:
        samples = apply_operation(samples, name, severity, rng)
        samples = samples / max(1.0, float(np.abs(samples).max(initial=0)))
    return samples


def codec_chain(rng: np.random.Generator) -> Chain:
    """One or two codecs or rates: what task 2 does to a clip."""
    names = rng.choice(list(CODEC_OPERATIONS), size=int(rng.choice((1, 2), p=(0.75, 0.25))), replace=False)
    return [(str(name), int(rng.choice(SEVERITIES))) for name in names]


def laundering_chain(rng: np.random.Generator) -> Chain:
    """One operation or two, then in a third of the cases a codec: what task 3 does to a clip."""
    names = rng.choice(list(LAUNDERING_OPERATIONS), size=int(rng.choice((1, 2), p=(0.7, 0.3))), replace=False)
    chain = [(str(name), int(rng.choice(SEVERITIES))) for name in names]
    return chain + (codec_chain(rng)[:1] if rng.random() < 1 / 3 else [])


def draw_chain(variant: str, rng: np.random.Generator) -> Chain:
    """variant: one of VARIANTS."""
    return codec_chain(rng) if variant == CODED else laundering_chain(rng)


def process(samples: np.ndarray, variant: str, file: str) -> np.ndarray:
    """The copy of a clip that variant and file name decide, whatever its class: float32 (N,) at 16 kHz.

    variant: one of VARIANTS. Its level as it comes in is drawn, as codecs treat soft and loud sound differently.
    Raises: ValueError: an unknown variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}; valid variants: {VARIANTS}")
    rng = np.random.default_rng([zlib.crc32(variant.encode()), zlib.crc32(file.encode())])
    peak = float(np.abs(samples).max(initial=0)) or 1.0
    samples = (samples * (rng.uniform(0.2, 0.9) / peak)).astype(np.float32)
    return apply_chain(samples, draw_chain(variant, rng), rng)
