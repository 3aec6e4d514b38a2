"""The decision: named features of a clip -> its score. NumPy only; training, inference and debug share it.

A feature is what a frozen network read off a clip, a head turns features into a raw score, and the score is the sum of
all raw scores and an offset: a calibrated log-likelihood ratio (natural logarithm), > 0 for generated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Features = Mapping[str, np.ndarray]  # name -> (N, D of the name), a row a clip


@dataclass(frozen=True)
class Projection:
    """A linear map to a space of fewer dimensions: standardisation and principal components in one."""

    matrix: np.ndarray  # (D, P), on raw features
    origin: np.ndarray  # (P,), added after it

    def places(self, features: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, P)."""
        if len(features) == 1:  # a threaded BLAS would spin beside the networks' threads for longer than it works
            return np.einsum("nd,dp->np", features, self.matrix) + self.origin
        return features @ self.matrix + self.origin


@dataclass(frozen=True)
class KernelHead:
    """A Gaussian support vector machine on the places of clips in a projection's space."""

    projection: Projection
    support: np.ndarray  # (M, P)
    coefficients: np.ndarray  # (M,)
    kernel_scale: float  # kernel: exp(-kernel_scale * squared distance)
    intercept: float = 0.0

    def raw_scores(self, features: np.ndarray) -> np.ndarray:
        """(N, D) -> (N,), not calibrated, > 0 leans to generated."""
        places = self.projection.places(features).astype(self.support.dtype, copy=False)
        return gaussian_kernel(places, self.support, self.kernel_scale) @ self.coefficients + self.intercept


@dataclass(frozen=True)
class LinearHead:
    """A decision that is linear in the features."""

    direction: np.ndarray  # (D,), on raw features
    intercept: float

    def raw_scores(self, features: np.ndarray) -> np.ndarray:
        """(N, D) -> (N,), not calibrated, > 0 leans to generated."""
        return features @ self.direction + self.intercept


