"""The report's figures: each returns HTML with the drawing, its caption and its text alternative."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from debug.drawing import FONT, new_figure
from debug.markup import BLUE, CLASS_COLOURS, CLASS_HATCHES, GREEN, GREY, figure
from debug.report.confounds import Band
from model.metric import ReliabilityBin, best_threshold

_LINE_COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
_CLEAR = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # keeps lines off a number
_MAX_BARS = 30
_MAX_SHOWN_SCORE = 12.0  # scores beyond are drawn at the edge


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=FONT + 0.5)
    axes.set_ylabel(y, fontsize=FONT + 0.5)


def source_bars(accuracies: pd.DataFrame, label: str) -> str:
    """accuracies: source, num_clips, accuracy of one class, worst first."""
    shown = accuracies.head(_MAX_BARS)
    if shown.empty:
        return ""
    drawing, axes = new_figure(0.7 + 0.19 * len(shown))
    places = np.arange(len(shown))
    axes.barh(
        places,
        shown["accuracy"],
        color=CLASS_COLOURS[label],
        hatch=CLASS_HATCHES[label],
        edgecolor="white",
        height=0.75,
    )
    axes.set_yticks(places, [f"{row.source[:26]} ({row.num_clips})" for row in shown.itertuples()])
    axes.axvline(float(accuracies["accuracy"].mean()), color="black", linewidth=1, linestyle="--")
    for place, value in enumerate(shown["accuracy"]):
        axes.text(value + 0.01, place, f"{value:.2f}", va="center", fontsize=FONT - 1, bbox=_CLEAR)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    _label(axes, f"accuracy; dashed: mean of all {len(accuracies)}", "")
    worst = ", ".join(f"{row.source} {row.accuracy:.2f}" for row in shown.head(5).itertuples())
    rest = f" The other {len(accuracies) - len(shown)} are in the table below." if len(accuracies) > len(shown) else ""
    return figure(
        drawing,
        f"Bars of accuracy for {len(shown)} {label} sources, worst first: {worst}.",
        f"{label.capitalize()} sources, worst first, number of clips in brackets.{rest}",
    )


def heat_map(
    table: pd.DataFrame, *, down: str, across: str, caption: str, count: int | None = None, what: str = "accuracy"
) -> str:
    """table: values from 0 to 1, NaN left blank. Cells carry their number, so no colour has to be read."""
    shown = table.head(count) if count else table
    if shown.empty:
        return ""
    drawing, axes = new_figure(1.3 + 0.21 * len(shown))
    values = shown.to_numpy(float)
    axes.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(shown.columns)), [str(c) for c in shown.columns])
    if len(shown.columns) > 4:
        axes.tick_params(axis="x", rotation=55)
        for tick in axes.get_xticklabels():
            tick.set_horizontalalignment("right")
    axes.set_yticks(range(len(shown)), [str(name)[:26] for name in shown.index])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=FONT - 1)
    size = FONT if len(shown.columns) <= 6 else 6.5
    for (y, x), value in np.ndenumerate(values):
        if not math.isnan(value):
            colour = "black" if value > 0.45 else "white"  # at least 4.5 to 1 on cividis
            axes.text(x, y, f"{value:.2f}".lstrip("0") or "0", ha="center", va="center", fontsize=size, color=colour)
    _label(axes, across, down)
    flat = shown.stack()
    low = ", ".join(f"{name[0]} with {name[1]} {value:.2f}" for name, value in flat.nsmallest(5).items())
    alternative = f"Heat map of {what}, {len(shown)} {down}s by {len(shown.columns)} {across}s. Lowest: {low}."
    return figure(drawing, alternative, caption)


def roc_curve(scores: np.ndarray, is_generated: np.ndarray, auc: float, genuine: str) -> str:
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.r_[np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1]  # ties move together, infinite ones too
    hits = np.r_[0, is_generated[order].cumsum()[last]] / max(1, is_generated.sum())
    alarms = np.r_[0, (~is_generated[order]).cumsum()[last]] / max(1, (~is_generated).sum())
    drawing, axes = new_figure(3.6)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    axes.plot(alarms, hits, color=BLUE, linewidth=2)
    at_zero = (scores[~is_generated] > 0).mean(), (scores[is_generated] > 0).mean()
    axes.plot(*at_zero, "o", color="black", markersize=6)
    axes.annotate("score > 0", at_zero, xytext=(8, -12), textcoords="offset points", fontsize=FONT)
    axes.set_aspect("equal")
    _label(axes, f"{genuine} clips called generated", "generated clips found")
    alternative = (
        f"ROC curve with area {auc:.3f}. At score 0, {at_zero[1]:.0%} of generated clips are found"
        f" and {at_zero[0]:.0%} of {genuine} clips are called generated."
    )
    return figure(drawing, alternative, f"ROC curve over clips, area {auc:.3f}; the dot is where score 0 decides.")


def score_histogram(scores: np.ndarray, is_generated: np.ndarray, genuine: str) -> str:
    shown = np.clip(scores, -_MAX_SHOWN_SCORE, _MAX_SHOWN_SCORE)
    reach = max(1.0, float(np.abs(shown).max()))
    bins = np.linspace(-reach, reach, 41).tolist()  # a bin edge at 0
    drawing, axes = new_figure()
    for label, rows in ((genuine, ~is_generated), ("generated", is_generated)):
        share = np.full(rows.sum(), 1 / max(1, rows.sum()))
        colour = CLASS_COLOURS[label]
        axes.hist(
            shown[rows], bins, weights=share, facecolor=(colour, 0.45), label=label, hatch=CLASS_HATCHES[label],
            edgecolor=colour, linewidth=1.2, linestyle="-" if label == "generated" else "--", histtype="stepfilled",
        )  # fmt: skip
    axes.axvline(0, color="black", linewidth=1)
    axes.legend(fontsize=FONT, frameon=False)
    _label(axes, "score (log-likelihood ratio; > 0: generated)", "share of the class")
    medians = np.median(scores[is_generated]), np.median(scores[~is_generated])
    alternative = f"Histogram of scores by class. Median of generated {medians[0]:.2f}, of {genuine} {medians[1]:.2f}."
    return figure(drawing, alternative, f"Scores by class. {alternative.split('. ', 1)[1]}")


def reliability_diagram(bins: Sequence[ReliabilityBin], cllr: float, min_cllr: float) -> str:
    drawing, axes = new_figure(3.6)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    axes.plot([b.promised for b in bins], [b.observed for b in bins], color=GREEN, linewidth=1.5)
    most = max(b.num_rows for b in bins)
    sizes = [12 + 110 * b.num_rows / most for b in bins]
    axes.scatter([b.promised for b in bins], [b.observed for b in bins], s=sizes, color=GREEN)
    axes.set_aspect("equal")
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    _label(axes, "chance of generated that the score promises", "share that is generated")
    gaps = ", ".join(f"{b.promised:.2f} promised {b.observed:.2f} found" for b in bins)
    return figure(
        drawing,
        f"Reliability diagram: {gaps}.",
        "Reliability at even odds, sources weigh equally; a larger dot holds more clips. "
        f"Cllr {cllr:.3f} bits, {min_cllr:.3f} of them the ranking's, {cllr - min_cllr:.3f} the calibration's.",
    )


def threshold_sweep(scores: np.ndarray, is_generated: np.ndarray, weights: np.ndarray, genuine: str) -> str:
    """Both classes' accuracy against the threshold, mean over sources."""
    best = best_threshold(scores, is_generated, weights)
    inner = np.clip(scores, -_MAX_SHOWN_SCORE, _MAX_SHOWN_SCORE)
    cuts = np.linspace(inner.min() - 0.2, inner.max() + 0.2, 300)
    drawing, axes = new_figure()
    curves = {}
    for label, rows in (("generated", is_generated), (genuine, ~is_generated)):
        right = (inner[rows] > cuts[:, None]) == (label == "generated")
        curves[label] = right @ weights[rows] / weights[rows].sum()
        style = "-" if label == "generated" else "--"
        axes.plot(cuts, curves[label], color=CLASS_COLOURS[label], linestyle=style, label=label)
    axes.plot(cuts, (curves["generated"] + curves[genuine]) / 2, color="black", linewidth=2, label="balanced")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axvline(best.threshold, color=GREEN, linewidth=1.2, linestyle="-.", label=f"best, {best.threshold:+.2f}")
    axes.legend(fontsize=FONT - 1, frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    _label(axes, "threshold on the score", "accuracy, mean over sources")
    alternative = (
        f"Accuracy against threshold. Balanced accuracy is {best.at_zero:.3f} at 0"
        f" and {best.balanced_accuracy:.3f} at best, at {best.threshold:+.2f}: {best.loss:.3f} is lost."
    )
    return figure(drawing, alternative, alternative)


def band_bars(bands: Sequence[Band], name: str) -> str:
    drawing, axes = new_figure(2.9)
    places = np.arange(len(bands))
    for shift, label in zip((-0.2, 0.2), bands[0].accuracy, strict=True):
        heights = [band.accuracy[label] for band in bands]
        axes.bar(
            places + shift, heights, 0.38, color=CLASS_COLOURS[label], hatch=CLASS_HATCHES[label], edgecolor="white",
            label=label,
        )  # fmt: skip
        for place, band, height in zip(places, bands, heights, strict=True):
            if not math.isnan(height):
                axes.text(place + shift, height + 0.01, str(band.num_clips[label]), ha="center", fontsize=FONT - 2)
    axes.set_xticks(places, [band.name for band in bands], rotation=20, ha="right")
    axes.set_ylim(0, 1.12)
    axes.legend(fontsize=FONT - 1, frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    _label(axes, name, "accuracy")
    parts = "; ".join(
        f"{band.name}: "
        + ", ".join(f"{label} {band.accuracy[label]:.2f}" for label in band.accuracy if band.num_clips[label])
        for band in bands
    )
    return figure(drawing, f"Accuracy by {name}. {parts}.", f"Accuracy by {name}; on the bars: clips.")


def severity_lines(table: pd.DataFrame) -> str:
    """table: balanced accuracy, operation x severity."""
    drawing, axes = new_figure(3.4)
    markers = "os^Dv<>PX*h"
    for number, (operation, values) in enumerate(table.iterrows()):
        style = ("-", "--", ":", "-.")[number % 4]
        axes.plot(
            list(table.columns), values, marker=markers[number % len(markers)], linestyle=style, label=str(operation),
            markersize=4, color=_LINE_COLOURS[number % len(_LINE_COLOURS)],
        )  # fmt: skip
    axes.set_xticks(list(table.columns))
    axes.legend(fontsize=FONT - 2, frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    _label(axes, "severity", "balanced accuracy")
    parts = "; ".join(f"{name}: " + ", ".join(f"{v:.2f}" for v in values.dropna()) for name, values in table.iterrows())
    return figure(drawing, f"Balanced accuracy by severity. {parts}.", "Balanced accuracy against severity.")


def time_histogram(seconds: np.ndarray) -> str:
    drawing, axes = new_figure(2.6)
    axes.hist(seconds, 40, color=BLUE)
    _label(axes, "seconds per clip", "clips")
    quantiles = np.percentile(seconds, [50, 95, 100])
    text = f"Median {quantiles[0]:.3f} s, 95% within {quantiles[1]:.3f} s, slowest {quantiles[2]:.3f} s."
    return figure(drawing, f"Histogram of seconds per clip. {text}", f"Time per clip. {text}")
