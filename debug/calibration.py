"""What a score is worth beyond its decision: Cllr, the best threshold, reliability.

`score` is a natural log-likelihood ratio (> 0 means generated). Every function takes `weights` so that sources
can count equally however many clips each has, as in the competition's metric.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def source_weights(is_generated: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Weights with which a sum over rows is a mean over sources, then over the two classes.

    Returns: float64 (N,); sums to 0.5 over the generated rows and to 0.5 over the real ones.

    Example: labels G G G R, sources a a b c -> 1/8 1/8 1/4 1/2.
    """
    weights = np.zeros(len(sources), dtype=np.float64)
    for label in (True, False):
        names, inverse, counts = np.unique(
            sources[is_generated == label].astype(str), return_inverse=True, return_counts=True
        )
        if len(names):
            weights[is_generated == label] = 0.5 / len(names) / counts[inverse]
    return weights


def cllr(scores: np.ndarray, is_generated: np.ndarray, weights: np.ndarray) -> float:
    """Cost of the log-likelihood ratio in bits (Bruemmer and du Preez 2006); 0 is perfect, 1 says nothing.

    An infinite score on the wrong side costs infinitely much; on the right side it costs nothing.
    Returns NaN where a class is absent.
    """
    costs = np.logaddexp(0.0, np.where(is_generated, -scores, scores)) / np.log(2.0)
    total = 0.0
    for label in (True, False):
        mass = weights[is_generated == label].sum()
        if mass <= 0:
            return float("nan")
        total += 0.5 * float((costs[is_generated == label] * weights[is_generated == label]).sum() / mass)
    return total


def pool_adjacent_violators(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The non-decreasing sequence nearest to `values` in weighted least squares (isotonic regression).

    Example: values 0 1 0 1, equal weights -> 0 0.5 0.5 1.
    """
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, mass, length = value, weight, 1
        while blocks and blocks[-1][0] >= mean:
            last_mean, last_mass, last_length = blocks.pop()
            mean = (last_mean * last_mass + mean * mass) / (last_mass + mass)
            mass, length = mass + last_mass, length + last_length
        blocks.append((mean, mass, length))
    return np.repeat([block[0] for block in blocks], [block[2] for block in blocks])


def min_cllr(scores: np.ndarray, is_generated: np.ndarray, weights: np.ndarray) -> float:
    """Cllr after the best monotone recalibration: what the ranking alone costs.

    `cllr - min_cllr` is the loss of calibration. Ties are merged first: equal scores get equal ratios.
    """
    if not is_generated.any() or is_generated.all():
        return float("nan")
    balanced = _balance(is_generated, weights)
    distinct, inverse = np.unique(scores, return_inverse=True)
    mass = np.bincount(inverse, balanced, len(distinct))
    generated = np.bincount(inverse, balanced * is_generated, len(distinct))
    posterior = pool_adjacent_violators(generated / mass, mass)
    with np.errstate(divide="ignore"):
        ratios = np.log(posterior) - np.log1p(-posterior)  # both classes weigh 0.5: odds are the ratio
    return cllr(ratios[inverse], is_generated, weights)


def _balance(is_generated: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weights rescaled so that each class sums to 0.5."""
    generated, real = weights[is_generated].sum(), weights[~is_generated].sum()
    return 0.5 * weights / np.where(is_generated, generated, real)


@dataclass(frozen=True)
class BestThreshold:
    """The threshold that would have been best on these very scores: a bound, not a promise."""

    threshold: float  # decide generated above it
    balanced_accuracy: float  # with it, per-source mean as in the metric
    at_zero: float  # the same with threshold 0, where a score calibrated as promised decides

    @property
    def loss(self) -> float:
        return self.balanced_accuracy - self.at_zero


def best_threshold(
    scores: np.ndarray, is_generated: np.ndarray, weights: np.ndarray, *, unscored_correct: float = 0.0
) -> BestThreshold:
    """Scan every cut between two neighbouring scores; among equally good ones take the nearest to zero.

    weights: as `source_weights` gives them over all rows, unscored ones included, so that they need not sum to 1.
    unscored_correct: weight of rows without a score whose `pred` was right; no threshold changes them.
    Scores must not be NaN; infinite ones are allowed.

    Example: scores -2 -1 3 4, labels R G R G -> cuts at -inf, -1.5, 1, 3.5, inf.
    """
    distinct, inverse = np.unique(scores, return_inverse=True)
    generated = np.bincount(inverse, weights * is_generated, len(distinct))
    real = np.bincount(inverse, weights * ~is_generated, len(distinct))
    # cut k decides "real" for the k smallest distinct scores
    correct = unscored_correct + generated.sum() - np.r_[0.0, generated.cumsum()] + np.r_[0.0, real.cumsum()]
    cuts = np.r_[-np.inf, _midpoints(distinct), np.inf]
    best = correct.max()
    candidates = np.flatnonzero(correct >= best - 1e-12)
    nearest = candidates[np.argmin(np.abs(cuts[candidates]))]
    at_zero = correct[int((distinct <= 0).sum())]
    threshold = 0.0 if at_zero >= best - 1e-12 else float(cuts[nearest])
    return BestThreshold(threshold, float(best), float(at_zero))


def _midpoints(distinct: np.ndarray) -> np.ndarray:
    """Cuts between neighbours; beside an infinite score the cut is just outside the finite one."""
    low, high = distinct[:-1], distinct[1:]
    with np.errstate(invalid="ignore"):
        middle = np.where(np.isinf(low) & np.isinf(high), 0.0, (low + high) / 2)
    middle = np.where(np.isinf(low) & np.isfinite(high), high - 1.0, middle)
    return np.where(np.isinf(high) & np.isfinite(low), low + 1.0, middle)


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows whose scores promise about the same; both classes weigh one half."""

    promised: float  # mean of sigmoid(score): the probability of "generated" at even odds
    observed: float  # weighted share of generated rows
    num_rows: int


def reliability(
    scores: np.ndarray, is_generated: np.ndarray, weights: np.ndarray, *, num_bins: int = 10
) -> list[ReliabilityBin]:
    """Bins of equal width in promised probability; empty ones are left out."""
    if not is_generated.any() or is_generated.all():
        return []
    balanced = _balance(is_generated, weights)
    promised = 0.5 * (1.0 + np.tanh(scores / 2.0))  # sigmoid that cannot overflow
    index = np.minimum((promised * num_bins).astype(int), num_bins - 1)
    bins = []
    for k in np.unique(index):
        rows = index == k
        mass = balanced[rows].sum()
        bins.append(
            ReliabilityBin(
                promised=float((promised[rows] * balanced[rows]).sum() / mass),
                observed=float(balanced[rows & is_generated].sum() / mass),
                num_rows=int(rows.sum()),
            )
        )
    return bins
