"""A sound's samples through the worker process, for pages: what `FramesPreparation` is for video. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from model.audio.prepare import AudioPreparation
from model.audio.reading import SAMPLE_RATE, Sound
from model.config import MAX_SOUND_SECONDS, LimitsConfig
from model.modality import Prepared

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 1 << 16


@dataclass(frozen=True)
class SamplesPreparation:
    """A `modality.Preparation` whose content is the samples themselves, for `unpack_sound`."""

    audio: AudioPreparation

    @property
    def limits(self) -> LimitsConfig:
        return self.audio.limits

    @property
    def max_bytes(self) -> int:
        return 4 * round((MAX_SOUND_SECONDS + 1) * SAMPLE_RATE) + _MAX_HEADER_BYTES

    @property
    def attempts(self) -> int:
        return self.audio.attempts

    def __call__(self, source: bytes | str, attempt: int = 0) -> Prepared:
        """Raises: Unreadable."""
        sound = self.audio.read(source)
        told = {"rate": sound.rate, "num_read": sound.num_read, "note": sound.note}
        header = json.dumps({**told, "duration_seconds": sound.duration_seconds}).encode()
        first = np.frombuffer(len(header).to_bytes(_LENGTH_BYTES, "little") + header, np.uint8)
        samples = np.ascontiguousarray(sound.samples, np.float32).view(np.uint8)
        return Prepared(np.concatenate([first, samples]), "pyav", sound.note)


def unpack_sound(content: np.ndarray) -> Sound:
    """Undo the packing of `SamplesPreparation`. content: uint8 (n,). Raises: ValueError: it is none."""
    start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES].tobytes(), "little")
    return Sound(samples=content[start:].copy().view(np.float32), **json.loads(content[_LENGTH_BYTES:start].tobytes()))
