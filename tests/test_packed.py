"""Matrices in few bits: near the originals, the same bytes when packed again, what does not fit is refused."""

from __future__ import annotations

import pytest
import torch

from model.packed import GROUP, pack, unpack


def _matrix(rows: int = 24, columns: int = 4 * GROUP) -> torch.Tensor:
    """Rows of different scales, with outliers, as transformers have them."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(rows, columns, generator=generator) * torch.logspace(-3, 1, rows)[:, None]
    matrix[::5, ::37] *= 8
    matrix[3] = 0
    return matrix


def test_packed_matrices_are_near_the_originals_in_a_sixth_of_the_size() -> None:
    matrix = _matrix()
    packed = pack("blocks.0.weight", matrix)
    assert set(packed) == {"blocks.0.weight.planes", "blocks.0.weight.scales"}
    size = sum(tensor.numel() * tensor.element_size() for tensor in packed.values())
    assert size == matrix.numel() * (5 / 8 + 2 / GROUP)
    unpacked = unpack({**packed, "other": torch.ones(3)})
    assert set(unpacked) == {"blocks.0.weight", "other"} and torch.equal(unpacked["other"], torch.ones(3))
    error = (unpacked["blocks.0.weight"] - matrix).square().sum(1) / matrix.square().sum(1).clamp(min=1e-12)
    assert error.max() < 0.02 and error.median() < 0.005  # the outliers cost their groups the most
    assert not unpacked["blocks.0.weight"][3].any()


def test_packing_again_loses_nothing() -> None:
    first = pack("m", _matrix())
    second = pack("m", unpack(first)["m"])
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="m has 65 columns; packed matrices have a multiple of 64"):
        pack("m", torch.zeros(2, GROUP + 1))
    packed = pack("m", _matrix())
    with pytest.raises(ValueError, match="m: bit planes"):
        unpack({"m.planes": packed["m.planes"]})
    with pytest.raises(ValueError, match="m: bit planes"):
        unpack({"m.planes": packed["m.planes"], "m.scales": packed["m.scales"][1:]})
