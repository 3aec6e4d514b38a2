"""Is B better than A? Two or more submissions over one solution, paired: `python -m debug.compare SOLUTION A B...`.

What decides is the competition's figure, the mean over sources, and the hidden sources are others than ours. So the
unit is the source: the bootstrap redraws sources, and the permutation test swaps A and B within whole sources.
McNemar's test on clips is reported beside; it treats clips of a source as independent and is more easily impressed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest, permutation_test

from debug.metric import MetricError, class_labels, join_submission, load_csv, measure_split, select_split
from model.metric import Interval, draw_counts, pairwise_wins, percentile_interval, redrawn_auc

ALPHA = 0.05


@dataclass(frozen=True)
class Comparison:
    """B against A; differences are B minus A."""

    a: str
    b: str
    balanced_accuracy_a: float
    balanced_accuracy_b: float
    difference: float
    interval: Interval  # 95%, paired bootstrap over sources
    p_value: float  # permutation within sources, two-sided
    adjusted_p: float  # Holm's correction over all pairs of the run
    auc_difference: float  # over clips that both scored; NaN if undefined
    auc_interval: Interval
    only_a_right: int  # clips
    only_b_right: int
    mcnemar_p: float  # exact, two-sided
    num_sources: int
    changed_sources: tuple[tuple[str, str, float], ...]  # label, source, difference: largest changes

    @property
    def verdict(self) -> str:
        """One of `better`, `worse`, `open`: what the evidence says of B."""
        if self.adjusted_p >= ALPHA or self.interval.low <= 0 <= self.interval.high:
            return "open"
        return "better" if self.difference > 0 else "worse"


def paired_source_accuracies(rows_a: pd.DataFrame, rows_b: pd.DataFrame) -> pd.DataFrame:
    """label, source, a, b: accuracies over the same clips."""
    both = rows_a[["label", "source"]].assign(a=rows_a["correct"].to_numpy(), b=rows_b["correct"].to_numpy())
    return both.groupby(["label", "source"], as_index=False)[["a", "b"]].mean()


def difference_draws(table: pd.DataFrame, *, num_draws: int, seed: int) -> np.ndarray:
    """Bootstrap over sources of the difference in balanced accuracy, float (num_draws,)."""
    rng = np.random.default_rng(seed)
    total = np.zeros(num_draws)
    for label in class_labels(table["label"]):
        differences = _differences(table, label)
        total += draw_counts(rng, len(differences), num_draws) @ differences / len(differences) / 2
    return total


def permutation_p_value(table: pd.DataFrame, *, num_draws: int, seed: int) -> float:
    """Two-sided: how often would swapping A and B in random sources give at least this difference?

    All swaps are tried where they are fewer than `num_draws`.
    """
    parts = [_differences(table, label) for label in class_labels(table["label"])]
    weights = np.concatenate([part / len(part) / 2 for part in parts])
    swapped = permutation_test(
        (weights,), np.sum, permutation_type="samples", n_resamples=num_draws, rng=np.random.default_rng(seed)
    )
    return float(swapped.pvalue)


def _differences(table: pd.DataFrame, label: str) -> np.ndarray:
    rows = table[table["label"] == label]
    return (rows["b"] - rows["a"]).to_numpy(float)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: as many chances for a false alarm as one test has.

    Example: 0.01 0.04 0.03 -> 0.03 0.06 0.06.
    """
    order = np.argsort(p_values, kind="stable")
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, highest)
    return adjusted


def _auc_difference(rows_a: pd.DataFrame, rows_b: pd.DataFrame, *, num_draws: int, seed: int) -> tuple[float, Interval]:
    """ROC AUC of B minus A over clips that both scored, with its paired bootstrap interval over sources."""
    scored = rows_a["score"].notna().to_numpy() & rows_b["score"].notna().to_numpy()
    is_generated = (rows_a["label"] == "generated").to_numpy()[scored]
    if not is_generated.any() or is_generated.all():
        return math.nan, Interval(math.nan, math.nan)
    sources = rows_a["source"].to_numpy()[scored]
    wins_a, generated_counts, real_counts = pairwise_wins(rows_a["score"].to_numpy()[scored], is_generated, sources)
    wins_b, _, _ = pairwise_wins(rows_b["score"].to_numpy()[scored], is_generated, sources)
    draws = redrawn_auc(wins_b - wins_a, generated_counts, real_counts, num_draws=num_draws, seed=seed)
    difference = (wins_b - wins_a).sum() / generated_counts.sum() / real_counts.sum()
    return float(difference), percentile_interval(draws)


