"""Cross-validation with whole families held out; fusion and threshold are set on the other folds' scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

import numpy as np
from scipy.ndimage import uniform_filter1d
from tqdm import tqdm

from ..heads import Head, LinearHead
from .clips import Record, balanced_weights
from .fit import (
    KernelFit,
    LinearFit,
    even_out,
    fit_head,
    fit_linear_head,
    fit_projection,
    fit_scaling,
    fuse,
    kernel_scale,
)
from .recipe import AS_FOUND

Fit = Callable[[np.ndarray, np.ndarray, np.ndarray], Head]  # features (N, D), generated (N,), weights (N,)
Kinds = Sequence[Mapping[str, np.ndarray]]  # of evidence: variant -> raw scores of its pieces, (N, pieces)

_OFFSETS = np.linspace(-2.0, 2.0, 81)  # tried, around the regression's own
_SMOOTHED_OFFSETS = 7  # 0.35 wide: single clips make steps of this size in a curve of 300 sources


def prepare_fit(features: Mapping[str, np.ndarray], config: KernelFit | LinearFit) -> Fit:
    """Standardise over all clips of all variants, and find the principal components: without labels, so for all folds.

    features: variant -> (N, D). The heads that are fitted later share what is found here.
    """
    everything = np.concatenate(list(features.values()))
    if isinstance(config, LinearFit):
        return partial(fit_linear_head, scaling=fit_scaling(everything), penalty=config.penalty)
    projection = fit_projection(everything, config.num_components)
    scale = kernel_scale(everything, projection, config.kernel_width)
    return partial(fit_head, projection=projection, scale=scale, penalty=config.penalty)


def fit_experts(
    features: Mapping[str, np.ndarray],
    records: Sequence[Record],
    members: np.ndarray,
    fit: Fit,
    *,
    sharp: bool = True,
    trait: np.ndarray | None = None,
) -> list[Head]:
    """Two machines: of the member clips as found (left out if not `sharp`), and of all their variants.

    The first is the sharper on clips as found, the second holds on post-processed ones. members: bool (N,).
    trait: (N,), of clips as found, which linear heads are to rest on less.
    """
    chosen = [record for record, inside in zip(records, members, strict=True) if inside]
    generated, weights = np.array([record.generated for record in chosen]), balanced_weights(chosen)
    stacked = np.concatenate([variant[members] for variant in features.values()])
    count = len(features)
    heads = [fit(stacked, np.tile(generated, count), np.tile(weights, count))]
    as_found = features[AS_FOUND][members]
    if sharp:
        heads.insert(0, fit(as_found, generated, weights))
    if trait is None:
        return heads
    return [even_out(cast(LinearHead, head), as_found, trait[members], generated) for head in heads]


def _off_the_pages(records: Sequence[Record], held_out: np.ndarray) -> np.ndarray:
    """The clips that are not held out, less those of the pages of clips that are: bool (N,)."""
    pages = np.array([record.page for record in records])
    return ~held_out & ((pages == "") | ~np.isin(pages, pages[held_out]))


def pages_can_be_held_out(records: Sequence[Record], folds: np.ndarray) -> bool:
    """Whether pages are known, and both classes are left to learn from without those of any fold's clips."""
    generated = np.array([record.generated for record in records])
    left = [_off_the_pages(records, folds == fold) for fold in np.unique(folds)]
    return any(record.page for record in records) and all(len(set(generated[members])) == 2 for members in left)


