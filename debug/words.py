"""A score in words."""

from __future__ import annotations

import math

from model.modality import GENERATED


def explain_score(score: float, genuine: str = "real") -> str:
    """How much likelier one side is, if the calibration holds."""
    times = math.exp(min(abs(score), 20.0))
    amount = f"{times:.1f}" if times < 10 else f"{times:,.0f}"
    side, other = (GENERATED, genuine) if score > 0 else (genuine, GENERATED)
    return f"If the calibration holds, what was seen is {amount} times likelier in a {side} file than in a {other} one."


PEOPLE_WARNING = (
    "A score is evidence about a file, not about a person. The detector errs, more often on kinds of files that it"
    " has not met: do not decide about people by it alone."
)
