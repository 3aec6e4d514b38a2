"""Cross-validation with whole families held out; fusion and threshold are set on the other folds' scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from tqdm import tqdm

from .cache import AS_FOUND, PROCESSED
from .data import Record, balanced_weights
from .fit import FitConfig, Head, Projection, fit_head, fit_projection, fuse

MEASURED = (AS_FOUND, PROCESSED)


def pool_views(patches: np.ndarray, resized: np.ndarray) -> np.ndarray:
    """Features of patches (N, P, F) and of resized views (N, R, G) -> float32 (N, F + G), the mean over each."""
    return np.concatenate([part.astype(np.float32).mean(axis=1) for part in (patches, resized)], axis=1)


def fit_shared_projection(features: Mapping[str, np.ndarray], config: FitConfig) -> Projection:
    """Standardisation and principal components of all clips, once for all folds: it uses no labels."""
    return fit_projection(np.concatenate(list(features.values())), config)


def fit_experts(
    features: Mapping[str, np.ndarray],
    records: Sequence[Record],
    members: np.ndarray,
    projection: Projection,
    config: FitConfig,
) -> list[Head]:
    """Two kernel machines over one projection: of the member clips as found, and of all their variants.

    The first is the sharper on clips as found, the second holds on post-processed ones. members: bool (N,).
    """
    chosen = [record for record, inside in zip(records, members, strict=True) if inside]
    generated, weights = np.array([record.generated for record in chosen]), balanced_weights(chosen)
    stacked = np.concatenate([variant[members] for variant in features.values()])
    count = len(features)
    return [
        fit_head(features[AS_FOUND][members], generated, weights, projection, config),
        fit_head(stacked, np.tile(generated, count), np.tile(weights, count), projection, config),
    ]


def out_of_fold_evidence(
    features: Mapping[str, np.ndarray],
    records: Sequence[Record],
    folds: np.ndarray,
    projection: Projection,
    config: FitConfig,
) -> dict[str, np.ndarray]:
    """Raw scores of both experts, each clip's by experts that saw none of its family: variant -> (N, 2)."""
    evidence = {variant: np.zeros((len(records), 2)) for variant in MEASURED}
    for fold in tqdm(np.unique(folds), desc="folds"):
        held_out = folds == fold
        experts = fit_experts(features, records, ~held_out, projection, config)
        for variant, columns in evidence.items():
            for index, head in enumerate(experts):
                columns[held_out, index] = head.raw_scores(features[variant][held_out])
    return evidence


def calibrate(evidence: Sequence[np.ndarray], records: Sequence[Record]) -> tuple[np.ndarray, float]:
    """(weights (E,), offset) that turn evidence into log-likelihood ratios with the threshold at 0.

    A logistic regression, sources weighted equally. evidence: (N, E) per variant; all variants count the same.
    Shifting it to the best balanced accuracy of these scores fits their noise: worse elsewhere (EXPERIMENTS.md).
    """
    return fuse(evidence, np.array([record.generated for record in records]), balanced_weights(records))


def fuse_across(
    evidence: Mapping[str, np.ndarray], records: Sequence[Record], folds: np.ndarray
) -> dict[str, np.ndarray]:
    """Fuse and calibrate each fold's evidence by what the other folds' says: variant -> log-likelihood ratios (N,).

    The experts behind the other folds' evidence did see this fold's clips in training; its own scores and labels play
    no part in its fusion or threshold.
    """
    fused = {variant: np.zeros(len(records)) for variant in evidence}
    for fold in np.unique(folds):
        others = folds != fold
        chosen = [record for record, inside in zip(records, others, strict=True) if inside]
        shares, offset = calibrate([columns[others] for columns in evidence.values()], chosen)
        for variant, columns in evidence.items():
            fused[variant][~others] = columns[~others] @ shares + offset
    return fused
