"""Matrices in few bits: near the originals, the same bytes when packed again, what does not fit is refused."""

from __future__ import annotations

import numpy as np
import pytest

from model.quantised import pack, unpack


def _matrix(rows: int = 24, columns: int = 256) -> np.ndarray:
    """Rows of different scales, with outliers, as transformers have them."""
    normal = np.random.default_rng(0).standard_normal((rows, columns), dtype=np.float32)
    matrix = normal * np.logspace(-3, 1, rows, dtype=np.float32)[:, None]
    matrix[::5, ::37] *= 8
    matrix[3] = 0
    return matrix


def test_packed_matrices_are_near_the_originals_in_a_seventh_of_the_size() -> None:
    matrix = np.concatenate([_matrix(columns=4096), np.random.default_rng(1).standard_normal((1000, 4096))])
    matrix[7, 0] = 50 * matrix[7].std()
    packed = pack("blocks.0.weight", matrix)
    assert set(packed) == {"blocks.0.weight.codes", "blocks.0.weight.steps"}
    size = sum(array.nbytes for array in packed.values())
    assert size < matrix.size * 4 / 7
    unpacked = unpack({**packed, "other": np.ones(3)})
    assert set(unpacked) == {"blocks.0.weight", "other"} and np.array_equal(unpacked["other"], np.ones(3))
    error = np.square(unpacked["blocks.0.weight"] - matrix).sum(1) / np.maximum(np.square(matrix).sum(1), 1e-12)
    assert error.max() < 0.01 and np.median(error) < 0.0045  # the far outlier costs its row the most
    assert not unpacked["blocks.0.weight"][3].any()
    assert unpacked["blocks.0.weight"][7, 0] == pytest.approx(matrix[7, 0], rel=5e-3)


def test_packing_again_loses_nothing() -> None:
    first = pack("m", _matrix())
    matrix = unpack(first)["m"]
    second = pack("m", matrix)
    assert all(np.array_equal(array, second[name]) for name, array in first.items())
    assert np.array_equal(unpack(second)["m"], matrix)


def test_a_finer_grid_than_is_wanted_is_not_kept() -> None:
    """As quantised networks have it that are packed for the first time."""
    fine = (30 * np.random.default_rng(0).standard_normal((8, 256))).round()
    kept = unpack(pack("m", fine))["m"]
    assert all(len(np.unique(row)) < len(np.unique(original)) / 2 for row, original in zip(kept, fine, strict=True))


def test_what_does_not_fit_is_refused() -> None:
    packed = pack("m", _matrix())
    with pytest.raises(ValueError, match="m: codes without steps"):
        unpack({"m.codes": packed["m.codes"]})
    with pytest.raises(ValueError, match="m: 6144 numbers do not fit 23 rows"):
        unpack({"m.codes": packed["m.codes"], "m.steps": packed["m.steps"][1:]})
    with pytest.raises(ValueError, match="m: damaged codes"):
        unpack({"m.codes": packed["m.codes"][:-9], "m.steps": packed["m.steps"]})
