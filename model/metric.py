"""The figures of both competitions on arrays, and what a score is worth beyond its decision. NumPy only.

Training and debug share it. `is_generated` is bool (N,), `sources` text (N,), and `scores` are natural log-likelihood
ratios (N,), > 0 for generated. A source counts once in each class that it has clips of, however many they are.

Intervals: the competition's figure is a mean over sources, and the hidden sources are others than ours, so sources, not
clips, are drawn again, those of each class apart. A plain bootstrap of five sources that are all right says "1.000 to
1.000". So that an interval is honest at the edge too, each class gets one more source that is always wrong and one that
is always right before the draws, as Agresti and Caffo (2000) do for proportions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MIN_SOURCES = 5  # of a class: fewer give no interval


@dataclass(frozen=True)
class SourceRecalls:
    """Share of each source's clips that are called right: generated sources by name, then genuine ones by name."""

    names: np.ndarray  # str (G,)
    is_generated: np.ndarray  # bool (G,)
    recalls: np.ndarray  # float (G,)
    counts: np.ndarray  # int (G,), clips

    def of(self, generated: bool) -> np.ndarray:
        """Recalls of one class."""
        return self.recalls[self.is_generated == generated]


def source_recalls(correct: np.ndarray, is_generated: np.ndarray, sources: np.ndarray) -> SourceRecalls:
    """correct: bool (N,)."""
    parts = []
    for label in (True, False):
        members = is_generated == label
        names, index, counts = np.unique(sources[members].astype(str), return_inverse=True, return_counts=True)
        right = np.bincount(index, correct[members].astype(float), len(names))
        parts.append((names, np.full(len(names), label), right / np.maximum(counts, 1), counts))
    return SourceRecalls(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def balanced_accuracy(recalls: SourceRecalls) -> tuple[float, float, float]:
    """(balanced accuracy, generated accuracy, genuine accuracy): means over sources, then over both classes.

    NaN where a class is absent.
    """
    generated, genuine = (float(part.mean()) if len(part) else math.nan for part in map(recalls.of, (True, False)))
    return (generated + genuine) / 2, generated, genuine


def roc_auc(scores: np.ndarray, is_generated: np.ndarray) -> float:
    """Chance that a generated clip outscores a genuine one, ties half; NaN where a class is absent."""
    num_generated = int(is_generated.sum())
    num_genuine = len(is_generated) - num_generated
    if not num_generated or not num_genuine:
        return math.nan
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[inverse]  # from 1, equal scores share the mean of theirs
    return float((ranks[is_generated].sum() - num_generated * (num_generated + 1) / 2) / (num_generated * num_genuine))


@dataclass(frozen=True)
class Interval:
    """A bootstrap percentile interval."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:.3f} to {self.high:.3f}"


def draw_counts(rng: np.random.Generator, num_sources: int, num_draws: int) -> np.ndarray:
    """How often each source is drawn: int (num_draws, num_sources), each row sums to num_sources."""
    return rng.multinomial(num_sources, np.full(num_sources, 1.0 / num_sources), size=num_draws)


def percentile_interval(draws: np.ndarray) -> Interval:
    """The middle 95% of the draws; NaN draws are left out, NaN if none is left."""
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return Interval(float("nan"), float("nan"))
    low, high = np.percentile(finite, [2.5, 97.5])
    return Interval(float(low), float(high))


def wilson_high(share: float, count: int) -> float:
    """Upper end of Wilson's 95% interval (1927) of a share over `count` clips.

    Example: 0 of 4 -> 0.49.
    """
    z = 1.959964
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    return centre + z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))


def balanced_accuracy_draws(
    generated: np.ndarray, genuine: np.ndarray, *, num_draws: int = 2000, seed: int = 0
) -> dict[str, np.ndarray]:
    """Resampled means of per-source accuracies, with the two sources more.

    generated, genuine: accuracy per source, (G,) and (R,).
    Returns: float (num_draws,) under `generated_accuracy`, `genuine_accuracy`, `balanced_accuracy`; NaN where there are
        fewer than `MIN_SOURCES` sources.
    """
    rng = np.random.default_rng(seed)
    draws = {}
    for name, accuracies in (("generated_accuracy", generated), ("genuine_accuracy", genuine)):
        if len(accuracies) < MIN_SOURCES:
            draws[name] = np.full(num_draws, np.nan)
            continue
        padded = np.r_[accuracies, 0.0, 1.0]
        draws[name] = draw_counts(rng, len(padded), num_draws) @ padded / len(padded)
    draws["balanced_accuracy"] = (draws["generated_accuracy"] + draws["genuine_accuracy"]) / 2
    return draws


def pairwise_wins(
    scores: np.ndarray, is_generated: np.ndarray, sources: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """AUC taken apart by source pair, so that a redraw of sources needs no sorting.

    Returns: wins float (G, R): pairs of a generated and a genuine clip that are ranked right, ties count half;
        clips per generated source (G,), clips per genuine source (R,).
    """
    generated_names, generated_index = np.unique(sources[is_generated].astype(str), return_inverse=True)
    genuine_sources = sources[~is_generated].astype(str)
    genuine_names, genuine_counts = np.unique(genuine_sources, return_counts=True)
    generated_counts = np.bincount(generated_index, minlength=len(generated_names))
    wins = np.zeros((len(generated_names), len(genuine_names)))
    for column, name in enumerate(genuine_names):
        others = np.sort(scores[~is_generated][genuine_sources == name])
        below = np.searchsorted(others, scores[is_generated], side="left")
        up_to = np.searchsorted(others, scores[is_generated], side="right")
        wins[:, column] = np.bincount(generated_index, (below + up_to) / 2.0, len(generated_names))
    return wins, generated_counts, genuine_counts


def roc_auc_draws(
    scores: np.ndarray,
    is_generated: np.ndarray,
    sources: np.ndarray,
    *,
    num_draws: int = 2000,
    seed: int = 0,
) -> np.ndarray:
    """ROC AUC over redrawn sources, with the two sources more, float (num_draws,).

    NaN where a class has fewer than `MIN_SOURCES` sources.
    """
    counts = [len(np.unique(sources[rows].astype(str))) for rows in (is_generated, ~is_generated)]
    if min(counts) < MIN_SOURCES:
        return np.full(num_draws, np.nan)
    return redrawn_auc(*_pad(*pairwise_wins(scores, is_generated, sources)), num_draws=num_draws, seed=seed)


def redrawn_auc(
    wins: np.ndarray, generated_counts: np.ndarray, genuine_counts: np.ndarray, *, num_draws: int, seed: int
) -> np.ndarray:
    """`pairwise_wins`, or the difference of two, over redrawn sources: float (num_draws,)."""
    rng = np.random.default_rng(seed)
    generated = draw_counts(rng, len(generated_counts), num_draws)
    genuine = draw_counts(rng, len(genuine_counts), num_draws)
    right = np.einsum("bg,gr,br->b", generated, wins, genuine, optimize=True)
    return right / ((generated @ generated_counts) * (genuine @ genuine_counts))


def _pad(
    wins: np.ndarray, generated_counts: np.ndarray, genuine_counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`pairwise_wins` with two sources more in each class, of as many clips as one has on average.

    One is ranked wrong against every clip of the other class, one right; where these two meet, pairs are ties.
    """
    more_generated, more_genuine = generated_counts.mean(), genuine_counts.mean()
    padded = np.zeros((len(generated_counts) + 2, len(genuine_counts) + 2))
    padded[:-2, :-2] = wins
    padded[:-2, -1] = generated_counts * more_genuine
    padded[-1, :-2] = more_generated * genuine_counts
    padded[-2:, -2:] = np.array([[0.0, 0.5], [0.5, 1.0]]) * more_generated * more_genuine
    return padded, np.r_[generated_counts, [more_generated] * 2], np.r_[genuine_counts, [more_genuine] * 2]


def source_weights(is_generated: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Weights with which a sum over rows is a mean over sources, then over the two classes.

    Returns: float64 (N,); sums to 0.5 over the generated rows and to 0.5 over the genuine ones.

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
    generated, genuine = weights[is_generated].sum(), weights[~is_generated].sum()
    return 0.5 * weights / np.where(is_generated, generated, genuine)


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
    genuine = np.bincount(inverse, weights * ~is_generated, len(distinct))
    # cut k decides "genuine" for the k smallest distinct scores
    correct = unscored_correct + generated.sum() - np.r_[0.0, generated.cumsum()] + np.r_[0.0, genuine.cumsum()]
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


def reliability(scores: np.ndarray, is_generated: np.ndarray, weights: np.ndarray) -> list[ReliabilityBin]:
    """Ten bins of equal width in promised probability; empty ones are left out."""
    if not is_generated.any() or is_generated.all():
        return []
    balanced = _balance(is_generated, weights)
    promised = 0.5 * (1.0 + np.tanh(scores / 2.0))  # sigmoid that cannot overflow
    index = np.minimum((promised * 10).astype(int), 9)
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
