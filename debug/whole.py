"""A file as it was read, not yet cut into views, for pages: a video's frames, a sound's samples. Imports no torch."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from model.audio.prepare import AudioPreparation
from model.config import LimitsConfig
from model.modality import Prepared, Unreadable
from model.run.isolated import IsolatedPreparation
from model.video.prepare import VideoPreparation

_Read = TypeVar("_Read")
_MORE_BYTES = 1 << 20  # than the arrays have


@dataclass(frozen=True)
class WholePreparation:
    """A `modality.Preparation` whose content is what another one reads: a dataclass of arrays, for `unpack`."""

    inner: VideoPreparation | AudioPreparation

    @property
    def limits(self) -> LimitsConfig:
        return self.inner.limits

    @property
    def max_bytes(self) -> int:
        return self.limits.max_decoded_bytes + _MORE_BYTES

    @property
    def attempts(self) -> int:
        return self.inner.attempts

    def __call__(self, source: bytes | str, attempt: int = 0) -> Prepared:
        """Raises: Unreadable."""
        read = self.inner.read(source, attempt)
        arrays: dict[str, Any] = {}
        for name, value in vars(read).items():
            several = isinstance(value, tuple)
            arrays |= {f"{name}.{k}": part for k, part in enumerate(value)} if several else {name: value}
        packed = io.BytesIO()
        np.savez(packed, **arrays)
        return Prepared(np.frombuffer(packed.getbuffer(), np.uint8), type(read).__name__)


def unpack(content: np.ndarray, kind: type[_Read]) -> _Read:
    """Undo the packing of `WholePreparation`. content: uint8 (n,). kind: of what was read, `Clip` or `Sound`."""
    values: dict[str, Any] = {}
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        for name, array in arrays.items():
            field, _, place = name.partition(".")
            if place:
                values[field] = (*values.get(field, ()), array)
            else:
                values[field] = array if array.ndim else array.item()
    return kind(**values)


def read_isolated(
    file: Path, preparation: VideoPreparation | AudioPreparation, kind: type[_Read], deadline: float = math.inf
) -> _Read:
    """In a process of its own, which a broken decoder takes down alone.

    Raises: Unreadable; also where it is not there by `deadline`, on time.monotonic().
    """
    with IsolatedPreparation(WholePreparation(preparation)) as read:
        done = read(str(file), deadline=deadline)
    if done.prepared is None:
        raise Unreadable(done.reason)
    return unpack(done.prepared.content, kind)
