"""Windows of a file: where they lie, which stretches are generated, and what is said of the whole."""

from __future__ import annotations

import json
import math

import pytest

from model.modality import VIDEO
from model.run.words import segment_lines, verdict_json, verdict_line
from model.segments import clock, generated_stretches, in_stretches, score_of_whole, window_edges
from model.verdict import Segment, Verdict


def segments_of(*scores: float | None, seconds: float = 10.0) -> tuple[Segment, ...]:
    """Windows side by side."""
    return tuple(
        Segment(number * seconds, (number + 1) * seconds, score, "" if score is not None else "one colour all over", 2)
        for number, score in enumerate(scores)
    )


@pytest.mark.parametrize(
    ("duration", "edges"), [(5.5, [0, 2, 4, 5.5]), (4.9, [0, 2, 4.9]), (0.5, [0, 0.5]), (2.0, [0, 2.0]),
     (2.9999999, [0, 2, 2.9999999]),
     (7.0, [0, 2, 4, 6])],
)  # fmt: skip
def test_edges(duration: float, edges: list[float]) -> None:
    assert window_edges(duration, 2.0, 3) == edges


def test_edges_of_a_file_whose_length_is_nonsense() -> None:
    assert window_edges(1e300, 2.0, 4) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize(
    ("scores", "stretches"),
    [
        ((-3.0, 2.0, 0.5, -1.0), [(10, 30, 2.0)]),
        ((0.5, 1.0, 0.9), []),  # doubt alone marks nothing
        ((2.0, None, 2.5), [(0, 10, 2.0), (20, 30, 2.5)]),
        ((-2.0, -3.0), []),
        ((None, None), []),
        ((0.2, 1.1, 4.0), [(0, 30, 4.0)]),
    ],
)
def test_stretches(scores: tuple[float | None, ...], stretches: list[tuple[float, float, float]]) -> None:
    found = generated_stretches(segments_of(*scores))
    assert [(one.start_seconds, one.end_seconds, one.score) for one in found] == stretches


@pytest.mark.parametrize(
    ("scores", "whole"),
    [((-3.0, 2.0, 5.0), 5.0), ((-3.0, -5.0), -4.0), ((0.5, -0.5, None), 0.0), ((None,), None), ((), None)],
)
def test_score_of_the_whole(scores: tuple[float | None, ...], whole: float | None) -> None:
    assert score_of_whole(segments_of(*scores)) == whole


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (100, "1:40"), (7.5, "0:07.5"), (3723, "1:02:03"), (59.96, "1:00"), (math.nan, "the end")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_words_and_json() -> None:
    segments = segments_of(-3.0, -2.5, 0.5, 2.0, None, -1.0)
    verdict = Verdict("generated", 2.0, 1.0, duration_seconds=60.0, num_frames=10, num_places=5, segments=segments)
    assert in_stretches(segments) == "generated from 0:20 to 0:40"
    line = verdict_line("a.mp4", verdict, VIDEO)
    assert line.endswith("a.mp4: generated from 0:20 to 0:40, looked at 5 places of 1 min 0 s in 6 windows, 1.0 s")
    assert [text.split() for text in segment_lines(verdict, VIDEO)] == [
        ["0:00", "to", "0:20", "real", "-3.00", "to", "-2.50"],
        ["0:20", "to", "0:30", "inconclusive", "+0.50", "to", "+0.50"],
        ["0:30", "to", "0:40", "generated", "+2.00", "to", "+2.00"],
        ["0:40", "to", "0:50", "no", "score", "one", "colour", "all", "over"],
        ["0:50", "to", "1:00", "inconclusive", "-1.00", "to", "-1.00"],
    ]
    told = json.loads(json.dumps(verdict_json("a.mp4", verdict, VIDEO, prior=0.1), allow_nan=False))
    assert told["generated"] == [{"start": 20.0, "end": 40.0, "score": 2.0}]
    assert [one["verdict"] for one in told["segments"]][2:4] == ["inconclusive, rather generated", "generated"]
    assert told["segments"][4]["score"] is None and told["segments"][3]["probability"] == pytest.approx(0.4509)
