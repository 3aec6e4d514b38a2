"""How clips are shown: frames of a video, the spectrogram of a sound, with weights their scores.

So the report shows the worst mistakes of each class, as the detector met them, and why clips have no score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from debug.markup import escape, frame_image, paragraph
from model.modality import AUDIO, VIDEO, Modality, Unreadable
from model.rows.dataset import open_dataset

_MAX_FRAMES = 8  # of one strip
Source = bytes | str


@dataclass(frozen=True)
class Show:
    """The report's view of one modality. Both functions raise Unreadable where nothing of a file can be used."""

    key: str  # what the strips mean, in words
    strip: Callable[[Source], tuple[str, float | None]]  # HTML, and the score by the weights at hand
    reading: Callable[[Source], str]  # what can be read of a clip, in words


def build_show(modality: Modality, weights: Path | None, device: str) -> Show:
    """weights: their folder; None: nothing is scored. Raises: WeightsError."""
    return (_sound_show if modality == AUDIO else _video_show)(weights, device)


def _video_show(weights: Path | None, device: str) -> Show:
    import torch

    from debug.explain import look_at_clip, score_moments
    from debug.video_page import frame_strip
    from model.video.detector import load_detector
    from model.video.prepare import VideoPreparation

    detector = load_detector(weights, torch.device(device)) if weights else None
    preparation = VideoPreparation(views=detector.view_config) if detector is not None else VideoPreparation()

    def strip(source: Source) -> tuple[str, float | None]:
        clip = preparation.read(source)
        if detector is not None:
            look = look_at_clip(clip, detector)
            moments = score_moments(clip, detector, max_moments=_MAX_FRAMES, behind_score=True)
            return frame_strip(look, tuple(moments), VIDEO.genuine), look.score
        cells = []
        for run, times in zip(clip.runs, clip.pts_seconds, strict=True):
            for pixels, seconds in zip(run, times.tolist(), strict=True):
                image = frame_image(pixels, f"Frame at {seconds:.2f} s")
                cells.append(f"<figure>{image}<figcaption>{seconds:.2f} s</figcaption></figure>")
        return f'<div class="strip">{"".join(cells[:_MAX_FRAMES])}</div>', None

    def reading(source: Source) -> str:
        clip = preparation.read(source)
        return f"{clip.num_frames} frames can be read ({clip.decoder})"

    if detector is None:
        key = "The first frames that the detector used, in order of time. With --weights each shows its evidence."
    else:
        key = (
            "Frames that the detector used, in order of time, each with the score of its moment alone (above 0:"
            " generated). Outlines are the views: vermilion speaks for generated, blue for real."
        )
    return Show(key, strip, reading)


def _sound_show(weights: Path | None, device: str) -> Show:
    import torch

    from debug.audio_page import plain_sound_strip, sound_strip, study_sound
    from model.audio.detector import load_detector
    from model.audio.prepare import AudioPreparation
    from model.audio.reading import SAMPLE_RATE

    detector = load_detector(weights, torch.device(device)) if weights else None
    preparation = AudioPreparation()

    def strip(source: Source) -> tuple[str, float | None]:
        sound = preparation.read(source)
        if detector is None:
            return plain_sound_strip(sound), None
        look = study_sound(sound, detector)
        return sound_strip(look, AUDIO.genuine), look.score

    def reading(source: Source) -> str:
        return f"{len(preparation.read(source).samples) / SAMPLE_RATE:.1f} s can be read"

    key = "Spectrograms. With --weights each shows the scores of its windows."
    scored_key = "Waveform, spectrogram, and the score of each window that the detector heard."
    return Show(scored_key if detector else key, strip, reading)


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
