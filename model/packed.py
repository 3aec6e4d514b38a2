"""Large matrices in few bits: a transformer of 57 million weights in 37 MB.

Each run of `GROUP` weights of a row has a scale of its own (half precision), each weight a whole number of -15 to 15
times that scale. The numbers, made positive, are stored as bit planes: plane k holds bit k of every one. Packing what
was unpacked gives the same bytes, so weights can be stored again and again without loss.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

GROUP = 64  # weights with one scale
_BITS = 5  # with four, AUC falls by 0.005; the original's eight gain nothing (training/EXPERIMENTS.md)
_LARGEST = 2 ** (_BITS - 1) - 1
_CLIPPINGS = (1.0, 0.9, 0.8, 0.7)  # of a group's largest weight, tried for the scale; the least squared error is kept
_PLANES, _SCALES = ".planes", ".scales"  # suffixes of a packed tensor's two parts


def pack(name: str, matrix: torch.Tensor) -> dict[str, torch.Tensor]:
    """float (R, C) -> name.planes, uint8 (5, R * C / 8), and name.scales, float16 (R, C / GROUP).

    Raises: ValueError: C is no multiple of GROUP.
    """
    rows, columns = matrix.shape
    if columns % GROUP:
        raise ValueError(f"{name} has {columns} columns; packed matrices have a multiple of {GROUP}")
    groups = matrix.detach().float().reshape(rows, -1, GROUP)
    largest = groups.abs().amax(dim=2, keepdim=True)
    least = torch.full_like(largest, torch.inf)
    codes, scales = torch.zeros_like(groups), torch.zeros_like(largest)
    for clipping in _CLIPPINGS:
        scale = (largest * clipping / _LARGEST).half().float()
        code = (groups / scale.clamp(min=1e-12)).round().clamp(-_LARGEST, _LARGEST)
        error = (code * scale - groups).square().sum(dim=2, keepdim=True)
        better = error < least
        codes, scales, least = code.where(better, codes), scale.where(better, scales), error.where(better, least)
    positive = (codes.flatten() + _LARGEST).to(torch.uint8).numpy()
    planes = np.stack([np.packbits(positive >> bit & 1) for bit in range(_BITS)])
    return {name + _PLANES: torch.from_numpy(planes), name + _SCALES: scales[..., 0].half()}


def unpack(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every packed tensor as float32 (R, C) under its own name; the others as they are.

    Raises: ValueError: one of the two parts is missing or does not fit the other.
    """
    unpacked = {}
    for name, tensor in tensors.items():
        if name.endswith(_PLANES):
            name = name.removesuffix(_PLANES)
            unpacked[name] = _matrix(name, tensor.numpy(), tensors.get(name + _SCALES))
        elif not name.endswith(_SCALES):
            unpacked[name] = tensor
    return unpacked


def _matrix(name: str, planes: np.ndarray, scales: torch.Tensor | None) -> torch.Tensor:
    if scales is None or planes.shape != (_BITS, scales.numel() * GROUP // 8):
        raise ValueError(f"{name}: bit planes of shape {planes.shape} do not fit its scales")
    positive = np.zeros(planes.shape[1] * 8, np.uint8)
    for bit, plane in enumerate(planes):
        positive |= np.unpackbits(plane) << bit
    codes = torch.from_numpy(positive).float().sub_(_LARGEST).reshape(*scales.shape, GROUP)
    return codes.mul_(scales.float()[..., None]).flatten(1)
