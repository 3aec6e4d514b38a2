"""What a page shows of windows over a file's whole length: their scores over time, and a table of them."""

from __future__ import annotations

import math

from debug import markup
from debug.markup import CLASS_COLOURS, GREY
from model.modality import GENERATED, Modality
from model.run.words import looked_at
from model.segments import clock, generated_stretches, in_stretches
from model.verdict import INCONCLUSIVE, Verdict, words_of

PLAIN = "<h3>Without windows</h3>"  # above what else the page tells


def segments_section(verdict: Verdict, modality: Modality, *, title: str = "Along the whole file") -> list[str]:
    """HTML parts. verdict: with windows; none if nothing of the file could be read."""
    if not verdict.segments:
        return []
    told = in_stretches(verdict.segments) or "no stretch is generated"
    if verdict.score is not None:
        told = f"{verdict.in_words} ({verdict.score:+.2f}): {told}"
    parts = [
        f"<h3>{markup.escape(title)}</h3>",
        markup.paragraph(
            "; ".join(filter(None, [told.capitalize(), looked_at(verdict, modality), verdict.note])) + "."
        ),
    ]
    if verdict.score is not None:
        parts.append(_curve(verdict, modality))
    rows = [
        (
            f"{clock(one.start_seconds)} to {clock(one.end_seconds)}",
            words_of(one.score, modality.genuine),
            "" if one.score is None else f"{one.score:+.2f}",
            one.note,
        )
        for one in verdict.segments
    ]
    table = markup.table(["window", "verdict", "score", "reason"], rows, numeric=(2,))
    return [*parts, markup.folded("Every window", table)]


def _curve(verdict: Verdict, modality: Modality) -> str:
    from debug.drawing import new_figure

    drawing, axes = new_figure(2.8)
    stretches = generated_stretches(verdict.segments)
    for stretch in stretches:
        axes.axvspan(
            stretch.start_seconds, stretch.end_seconds, color=CLASS_COLOURS[GENERATED], alpha=0.15, linewidth=0
        )
    scores = []
    for one in verdict.segments:
        if one.score is not None:
            scores.append(one.score)
            colour = CLASS_COLOURS[GENERATED if one.score > 0 else modality.genuine]
            span = [one.start_seconds, one.end_seconds]
            axes.plot(span, [one.score, one.score], color=colour, linewidth=3, solid_capstyle="butt")
    axes.axhspan(-INCONCLUSIVE, INCONCLUSIVE, color=GREY, alpha=0.12, linewidth=0)
    axes.axhline(0, color="black", linewidth=0.8)
    reach = 1.1 * max(INCONCLUSIVE, *map(abs, scores))
    axes.set_ylim(-reach, reach)
    ends = [one.end_seconds for one in verdict.segments if math.isfinite(one.end_seconds)]
    axes.set_xlim(0, max(ends, default=None))
    axes.set_xlabel("time (s)")
    axes.set_ylabel("score (> 0: generated)")
    text = (
        f"Score of {len(scores)} window{'s' * (len(scores) != 1)}: lowest {min(scores):+.2f},"
        f" highest {max(scores):+.2f}."
        f" {in_stretches(verdict.segments).capitalize() or 'No stretch is generated'}."
    )
    return markup.figure(drawing, text, f"{text} Grey: inconclusive. Shaded: generated stretches.")