Head = KernelHead | LinearHead


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, P), (M, P) -> (N, M)."""
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0)


def gaussian_kernel(a: np.ndarray, b: np.ndarray, scale: float) -> np.ndarray:
    """(N, P), (M, P) -> exp(-scale * squared distance), (N, M)."""
    return np.exp(-scale * squared_distances(a, b))


@dataclass(frozen=True)
class Decision:
    """Every head with what it reads, and the offset that puts the threshold at 0."""

    heads: Mapping[str, Head]
    reads: Mapping[str, Sequence[str]]  # head -> names of features, side by side in this order
    offset: float

    def scores(self, features: Features) -> np.ndarray:
        """Calibrated log-likelihood ratios, float64 (N,).

        Projections are computed in the features' precision, kernels in double.
        """
        raw = [head.raw_scores(side_by_side(features, self.reads[name])) for name, head in self.heads.items()]
        return np.stack(raw).sum(axis=0, dtype=np.float64) + self.offset


def side_by_side(features: Features, names: Sequence[str]) -> np.ndarray:
    """Name -> (N, D of the name) becomes (N, sum of D)."""
    return features[names[0]] if len(names) == 1 else np.concatenate([features[name] for name in names], axis=1)


def to_arrays(decision: Decision, sizes: Mapping[str, int]) -> tuple[dict[str, np.ndarray], dict[str, Any], float]:
    """What a file of weights holds (float32), what the manifest says of each head, and the offset.

    A kernel head's map stands as `as_<feature>.weight`, (P, D), for each feature that it reads, its origin as
    `as_<first feature>.bias`; then `machines.<head>.support` and `.coefficients`. A linear head's stand as
    `<head>.weight`, (1, D), and `<head>.bias`. Kernel heads' intercepts are part of the offset. sizes: feature -> D.
    Raises: ValueError: a head takes more or fewer features than it reads, or two would have one name.
    """
    arrays: dict[str, np.ndarray] = {}
    settings: dict[str, Any] = {}
    offset = decision.offset
    for name, head in decision.heads.items():
        reads = tuple(decision.reads[name])
        matrix = head.projection.matrix if isinstance(head, KernelHead) else head.direction[:, None]
        if len(matrix) != sum(sizes[feature] for feature in reads):
            raise ValueError(f"the head {name!r} takes {len(matrix)} features; {reads} are {[sizes[r] for r in reads]}")
        if isinstance(head, LinearHead):
            own = {f"{name}.weight": matrix.T, f"{name}.bias": np.array([head.intercept])}
            settings[name] = {"reads": list(reads)}
        else:
            ends = np.cumsum([sizes[feature] for feature in reads])[:-1]
            parts = zip(reads, np.split(matrix, ends), strict=True)
            own = {f"as_{feature}.weight": part.T for feature, part in parts}
            own |= {f"as_{reads[0]}.bias": head.projection.origin, f"machines.{name}.support": head.support}
            own |= {f"machines.{name}.coefficients": head.coefficients}
            settings[name] = {"reads": list(reads), "kernel_scale": head.kernel_scale}
            offset += head.intercept
        if arrays.keys() & own.keys():
            raise ValueError(f"the head {name!r} would overwrite {sorted(arrays.keys() & own.keys())}")
        arrays |= {key: np.ascontiguousarray(array, np.float32) for key, array in own.items()}
    return arrays, settings, offset


def from_arrays(
    arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any], offset: float, sizes: Mapping[str, int]
) -> Decision:
    """Undo `to_arrays`. Raises: KeyError, ValueError: arrays that are missing, left over, or of other sizes."""
    left = {key: np.asarray(array, np.float32) for key, array in arrays.items()}
    heads: dict[str, Head] = {}
    for name, setting in settings.items():
        size = sum(sizes[feature] for feature in setting["reads"])
        if "kernel_scale" in setting:
            matrix = np.concatenate([left.pop(f"as_{feature}.weight") for feature in setting["reads"]], axis=1)
            projection = Projection(matrix.T, left.pop(f"as_{setting['reads'][0]}.bias"))
            support, coefficients = (left.pop(f"machines.{name}.{part}") for part in ("support", "coefficients"))
            heads[name] = KernelHead(
                projection, support.astype(np.float64), coefficients.astype(np.float64), setting["kernel_scale"]
            )
            fits = matrix.shape[0] == len(projection.origin) == support.shape[1] and len(support) == len(coefficients)
        else:
            matrix, intercept = left.pop(f"{name}.weight"), left.pop(f"{name}.bias")
            heads[name] = LinearHead(matrix[0], float(intercept[0]))
            fits = len(matrix) == len(intercept) == 1
        if matrix.shape[1] != size or not fits:
            raise ValueError(
                f"the head {name!r} reads {size} features {setting['reads']}; its arrays are of other sizes"
            )
    if left:
        raise ValueError(f"no head of the manifest has {sorted(left)}")
    return Decision(heads, {name: tuple(setting["reads"]) for name, setting in settings.items()}, offset)


def merge_heads(heads: Sequence[Head], shares: Sequence[float]) -> Head:
    """One head whose raw score is the weighted sum of those of heads of one type, and with one projection if any.

    Support that is the same in half precision, as the file holds it, becomes one. Raises: ValueError.
    """
    pairs = list(zip(heads, shares, strict=True))
    intercept = sum(share * head.intercept for head, share in pairs)
    linear = [share * head.direction for head, share in pairs if isinstance(head, LinearHead)]
    if len(linear) == len(pairs):
        return LinearHead(np.sum(linear, axis=0), intercept)
    kernels = [(head, share) for head, share in pairs if isinstance(head, KernelHead)]
    if len({id(head.projection) for head, _ in kernels}) > 1 or linear:
        raise ValueError("heads of different types or with different projections cannot be merged")
    support = np.concatenate([head.support for head, _ in kernels])
    coefficients = np.concatenate([share * head.coefficients for head, share in kernels])
    _, chosen, indices = np.unique(support.astype(np.float16), axis=0, return_index=True, return_inverse=True)
    merged = np.bincount(indices.ravel(), weights=coefficients)
    first = kernels[0][0]
    return KernelHead(first.projection, support[chosen], merged, first.kernel_scale, intercept)
