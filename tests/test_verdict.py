"""What a score means: probabilities against SciPy, and the words."""

from __future__ import annotations

import dataclasses
import math

import pytest
from scipy.special import expit, logit

from model.modality import AUDIO, VIDEO
from model.run.words import verdict_json, verdict_line
from model.verdict import INCONCLUSIVE, Verdict, label_of, probability, words_of


@pytest.mark.parametrize("score", [-800.0, -3.0, 0.0, 1e-9, 2.5, 800.0])
@pytest.mark.parametrize("prior", [0.001, 0.5, 0.9])
def test_probability_is_bayes_rule(score: float, prior: float) -> None:
    assert probability(score, prior) == pytest.approx(expit(score + logit(prior)), rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("prior", [0, 1, -1, 2, math.nan])
def test_a_prior_that_is_none(prior: float) -> None:
    with pytest.raises(ValueError, match="it must be between 0 and 1"):
        Verdict("real", -1.0, 0.1).probability(prior)


def test_words() -> None:
    assert pytest.approx(1.0986, abs=1e-4) == INCONCLUSIVE
    assert Verdict("generated", 1.2, 0.1).in_words == "generated"
    assert Verdict("real", -1.0, 0.1).in_words == "inconclusive, rather real"
    nothing = Verdict("", None, 0.1, "the file is empty", "unreadable")
    assert nothing.in_words == "no score" and nothing.probability() is None
    assert words_of(-1.0, "real") == "inconclusive, rather real" and words_of(1.2, "real") == "generated"
    assert words_of(None, "real") == "no score"
    assert label_of(0.1, "pristine") == "generated" and label_of(0.0, "pristine") == "pristine"
    with pytest.raises(dataclasses.FrozenInstanceError):
        nothing.label = "real"  # type: ignore[misc]


def test_lines_and_objects() -> None:
    verdict = Verdict("generated", 2.0, 1.25, "one frame lost", duration_seconds=130.0, num_frames=8, num_places=4)
    line = verdict_line("clip.mp4", verdict, VIDEO, prior=0.1)
    assert line == "generated     +2.00  45%  clip.mp4: looked at 4 places of 2 min 10 s, 1.2 s, one frame lost"
    told = verdict_json("clip.mp4", verdict, VIDEO, prior=0.1)
    assert (told["label"], told["score"], told["probability"], told["frames"]) == ("generated", 2.0, 0.4509, 8)
    assert verdict_line("x", Verdict("pristine", -1.0, 1.0), AUDIO).split()[:3] == ["inconclusive", "-1.00", "27%"]
    nothing = verdict_json("x", Verdict("", None, 1.0, "the file is empty", "unreadable"), VIDEO)
    assert [nothing[name] for name in ("label", "score", "duration", "status")] == [None, None, None, "unreadable"]
