"""The worst mistakes of each class, as the detector met them, and why clips have no score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from debug.markup import escape, paragraph
from debug.report.shows import Show
from model.modality import Modality, Unreadable
from model.rows.dataset import open_dataset


def worst_mistakes(rows: pd.DataFrame, label: str, *, count: int) -> pd.DataFrame:
    """Clips of a class with a score on the wrong side, furthest first; at most two of a source."""
    group = rows[(rows["label"] == label) & rows["score"].notna() & ~rows["correct"]]
    ordered = group.sort_values("score", ascending=label == "generated", kind="stable")
    return ordered.groupby("source", sort=False).head(2).head(count)


def load_media(dataset: Path, ids: set[str], modality: Modality) -> dict[str, bytes | str]:
    """The wanted clips of a dataset in any form that script.py reads; only these are kept in memory."""
    media: dict[str, bytes | str] = {}
    if not ids:
        return media
    for row in open_dataset(dataset, modality).rows():
        if row.id in ids and row.media is not None:
            media[row.id] = row.media
            if len(media) == len(ids):
                break
    return media


def mistake_section(mistakes: pd.DataFrame, media: Mapping[str, bytes | str], show: Show) -> str:
    """One strip a clip. A clip that cannot be shown is named with the reason."""
    parts = [paragraph(show.key)] if len(mistakes) else []
    for row in mistakes.itertuples():
        step = f", {row.operation} {row.severity or ''}".rstrip() if getattr(row, "operation", "") else ""
        name = getattr(row, "file", None) or row.id
        title = f"<h3>{escape(row.source)}{escape(step)}: score {row.score:+.2f}, is {escape(row.label)}</h3>"
        parts.append(f"{title}\n{paragraph(str(name))}")
        if row.id not in media:
            parts.append(paragraph("The clip is not in the dataset given."))
            continue
        try:
            strip, score = show.strip(media[row.id])
        except Unreadable as error:
            parts.append(paragraph(f"Cannot be shown: {error}"))
            continue
        if score is not None and abs(score - row.score) > 0.05:
            parts.append(paragraph(f"The weights given score this clip {score:+.2f}."))
        parts.append(strip)
    return "\n".join(parts) or paragraph("None.")


def fallback_reasons(rows: pd.DataFrame, media: Mapping[str, bytes | str], show: Show) -> dict[str, str]:
    """Why each clip of the submission without a score has none, found by reading it again: id -> reason."""
    reasons = {}
    for clip_id in rows.loc[~rows["missing"], "id"]:
        if clip_id not in media:
            reasons[clip_id] = "no score; the clip is not at hand to say why"
            continue
        try:
            reasons[clip_id] = f"no score, though {show.reading(media[clip_id])}"
        except Unreadable as error:
            reasons[clip_id] = str(error)
    return reasons