def compare(
    solution: pd.DataFrame,
    submissions: Mapping[str, pd.DataFrame],
    *,
    split: str = "private",
    num_draws: int = 10_000,
    seed: int = 0,
) -> list[Comparison]:
    """Every pair of submissions, in the order given: the later one is B.

    Raises: MetricError: a submission cannot be joined, fewer than two of them, or the split lacks a class.
    """
    if len(submissions) < 2:
        raise MetricError(f"{len(submissions)} submission to compare; give two or more")
    rows = {name: select_split(join_submission(solution, frame), split) for name, frame in submissions.items()}
    first = next(iter(rows.values()))
    absent = set(class_labels(solution["pred"])) - set(first["label"])
    if absent:
        raise MetricError(f"split {split!r} has no {sorted(absent)[0]} clips")
    pairs = list(combinations(rows, 2))
    tables = [paired_source_accuracies(rows[a], rows[b]) for a, b in pairs]
    p_values = [permutation_p_value(table, num_draws=num_draws, seed=seed) for table in tables]
    results = []
    for (a, b), table, p_value, adjusted in zip(pairs, tables, p_values, holm(p_values), strict=True):
        right_a, right_b = rows[a]["correct"].to_numpy(bool), rows[b]["correct"].to_numpy(bool)
        only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
        figures = [table.groupby("label")[column].mean().mean() for column in ("a", "b")]
        auc, auc_interval = _auc_difference(rows[a], rows[b], num_draws=min(num_draws, 2000), seed=seed)
        changes = table.assign(difference=table["b"] - table["a"])
        changes = changes.sort_values("difference", key=abs, ascending=False, kind="stable")
        results.append(
            Comparison(
                a=a,
                b=b,
                balanced_accuracy_a=float(figures[0]),
                balanced_accuracy_b=float(figures[1]),
                difference=float(figures[1] - figures[0]),
                interval=percentile_interval(difference_draws(table, num_draws=num_draws, seed=seed)),
                p_value=p_value,
                adjusted_p=adjusted,
                auc_difference=auc,
                auc_interval=auc_interval,
                only_a_right=only_a,
                only_b_right=only_b,
                mcnemar_p=float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0,
                num_sources=len(table),
                changed_sources=tuple(
                    (row.label, str(row.source), float(row.difference))
                    for row in changes[changes["difference"] != 0].head(8).itertuples()
                ),
            )
        )
    return results


def describe(result: Comparison) -> str:
    """The verdict in words, then the figures behind it."""
    size = f"{result.difference:+.4f} balanced accuracy, 95% {result.interval.low:+.4f} to {result.interval.high:+.4f}"
    if result.verdict == "open":
        half = (result.interval.high - result.interval.low) / 2
        head = (
            f"OPEN: no telling whether {result.b} is better than {result.a} ({size}). With these {result.num_sources}"
            f" sources a difference must be about {half:.3f} or more to be seen."
        )
    else:
        advice = "worth a submission" if result.verdict == "better" else "keep " + result.a
        head = f"{result.verdict.upper()}: {result.b} is {result.verdict} than {result.a} ({size}): {advice}."
    lines = [
        head,
        f"  balanced accuracy  {result.balanced_accuracy_a:.4f} -> {result.balanced_accuracy_b:.4f}",
        f"  permutation within sources  p = {result.p_value:.4f} (corrected over all pairs: {result.adjusted_p:.4f})",
        f"  ROC AUC  {result.auc_difference:+.4f},"
        f" 95% {result.auc_interval.low:+.4f} to {result.auc_interval.high:+.4f}",
        f"  clips right only in {result.a}: {result.only_a_right}, only in {result.b}: {result.only_b_right};"
        f" McNemar p = {result.mcnemar_p:.4f}",
    ]
    if result.changed_sources:
        lines.append("  largest changes: " + ", ".join(f"{s} ({k}) {d:+.2f}" for k, s, d in result.changed_sources))
    return "\n".join(lines)


def format_side_by_side(
    solution: pd.DataFrame, submissions: Mapping[str, pd.DataFrame], *, split: str = "private"
) -> str:
    """The metric of each submission, one line each, best first."""
    genuine = class_labels(solution["pred"])[1]
    lines = [f"{'balanced':>9} {'generated':>9} {genuine:>8} {'AUC':>7} {'Cllr':>7} {'no score':>8}  submission"]
    measured = {
        name: measure_split(select_split(join_submission(solution, frame), split), split, num_draws=0)
        for name, frame in submissions.items()
    }
    for name, m in sorted(measured.items(), key=lambda item: -item[1].balanced_accuracy):
        lines.append(
            f"{m.balanced_accuracy:>9.4f} {m.generated_accuracy:>9.4f} {m.genuine_accuracy:>8.4f} {m.roc_auc:>7.4f}"
            f" {m.cllr:>7.4f} {m.fail_rate:>8.1%}  {name}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m debug.compare", description=__doc__.splitlines()[0])
    parser.add_argument("solution", type=Path)
    parser.add_argument("submissions", nargs="+", type=Path, help="two or more; the first is the one to beat")
    parser.add_argument("--split", default="private", help="public, private (all rows, default) or 'private only'")
    parser.add_argument("--draws", type=int, default=10_000, help="bootstrap and permutation draws (default: 10000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    try:
        solution = load_csv(options.solution)
        stems = [path.stem for path in options.submissions]  # names, where they differ
        names = [path.stem if stems.count(path.stem) == 1 else str(path) for path in options.submissions]
        submissions = {name: load_csv(path) for name, path in zip(names, options.submissions, strict=True)}
        results = compare(solution, submissions, split=options.split, num_draws=options.draws, seed=options.seed)
    except MetricError as error:
        parser.exit(2, f"error: {error}\n")
    if options.json:
        print(json.dumps([{"verdict": result.verdict, **asdict(result)} for result in results], indent=2))
        return 0
    print(format_side_by_side(solution, submissions, split=options.split), end="\n\n")
    print("\n\n".join(map(describe, results)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
