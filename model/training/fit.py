"""Features -> the linear maps and the machines of `network.ViewNetwork`, and the fusion of what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC


@dataclass(frozen=True)
class FitConfig:
    """How the decision is fitted; chosen by cross-validation, see EXPERIMENTS.md."""

    num_components: int  # principal components kept
    penalty: float = 10.0  # C of the support vector machine
    kernel_width: float = 1.0  # kernel exp(-kernel_width * squared distance / median squared distance)


@dataclass(frozen=True)
class Head:
    """A fitted decision: clip features (D,) -> place (P,) -> raw score."""

    projection: np.ndarray  # (D, P), on raw features
    origin: np.ndarray  # (P,), added after the projection
    support: np.ndarray  # (M, P)
    coefficients: np.ndarray  # (M,)
    intercept: float
    kernel_scale: float

    def raw_scores(self, features: np.ndarray) -> np.ndarray:
        """(N, D) -> (N,), not calibrated, > 0 leans to generated."""
        places = features @ self.projection + self.origin
        return _gaussian_kernel(places, self.support, self.kernel_scale) @ self.coefficients + self.intercept


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0)


def _gaussian_kernel(a: np.ndarray, b: np.ndarray, scale: float) -> np.ndarray:
    return np.exp(-scale * _squared_distances(a, b))


@dataclass(frozen=True)
class LinearHead:
    """A fitted decision that is linear in clip features (D,)."""

    direction: np.ndarray  # (D,), on raw features
    intercept: float

    def raw_scores(self, features: np.ndarray) -> np.ndarray:
        """(N, D) -> (N,), not calibrated, > 0 leans to generated."""
        return features @ self.direction + self.intercept


@dataclass(frozen=True)
class Scaling:
    """Standardised features, their squared length 1 in the mean; fitted without labels."""

    mean: np.ndarray  # (D,)
    unit: np.ndarray  # (D,)


@dataclass(frozen=True)
class Projection:
    """Standardised principal components, and the kernel's width among them; fitted without labels."""

    matrix: np.ndarray  # (D, P)
    origin: np.ndarray  # (P,)
    kernel_scale: float

    def places(self, features: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, P)."""
        return features @ self.matrix + self.origin


def fit_projection(features: np.ndarray, config: FitConfig) -> Projection:
    """features: float32 (N, D)."""
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    standard = (features - mean) / deviation
    components = _principal_components(standard, config.num_components)
    places = standard @ components
    matrix = components / deviation[:, None]
    scale = config.kernel_width / float(np.median(_squared_distances(places, places)))
    return Projection(matrix, -mean @ matrix, scale)


def fit_head(
    features: np.ndarray, generated: np.ndarray, weights: np.ndarray, projection: Projection, config: FitConfig
) -> Head:
    """A Gaussian support vector machine. features: (N, D); generated: bool (N,); weights: (N,), mean 1."""
    places = projection.places(features)
    machine = SVC(C=config.penalty, kernel="precomputed", cache_size=500)
    machine.fit(_gaussian_kernel(places, places, projection.kernel_scale), generated.astype(int), sample_weight=weights)
    support, coefficients = places[machine.support_], machine.dual_coef_[0]
    intercept = float(machine.intercept_[0])
    return Head(projection.matrix, projection.origin, support, coefficients, intercept, projection.kernel_scale)


def fit_scaling(features: np.ndarray) -> Scaling:
    """features: float32 (N, D)."""
    return Scaling(features.mean(0), (features.std(0) + 1e-6) * np.sqrt(features.shape[1]))


def fit_linear_head(
    features: np.ndarray, generated: np.ndarray, weights: np.ndarray, scaling: Scaling, penalty: float
) -> LinearHead:
    """A linear support vector machine. features: (N, D); generated: bool (N,); weights: (N,), mean 1."""
    scaled = (features - scaling.mean) / scaling.unit
    machine = SVC(C=penalty, kernel="precomputed", cache_size=500)
    machine.fit(scaled @ scaled.T, generated.astype(int), sample_weight=weights)
    direction = machine.dual_coef_[0] @ scaled[machine.support_] / scaling.unit
    return LinearHead(direction, float(machine.intercept_[0] - scaling.mean @ direction))


def merge_heads(heads: Sequence[Head], shares: Sequence[float]) -> Head:
    """One head whose raw score is the weighted sum of those of heads with one projection.

    Places that are the same in half precision, as the file holds them, become one.
    """
    first = heads[0]
    if any(head.projection is not first.projection for head in heads):
        raise ValueError("heads with different projections cannot be merged")
    support = np.concatenate([head.support for head in heads])
    _, chosen, indices = np.unique(support.astype(np.float16), axis=0, return_index=True, return_inverse=True)
    coefficients = np.concatenate([share * head.coefficients for head, share in zip(heads, shares, strict=True)])
    return Head(
        first.projection,
        first.origin,
        support[chosen],
        np.bincount(indices.ravel(), weights=coefficients),
        sum(share * head.intercept for head, share in zip(heads, shares, strict=True)),
        first.kernel_scale,
    )


def merge_linear_heads(heads: Sequence[LinearHead], shares: Sequence[float]) -> LinearHead:
    """One head whose raw score is the weighted sum of those of the heads."""
    pairs = list(zip(heads, shares, strict=True))
    direction = np.sum([share * head.direction for head, share in pairs], axis=0)
    return LinearHead(direction, sum(share * head.intercept for head, share in pairs))


def _principal_components(standard: np.ndarray, count: int) -> np.ndarray:
    """(N, D) -> (D, count) orthonormal directions of the most variance, from the Gram matrix of the rows."""
    gram = (standard @ standard.T).astype(np.float64)
    count = min(count, len(standard) - 1)
    values, vectors = eigh(gram, subset_by_index=(len(gram) - count, len(gram) - 1))  # ascending
    directions = standard.T @ (vectors[:, ::-1] / np.sqrt(np.maximum(values[::-1], 1e-9))).astype(np.float32)
    return directions.astype(np.float32)


def fuse(
    evidence: Sequence[np.ndarray], importance: np.ndarray, generated: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, float]:
    """(weights (E,), offset) that turn raw out-of-fold evidence into log-likelihood ratios, all sources equal.

    The pieces of evidence, each in units of its own deviation, are added up by their importance; only scale and offset
    of the sum are learnt. A regression on all of them fits the sources it sees: worse on others (EXPERIMENTS.md).

    evidence: one array (N, E) per variant of the clips (as found, post-processed); all variants count the same.
    importance: (E,).
    """
    stacked = np.concatenate(evidence)
    shares = importance / (stacked.std(axis=0) + 1e-12)
    total = stacked @ shares
    unit = float(total.std()) + 1e-12
    model = LogisticRegression(C=1.0)
    model.fit(
        total[:, None] / unit,
        np.tile(generated.astype(int), len(evidence)),
        sample_weight=np.tile(weights, len(evidence)),
    )
    return shares * (float(model.coef_[0, 0]) / unit), float(model.intercept_[0])
