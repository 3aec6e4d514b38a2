"""What the report is drawn from: solution, submission and key joined, one row a clip."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from debug.ladders import FOUND, PLAIN
from debug.metric import MetricError, class_labels, join_submission

# What the container tells of a clip, by modality
VIDEO_COLUMNS = ("width", "height", "fps", "duration_seconds", "num_bytes")
AUDIO_COLUMNS = ("sampling_rate", "channels", "duration_seconds", "num_bytes")
# What a shortcut could be learnt from: column, name with unit
SHORTCUTS = {
    "sampling_rate": "sampling rate (Hz)",
    "channels": "channels",
    "megapixels": "resolution (megapixels)",
    "fps": "frame rate (frames/s)",
    "bitrate": "bitrate (Mbit/s)",
    "duration_seconds": "duration (s)",
    "bits_per_pixel": "bits per pixel",
    "aspect": "aspect ratio",
}


def submission_from_scores(scores: pd.DataFrame, key: pd.DataFrame) -> pd.DataFrame:
    """Out-of-fold scores with a column `file` become a submission, by the key's file names.

    scores: file, score and optionally pred; `file` as in the key, or as in its `original` together with the columns
        operation and severity. Rows whose clip is not in the key are left out.
    Raises: MetricError: no clip in common.
    """
    on = ["file"]
    if {"operation", "severity"} <= set(scores.columns) and key["operation"].notna().any():
        on = ["original", "operation", "severity"]
        scores = scores.rename(columns={"file": "original"})
        scores, key = (
            table.assign(severity=pd.to_numeric(table["severity"], errors="coerce").fillna(0))
            for table in (scores, key)
        )
    named = scores.merge(key[[*on, "id"]], on=on)
    if named.empty:
        raise MetricError(
            f"none of the {len(scores)} files with scores, such as {scores[on[0]].iloc[0]!r}, is in the key"
        )
    decided = np.where(named["score"] > 0, *class_labels(key["label"]))
    return named.assign(pred=named.get("pred", decided))


def build_rows(
    solution: pd.DataFrame, submission: pd.DataFrame, key: pd.DataFrame | None, *, anonymous: bool = False
) -> pd.DataFrame:
    """`join_submission` plus what the key knows.

    Returns: its columns and, where the key has them, file, family, operation, severity, and the columns of SHORTCUTS.
        `source` is the anonymised name if asked for or if there is no key.
    """
    rows = join_submission(solution, submission)
    rows["family"] = rows["source"]
    rows["original"] = rows["id"]
    if key is None:
        return rows
    if key["id"].duplicated().any():
        raise MetricError(f"key: {int(key['id'].duplicated().sum())} ids appear more than once")
    known = key.assign(id=key["id"].astype(str)).set_index("id").reindex(rows["id"])
    if known["file"].isna().all():
        raise MetricError("the key knows none of the solution's ids: it belongs to another dataset")
    rows["file"] = known["file"].to_numpy()
    originals = known["original"] if "original" in known else known["file"]
    rows["original"] = originals.fillna(known["file"]).to_numpy()
    if not anonymous:
        rows["source"] = known["source"].fillna(rows["source"].set_axis(known.index)).astype(str).to_numpy()
    rows["family"] = known["family"].fillna(known["source"]).astype(str).to_numpy()
    if known.get("operation") is not None and known["operation"].notna().any():
        rows["operation"] = known["operation"].fillna("").astype(str).to_numpy()
        rows["severity"] = pd.to_numeric(known["severity"], errors="coerce").fillna(0).astype(int).to_numpy()
    for columns in (VIDEO_COLUMNS, AUDIO_COLUMNS):
        if set(columns) <= set(known.columns) and known[columns[0]].notna().any():
            numbers = {name: pd.to_numeric(known[name], errors="coerce").to_numpy(float) for name in columns}
            rows = rows.assign(**derive_shortcuts(numbers))
    return rows


def derive_shortcuts(numbers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns of SHORTCUTS, from VIDEO_COLUMNS or AUDIO_COLUMNS; NaN where the container does not tell."""
    seconds, bits = numbers["duration_seconds"], 8.0 * numbers["num_bytes"]
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = {"bitrate": bits / seconds / 1e6, "duration_seconds": seconds}
        if "width" in numbers:
            pixels, fps = numbers["width"] * numbers["height"], numbers["fps"]
            columns |= {"megapixels": pixels / 1e6, "fps": fps, "aspect": numbers["width"] / numbers["height"]}
            columns["bits_per_pixel"] = bits / (pixels * fps * seconds)
        else:
            columns |= {name: numbers[name] for name in ("sampling_rate", "channels")}
    return {name: np.where(np.isfinite(values), values, np.nan) for name, values in columns.items()}


def order_operations(names: Iterable[object]) -> list[str]:
    """Each name once: what the others are compared with first, the rest by name."""
    return sorted({str(name) for name in names}, key=lambda name: (name != FOUND, name != PLAIN, name))


def mean_over_sources(rows: pd.DataFrame) -> float:
    """Accuracy as the competition means it, within the classes that are present; NaN without rows."""
    if rows.empty:
        return math.nan
    per_source = rows.groupby(["label", "source"])["correct"].mean()
    return float(per_source.groupby("label").mean().mean())


def mean_table(
    rows: pd.DataFrame, down: str, across: str, *, min_clips: int = 1, both_classes: bool = False
) -> pd.DataFrame:
    """`mean_over_sources` for every pair of values of two columns.

    NaN where there are fewer than `min_clips` clips, or a class is absent and `both_classes` asks for both.
    """
    cells = {}
    for pair, group in rows.groupby([down, across]):
        enough = len(group) >= min_clips and (not both_classes or group["label"].nunique() == 2)
        cells[pair] = mean_over_sources(group) if enough else math.nan
    return pd.Series(cells, dtype=float).unstack() if cells else pd.DataFrame()
