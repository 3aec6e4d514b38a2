"""Large matrices in few bits: a transformer of 71 million weights in 39 MB.

Each row is rounded to whole numbers of a step of its own; small numbers are far more frequent than large ones, so a
Huffman code (zlib's) holds them in 4.4 bits each. Packing what was unpacked gives the same bytes (if a row has a weight
of one step, as hundreds of weights always have), so weights can be stored again and again without loss.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

_STEP = 0.195  # of a row's root mean square, for 60 MB in all; 0.15 gives 0.001 more AUC (training/DECISIONS.md)
_LARGEST = 127
_CODES, _STEPS = ".codes", ".steps"  # suffixes of a packed tensor's two parts


def pack(name: str, matrix: np.ndarray) -> dict[str, np.ndarray]:
    """float (R, C) -> name.codes, uint8 (num_bytes,), and name.steps, float16 (R,)."""
    rows = matrix.astype(np.float32)
    steps = _steps(rows)
    levels = np.rint(rows / steps.astype(np.float32)[:, None]).clip(-_LARGEST, _LARGEST).astype(np.int8)
    coder = zlib.compressobj(level=9, strategy=zlib.Z_HUFFMAN_ONLY)
    codes = coder.compress(levels.tobytes()) + coder.flush()
    return {name + _CODES: np.frombuffer(codes, np.uint8).copy(), name + _STEPS: steps}


def _steps(rows: np.ndarray) -> np.ndarray:
    """(R, C) -> float16 (R,), positive. A row that stands on steps of about the size wanted, or larger, keeps them."""
    sizes = np.abs(rows)
    wanted = np.maximum(_STEP * np.sqrt(np.square(rows).mean(axis=1)), sizes.max(axis=1) / _LARGEST)
    smallest = np.where(sizes > 0, sizes, np.inf).min(axis=1)
    levels = rows / smallest[:, None]
    stands = (np.abs(levels - np.rint(levels)).max(axis=1) < 1e-3) & (smallest > 0.95 * wanted)
    steps = np.where(stands & np.isfinite(smallest), smallest, wanted).astype(np.float16)
    return np.maximum(steps, np.finfo(np.float16).smallest_normal)


def unpack(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every packed array as float32 (R, C) under its own name; the others as they are.

    Raises: ValueError: one of the two parts is missing or damaged, or does not fit the other.
    """
    unpacked = {}
    for name, array in arrays.items():
        if name.endswith(_CODES):
            name = name.removesuffix(_CODES)
            unpacked[name] = _matrix(name, array, arrays.get(name + _STEPS))
        elif not name.endswith(_STEPS):
            unpacked[name] = array
    return unpacked


def _matrix(name: str, codes: np.ndarray, steps: np.ndarray | None) -> np.ndarray:
    if steps is None:
        raise ValueError(f"{name}: codes without steps")
    try:
        levels = np.frombuffer(zlib.decompress(codes), np.int8)
    except zlib.error as error:
        raise ValueError(f"{name}: damaged codes ({error})") from error
    if len(levels) % len(steps):
        raise ValueError(f"{name}: {len(levels)} numbers do not fit {len(steps)} rows")
    matrix = levels.reshape(len(steps), -1).astype(np.float32)
    matrix *= steps.astype(np.float32)[:, None]
    return matrix
