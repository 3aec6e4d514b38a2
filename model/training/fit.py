"""Features -> heads, and the fusion of what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import SVC

from ..heads import KernelHead, LinearHead, Projection, gaussian_kernel, squared_distances

_RIDGE = 0.05  # penalty of a regression on features whose squared length is 1 in the mean
_EVENED = 0.15  # of a score's deviation: what a trait's is taken off with


@dataclass(frozen=True)
class KernelFit:
    """How a kernel head is fitted; chosen by cross-validation, see DECISIONS.md."""

    reads: tuple[str, ...]  # names of features
    num_components: int  # principal components kept
    penalty: float = 10.0  # C of the support vector machine
    kernel_width: float = 1.0  # kernel exp(-kernel_width * squared distance / median squared distance)


@dataclass(frozen=True)
class LinearFit:
    """How a linear head is fitted."""

    reads: tuple[str, ...]  # names of features
    penalty: float = 1.0  # C of the support vector machine


@dataclass(frozen=True)
class Scaling:
    """Standardised features, their squared length 1 in the mean; fitted without labels."""

    mean: np.ndarray  # (D,)
    unit: np.ndarray  # (D,)


def fit_projection(features: np.ndarray, num_components: int) -> Projection:
    """Standardised principal components, without labels. features: float32 (N, D)."""
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    components = _principal_components((features - mean) / deviation, num_components)
    matrix = components / deviation[:, None]
    return Projection(matrix, -mean @ matrix)


def kernel_scale(features: np.ndarray, projection: Projection, kernel_width: float) -> float:
    """Of a kernel `kernel_width` wide, in units of the places' median squared distance; without labels."""
    places = projection.places(features)
    return kernel_width / float(np.median(squared_distances(places, places)))


def fit_head(
    features: np.ndarray,
    generated: np.ndarray,
    weights: np.ndarray,
    *,
    projection: Projection,
    scale: float,
    penalty: float,
) -> KernelHead:
    """A Gaussian support vector machine. features: (N, D); generated: bool (N,); weights: (N,), mean 1."""
    places = projection.places(features)
    machine = SVC(C=penalty, kernel="precomputed", cache_size=500)
    machine.fit(gaussian_kernel(places, places, scale), generated.astype(int), sample_weight=weights)
    support, coefficients = places[machine.support_], machine.dual_coef_[0]
    return KernelHead(projection, support, coefficients, scale, float(machine.intercept_[0]))


def fit_scaling(features: np.ndarray) -> Scaling:
    """features: float32 (N, D)."""
    return Scaling(features.mean(0), (features.std(0) + 1e-6) * np.sqrt(features.shape[1]))


def fit_linear_head(
    features: np.ndarray, generated: np.ndarray, weights: np.ndarray, *, scaling: Scaling, penalty: float
) -> LinearHead:
    """A linear support vector machine. features: (N, D); generated: bool (N,); weights: (N,), mean 1."""
    scaled = (features - scaling.mean) / scaling.unit
    machine = SVC(C=penalty, kernel="precomputed", cache_size=500)
    machine.fit(scaled @ scaled.T, generated.astype(int), sample_weight=weights)
    direction = machine.dual_coef_[0] @ scaled[machine.support_] / scaling.unit
    return LinearHead(direction, float(machine.intercept_[0] - scaling.mean @ direction))


def even_out(head: LinearHead, features: np.ndarray, trait: np.ndarray, generated: np.ndarray) -> LinearHead:
    """The head less a part of what its features tell of a trait, as a ridge regression within the classes says it.

    So its score rests less on that trait, which is not the question.

    features: (N, D); trait: (N,); generated: bool (N,).
    """
    scaling = fit_scaling(features)
    within = trait - np.where(generated, trait[generated].mean(), trait[~generated].mean())
    regression = Ridge(alpha=_RIDGE).fit((features - scaling.mean) / scaling.unit, within)
    told = regression.coef_ / scaling.unit
    part = _EVENED * head.raw_scores(features).std() / (features @ told).std()
    return LinearHead(head.direction - part * told, float(head.intercept + part * (scaling.mean @ told)))


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
    of the sum are learnt. A regression on all of them fits the sources it sees: worse on others (DECISIONS.md).

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
