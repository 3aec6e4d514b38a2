"""The report's sections, and the sentences that say what the figures mean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd

from debug import markup
from debug.markup import Page
from debug.metric import SPLITS, SplitMetrics, class_labels, measure_split, select_split, source_accuracies
from debug.report import confounds, figures
from debug.report.rows import SHORTCUTS, mean_over_sources, mean_table, order_operations
from debug.report.terms import TERMS
from model.metric import MIN_SOURCES, reliability, source_weights, wilson_high

_MIN_CELL_CLIPS = 10  # balanced accuracy of fewer clips is noise
_PART_NAMES = {"private": "all", "public": "public half", "private only": "other half"}  # splits outside the challenge


@dataclass(frozen=True)
class ReportParts:
    """Everything `build_page` shows."""

    rows: pd.DataFrame  # debug.report.rows.build_rows
    title: str
    mistakes: Mapping[str, str] = field(default_factory=dict)  # label -> HTML of the strips
    fallbacks: Mapping[str, str] = field(default_factory=dict)  # id -> why it has no score
    reasons: Mapping[str, int] = field(default_factory=dict)  # reason -> rows, as the run counted
    footer: str = ""
    known_clips: int = 0  # that the weights learnt from
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
    report.add("Summary", *_summary(rows, splits, ours, classifiers, parts.known_clips))
    report.add("Sources", *_sources(rows))
    if "operation" in rows:
        report.add("Post-processing", *_operations(rows))
    report.add("Ranking, threshold, calibration", *_calibration(rows, overall))
    if confounds.present_shortcuts(told):
        report.add("Shortcuts", *_shortcuts(told, ours, classifiers))
    report.add("Clips without a score, and time", *_fallbacks(parts))
    labels = class_labels(rows["label"])
    for label, other in (labels, labels[::-1]):
        if label in parts.mistakes:
            report.add(f"Worst mistakes: {label} clips taken for {other}", parts.mistakes[label])
    report.add("Terms", markup.definitions(TERMS))
    return report.render()


def _genuine(rows: pd.DataFrame) -> str:
    return class_labels(rows["label"])[1]


def _show(value: float, digits: int = 3, *, sign: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{sign}.{digits}f}"


def _interval(split: SplitMetrics, key: str) -> str:
    """The interval in words, or why there is none."""
    if key in split.intervals:
        return str(split.intervals[key])
    return "too few sources for an interval" if not math.isnan(getattr(split, key)) else ""


def _lead(rows: pd.DataFrame, overall: SplitMetrics) -> str:
    """What was measured, copies of a clip counted as one, and the one figure; by operation where there are few."""
    num_clips, num_sources = rows["original"].nunique(), rows.groupby("label")["source"].nunique().sum()
    clips = f"{num_clips} clips" if num_clips == len(rows) else f"{len(rows)} copies of {num_clips} clips"
    count = f"{clips} of {num_sources} sources."
    if math.isnan(overall.balanced_accuracy):
        absent = next((label for label in class_labels(rows["label"]) if label not in set(rows["label"])), "labelled")
        return f"{count} Balanced accuracy needs both classes; there are no {absent} clips."
    lead = (
        f"{count} Balanced accuracy {overall.balanced_accuracy:.3f} ({_interval(overall, 'balanced_accuracy')}),"
        " every source counting the same."
    )
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
    known_clips: int,
) -> list[str]:
    overall, genuine = splits["private"], _genuine(rows)
    tiles = [
        markup.tile(name, _show(getattr(overall, key)), _interval(overall, key))
        for name, key in (
            ("Balanced accuracy", "balanced_accuracy"),
            ("Generated found", "generated_accuracy"),
            (f"{genuine.capitalize()} kept", "genuine_accuracy"),
            ("ROC AUC", "roc_auc"),
        )
    ]
    if overall.best:
        best = overall.best
        more = f"at {best.threshold:+.2f}: {best.loss:.3f} lost at 0"
        tiles.append(markup.tile("At the best threshold", _show(best.balanced_accuracy), more))
        tiles.append(markup.tile("Cllr", f"{overall.cllr:.3f} bits", f"{overall.min_cllr:.3f} by ranking alone"))
    tiles.append(markup.tile("No score", f"{overall.fail_rate:.1%}", f"{round(overall.fail_rate * len(rows))} rows"))
    table = markup.table(
        ["part", "rows", "balanced accuracy", "interval (95%)", "generated", genuine, "ROC AUC"],
        [
            (
                _PART_NAMES[split.name], split.num_rows, _show(split.balanced_accuracy),
                _interval(split, "balanced_accuracy"), _show(split.generated_accuracy),
                _show(split.genuine_accuracy), _show(split.roc_auc),
            )
            for split in splits.values()
            if split.num_rows
        ],
        caption="The organisers count every row for the final ranking. Intervals need"
        f" {MIN_SOURCES} sources of each class.",
        numeric=(1, 2, 4, 5, 6),
    )  # fmt: skip
    told = findings(rows, overall, ours, classifiers, known_clips=known_clips)
    return [f'<div class="tiles">{"".join(tiles)}</div>', markup.side_by_side("".join(told), table)]


def findings(
    rows: pd.DataFrame, overall: SplitMetrics, ours: SplitMetrics, classifiers: list[confounds.MetadataClassifier],
    *, known_clips: int = 0,
) -> Iterator[str]:  # fmt: skip
    """What a reader should not miss, as boxes; warnings first. None of them rests on a single clip.

    ours: figures of the rows that the classifiers saw. known_clips: how many the weights learnt from.
    """
    warning, note = partial(markup.box, "warning"), partial(markup.box, "note")
    if known_clips:
        yield warning(
            f"{known_clips} of these clips were in the training.",
            "By name and source. Scores of clips that the weights have seen say nothing about new ones.",
        )
    strongest = max(classifiers, key=lambda c: c.balanced_accuracy, default=None)
    if strongest and strongest.balanced_accuracy > ours.balanced_accuracy - confounds.CLOSE:
        yield warning(
            "This test set gives the label away.",
            f"Numbers of the file alone (such as size, rate, duration) reach a balanced accuracy of"
            f" {strongest.balanced_accuracy:.3f} on unseen families ({strongest.name}); the submission has"
            f" {ours.balanced_accuracy:.3f}. Trust figures on matched or post-processed clips more.",
        )
    generated, genuine = (overall.intervals.get(f"{side}_accuracy") for side in ("generated", "genuine"))
    if generated and genuine and (generated.high < genuine.low or genuine.high < generated.low):
        less, more = class_labels(rows["label"])[:: 1 if generated.high < genuine.low else -1]
        yield warning(
            "The threshold favours one class.",
            f"{overall.generated_accuracy:.2f} of generated but {overall.genuine_accuracy:.2f} of {_genuine(rows)}"
            f" clips are right, and the intervals do not meet: too many {less} clips are called {more}.",
        )
    if overall.best and overall.best.loss > 0.015 and "balanced_accuracy" in overall.intervals:
        yield note(
            "Balanced accuracy is lost at the threshold.",
            f"{overall.best.loss:.3f} more would be had at {overall.best.threshold:+.2f} instead of 0, at most.",
        )
    if "balanced_accuracy" not in overall.intervals and not math.isnan(overall.balanced_accuracy):
        yield warning(
            "Too few sources.",
            f"A class has fewer than {MIN_SOURCES} sources: these figures tell nothing about others.",
        )
    if count := int(rows["missing"].sum()):
        yield warning(f"{count} clips are missing from the submission.", "They count as wrong.")
    if count := int(np.isinf(rows["score"]).sum()):
        yield note(
            f"{count} scores are infinite.",
            "Figures show them at their edge; a single one on the wrong side makes Cllr infinite.",
        )
    lost = _lost_sources(rows)
    if len(lost):
        names = ", ".join(f"{row.label} {row.source} {row.accuracy:.2f}" for row in lost.head(6).itertuples())
        yield note(f"{len(lost)} sources are below one half, by more than chance.", f"Worst: {names}.")


def _lost_sources(rows: pd.DataFrame) -> pd.DataFrame:
    """Sources whose 95% Wilson interval over clips ends below one half; copies of a clip count as one."""
    per_clip = rows.groupby(["label", "source", "original"], as_index=False)["correct"].mean()
    table = source_accuracies(per_clip)
    return table[[wilson_high(row.accuracy, row.num_clips) < 0.5 for row in table.itertuples()]]


def _sources(rows: pd.DataFrame) -> list[str]:
    accuracies = source_accuracies(rows)
    bars = [
        figures.source_bars(accuracies[accuracies["label"] == label], label) for label in class_labels(rows["label"])
    ]
    medians = rows.groupby(["label", "source"])["score"].median()
    table = markup.table(
        ["class", "source", "clips", "accuracy", "median score"],
        [
            (row.label, row.source, row.num_clips, f"{row.accuracy:.3f}", _show(medians[row.label, row.source], 2))
            for row in accuracies.itertuples()
        ],
        numeric=(2, 3, 4),
    )
    return [markup.figures(bars), markup.folded(f"All {len(accuracies)} sources", table)]


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
    for label in class_labels(rows["label"]):
        table = mean_table(rows[rows["label"] == label], "source", "operation")
        if table.empty:
            continue
        table = table[order_operations(table.columns)]
        table = table.loc[table.mean(axis=1).sort_values().index]
        shown.append(
            figures.heat_map(
                table, down="source", across="operation", count=28,
                caption=f"Accuracy on {label} clips by source and operation; the {min(28, len(table))} worst of"
                f" {len(table)} sources. Blank: no such clip.",
            )
        )  # fmt: skip
    table, labels = [], class_labels(rows["label"])
    for operation, group in rows.groupby("operation"):
        classes = {label: group[group["label"] == label] for label in labels}
        values = [mean_over_sources(classes[label]) for label in labels]
        medians = [_show(classes[label]["score"].dropna().median(), 2) for label in labels]
        table.append((operation or "as found", len(group), _show(sum(values) / 2), *map(_show, values), *medians))
    listing = markup.table(
        ["operation", "clips", "balanced accuracy", *labels, *(f"median score, {label}" for label in labels)],
        sorted(table, key=lambda cells: str(cells[2])),
        caption="An operation that lowers one class and spares the other moves the threshold, not the ranking.",
        numeric=(1, 2, 3, 4, 5, 6),
    )
    return [markup.figures(shown), listing]


def _calibration(rows: pd.DataFrame, overall: SplitMetrics) -> list[str]:
    scored = rows[rows["score"].notna()]
    is_generated = (scored["label"] == "generated").to_numpy()
    if not overall.best:
        return [markup.paragraph("Both classes need clips with a score for this.")]
    scores = scored["score"].to_numpy()
    weights = source_weights(is_generated, scored["source"].to_numpy())
    genuine = _genuine(rows)
    drawn = (
        figures.score_histogram(scores, is_generated, genuine),
        figures.threshold_sweep(scores, is_generated, weights, genuine),
        figures.roc_curve(scores, is_generated, overall.roc_auc, genuine),
        figures.reliability_diagram(reliability(scores, is_generated, weights), overall.cllr, overall.min_cllr),
    )
    return [markup.figures(drawn)]


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
    verdict = _shortcut_verdict(overall, classifiers, correlations)
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
    return [markup.paragraph(verdict), markup.side_by_side(compared, matched), markup.figures(bars)]


def _shortcut_verdict(
    overall: SplitMetrics, classifiers: list[confounds.MetadataClassifier], correlations: pd.DataFrame
) -> str:
    """The two tables in words."""
    told = []
    if classifiers:
        best = max(classifier.balanced_accuracy for classifier in classifiers)
        if best > overall.balanced_accuracy - confounds.CLOSE:
            told.append(f"The files alone tell the classes apart about as well ({best:.2f}): this set proves little.")
        else:
            told.append(
                f"The files alone tell the classes apart with {best:.2f} (chance: 0.50), the submission with"
                f" {overall.balanced_accuracy:.2f}: it sees more than the file's numbers."
            )
    strongest = correlations.abs().stack().dropna()
    if len(strongest):
        label, column = strongest.idxmax()
        value = float(strongest.max())
        side = "does not follow" if value < 0.25 else "partly follows" if value < 0.5 else "follows"
        told.append(
            f"Within a class the score {side} the numbers: the strongest rank correlation is"
            f" {correlations.loc[label, column]:+.2f}, {SHORTCUTS[column]} among {label} clips."
        )
    return " ".join(told) or "Too little is known of the files to say."


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
            (row.label, row.source, row.id, "", "not in the submission")
            if row.missing
            else (row.label, row.source, row.id, row.pred, parts.fallbacks.get(row.id, ""))
            for row in lost.itertuples()
        ]
        shown.append(markup.folded("Clips", markup.table(["class", "source", "id", "pred", "reason"], listing)))
    seconds = rows["time"].to_numpy()
    known = seconds[np.isfinite(seconds)]
    if len(known):
        shown.append(markup.figures([figures.time_histogram(known)]))
    else:
        shown.append(markup.paragraph("The submission has no time column (script.py writes it with --time)."))
    return shown
