"""The competition's metric on out-of-fold scores, and beside it: threshold loss, metadata, worst sources."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from ..modality import GENERATED
from .clips import Record, balanced_weights
from .recipe import Container


@dataclass(frozen=True)
class Groups:
    """Which clip belongs to which source, in arrays. sources: unique `label/source`; index: source of each clip."""

    generated: np.ndarray  # bool (N,)
    sources: np.ndarray  # str (G,)
    index: np.ndarray  # int (N,)

    @property
    def source_generated(self) -> np.ndarray:
        return np.array([source.startswith("generated/") for source in self.sources])


def group(records: Sequence[Record]) -> Groups:
    sources, index = np.unique([f"{record.label}/{record.source}" for record in records], return_inverse=True)
    return Groups(np.array([record.generated for record in records]), sources, index)


def source_recalls(scores: np.ndarray, groups: Groups, threshold: float = 0.0) -> np.ndarray:
    """Share of each source's clips that are called right, (G,)."""
    right = (scores > threshold) == groups.generated
    counts = np.bincount(groups.index, minlength=len(groups.sources))
    return np.bincount(groups.index, right, minlength=len(groups.sources)) / np.maximum(counts, 1)


def balanced_accuracy(scores: np.ndarray, groups: Groups, threshold: float = 0.0) -> tuple[float, float, float]:
    """(balanced accuracy, generated accuracy, real accuracy): means over sources, then over both classes."""
    recalls = source_recalls(scores, groups, threshold)
    generated = float(recalls[groups.source_generated].mean())
    real = float(recalls[~groups.source_generated].mean())
    return (generated + real) / 2, generated, real


def best_balanced_accuracy(scores: np.ndarray, groups: Groups) -> float:
    """Balanced accuracy at the best of all thresholds: what is above the figure at 0 is lost at the threshold."""
    thresholds = np.quantile(scores, np.linspace(0.02, 0.98, 385))
    return max(balanced_accuracy(scores, groups, threshold)[0] for threshold in thresholds)


def bootstrap_interval(scores: np.ndarray, groups: Groups, *, rounds: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95% interval of the balanced accuracy over resampled sources, each class apart."""
    rng = np.random.default_rng(seed)
    recalls = source_recalls(scores, groups)
    means = []
    for chosen in (recalls[groups.source_generated], recalls[~groups.source_generated]):
        means.append(chosen[rng.integers(len(chosen), size=(rounds, len(chosen)))].mean(axis=1))
    low, high = np.quantile((means[0] + means[1]) / 2, (0.025, 0.975))
    return float(low), float(high)


def rank_correlations(
    scores: np.ndarray, records: Sequence[Record], container: Container
) -> dict[str, dict[str, float]]:
    """Spearman's correlation of score and container numbers within each class."""
    generated = np.array([record.generated for record in records])
    out: dict[str, dict[str, float]] = {}
    genuine = next(record.label for record in records if not record.generated)
    for label, members in ((GENERATED, generated), (genuine, ~generated)):
        out[label] = {
            name: round(float(spearmanr(scores[members], values[members]).statistic), 3)
            for name, values in container.numbers(records).items()
            if len(np.unique(values[members])) > 1
        }
    return out


def matched_bands(scores: np.ndarray, records: Sequence[Record], container: Container) -> dict[str, dict[str, float]]:
    """The metric on clips whose containers are alike, where they tell less."""
    out = {}
    for name, members in container.bands(container.numbers(records)).items():
        chosen = [record for record, inside in zip(records, members, strict=True) if inside]
        if len({record.label for record in chosen}) == 2:
            groups = group(chosen)
            out[name] = {
                "clips": len(chosen),
                "sources": len(groups.sources),
                "balanced_accuracy": round(balanced_accuracy(scores[members], groups)[0], 3),
                "auc": round(float(roc_auc_score(groups.generated, scores[members])), 3),
            }
    return out


def container_only_scores(records: Sequence[Record], folds: np.ndarray, container: Container) -> np.ndarray:
    """Out-of-fold scores of a logistic regression on container numbers alone: the warning beside every table."""
    columns = container.predictors(records)
    features = np.concatenate([columns, columns**2], axis=1)
    features = (features - features.mean(0)) / (features.std(0) + 1e-9)
    generated, weights = np.array([record.generated for record in records]), balanced_weights(records)
    scores = np.zeros(len(records))
    for fold in np.unique(folds):
        inside = folds != fold
        model = LogisticRegression().fit(features[inside], generated[inside], sample_weight=weights[inside])
        scores[~inside] = model.decision_function(features[~inside])
    return scores


def summarise(scores: np.ndarray, records: Sequence[Record], container: Container) -> dict[str, object]:
    """Every figure of one variant of the clips, ready for JSON."""
    groups = group(records)
    overall, generated, genuine = balanced_accuracy(scores, groups)
    recalls = source_recalls(scores, groups)
    counts = np.bincount(groups.index)
    best = best_balanced_accuracy(scores, groups)
    worst = sorted(range(len(recalls)), key=lambda i: (recalls[i], -counts[i]))[:10]
    return {
        "clips": len(records),
        "sources": len(groups.sources),
        "balanced_accuracy": round(overall, 4),
        "interval_95": [round(value, 4) for value in bootstrap_interval(scores, groups)],
        "generated_accuracy": round(generated, 4),
        "genuine_accuracy": round(genuine, 4),
        "auc": round(float(roc_auc_score(groups.generated, scores)), 4),
        "threshold_loss": round(best - overall, 4),
        "worst_sources": {str(groups.sources[i]): f"{recalls[i]:.2f} of {counts[i]}" for i in worst},
        "genuine_sources_of_8_below_half": [
            str(groups.sources[i])
            for i in range(len(recalls))
            if not groups.source_generated[i] and counts[i] >= 8 and recalls[i] < 0.5
        ],
        "spearman": rank_correlations(scores, records, container),
        "matched_bands": matched_bands(scores, records, container),
    }


def family_recalls(scores: np.ndarray, records: Sequence[Record]) -> dict[str, str]:
    """`label/family` -> "recall of clips", plain share of its clips, for the model card."""
    table: dict[str, list[bool]] = {}
    for score, record in zip(scores, records, strict=True):
        table.setdefault(f"{record.label}/{record.family}", []).append((score > 0) == record.generated)
    return {name: f"{np.mean(right):.2f} of {len(right)}" for name, right in sorted(table.items())}


def write_scores(path: Path, records: Sequence[Record], folds: np.ndarray, scores: dict[str, np.ndarray]) -> None:
    """Out-of-fold scores as CSV: file, label, source, family, fold, then one column per variant.

    Scores have all their digits: rounded to four, one became 0.0000 and changed sides.
    """
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "label", "source", "family", "fold", *(f"score_{name}" for name in scores)])
        for index, record in enumerate(records):
            values = ["" if np.isnan(column[index]) else repr(float(column[index])) for column in scores.values()]
            writer.writerow([record.file, record.label, record.source, record.family, int(folds[index]), *values])
    temporary.replace(path)
