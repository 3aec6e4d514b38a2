"""Verdicts as people and programs read them: a line, or a JSON object."""

from __future__ import annotations

import math
from typing import Any

from ..modality import Modality
from ..verdict import Verdict


def verdict_line(name: str, verdict: Verdict, modality: Modality, *, prior: float = 0.5) -> str:
    """Example: `generated   +4.10   98%  clip.mp4: 8 frames of 12.0 s looked at, 1.2 s`."""
    if verdict.score is None:
        return f"no score                {name}: {verdict.note}"
    share = f"{100 * (verdict.probability(prior) or 0):.0f}%"
    told = [looked_at(verdict, modality), f"{verdict.seconds:.1f} s", *filter(None, [verdict.note])]
    words = "inconclusive" if verdict.in_words.startswith("inconclusive") else verdict.label
    return f"{words:<12} {verdict.score:+6.2f} {share:>4}  {name}: {', '.join(filter(None, told))}"


def looked_at(verdict: Verdict, modality: Modality) -> str:
    """How much of the file the verdict rests on. Example: `8 frames of 12.0 s looked at`."""
    if not verdict.num_frames:
        return ""
    whole = f" of {verdict.duration_seconds:.1f} s" if math.isfinite(verdict.duration_seconds) else ""
    noun = "frames" if modality.name == "video" else "samples"
    return f"{verdict.num_frames} {noun}{whole} looked at"


def verdict_json(name: str, verdict: Verdict, modality: Modality, *, prior: float = 0.5) -> dict[str, Any]:
    """For `json.dumps`; numbers that are not known are null."""
    probability = verdict.probability(prior)
    return {
        "file": name,
        "modality": modality.name,
        "label": verdict.label or None,
        "verdict": verdict.in_words,
        "score": None if verdict.score is None else round(verdict.score, 4),
        "probability": None if probability is None else round(probability, 4),
        "prior": prior,
        "status": verdict.status,
        "reason": verdict.note,
        "seconds": round(verdict.seconds, 3),
        "duration": round(verdict.duration_seconds, 3) if math.isfinite(verdict.duration_seconds) else None,
        "frames": verdict.num_frames,
    }
