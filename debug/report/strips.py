"""The worst mistakes of each class, as the detector saw them: frames with their evidence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from debug.explain import look_at_clip, score_moments
from debug.markup import escape, frame_image, paragraph
from debug.video_page import frame_strip
from model.config import LimitsConfig, SamplingConfig
from model.modality import VIDEO
from model.rows.dataset import open_dataset
from model.video.detector import VideoDetector
from model.video.prepare import VideoPreparation
from model.video.reading import VideoReadError, read_clip

_MAX_FRAMES = 8  # frames of one strip
_EVIDENCE_KEY = (
    "Frames that the detector used, in order of time, each with the score of its moment alone (above 0: generated)."
    " Outlines are the views: vermilion speaks for generated, blue for real."
)
_PLAIN_KEY = "The first frames that the detector used, in order of time. With --weights each shows its evidence."


def worst_mistakes(rows: pd.DataFrame, label: str, *, count: int) -> pd.DataFrame:
    """Clips of a class with a score on the wrong side, furthest first; at most two of a source."""
    group = rows[(rows["label"] == label) & rows["score"].notna() & ~rows["correct"]]
    ordered = group.sort_values("score", ascending=label == "generated", kind="stable")
    return ordered.groupby("source", sort=False).head(2).head(count)


def load_videos(dataset: Path, ids: set[str]) -> dict[str, bytes | str]:
    """The wanted clips of a dataset in any form that script.py reads; only these are kept in memory."""
    videos: dict[str, bytes | str] = {}
    if not ids:
        return videos
    for row in open_dataset(dataset).rows():
        if row.id in ids and row.media is not None:
            videos[row.id] = row.media
            if len(videos) == len(ids):
                break
    return videos


def plain_strip(video: bytes | str) -> str:
    """Frames without evidence, for when no weights are at hand. Raises: VideoReadError."""
    clip = read_clip(video, SamplingConfig(), LimitsConfig())
    cells = []
    for run, times in zip(clip.runs, clip.pts_seconds, strict=True):
        for pixels, seconds in zip(run, times.tolist(), strict=True):
            image = frame_image(pixels, f"Frame at {seconds:.2f} s")
            cells.append(f"<figure>{image}<figcaption>{seconds:.2f} s</figcaption></figure>")
    return f'<div class="strip">{"".join(cells[:_MAX_FRAMES])}</div>'


def mistake_section(mistakes: pd.DataFrame, videos: Mapping[str, bytes | str], detector: VideoDetector | None) -> str:
    """One strip a clip. A clip that cannot be shown is named with the reason."""
    parts = [paragraph(_EVIDENCE_KEY if detector else _PLAIN_KEY)] if len(mistakes) else []
    for row in mistakes.itertuples():
        step = f", {row.operation} {row.severity or ''}".rstrip() if getattr(row, "operation", "") else ""
        name = getattr(row, "file", None) or row.id
        title = f"<h3>{escape(row.source)}{escape(step)}: score {row.score:+.2f}, is {escape(row.label)}</h3>"
        parts.append(f"{title}\n{paragraph(str(name))}")
        if row.id not in videos:
            parts.append(paragraph("The clip is not in the dataset given."))
            continue
        try:
            if detector is None:
                parts.append(plain_strip(videos[row.id]))
                continue
            preparation = VideoPreparation(SamplingConfig(), LimitsConfig(), detector.view_config)
            look = look_at_clip(preparation.read(videos[row.id]), detector)
            moments = score_moments(look.clip, detector, max_moments=_MAX_FRAMES, behind_score=True)
        except VideoReadError as error:
            parts.append(paragraph(f"Cannot be shown: {error}"))
            continue
        if abs(look.score - row.score) > 0.05:
            parts.append(paragraph(f"The weights given score this clip {look.score:+.2f}."))
        parts.append(frame_strip(look, tuple(moments), VIDEO.genuine))
    return "\n".join(parts) or paragraph("None.")


def fallback_reasons(rows: pd.DataFrame, videos: Mapping[str, bytes | str]) -> dict[str, str]:
    """Why each clip without a score has none, found by reading it again: id -> reason."""
    reasons = {}
    for row in rows.itertuples():
        if row.missing:
            reasons[row.id] = "not in the submission"
        elif row.id not in videos:
            reasons[row.id] = "no score; the clip is not at hand to say why"
        else:
            try:
                clip = read_clip(videos[row.id], SamplingConfig(), LimitsConfig())
                reasons[row.id] = f"no score, though {clip.num_frames} frames can be read ({clip.decoder})"
            except VideoReadError as error:
                reasons[row.id] = str(error)
    return reasons