def out_of_fold_evidence(
    features: Mapping[str, np.ndarray],
    records: Sequence[Record],
    folds: np.ndarray,
    fit: Fit,
    *,
    hold_out_pages: bool = False,
    sharp: bool = True,
    trait: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Raw scores of the experts, each clip's by experts that saw none of its family: variant -> (N, 1 + sharp).

    hold_out_pages: nor any clip of a page on which a clip of the fold was published. trait: see `fit_experts`.
    """
    evidence = {variant: np.zeros((len(records), 1 + sharp)) for variant in features}
    for fold in tqdm(np.unique(folds), desc="folds"):
        held_out = folds == fold
        members = _off_the_pages(records, held_out) if hold_out_pages else ~held_out
        experts = fit_experts(features, records, members, fit, sharp=sharp, trait=trait)
        for variant, columns in evidence.items():
            for index, head in enumerate(experts):
                columns[held_out, index] = head.raw_scores(features[variant][held_out])
    return evidence


def importance(kinds: Kinds) -> np.ndarray:
    """(E,): kinds of evidence count alike, and within a kind its pieces."""
    counts = [kind[AS_FOUND].shape[1] for kind in kinds]
    return np.concatenate([np.full(count, 1 / count) for count in counts])


def calibrate(assignments: Sequence[Kinds], records: Sequence[Record]) -> tuple[list[np.ndarray], float]:
    """(by kind the weights of its pieces, offset): evidence -> log-likelihood ratios with the threshold at 0.

    A logistic regression on the pieces' sum, sources weighted equally; all variants count the same. Of several
    assignments of families to folds the first decides weights and scale, all of them the offset.
    """
    kinds = assignments[0]
    evidence = _side_by_side(kinds)
    generated = np.array([record.generated for record in records])
    shares, offset = fuse(evidence, importance(kinds), generated, balanced_weights(records))
    ends = np.cumsum([kind[AS_FOUND].shape[1] for kind in kinds])
    if len(assignments) > 1:
        sums = [[pieces @ shares for pieces in _side_by_side(others)] for others in assignments]
        offset = offset_for_the_worst(sums, generated, balanced_weights(records), around=offset)
    return np.split(shares, ends[:-1]), offset


def _side_by_side(kinds: Kinds) -> list[np.ndarray]:
    """The pieces of all kinds, (N, E) by variant."""
    return [np.hstack([kind[variant] for kind in kinds]) for variant in kinds[0]]


def offset_for_the_worst(
    sums: Sequence[Sequence[np.ndarray]], generated: np.ndarray, weights: np.ndarray, *, around: float
) -> float:
    """The offset whose balanced accuracy, mean over the variants, is best in the worst of the assignments.

    The curve of each is smoothed: single clips make steps in it. sums: by assignment and variant (N,), without an
    offset. weights: of the clips, both classes the same and so every source within its class. around: where to look.
    """
    offsets = around + _OFFSETS
    curves = []
    for variants in sums:
        right = [((column[:, None] + offsets > 0) == generated[:, None]).T @ weights for column in variants]
        curves.append(uniform_filter1d(np.mean(right, axis=0), size=_SMOOTHED_OFFSETS, mode="nearest"))
    return float(offsets[np.min(curves, axis=0).argmax()])


def fuse_across(
    kinds: Kinds, records: Sequence[Record], folds: np.ndarray, *, assignments: Sequence[Kinds] = ()
) -> dict[str, np.ndarray]:
    """Fuse and calibrate each fold's evidence by what the other folds' says: variant -> log-likelihood ratios (N,).

    assignments: evidence on the same clips by other folds, or with pages held out, to calibrate by instead.
    The experts behind the other folds' evidence did see this fold's clips in training; its own scores and labels play
    no part in its fusion or threshold.
    """
    fused = {variant: np.zeros(len(records)) for variant in kinds[0]}
    for fold in np.unique(folds):
        inside = folds == fold
        chosen = [record for record, held_out in zip(records, inside, strict=True) if not held_out]
        others = [
            [{variant: pieces[~inside] for variant, pieces in kind.items()} for kind in evidence]
            for evidence in assignments or [kinds]
        ]
        shares, offset = calibrate(others, chosen)
        for variant, scores in fused.items():
            parts = [kind[variant][inside] @ share for kind, share in zip(kinds, shares, strict=True)]
            scores[inside] = np.sum(parts, axis=0) + offset
    return fused
