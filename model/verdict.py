"""What is said of one file, and what a score means in words. Standard library only."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .modality import GENERATED

INCONCLUSIVE = math.log(3)  # a score nearer to 0 makes neither side three times as likely as the other
SCORED, UNREADABLE, REFUSED = "scored", "unreadable", "refused"


@dataclass(frozen=True)
class Segment:
    """A window of a file. score: None where `note` says why there is none."""

    start_seconds: float
    end_seconds: float
    score: float | None
    note: str = ""
    num_frames: int = 0


@dataclass(frozen=True)
class Verdict:
    """What is said of one file. label, score: empty and None unless `status` is "scored"."""

    label: str  # "generated", or "real" (video) or "pristine" (speech): the side of 0 on which the score is
    score: float | None  # calibrated log-likelihood ratio, natural logarithm; > 0 speaks for generated
    seconds: float  # of work on this file
    note: str = ""  # why there is no score, or what was lost on the way
    status: str = SCORED  # or "unreadable", or "refused": not media of this kind, or over a limit
    duration_seconds: float = math.nan  # of the file, as far as it is known
    num_frames: int = 0  # frames (video) or samples (sound) that were looked at
    num_places: int = 0  # in the file where these lie together
    segments: tuple[Segment, ...] = ()  # windows over the whole length, if they were asked for
    sound: Verdict | None = None  # of a video's sound track, if it was asked for; never part of the score

    def probability(self, prior: float = 0.5) -> float | None:
        """That the file is generated, if a share `prior` of such files is. None without a score.

        Raises: ValueError: the prior is not between 0 and 1.
        """
        return None if self.score is None else probability(self.score, prior)

    @property
    def in_words(self) -> str:
        """`generated`, `inconclusive, rather generated`, or `no score`."""
        return words_of(self.score, self.label)


def words_of(score: float | None, genuine: str) -> str:
    """`generated`, the other label, `inconclusive, rather generated`, or `no score`."""
    if score is None:
        return "no score"
    label = label_of(score, genuine)
    return f"inconclusive, rather {label}" if is_inconclusive(score) else label


def probability(score: float, prior: float = 0.5) -> float:
    """Bayes' rule on a log-likelihood ratio. Raises: ValueError: the prior is not between 0 and 1."""
    log_odds = score + prior_log_odds(prior)
    return 1 / (1 + math.exp(-log_odds)) if log_odds > 0 else math.exp(log_odds) / (1 + math.exp(log_odds))


def prior_log_odds(prior: float) -> float:
    """Raises: ValueError: the prior is not between 0 and 1."""
    if not 0 < prior < 1:
        raise ValueError(f"prior is {prior:g}; it must be between 0 and 1, as the share of generated files is")
    return math.log(prior / (1 - prior))


def is_inconclusive(score: float) -> bool:
    """Whether neither side is three times as likely as the other."""
    return abs(score) < INCONCLUSIVE


def label_of(score: float, genuine: str) -> str:
    """genuine: the modality's label that is not "generated"."""
    return GENERATED if score > 0 else genuine
