"""Matrices in few bits: near the originals, the same bytes when packed again, what does not fit is refused."""

from __future__ import annotations

import pytest
import torch

from model.quantised import pack, unpack


def _matrix(rows: int = 24, columns: int = 256) -> torch.Tensor:
    """Rows of different scales, with outliers, as transformers have them."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(rows, columns, generator=generator) * torch.logspace(-3, 1, rows)[:, None]
    matrix[::5, ::37] *= 8
    matrix[3] = 0
    return matrix


def test_packed_matrices_are_near_the_originals_in_a_seventh_of_the_size() -> None:
    matrix = torch.cat([_matrix(columns=4096), torch.randn(1000, 4096, generator=torch.Generator().manual_seed(1))])
    matrix[7, 0] = 50 * matrix[7].std()
    packed = pack("blocks.0.weight", matrix)
    assert set(packed) == {"blocks.0.weight.codes", "blocks.0.weight.steps"}
    size = sum(tensor.numel() * tensor.element_size() for tensor in packed.values())
    assert size < matrix.numel() * 4 / 7
    unpacked = unpack({**packed, "other": torch.ones(3)})
    assert set(unpacked) == {"blocks.0.weight", "other"} and torch.equal(unpacked["other"], torch.ones(3))
    error = (unpacked["blocks.0.weight"] - matrix).square().sum(1) / matrix.square().sum(1).clamp(min=1e-12)
    assert error.max() < 0.01 and error.median() < 0.0045  # the far outlier costs its row the most
    assert not unpacked["blocks.0.weight"][3].any()
    torch.testing.assert_close(unpacked["blocks.0.weight"][7, 0], matrix[7, 0], rtol=5e-3, atol=0)


def test_packing_again_loses_nothing() -> None:
    first = pack("m", _matrix())
    matrix = unpack(first)["m"]
    second = pack("m", matrix)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert torch.equal(unpack(second)["m"], matrix)


def test_a_finer_grid_than_is_wanted_is_not_kept() -> None:
    """As quantised networks have it that are packed for the first time."""
    fine = (30 * torch.randn(8, 256, generator=torch.Generator().manual_seed(0))).round()
    kept = unpack(pack("m", fine))["m"]
    assert all(len(row.unique()) < len(original.unique()) / 2 for row, original in zip(kept, fine, strict=True))


def test_what_does_not_fit_is_refused() -> None:
    packed = pack("m", _matrix())
    with pytest.raises(ValueError, match="m: codes without steps"):
        unpack({"m.codes": packed["m.codes"]})
    with pytest.raises(ValueError, match="m: 6144 numbers do not fit 23 rows"):
        unpack({"m.codes": packed["m.codes"], "m.steps": packed["m.steps"][1:]})
    with pytest.raises(ValueError, match="m: damaged codes"):
        unpack({"m.codes": packed["m.codes"][:-9], "m.steps": packed["m.steps"]})
