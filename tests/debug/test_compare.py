"""Paired comparison: against hand-worked cases, brute force, and made-up submissions whose truth is known."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from debug import compare, metric


def make_case(
    gain: float, *, seed: int, num_sources: int = 40, clips: int = 8
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """A solution and two submissions; B is right more often than A by about `gain`, on every source."""
    rng = np.random.default_rng(seed)
    solution: list[tuple[str, str, str, str]] = []
    a: list[tuple[str, str, float]] = []
    b: list[tuple[str, str, float]] = []
    for label in ("generated", "real"):
        other = "real" if label == "generated" else "generated"
        sign = 1 if label == "generated" else -1
        for source in range(num_sources):
            skill = rng.uniform(0.5, 0.9)
            for clip in range(clips):
                clip_id = f"{label}{source}-{clip}"
                solution.append((clip_id, label, f"{label[0]}{source}", "public" if source % 2 else "private"))
                luck = rng.uniform()
                for rows, chance in ((a, skill), (b, skill + gain)):
                    right = luck < chance if rng.uniform() < 0.8 else rng.uniform() < chance
                    rows.append((clip_id, label if right else other, sign * (1 if right else -1) * rng.uniform(0.1, 3)))
    columns = ["id", "pred", "score"]
    return (
        pd.DataFrame(solution, columns=["id", "pred", "source", "split"]),
        pd.DataFrame(a, columns=columns),
        pd.DataFrame(b, columns=columns),
    )


def test_a_real_gain_is_seen_and_its_direction_kept() -> None:
    solution, a, b = make_case(0.08, seed=1)
    (forward,) = compare.compare(solution, {"old": a, "new": b}, num_draws=3000)
    assert forward.verdict == "better"
    assert forward.interval.low < forward.difference < forward.interval.high
    assert forward.auc_difference > 0
    assert forward.p_value < 0.01
    (backward,) = compare.compare(solution, {"new": b, "old": a}, num_draws=3000)
    assert backward.verdict == "worse"
    assert backward.difference == pytest.approx(-forward.difference)
    assert backward.only_a_right == forward.only_b_right
    text = compare.describe(forward)
    assert text.startswith("BETTER: new is better than old (+0.0")
    assert "worth a submission" in text
    difference = metric.evaluate(solution, b).balanced_accuracy - metric.evaluate(solution, a).balanced_accuracy
    assert forward.difference == pytest.approx(difference)


def test_no_difference_stays_open() -> None:
    solution, a, _ = make_case(0.0, seed=2)
    (result,) = compare.compare(solution, {"a": a, "same": a.sample(frac=1, random_state=0)}, num_draws=500)
    assert (result.verdict, result.difference, result.p_value, result.mcnemar_p) == ("open", 0.0, 1.0, 1.0)
    assert (result.interval.low, result.interval.high) == (0.0, 0.0)


def test_false_alarms_are_as_rare_as_promised() -> None:
    """Between submissions of equal skill about one test in twenty may call a difference; 3 of 40 is generous."""
    verdicts = []
    for seed in range(40):
        solution, a, b = make_case(0.0, seed=100 + seed, num_sources=15, clips=4)
        verdicts += [r.verdict for r in compare.compare(solution, {"a": a, "b": b}, num_draws=400)]
    assert sum(verdict != "open" for verdict in verdicts) <= 6


def test_permutation_equals_brute_force() -> None:
    solution, a, b = make_case(0.1, seed=4, num_sources=5, clips=6)
    rows_a, rows_b = metric.join_submission(solution, a), metric.join_submission(solution, b)
    table = compare.paired_source_accuracies(rows_a, rows_b)

    def balanced_difference(swapped: tuple[bool, ...]) -> float:
        parts: dict[str, list[float]] = {"generated": [], "real": []}
        for row, swap in zip(table.itertuples(), swapped, strict=True):
            parts[row.label].append((row.a - row.b) if swap else (row.b - row.a))
        return sum(sum(v) / len(v) for v in parts.values()) / 2

    observed = abs(balanced_difference((False,) * len(table)))
    swaps = list(itertools.product([False, True], repeat=len(table)))
    exact = sum(abs(balanced_difference(swap)) >= observed - 1e-12 for swap in swaps) / len(swaps)
    assert compare.permutation_p_value(table, num_draws=2000, seed=0) == pytest.approx(exact)
    sampled = compare.permutation_p_value(table, num_draws=2 ** (len(table) - 4), seed=0)
    assert sampled == pytest.approx(exact, abs=0.15)


def test_holm_hand_worked() -> None:
    assert compare.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert compare.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_three_submissions_give_three_pairs() -> None:
    solution, a, b = make_case(0.1, seed=5, num_sources=12)
    results = compare.compare(solution, {"a": a, "b": b, "c": b}, num_draws=300)
    assert [(r.a, r.b) for r in results] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert all(r.adjusted_p >= r.p_value for r in results)
    lines = compare.format_side_by_side(solution, {"a": a, "b": b, "c": b}).splitlines()
    assert lines[-1].endswith("  a")  # the worst stands last


def test_splits_and_errors() -> None:
    solution, a, b = make_case(0.1, seed=6, num_sources=6)
    (public,) = compare.compare(solution, {"a": a, "b": b}, split="public", num_draws=100)
    assert public.num_sources == 6
    with pytest.raises(metric.MetricError, match="1 submission to compare"):
        compare.compare(solution, {"a": a})
    only_real = solution.assign(split=np.where(solution["pred"] == "real", "public", "private"))
    with pytest.raises(metric.MetricError, match="split 'public' has no generated clips"):
        compare.compare(only_real, {"a": a, "b": b}, split="public")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    solution, a, b = make_case(0.15, seed=7, num_sources=20)
    (tmp_path / "x").mkdir()
    paths = [tmp_path / "solution.csv", tmp_path / "submission.csv", tmp_path / "x" / "submission.csv"]
    for frame, path in zip((solution, a, b), paths, strict=True):
        frame.to_csv(path, index=False)
    arguments = [*map(str, paths), "--draws", "500"]
    assert compare.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "BETTER: " in printed
    assert "McNemar" in printed
    assert compare.main([*arguments, "--json"]) == 0
    (plain,) = json.loads(capsys.readouterr().out)
    assert plain["verdict"] == "better"
    with pytest.raises(SystemExit):
        compare.main([str(paths[0]), str(tmp_path / "absent.csv"), str(paths[1])])
    assert "cannot be read as CSV" in capsys.readouterr().err
