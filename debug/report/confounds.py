"""Can the label be told without looking at a pixel? Then a good figure proves little.

Metadata never decide a verdict; here they only show whether the test set itself gives the answer away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from debug.metric import class_labels
from debug.report.rows import SHORTCUTS, mean_over_sources
from model.metric import roc_auc, source_weights

_MIN_FAMILIES = 4  # per class: fewer cannot be split into folds that say anything
_MAX_FOLDS = 10
CLOSE = 0.05  # a metadata-only classifier this near to the detector makes the set's figure doubtful


@dataclass(frozen=True)
class MetadataClassifier:
    """Out-of-fold result of a classifier that sees container numbers alone."""

    name: str
    balanced_accuracy: float
    roc_auc: float


def with_numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows whose container told anything; those of a report by file name may have no container at hand."""
    return rows[rows[[name for name in SHORTCUTS if name in rows]].notna().any(axis=1)]


def present_shortcuts(rows: pd.DataFrame) -> list[str]:
    """Columns of SHORTCUTS that vary and are known for at least half of the rows."""
    return [
        name for name in SHORTCUTS if name in rows and rows[name].notna().mean() >= 0.5 and rows[name].nunique() > 1
    ]


def metadata_classifiers(rows: pd.DataFrame, *, seed: int = 0) -> list[MetadataClassifier]:
    """Logistic regression and boosted trees on the container's numbers, families held out, sources weigh equally.

    Returns an empty list where there is too little to learn from.
    """
    columns = present_shortcuts(rows)
    families = rows["label"] + "/" + rows["family"].astype(str)
    smallest = min((families[rows["label"] == label].nunique() for label in class_labels(rows["label"])), default=0)
    if not columns or smallest < _MIN_FAMILIES:
        return []
    with np.errstate(divide="ignore", invalid="ignore"):
        features = np.log(rows[columns].to_numpy(float))
    features = np.where(np.isfinite(features), features, np.nan)
    features = np.where(np.isnan(features), np.nanmedian(features, axis=0), features)
    is_generated = (rows["label"] == "generated").to_numpy()
    weights = source_weights(is_generated, rows["source"].to_numpy()) * len(rows)
    logistic = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    trees = HistGradientBoostingClassifier(max_depth=3, max_iter=100, random_state=seed)
    folds = StratifiedGroupKFold(min(_MAX_FOLDS, smallest), shuffle=True, random_state=seed)
    results = []
    for name, classifier, parameter in (
        ("logistic regression", logistic, "logisticregression__sample_weight"),
        ("boosted trees", trees, "sample_weight"),
    ):
        chance = np.full(len(rows), np.nan)
        # one thread: so few rows gain nothing from more, and OpenMP's threads wait in busy loops on a loaded machine
        with threadpool_limits(1):
            for train, test in folds.split(features, is_generated, families):
                classifier.fit(features[train], is_generated[train], **{parameter: weights[train]})
                chance[test] = classifier.predict_proba(features[test])[:, 1]
        guessed = rows.assign(correct=(chance > 0.5) == is_generated)
        results.append(MetadataClassifier(name, mean_over_sources(guessed), roc_auc(chance, is_generated)))
    return results


def score_correlations(rows: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation of score with each shortcut within each class: label x shortcut, NaN if undefined."""
    columns = present_shortcuts(rows)
    table = {
        label: group[["score", *columns]].rank().corr("spearman", min_periods=3).loc[columns, "score"]
        for label, group in rows[rows["score"].notna()].groupby("label")
    }
    return pd.DataFrame(table).T


@dataclass(frozen=True)
class Band:
    """Clips of neighbouring values of one shortcut."""

    low: float
    high: float
    accuracy: dict[str, float]  # label -> mean over sources, NaN where the class is absent
    num_clips: dict[str, int]

    @property
    def name(self) -> str:
        low, high = _rounded(self.low), _rounded(self.high)
        return low if low == high else f"{low} to {high}"


def _rounded(value: float) -> str:
    """Two significant digits, without an exponent. Example: 1916.0 -> 1900, 0.0922 -> 0.092."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = 1 - math.floor(math.log10(abs(value)))
    text = f"{round(value, digits):.{max(0, digits)}f}"
    return text.rstrip("0").rstrip(".") if digits > 0 else text


def accuracy_bands(rows: pd.DataFrame, column: str, *, num_bands: int = 5) -> list[Band]:
    """Bands that hold about equally many clips, ascending."""
    known = rows[rows[column].notna()]
    if known.empty:
        return []
    cut = pd.qcut(known[column], num_bands, duplicates="drop")
    labels = class_labels(rows["label"])
    bands = []
    for _, group in known.groupby(cut, observed=True):
        classes = {label: group[group["label"] == label] for label in labels}
        bands.append(
            Band(
                low=float(group[column].min()),
                high=float(group[column].max()),
                accuracy={label: mean_over_sources(part) for label, part in classes.items()},
                num_clips={label: len(part) for label, part in classes.items()},
            )
        )
    return bands


def matched_balanced_accuracy(bands: list[Band], *, min_clips: int = 5) -> float:
    """Mean over the bands that hold both classes of their balanced accuracy: the shortcut is taken out, roughly."""
    values = [sum(band.accuracy.values()) / 2 for band in bands if min(band.num_clips.values(), default=0) >= min_clips]
    return sum(values) / len(values) if values else math.nan
