"""The report's sections, and the sentences that say what the figures mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from debug import markup
from debug.calibration import reliability, source_weights
from debug.markup import Page
from debug.metric import LABELS, SPLITS, SplitMetrics, measure_split, select_split, source_accuracies
from debug.report import confounds, figures
from debug.report.rows import SHORTCUTS, mean_over_sources, mean_table, order_operations

_MIN_CELL_CLIPS = 10  # balanced accuracy of fewer clips is noise


@dataclass(frozen=True)
class ReportParts:
    """Everything `build_page` shows."""

    rows: pd.DataFrame  # debug.report.rows.build_rows
    title: str
    mistakes: Mapping[str, str] = field(default_factory=dict)  # label -> HTML of the strips
    fallbacks: Mapping[str, str] = field(default_factory=dict)  # id -> why it has no score
    reasons: Mapping[str, int] = field(default_factory=dict)  # reason -> rows, as the run counted
    footer: str = ""
    seed: int = 0


def build_page(parts: ReportParts) -> str:
    """The whole report as one HTML document."""
    rows = parts.rows
    splits = {name: measure_split(select_split(rows, name), name, seed=parts.seed) for name in SPLITS}
    overall = splits["private"]
    told = confounds.with_numbers(rows)  # what metadata can say of these is compared with ours on these
    ours = overall if len(told) == len(rows) else measure_split(told, "told", num_draws=0)
    classifiers = confounds.metadata_classifiers(told, seed=parts.seed)
    report = Page(parts.title, _lead(rows, overall), parts.footer)
    report.add("Summary", *_summary(rows, splits, ours, classifiers))
    report.add("Sources", *_sources(rows))
    if "operation" in rows:
        report.add("Post-processing", *_operations(rows))
    report.add("Ranking, threshold, calibration", *_calibration(rows, overall))
    if confounds.present_shortcuts(told):
        report.add("Shortcuts", *_shortcuts(told, ours, classifiers))
    report.add("Clips without a score, and time", *_fallbacks(parts))
    for label in LABELS:
        if label in parts.mistakes:
            report.add(f"Worst mistakes: {label} clips taken for {_other(label)}", parts.mistakes[label])
    return report.render()


def _other(label: str) -> str:
    return LABELS[1 - LABELS.index(label)]


def _show(value: float, digits: int = 3, *, sign: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{sign}.{digits}f}"


def _lead(rows: pd.DataFrame, overall: SplitMetrics) -> str:
    """What was measured, and the one figure; by operation where there are few."""
    count = f"{len(rows)} clips of {rows.groupby('label')['source'].nunique().sum()} sources."
    if math.isnan(overall.balanced_accuracy):
        absent = next((label for label in LABELS if label not in set(rows["label"])), "labelled")
        return f"{count} Balanced accuracy needs both classes; there are no {absent} clips."
    lead = f"{count} Balanced accuracy {overall.balanced_accuracy:.3f}, every source counting the same."
    if "operation" in rows and 1 < rows["operation"].nunique() <= 3:
        figures_by_operation = [
            f"{name} {mean_over_sources(rows[rows['operation'] == name]):.3f}"
            for name in order_operations(rows["operation"])
        ]
        lead += f" By operation: {', '.join(figures_by_operation)}."
    return lead


def _summary(
    rows: pd.DataFrame,
    splits: Mapping[str, SplitMetrics],
    ours: SplitMetrics,
    classifiers: list[confounds.MetadataClassifier],
) -> list[str]:
    overall = splits["private"]
    intervals = {key: f"95%: {value}" for key, value in overall.intervals.items()}
    tiles = [
        markup.tile("Balanced accuracy", _show(overall.balanced_accuracy), intervals.get("balanced_accuracy", "")),
        markup.tile("Public split", _show(splits["public"].balanced_accuracy), f"{splits['public'].num_rows} clips"),
        markup.tile("Generated found", _show(overall.generated_accuracy), intervals.get("generated_accuracy", "")),
        markup.tile("Real kept", _show(overall.real_accuracy), intervals.get("real_accuracy", "")),
        markup.tile("ROC AUC", _show(overall.roc_auc), intervals.get("roc_auc", "")),
    ]
    if overall.best:
        best = overall.best
        more = f"at {best.threshold:+.2f}: {best.loss:.3f} lost at 0"
        tiles.append(markup.tile("At the best threshold", _show(best.balanced_accuracy), more))
        tiles.append(markup.tile("Cllr", f"{overall.cllr:.3f} bits", f"{overall.min_cllr:.3f} by ranking alone"))
    tiles.append(markup.tile("No score", f"{overall.fail_rate:.1%}", f"{round(overall.fail_rate * len(rows))} clips"))
    table = markup.table(
        ["split", "clips", "balanced accuracy", "interval", "generated", "real", "ROC AUC"],
        [
            (
                split.name, split.num_rows, _show(split.balanced_accuracy),
                split.intervals.get("balanced_accuracy", "-"), _show(split.generated_accuracy),
                _show(split.real_accuracy), _show(split.roc_auc),
            )
            for split in splits.values()
            if split.num_rows
        ],
        caption="Private is every clip, as the organisers count. Intervals: 95%, bootstrap over sources.",
        numeric=(1, 2, 4, 5, 6),
    )  # fmt: skip
    return [f'<div class="tiles">{"".join(tiles)}</div>', *findings(rows, overall, ours, classifiers), table]


def findings(
    rows: pd.DataFrame, overall: SplitMetrics, ours: SplitMetrics, classifiers: list[confounds.MetadataClassifier]
) -> list[str]:
    """What a reader should not miss, as boxes; warnings first. ours: figures of the rows that the classifiers saw."""
    boxes = []
    strongest = max(classifiers, key=lambda c: c.balanced_accuracy, default=None)
    if strongest and strongest.balanced_accuracy > ours.balanced_accuracy - confounds.CLOSE:
        boxes.append(
            markup.box(
                "warning",
                "This test set gives the label away.",
                f"Container numbers alone (resolution, frame rate, bitrate, duration) reach a balanced accuracy of"
                f" {strongest.balanced_accuracy:.3f} on unseen families ({strongest.name}); the submission has"
                f" {ours.balanced_accuracy:.3f}. Trust figures on matched or post-processed clips more.",
            )
        )
    gap = overall.generated_accuracy - overall.real_accuracy
    if abs(gap) > 0.1:
        kind = ("real", "generated") if gap > 0 else ("generated", "real")
        boxes.append(
            markup.box(
                "warning",
                "The threshold favours one class.",
                f"{overall.generated_accuracy:.2f} of generated but {overall.real_accuracy:.2f} of real clips are"
                f" right: too many {kind[0]} clips are called {kind[1]}.",
            )
        )
    if overall.best and overall.best.loss > 0.015:
        boxes.append(
            markup.box(
                "note",
                "Balanced accuracy is lost at the threshold.",
                f"{overall.best.loss:.3f} more would be had at {overall.best.threshold:+.2f} instead of 0.",
            )
        )
    if count := int(rows["missing"].sum()):
        boxes.append(markup.box("warning", f"{count} clips are missing from the submission.", "They count as wrong."))
    if count := int(np.isinf(rows["score"]).sum()):
        boxes.append(
            markup.box(
                "note",
                f"{count} scores are infinite.",
                "Figures show them at their edge; a single one on the wrong side makes Cllr infinite.",
            )
        )
    table = source_accuracies(rows)
    lost = table[(table["accuracy"] < 0.5) & (table["num_clips"] >= 4)]
    if len(lost):
        names = ", ".join(f"{row.label} {row.source} {row.accuracy:.2f}" for row in lost.head(6).itertuples())
        boxes.append(
            markup.box("note", f"{len(lost)} sources of 4 or more clips are below one half.", f"Worst: {names}.")
        )
    return boxes


def _sources(rows: pd.DataFrame) -> list[str]:
    accuracies = source_accuracies(rows)
    bars = [figures.source_bars(accuracies[accuracies["label"] == label], label) for label in LABELS]
    medians = rows[rows["score"].notna()].groupby(["label", "source"])["score"].median().to_dict()
    table = markup.table(
        ["class", "source", "clips", "accuracy", "median score"],
        [
            (
                row.label,
                row.source,
                row.num_clips,
                f"{row.accuracy:.3f}",
                _show(medians.get((row.label, row.source), math.nan), 2),
            )
            for row in accuracies.itertuples()
        ],
        numeric=(2, 3, 4),
    )
    return [f'<div class="figures">{"".join(bars)}</div>', markup.folded(f"All {len(accuracies)} sources", table)]


def _operations(rows: pd.DataFrame) -> list[str]:
    graded = rows[rows["severity"] > 0]
    shown = []
    by_severity = mean_table(graded, "operation", "severity", min_clips=_MIN_CELL_CLIPS, both_classes=True)
    by_severity = by_severity.dropna(how="all")
    if len(by_severity):
        order = by_severity.mean(axis=1).sort_values().index
        shown.append(
            figures.heat_map(
                by_severity.loc[order], down="operation", across="severity", what="balanced accuracy",
                caption="Balanced accuracy by operation and severity, worst operation first. Blank: fewer than"
                f" {_MIN_CELL_CLIPS} clips, or one class only.",
            )
        )  # fmt: skip
        if by_severity.shape[1] > 1:
            shown.append(figures.severity_lines(by_severity.loc[order]))
    for label in LABELS:
        table = mean_table(rows[rows["label"] == label], "source", "operation")
        if table.empty:
            continue
        table = table[order_operations(table.columns)]
        table = table.loc[table.mean(axis=1).sort_values().index]
        shown.append(
            figures.heat_map(
                table, down="source", across="operation", count=28,
                caption=f"Accuracy on {label} clips by source and operation; the {min(28, len(table))} worst of"
                f" {len(table)} sources.",
            )
        )  # fmt: skip
    table = []
    for operation, group in rows.groupby("operation"):
        classes = {label: group[group["label"] == label] for label in LABELS}
        values = [mean_over_sources(classes[label]) for label in LABELS]
        medians = [_show(classes[label]["score"].dropna().median(), 2) for label in LABELS]
        table.append((operation or "as found", len(group), _show(sum(values) / 2), *map(_show, values), *medians))
    listing = markup.table(
        ["operation", "clips", "balanced accuracy", "generated", "real", "median generated", "median real"],
        sorted(table, key=lambda cells: str(cells[2])),
        caption="An operation that lowers one class and spares the other moves the threshold, not the ranking.",
        numeric=(1, 2, 3, 4, 5, 6),
    )
    return [f'<div class="figures">{"".join(shown)}</div>', listing]


def _calibration(rows: pd.DataFrame, overall: SplitMetrics) -> list[str]:
    scored = rows[rows["score"].notna()]
    is_generated = (scored["label"] == "generated").to_numpy()
    if not overall.best:
        return [markup.paragraph("Both classes need clips with a score for this.")]
    scores = scored["score"].to_numpy()
    weights = source_weights(is_generated, scored["source"].to_numpy())
    drawn = (
        figures.score_histogram(scores, is_generated),
        figures.threshold_sweep(scores, is_generated, weights),
        figures.roc_curve(scores, is_generated, overall.roc_auc),
        figures.reliability_diagram(reliability(scores, is_generated, weights), overall.cllr, overall.min_cllr),
    )
    return [f'<div class="figures">{"".join(drawn)}</div>']


def _shortcuts(rows: pd.DataFrame, overall: SplitMetrics, classifiers: list[confounds.MetadataClassifier]) -> list[str]:
    columns = confounds.present_shortcuts(rows)
    bands = {column: confounds.accuracy_bands(rows, column) for column in columns}
    bars = [figures.band_bars(bands[column], SHORTCUTS[column]) for column in columns if len(bands[column]) > 1]
    compared = markup.table(
        ["what decides", "balanced accuracy", "ROC AUC"],
        [
            ("this submission", _show(overall.balanced_accuracy), _show(overall.roc_auc)),
            *(
                (f"container numbers alone, {c.name}", _show(c.balanced_accuracy), _show(c.roc_auc))
                for c in classifiers
            ),
        ],
        caption="Metadata classifiers are trained on other families of this very set. They may not be submitted;"
        " here they show how far the set can be solved without looking."
        + ("" if classifiers else " Too few families or numbers to train one here."),
        numeric=(1, 2),
    )
    correlations = confounds.score_correlations(rows)
    matched = markup.table(
        ["shortcut", *(f"rank correlation, {label}" for label in correlations.index), "balanced accuracy in bands"],
        [
            (
                SHORTCUTS[column],
                *(_show(correlations.loc[label, column], 2, sign="+") for label in correlations.index),
                _show(confounds.matched_balanced_accuracy(bands[column])),
            )
            for column in columns
        ],
        caption="Correlation (Spearman) of the score with the number within a class: far from 0 means that the score"
        " follows it. The last column averages over bands that hold both classes.",
        numeric=tuple(range(1, 2 + len(correlations))),
    )  # fmt: skip
    return [compared, matched, f'<div class="figures">{"".join(bars)}</div>']


def _fallbacks(parts: ReportParts) -> list[str]:
    rows = parts.rows
    lost = rows[rows["score"].isna()]
    shown = [markup.paragraph(f"{len(lost)} of {len(rows)} clips have no score.")]
    if parts.reasons:
        shown.append(
            markup.table(
                ["rows", "reason, as the run counted"], [(n, text) for text, n in parts.reasons.items()], numeric=(0,)
            )
        )
    if len(lost):
        listing = [
            (row.label, row.source, row.id, "", parts.fallbacks.get(row.id, "not in the submission"))
            if row.missing
            else (row.label, row.source, row.id, row.pred, parts.fallbacks.get(row.id, ""))
            for row in lost.itertuples()
        ]
        shown.append(markup.folded("Clips", markup.table(["class", "source", "id", "pred", "reason"], listing)))
    seconds = rows["time"].to_numpy()
    known = seconds[np.isfinite(seconds)]
    if len(known):
        shown.append(f'<div class="figures">{figures.time_histogram(known)}</div>')
    else:
        shown.append(markup.paragraph("The submission has no time column (script.py writes it with --time)."))
    return shown
