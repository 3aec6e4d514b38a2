"""Large matrices in few bits: a transformer of 71 million weights in 39 MB.

Each row is rounded to whole numbers of a step of its own; small numbers are far more frequent than large ones, so a
Huffman code (zlib's) holds them in 4.4 bits each. Packing what was unpacked gives the same bytes (if a row has a weight
of one step, as hundreds of weights always have), so weights can be stored again and again without loss.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import torch

_STEP = 0.195  # of a row's root mean square, for 60 MB in all; 0.15 gives 0.001 more AUC (training/DECISIONS.md)
_LARGEST = 127
_CODES, _STEPS = ".codes", ".steps"  # suffixes of a packed tensor's two parts


def pack(name: str, matrix: torch.Tensor) -> dict[str, torch.Tensor]:
    """float (R, C) -> name.codes, uint8 (num_bytes,), and name.steps, float16 (R,)."""
    rows = matrix.detach().float()
    steps = _steps(rows)
    levels = (rows / steps.float()[:, None]).round().clamp(-_LARGEST, _LARGEST).to(torch.int8)
    coder = zlib.compressobj(level=9, strategy=zlib.Z_HUFFMAN_ONLY)
    codes = coder.compress(levels.numpy().tobytes()) + coder.flush()
    return {name + _CODES: torch.from_numpy(np.frombuffer(codes, np.uint8).copy()), name + _STEPS: steps}


def _steps(rows: torch.Tensor) -> torch.Tensor:
    """(R, C) -> float16 (R,), positive. A row that stands on steps of about the size wanted, or larger, keeps them."""
    wanted = torch.maximum(_STEP * rows.square().mean(dim=1).sqrt(), rows.abs().amax(dim=1) / _LARGEST)
    smallest = rows.abs().where(rows != 0, torch.inf).amin(dim=1)
    levels = rows / smallest[:, None]
    stands = ((levels - levels.round()).abs().amax(dim=1) < 1e-3) & (smallest > 0.95 * wanted)
    steps = smallest.where(stands & smallest.isfinite(), wanted).half()
    return steps.clamp(min=torch.finfo(torch.float16).smallest_normal)


def unpack(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every packed tensor as float32 (R, C) under its own name; the others as they are.

    Raises: ValueError: one of the two parts is missing or damaged, or does not fit the other.
    """
    unpacked = {}
    for name, tensor in tensors.items():
        if name.endswith(_CODES):
            name = name.removesuffix(_CODES)
            unpacked[name] = _matrix(name, tensor.numpy(), tensors.get(name + _STEPS))
        elif not name.endswith(_STEPS):
            unpacked[name] = tensor
    return unpacked


def _matrix(name: str, codes: np.ndarray, steps: torch.Tensor | None) -> torch.Tensor:
    if steps is None:
        raise ValueError(f"{name}: codes without steps")
    try:
        levels = np.frombuffer(zlib.decompress(codes.tobytes()), np.int8)
    except zlib.error as error:
        raise ValueError(f"{name}: damaged codes ({error})") from error
    if len(levels) % len(steps):
        raise ValueError(f"{name}: {len(levels)} numbers do not fit {len(steps)} rows")
    return torch.from_numpy(levels.astype(np.float32)).reshape(len(steps), -1).mul_(steps.float()[:, None])
