"""How far a figure may move with other sources: bootstrap over sources, and paired tests between submissions.

The competition's figure is a mean over sources, and the hidden sources are others than ours: so sources, not clips,
are drawn again, generated and real ones apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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


def balanced_accuracy_draws(
    generated: np.ndarray, real: np.ndarray, *, num_draws: int = 2000, seed: int = 0
) -> dict[str, np.ndarray]:
    """Resampled means of per-source accuracies.

    generated, real: accuracy per source, (G,) and (R,).
    Returns: float (num_draws,) under `generated_accuracy`, `real_accuracy`, `balanced_accuracy`.
    """
    rng = np.random.default_rng(seed)
    draws = {}
    for name, accuracies in (("generated_accuracy", generated), ("real_accuracy", real)):
        if len(accuracies):
            draws[name] = draw_counts(rng, len(accuracies), num_draws) @ accuracies / len(accuracies)
        else:
            draws[name] = np.full(num_draws, np.nan)
    draws["balanced_accuracy"] = (draws["generated_accuracy"] + draws["real_accuracy"]) / 2
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
    """ROC AUC over redrawn sources, float (num_draws,); NaN where a class is absent."""
    if not is_generated.any() or is_generated.all():
        return np.full(num_draws, np.nan)
    wins, generated_counts, real_counts = pairwise_wins(scores, is_generated, sources)
    rng = np.random.default_rng(seed)
    generated = draw_counts(rng, len(generated_counts), num_draws)
    real = draw_counts(rng, len(real_counts), num_draws)
    right = np.einsum("bg,gr,br->b", generated, wins, real, optimize=True)
    return right / ((generated @ generated_counts) * (real @ real_counts))
