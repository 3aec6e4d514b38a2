"""The competition's metric on out-of-fold scores, and beside it: threshold loss, metadata, worst sources."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression

from .. import metric
from ..atomic import replace_file
from ..modality import GENERATED
from .clips import Record, balanced_weights
from .recipe import Container


def arrays(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """(is_generated, sources), as `model.metric` takes them."""
    return np.array([record.generated for record in records]), np.array([record.source for record in records])


def recalls_of(scores: np.ndarray, records: Sequence[Record]) -> metric.SourceRecalls:
    """Of decisions at the threshold 0."""
    is_generated, sources = arrays(records)
    return metric.source_recalls((scores > 0) == is_generated, is_generated, sources)


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
            recalls = recalls_of(scores[members], chosen)
            out[name] = {
                "clips": len(chosen),
                "sources": len(recalls.names),
                "balanced_accuracy": round(metric.balanced_accuracy(recalls)[0], 3),
                "auc": round(metric.roc_auc(scores[members], arrays(chosen)[0]), 3),
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
    is_generated, sources = arrays(records)
    recalls = recalls_of(scores, records)
    overall, generated, genuine = metric.balanced_accuracy(recalls)
    draws = metric.balanced_accuracy_draws(recalls.of(True), recalls.of(False))["balanced_accuracy"]
    interval = metric.percentile_interval(draws)
    best = metric.best_threshold(scores, is_generated, metric.source_weights(is_generated, sources))
    label = {record.generated: record.label for record in records}
    names = [f"{label[of]}/{name}" for of, name in zip(recalls.is_generated.tolist(), recalls.names, strict=True)]
    worst = sorted(range(len(names)), key=lambda i: (recalls.recalls[i], -recalls.counts[i]))[:10]
    half = (recalls.recalls < 0.5) & (recalls.counts >= 8) & ~recalls.is_generated
    return {
        "clips": len(records),
        "sources": len(names),
        "balanced_accuracy": round(overall, 4),
        "interval_95": [round(interval.low, 4), round(interval.high, 4)] if np.isfinite(interval.low) else None,
        "generated_accuracy": round(generated, 4),
        "genuine_accuracy": round(genuine, 4),
        "auc": round(metric.roc_auc(scores, is_generated), 4),
        "threshold_loss": round(best.loss, 4),
        "worst_sources": {names[i]: f"{recalls.recalls[i]:.2f} of {recalls.counts[i]}" for i in worst},
        "genuine_sources_of_8_below_half": [names[i] for i in np.flatnonzero(half)],
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
    names = {name: [getattr(record, name) for record in records] for name in ("file", "label", "source", "family")}
    table = pd.DataFrame({**names, "fold": folds, **{f"score_{name}": column for name, column in scores.items()}})
    replace_file(path, table.to_csv(index=False).encode())
