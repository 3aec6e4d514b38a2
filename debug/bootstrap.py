"""How far a figure may move with other sources: bootstrap over sources, and paired tests between submissions.

The competition's figure is a mean over sources, and the hidden sources are others than ours: so sources, not clips,
are drawn again, those of each class apart.

A plain bootstrap of five sources that are all right says "1.000 to 1.000". So that an interval is honest at the edge
too, each class gets one more source that is always wrong and one that is always right before the draws, as Agresti and
Caffo (2000) do for proportions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MIN_SOURCES = 5  # of a class: fewer give no interval


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


def percentile_interval(draws: np.ndarray, *, confidence: float = 0.95) -> Interval:
    """The middle `confidence` share of the draws; NaN draws are left out, NaN if none is left."""
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return Interval(float("nan"), float("nan"))
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(finite, [tail, 100.0 - tail])
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

    Returns: wins float (G, R): pairs of a generated and a real clip that are ranked right, ties count half;
        clips per generated source (G,), clips per real source (R,).
    """
    generated_names, generated_index = np.unique(sources[is_generated].astype(str), return_inverse=True)
    real_sources = sources[~is_generated].astype(str)
    real_names, real_counts = np.unique(real_sources, return_counts=True)
    generated_counts = np.bincount(generated_index, minlength=len(generated_names))
    wins = np.zeros((len(generated_names), len(real_names)))
    for column, name in enumerate(real_names):
        others = np.sort(scores[~is_generated][real_sources == name])
        below = np.searchsorted(others, scores[is_generated], side="left")
        up_to = np.searchsorted(others, scores[is_generated], side="right")
        wins[:, column] = np.bincount(generated_index, (below + up_to) / 2.0, len(generated_names))
    return wins, generated_counts, real_counts


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
    wins, generated_counts, real_counts = _pad(*pairwise_wins(scores, is_generated, sources))
    rng = np.random.default_rng(seed)
    generated = draw_counts(rng, len(generated_counts), num_draws)
    real = draw_counts(rng, len(real_counts), num_draws)
    right = np.einsum("bg,gr,br->b", generated, wins, real, optimize=True)
    return right / ((generated @ generated_counts) * (real @ real_counts))


def _pad(
    wins: np.ndarray, generated_counts: np.ndarray, real_counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`pairwise_wins` with two sources more in each class, of as many clips as one has on average.

    One is ranked wrong against every clip of the other class, one right; where these two meet, pairs are ties.
    """
    more_generated, more_real = generated_counts.mean(), real_counts.mean()
    padded = np.zeros((len(generated_counts) + 2, len(real_counts) + 2))
    padded[:-2, :-2] = wins
    padded[:-2, -1] = generated_counts * more_real
    padded[-1, :-2] = more_generated * real_counts
    padded[-2:, -2:] = np.array([[0.0, 0.5], [0.5, 1.0]]) * more_generated * more_real
    return padded, np.r_[generated_counts, [more_generated] * 2], np.r_[real_counts, [more_real] * 2]
