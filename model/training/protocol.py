"""Cross-validation with whole families held out; fusion and threshold are set on the other folds' scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
from tqdm import tqdm

from .cache import AS_FOUND, PROCESSED
from .data import Record, balanced_weights
from .fit import (
    FitConfig,
    Head,
    LinearHead,
    fit_head,
    fit_linear_head,
    fit_projection,
    fit_scaling,
    fuse,
)

MEASURED = (AS_FOUND, PROCESSED)


class Machine(Protocol):
    """A decision that was learnt from clip features."""

    def raw_scores(self, features: np.ndarray) -> np.ndarray:
        """(N, D) -> (N,), > 0 leans to generated."""
        ...


_Machine = TypeVar("_Machine", bound=Machine)
Fit = Callable[[np.ndarray, np.ndarray, np.ndarray], _Machine]  # features (N, D), generated (N,), weights (N,)


def pool_views(patches: np.ndarray, resized: np.ndarray) -> np.ndarray:
    """Features of patches (N, P, F) and of resized views (N, R, G) -> float32 (N, F + G), the mean over each."""
    return np.concatenate([part.astype(np.float32).mean(axis=1) for part in (patches, resized)], axis=1)


def kernel_machine(features: Mapping[str, np.ndarray], config: FitConfig) -> Fit[Head]:
    """Learns in the principal components of all clips, standardised, the same for all folds: they use no labels."""
    return partial(fit_head, projection=fit_projection(np.concatenate(list(features.values())), config), config=config)


def linear_machine(features: Mapping[str, np.ndarray]) -> Fit[LinearHead]:
    """Learns from features standardised over all clips, which uses no labels."""
    return partial(fit_linear_head, scaling=fit_scaling(np.concatenate(list(features.values()))))


def fit_experts(
    features: Mapping[str, np.ndarray], records: Sequence[Record], members: np.ndarray, fit: Fit[_Machine]
) -> list[_Machine]:
    """Two machines: of the member clips as found, and of all their variants.

    The first is the sharper on clips as found, the second holds on post-processed ones. members: bool (N,).
    """
    chosen = [record for record, inside in zip(records, members, strict=True) if inside]
    generated, weights = np.array([record.generated for record in chosen]), balanced_weights(chosen)
    stacked = np.concatenate([variant[members] for variant in features.values()])
    count = len(features)
    return [
        fit(features[AS_FOUND][members], generated, weights),
        fit(stacked, np.tile(generated, count), np.tile(weights, count)),
    ]


def out_of_fold_evidence(
    features: Mapping[str, np.ndarray], records: Sequence[Record], folds: np.ndarray, fit: Fit[_Machine]
) -> dict[str, np.ndarray]:
    """Raw scores of both experts, each clip's by experts that saw none of its family: variant -> (N, 2)."""
    evidence = {variant: np.zeros((len(records), 2)) for variant in MEASURED}
    for fold in tqdm(np.unique(folds), desc="folds"):
        held_out = folds == fold
        experts = fit_experts(features, records, ~held_out, fit)
        for variant, columns in evidence.items():
            for index, head in enumerate(experts):
                columns[held_out, index] = head.raw_scores(features[variant][held_out])
    return evidence


def importance(columns: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """Kinds of evidence count alike, and within a kind its pieces. columns: by kind, variant -> (N, pieces)."""
    counts = [part[AS_FOUND].shape[1] for part in columns]
    return np.concatenate([np.full(count, 1 / count) for count in counts])


def calibrate(
    evidence: Sequence[np.ndarray], importance: np.ndarray, records: Sequence[Record]
) -> tuple[np.ndarray, float]:
    """(weights (E,), offset) that turn evidence into log-likelihood ratios with the threshold at 0.

    A logistic regression on the pieces' sum, sources weighted equally. evidence: (N, E) per variant; all variants count
    the same. importance: (E,). Shifting the threshold to the best balanced accuracy of these scores fits their noise:
    worse elsewhere (EXPERIMENTS.md).
    """
    generated = np.array([record.generated for record in records])
    return fuse(evidence, importance, generated, balanced_weights(records))


def fuse_across(
    evidence: Mapping[str, np.ndarray], importance: np.ndarray, records: Sequence[Record], folds: np.ndarray
) -> dict[str, np.ndarray]:
    """Fuse and calibrate each fold's evidence by what the other folds' says: variant -> log-likelihood ratios (N,).

    The experts behind the other folds' evidence did see this fold's clips in training; its own scores and labels play
    no part in its fusion or threshold.
    """
    fused = {variant: np.zeros(len(records)) for variant in evidence}
    for fold in np.unique(folds):
        others = folds != fold
        chosen = [record for record, inside in zip(records, others, strict=True) if inside]
        shares, offset = calibrate([columns[others] for columns in evidence.values()], importance, chosen)
        for variant, columns in evidence.items():
            fused[variant][~others] = columns[~others] @ shares + offset
    return fused
