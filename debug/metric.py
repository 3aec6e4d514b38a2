"""The competition's metric, at home: `python -m debug.metric solution.csv submission.csv`.

Definitions follow the organisers' published metric (stresearch/safe-video-2025, metric.py): accuracy of `pred` for
every (true label, source) pair, the plain mean over sources per class, balanced accuracy as the mean of the two
classes. The class that is not generated is `real` for video and `pristine` for speech. There "private" is every row,
public ones included; "private only" is ours. On top: ROC AUC over the rows
with a score, Cllr, the best threshold and bootstrap intervals over sources.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from model.metric import (
    MIN_SOURCES,
    BestThreshold,
    Interval,
    balanced_accuracy,
    balanced_accuracy_draws,
    best_threshold,
    cllr,
    min_cllr,
    percentile_interval,
    roc_auc,
    roc_auc_draws,
    source_recalls,
    source_weights,
)
from model.modality import GENERATED, MODALITIES

GENUINE_LABELS = tuple(modality.genuine for modality in MODALITIES.values())
SOLUTION_COLUMNS = ("id", "pred", "source", "split")
SPLITS = ("public", "private", "private only")


class MetricError(ValueError):
    """The solution or the submission cannot be scored; the message says which rows and why."""


@dataclass(frozen=True)
class SplitMetrics:
    """Figures of one split; NaN where a class has no rows in it."""

    name: str
    num_rows: int
    balanced_accuracy: float
    generated_accuracy: float
    genuine_accuracy: float  # of real or pristine clips
    roc_auc: float  # over rows with a score; ties count half
    fail_rate: float  # share of rows without a score
    total_time: float  # seconds, sum of `time`; NaN without that column
    cllr: float  # bits, sources weigh equally
    min_cllr: float  # after the best monotone recalibration
    best: BestThreshold | None  # None where a class has no score
    intervals: dict[str, Interval] = field(default_factory=dict)  # 95%, bootstrap over sources


@dataclass(frozen=True)
class Metrics:
    """All splits, the accuracy per source, and what was odd about the file."""

    labels: tuple[str, str]
    splits: dict[str, SplitMetrics]
    sources: pd.DataFrame  # label, source, split, num_clips, accuracy; worst first
    num_missing: int  # rows of the solution that the submission lacks
    num_invalid: int  # rows whose pred is neither of the two labels
    num_extra: int  # rows of the submission that the solution lacks: ignored

    @property
    def balanced_accuracy(self) -> float:
        return self.splits["private"].balanced_accuracy

    def to_dict(self) -> dict[str, object]:
        """Plain types for JSON; NaN becomes None, infinity a string."""
        return {
            "splits": _plain({name: asdict(split) for name, split in self.splits.items()}),
            "sources": self.sources.to_dict(orient="records"),
            "num_missing": self.num_missing,
            "num_invalid": self.num_invalid,
            "num_extra": self.num_extra,
        }


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def load_csv(path: Path) -> pd.DataFrame:
    """Read a solution, a submission, a key or scores; names stay text, so that `007` is not 7 nor `NA` missing."""
    try:
        return pd.read_csv(path, converters=dict.fromkeys(("id", "pred", "source", "split", "file"), str))
    except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise MetricError(f"{path}: cannot be read as CSV: {error}") from error


def class_labels(labels: Iterable[object]) -> tuple[str, str]:
    """("generated", "real") or ("generated", "pristine"), by which of the latter occurs. Raises: MetricError."""
    given = set(map(str, labels))
    genuine = [label for label in GENUINE_LABELS if label in given] or [GENUINE_LABELS[0]]
    unknown = sorted(given - {GENERATED, genuine[0]})
    if unknown:
        expected = " or ".join(f"generated and {label}" for label in GENUINE_LABELS)
        raise MetricError(f"true label {unknown[0]!r}; expected {expected}")
    return GENERATED, genuine[0]


def join_submission(solution: pd.DataFrame, submission: pd.DataFrame) -> pd.DataFrame:
    """One row per solution row, in its order.

    Returns: id, label, source, split, pred (text or NaN), correct (bool), score and time (float, NaN where absent),
        missing (bool: the submission lacks the id).
    Raises: MetricError: columns absent, ids repeated (the organisers' join fails on them), unknown true labels.
    """
    _require_columns("solution", solution, SOLUTION_COLUMNS)
    _require_columns("submission", submission, ("id", "pred"))
    for name, frame in (("solution", solution), ("submission", submission)):
        repeated = frame["id"][frame["id"].duplicated()].astype(str).unique()
        if len(repeated):
            raise MetricError(f"{name}: {len(repeated)} ids appear more than once, such as {repeated[0]!r}")
    class_labels(solution["pred"])
    rows = solution.loc[:, list(SOLUTION_COLUMNS)].rename(columns={"pred": "label"}).reset_index(drop=True)
    rows["id"] = rows["id"].astype(str)
    answers = submission.assign(id=submission["id"].astype(str)).set_index("id")
    rows["missing"] = ~rows["id"].isin(answers.index)
    aligned = answers.reindex(rows["id"])
    rows["pred"] = aligned["pred"].to_numpy()
    rows["correct"] = rows["pred"] == rows["label"]
    for column in ("score", "time"):
        values = aligned[column].to_numpy() if column in aligned else np.full(len(rows), np.nan)
        rows[column] = pd.to_numeric(pd.Series(values), errors="coerce").astype(float)
    return rows


def _require_columns(name: str, frame: pd.DataFrame, columns: tuple[str, ...]) -> None:
    absent = [column for column in columns if column not in frame.columns]
    if absent:
        raise MetricError(f"{name}: column {absent[0]!r} is absent; it has {', '.join(map(str, frame.columns))}")


def select_split(rows: pd.DataFrame, split: str) -> pd.DataFrame:
    """Rows of a split; "private" is everything, as in the organisers' metric."""
    if split not in SPLITS:
        raise MetricError(f"split {split!r}; expected one of {', '.join(SPLITS)}")
    if split == "private":
        return rows
    return rows[(rows["split"] == "public") == (split == "public")]


def source_accuracies(rows: pd.DataFrame, *, extra: tuple[str, ...] = ()) -> pd.DataFrame:
    """Accuracy per (true label, source), worst first: label, source, *extra, num_clips, accuracy."""
    grouped = rows.groupby(["label", "source", *extra], as_index=False, dropna=False)
    table = grouped.agg(num_clips=("correct", "size"), accuracy=("correct", "mean"))
    return table.sort_values(["accuracy", "label", "source"], ignore_index=True)


def measure_split(rows: pd.DataFrame, name: str, *, num_draws: int = 2000, seed: int = 0) -> SplitMetrics:
    """All figures of the rows given, which are one split of `join_submission`'s result."""
    is_generated = (rows["label"] == GENERATED).to_numpy()
    sources, scores = rows["source"].to_numpy(), rows["score"].to_numpy()
    recalls = source_recalls(rows["correct"].to_numpy(), is_generated, sources)
    overall, generated, genuine = balanced_accuracy(recalls)
    weights = source_weights(is_generated, sources)
    scored = ~np.isnan(scores)
    both = bool(is_generated[scored].any() and (~is_generated[scored]).any())
    best = None
    if both:
        unscored = float(weights[~scored & rows["correct"].to_numpy()].sum())
        best = best_threshold(scores[scored], is_generated[scored], weights[scored], unscored_correct=unscored)
    intervals = {}
    if num_draws > 0 and both:
        draws = balanced_accuracy_draws(recalls.of(True), recalls.of(False), num_draws=num_draws, seed=seed)
        draws["roc_auc"] = roc_auc_draws(
            scores[scored], is_generated[scored], sources[scored], num_draws=num_draws, seed=seed
        )
        intervals = {key: percentile_interval(values) for key, values in draws.items() if np.isfinite(values).any()}
    return SplitMetrics(
        name=name,
        num_rows=len(rows),
        balanced_accuracy=overall,
        generated_accuracy=generated,
        genuine_accuracy=genuine,
        roc_auc=roc_auc(scores[scored], is_generated[scored]),
        fail_rate=float(1.0 - scored.mean()) if len(rows) else math.nan,
        total_time=float(rows["time"].sum()) if rows["time"].notna().any() else math.nan,
        cllr=cllr(scores[scored], is_generated[scored], weights[scored]) if both else math.nan,
        min_cllr=min_cllr(scores[scored], is_generated[scored], weights[scored]) if both else math.nan,
        best=best,
        intervals=intervals,
    )


def evaluate(solution: pd.DataFrame, submission: pd.DataFrame, *, num_draws: int = 2000, seed: int = 0) -> Metrics:
    """Score a submission. num_draws: bootstrap draws behind the intervals, 0 for none."""
    rows = join_submission(solution, submission)
    labels = class_labels(rows["label"])
    splits = {name: measure_split(select_split(rows, name), name, num_draws=num_draws, seed=seed) for name in SPLITS}
    return Metrics(
        labels=labels,
        splits=splits,
        sources=source_accuracies(rows, extra=("split",)),
        num_missing=int(rows["missing"].sum()),
        num_invalid=int((~rows["missing"] & ~rows["pred"].isin(labels)).sum()),
        num_extra=int((~submission["id"].astype(str).isin(rows["id"])).sum()),
    )


def format_table(metrics: Metrics, *, num_sources: int = 10) -> str:
    """The figures as text: one column a split, then the worst sources."""
    splits = [split for split in metrics.splits.values() if split.num_rows]
    lines = [f"{'':<22}" + "".join(f"{split.name:>24}" for split in splits)]
    lines.append(f"{'rows':<22}" + "".join(f"{split.num_rows:>24}" for split in splits))
    genuine = metrics.labels[1]
    for key in ("balanced_accuracy", "generated_accuracy", "genuine_accuracy", "roc_auc"):
        cells = []
        for split in splits:
            interval = split.intervals.get(key)
            cell = f"{getattr(split, key):.4f}" + (f" ({interval})" if interval else "")
            cells.append(f"{cell:>24}")
        lines.append(f"{key.replace('_', ' ').replace('genuine', genuine):<22}" + "".join(cells))
    for key in ("fail_rate", "total_time", "cllr", "min_cllr"):
        unit = {"total_time": " s", "cllr": " bits", "min_cllr": " bits"}.get(key, "")
        values = [getattr(split, key) for split in splits]
        cells = ["-" if math.isnan(value) else f"{value:.4f}{unit}" for value in values]
        lines.append(f"{key.replace('_', ' '):<22}" + "".join(f"{cell:>24}" for cell in cells))
    cells = [f"{s.best.balanced_accuracy:.4f} at {s.best.threshold:+.3f}" if s.best else "-" for s in splits]
    lines.append(f"{'best threshold':<22}" + "".join(f"{cell:>24}" for cell in cells))
    lines.append(
        "private = every row, as the organisers count; intervals: 95%, bootstrap over sources"
        f" (none where a class has fewer than {MIN_SOURCES})"
    )
    for count, what in (
        (metrics.num_missing, "rows missing from the submission (counted wrong)"),
        (metrics.num_invalid, f'rows with a pred other than "generated" or "{genuine}" (counted wrong)'),
        (metrics.num_extra, "rows that the solution does not know (ignored)"),
    ):
        if count:
            lines.append(f"warning: {count} {what}")
    if num_sources:
        lines.append(f"\n{'accuracy':>8} {'clips':>6}  source, worst first")
        for row in metrics.sources.head(num_sources).itertuples():
            lines.append(f"{row.accuracy:>8.3f} {row.num_clips:>6}  {row.label}/{row.source}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m debug.metric", description=__doc__.splitlines()[0])
    parser.add_argument("solution", type=Path, help="CSV with id,pred,source,split")
    parser.add_argument("submission", type=Path, help="CSV with id,pred and, if there are any, score and time")
    parser.add_argument("--draws", type=int, default=2000, help="bootstrap draws, 0 for none (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")
    parser.add_argument("--sources", type=int, default=10, help="how many worst sources (default: 10)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    try:
        solution, submission = load_csv(options.solution), load_csv(options.submission)
        metrics = evaluate(solution, submission, num_draws=options.draws, seed=options.seed)
    except MetricError as error:
        parser.exit(2, f"error: {error}\n")
    if options.json:
        print(json.dumps(metrics.to_dict(), indent=2))
    else:
        print(format_table(metrics, num_sources=options.sources))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
