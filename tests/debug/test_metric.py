"""The metric against hand-worked cases and a slow plain implementation."""

from __future__ import annotations

import itertools
import json
import math
import random
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import isotonic_regression

from debug import metric
from model import metric as arrays

INF = float("inf")
NAN = float("nan")


def make_solution(rows: list[tuple[str, str, str, str]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["id", "pred", "source", "split"])


HAND_SOLUTION = make_solution(
    [
        ("a1", "generated", "A", "public"),
        ("a2", "generated", "A", "public"),
        ("a3", "generated", "A", "public"),
        ("a4", "generated", "A", "public"),
        ("b1", "generated", "B", "private"),
        ("c1", "real", "C", "public"),
        ("c2", "real", "C", "public"),
        ("d1", "real", "D", "private"),
        ("d2", "real", "D", "private"),
    ]
)
HAND_SUBMISSION = pd.DataFrame(
    [
        ("a1", "generated", 2.0, 0.5),
        ("a2", "generated", 1.0, 0.5),
        ("a3", "generated", 0.5, 0.5),
        ("a4", "real", -1.0, 0.5),
        ("b1", "fake", NAN, 0.5),  # any other pred counts as wrong
        ("c1", "real", -2.0, 0.5),
        ("c2", "generated", 1.0, 0.5),  # ties with a2
        ("d1", "real", -3.0, 0.5),
        # d2 is missing: wrong, and without a score
        ("zz", "real", -3.0, 9.0),  # unknown to the solution: ignored
    ],
    columns=["id", "pred", "score", "time"],
)


def test_hand_worked_case() -> None:
    metrics = metric.evaluate(HAND_SOLUTION, HAND_SUBMISSION)
    private, public = metrics.splits["private"], metrics.splits["public"]
    assert private.generated_accuracy == pytest.approx((3 / 4 + 0) / 2)
    assert private.genuine_accuracy == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert private.balanced_accuracy == pytest.approx((0.375 + 0.5) / 2)
    assert public.balanced_accuracy == pytest.approx((0.75 + 0.5) / 2)
    # generated 2 1 0.5 -1 against real -2 1 -3: 3 + 2.5 + 2 + 2 of 12 pairs
    assert private.roc_auc == pytest.approx(9.5 / 12)
    assert public.roc_auc == pytest.approx((2 + 1.5 + 1 + 1) / 8)
    assert private.fail_rate == pytest.approx(2 / 9)
    assert private.total_time == pytest.approx(4.0)  # the unknown row's 9 s are not counted
    assert metrics.splits["private only"].num_rows == 3
    assert (metrics.num_missing, metrics.num_invalid, metrics.num_extra) == (1, 1, 1)
    worst = metrics.sources.iloc[0]
    assert (worst["label"], worst["source"], worst["accuracy"]) == ("generated", "B", 0.0)


def test_a_source_counts_once_per_class_it_appears_in() -> None:
    solution = make_solution([("1", "generated", "X", "public"), ("2", "real", "X", "public")])
    submission = pd.DataFrame({"id": ["1", "2"], "pred": ["generated", "generated"]})
    metrics = metric.evaluate(solution, submission)
    assert metrics.balanced_accuracy == 0.5
    assert len(metrics.sources) == 2
    assert math.isnan(metrics.splits["private"].roc_auc)
    assert metrics.splits["private"].fail_rate == 1.0  # no score column at all
    assert math.isnan(metrics.splits["private"].total_time)


@pytest.mark.parametrize(
    ("solution_ids", "submission_ids", "message"),
    [
        (["1", "2"], ["1", "1"], "submission: 1 ids appear more than once, such as '1'"),
        (["1", "1"], ["1", "2"], "solution: 1 ids appear more than once, such as '1'"),
    ],
)
def test_duplicate_ids_are_refused(solution_ids: list[str], submission_ids: list[str], message: str) -> None:
    solution = make_solution([(name, "real", "C", "public") for name in solution_ids])
    submission = pd.DataFrame({"id": submission_ids, "pred": "real"})
    with pytest.raises(metric.MetricError, match=message):
        metric.evaluate(solution, submission)


def test_wrong_true_label_and_absent_columns_are_refused() -> None:
    submission = pd.DataFrame({"id": ["1"], "pred": ["real"]})
    with pytest.raises(metric.MetricError, match="true label 'fake'; expected generated and real or"):
        metric.evaluate(make_solution([("1", "fake", "C", "public")]), submission)
    both = [("1", "pristine", "C", "public"), ("2", "real", "C", "public")]
    with pytest.raises(metric.MetricError, match="true label 'pristine'"):
        metric.evaluate(make_solution(both), submission)
    with pytest.raises(metric.MetricError, match="submission: column 'pred' is absent; it has id, answer"):
        metric.evaluate(HAND_SOLUTION, pd.DataFrame({"id": ["1"], "answer": ["real"]}))
    with pytest.raises(metric.MetricError, match="split 'secret'"):
        metric.select_split(HAND_SOLUTION, "secret")


# --- the slow plain implementation ---


def slow_balanced_accuracy(solution: list[dict], answers: dict[str, str]) -> float:
    hits: dict[tuple[str, str], list[bool]] = {}
    for row in solution:
        hits.setdefault((row["pred"], row["source"]), []).append(answers.get(row["id"]) == row["pred"])
    means = {key: sum(values) / len(values) for key, values in hits.items()}
    classes = []
    for label in ("generated", "real"):
        values = [mean for (true, _), mean in means.items() if true == label]
        classes.append(sum(values) / len(values) if values else NAN)
    return sum(classes) / 2


def slow_auc(scores: list[float], labels: list[str]) -> float:
    generated = [s for s, label in zip(scores, labels, strict=True) if label == "generated"]
    real = [s for s, label in zip(scores, labels, strict=True) if label == "real"]
    if not generated or not real:
        return NAN
    wins = sum(1.0 if g > r else 0.5 if g == r else 0.0 for g, r in itertools.product(generated, real))
    return wins / len(generated) / len(real)


def slow_cllr(scores: list[float], labels: list[str], sources: list[str]) -> float:
    total = 0.0
    for label, sign in (("generated", 1.0), ("real", -1.0)):
        per_source: dict[str, list[float]] = {}
        for score, true, source in zip(scores, labels, sources, strict=True):
            if true == label:
                x = -sign * score
                cost = x / math.log(2) if x > 30 else math.log2(1 + math.exp(x))
                per_source.setdefault(source, []).append(cost)
        total += sum(sum(v) / len(v) for v in per_source.values()) / len(per_source) / 2
    return total


def random_case(seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = random.Random(seed)
    rows, answers = [], []
    for number in range(rng.randint(20, 60)):
        label = rng.choice(["generated", "real"])
        source = f"{label[0]}{rng.randint(0, 4)}"
        rows.append((f"id{number}", label, source, "public" if source.endswith(("0", "1")) else "private"))
        centre = 0.7 if label == "generated" else -0.7
        score = round(rng.gauss(centre, 1.0), 1)  # one decimal: many ties
        if rng.random() < 0.1:
            score = rng.choice([NAN, INF, -INF])
        pred = rng.choice(["Generated", "", NAN]) if rng.random() < 0.1 else "generated" if score > 0 else "real"
        if rng.random() > 0.1:
            answers.append((f"id{number}", pred, score))
    rng.shuffle(answers)
    return make_solution(rows), pd.DataFrame(answers, columns=["id", "pred", "score"])


@pytest.mark.parametrize("seed", range(25))
def test_equals_the_plain_implementation(seed: int) -> None:
    solution, submission = random_case(seed)
    metrics = metric.evaluate(solution, submission, num_draws=0)
    answers = dict(zip(submission["id"], submission["pred"], strict=True))
    scores = dict(zip(submission["id"], submission["score"], strict=True))
    for name, split in metrics.splits.items():
        rows = [
            row
            for row in solution.to_dict("records")
            if name == "private" or (row["split"] == "public") == (name == "public")
        ]
        assert split.balanced_accuracy == pytest.approx(slow_balanced_accuracy(rows, answers), nan_ok=True)
        scored = [row for row in rows if not math.isnan(scores.get(row["id"], NAN))]
        values = [scores[row["id"]] for row in scored]
        labels = [row["pred"] for row in scored]
        assert split.roc_auc == pytest.approx(slow_auc(values, labels), nan_ok=True)
        assert split.fail_rate == pytest.approx(1 - len(scored) / len(rows))


@pytest.mark.parametrize("seed", range(25))
def test_best_threshold_equals_a_plain_scan(seed: int) -> None:
    solution, submission = random_case(seed)
    metrics = metric.evaluate(solution, submission, num_draws=0)
    best = metrics.splits["private"].best
    assert best is not None
    rows = solution.to_dict("records")
    known = {row.id: row for row in submission.itertuples()}

    def balanced_accuracy_at(threshold: float) -> float:
        decided = {
            key: row.pred if math.isnan(row.score) else "generated" if row.score > threshold else "real"
            for key, row in known.items()
        }
        return slow_balanced_accuracy(rows, decided)

    finite = sorted({s for s in submission["score"] if math.isfinite(s)})
    tried = [-INF, INF, 0.0, finite[0] - 1, finite[-1] + 1, *finite, *(v + 0.05 for v in finite)]
    assert best.balanced_accuracy == pytest.approx(max(map(balanced_accuracy_at, tried)))
    assert balanced_accuracy_at(best.threshold) == pytest.approx(best.balanced_accuracy)
    assert best.at_zero == pytest.approx(balanced_accuracy_at(0.0))
    assert best.loss >= 0


# --- calibration ---


def test_cllr_hand_worked_and_infinite() -> None:
    labels = np.array([True, True, False])
    weights = np.array([0.25, 0.25, 0.5])
    assert arrays.cllr(np.zeros(3), labels, weights) == pytest.approx(1.0)
    # odds 3:1 for generated cost log2(4/3); odds 1:3 on the real one cost the same
    ratio = math.log(3)
    assert arrays.cllr(np.array([ratio, ratio, -ratio]), labels, weights) == pytest.approx(math.log2(4 / 3))
    assert arrays.cllr(np.array([INF, INF, -INF]), labels, weights) == 0.0
    assert arrays.cllr(np.array([INF, -INF, -INF]), labels, weights) == INF
    assert math.isnan(arrays.cllr(np.zeros(2), np.array([True, True]), np.array([0.5, 0.5])))


@pytest.mark.parametrize("seed", range(5))
def test_cllr_equals_the_plain_implementation(seed: int) -> None:
    solution, submission = random_case(seed)
    rows = metric.join_submission(solution, submission)
    rows = rows[np.isfinite(rows["score"])]
    is_generated = (rows["label"] == "generated").to_numpy()
    weights = arrays.source_weights(is_generated, rows["source"].to_numpy())
    value = arrays.cllr(rows["score"].to_numpy(), is_generated, weights)
    assert value == pytest.approx(slow_cllr(list(rows["score"]), list(rows["label"]), list(rows["source"])))
    least = arrays.min_cllr(rows["score"].to_numpy(), is_generated, weights)
    assert 0 <= least <= value
    # a monotone change of the scores moves Cllr, not its minimum
    assert arrays.min_cllr(rows["score"].to_numpy() * 3 + 1, is_generated, weights) == pytest.approx(least)


@pytest.mark.parametrize("seed", range(10))
def test_isotonic_regression_equals_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, weights = rng.normal(size=40).cumsum(), rng.uniform(0.1, 2, size=40)
    ours = arrays.pool_adjacent_violators(values, weights)
    np.testing.assert_allclose(ours, isotonic_regression(values, weights=weights).x)


def test_source_weights_make_sums_into_means_over_sources() -> None:
    weights = arrays.source_weights(np.array([True, True, True, False]), np.array(["a", "a", "b", "c"]))
    np.testing.assert_allclose(weights, [1 / 8, 1 / 8, 1 / 4, 1 / 2])


def test_reliability_of_scores_that_keep_their_promise() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 2, size=40_000)
    is_generated = rng.uniform(size=len(scores)) < 1 / (1 + np.exp(-scores))
    bins = arrays.reliability(scores, is_generated, np.ones(len(scores)))
    assert sum(b.num_rows for b in bins) == len(scores)
    assert max(abs(b.promised - b.observed) for b in bins) < 0.03
    boastful = arrays.reliability(scores * 4, is_generated, np.ones(len(scores)))
    assert max(abs(b.promised - b.observed) for b in boastful) > 0.15


# --- bootstrap ---


def test_bootstrap_is_seeded_and_as_wide_as_theory_says() -> None:
    rng = np.random.default_rng(1)
    generated, real = rng.uniform(0.5, 1, size=50), rng.uniform(0.2, 1, size=80)
    draws = arrays.balanced_accuracy_draws(generated, real, num_draws=20_000, seed=7)["balanced_accuracy"]
    again = arrays.balanced_accuracy_draws(generated, real, num_draws=20_000, seed=7)["balanced_accuracy"]
    np.testing.assert_array_equal(draws, again)
    generated, real = np.r_[generated, 0, 1], np.r_[real, 0, 1]  # the two sources more
    expected = math.sqrt(generated.var() / 52 + real.var() / 82) / 2
    assert draws.std() == pytest.approx(expected, rel=0.03)
    assert draws.mean() == pytest.approx((generated.mean() + real.mean()) / 2, abs=0.002)
    interval = arrays.percentile_interval(draws)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * expected, rel=0.05)


def test_auc_over_redrawn_sources_equals_recomputing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "MIN_SOURCES", 1)
    solution, submission = random_case(3)
    rows = metric.join_submission(solution, submission)
    rows = rows[np.isfinite(rows["score"])]
    is_generated = (rows["label"] == "generated").to_numpy()
    sources, scores = rows["source"].to_numpy(), rows["score"].to_numpy()
    draws = arrays.roc_auc_draws(scores, is_generated, sources, num_draws=20, seed=5)
    rng = np.random.default_rng(5)
    names = {label: np.unique(sources[is_generated == label].astype(str)) for label in (True, False)}
    counts = {label: arrays.draw_counts(rng, len(names[label]) + 2, 20) for label in (True, False)}
    for k in range(20):
        clips: list[tuple[float, bool, float]] = []  # score, class, weight
        for label in (True, False):
            of_class = is_generated == label
            for name, count in zip(names[label], counts[label][k], strict=False):
                clips += [(score, label, float(count)) for score in scores[(sources == name) & of_class]]
            more = of_class.sum() / len(names[label])
            wrong, right = counts[label][k][-2:] * more
            clips += [(-1e9 if label else 1e9, label, wrong), (1e9 if label else -1e9, label, right)]
        assert draws[k] == pytest.approx(_slow_weighted_auc(clips))


def _slow_weighted_auc(clips: list[tuple[float, bool, float]]) -> float:
    won = total = 0.0
    for score, label, weight in clips:
        for other, other_label, other_weight in clips:
            if label and not other_label:
                total += weight * other_weight
                won += weight * other_weight * (1.0 if score > other else 0.5 if score == other else 0.0)
    return won / total


@pytest.mark.parametrize(("num_sources", "a", "b"), [(5, 4, 1), (5, 50, 1), (12, 9, 1), (40, 2, 1)])
def test_intervals_hold_what_they_promise(num_sources: int, a: float, b: float) -> None:
    """Before, five sources that were all right gave "1.000 to 1.000"."""
    rng, inside, trials = np.random.default_rng(0), 0, 400
    for trial in range(trials):
        generated, real = rng.beta(a, b, (2, num_sources))
        draws = arrays.balanced_accuracy_draws(generated, real, num_draws=400, seed=trial)
        interval = arrays.percentile_interval(draws["balanced_accuracy"])
        inside += interval.low <= a / (a + b) <= interval.high
    assert inside / trials >= 0.9
    perfect = arrays.balanced_accuracy_draws(np.ones(5), np.ones(5))["balanced_accuracy"]
    assert arrays.percentile_interval(perfect).low < 0.8


def test_too_few_sources_give_no_interval() -> None:
    few = arrays.balanced_accuracy_draws(np.ones(4), np.ones(9))
    assert np.isnan(few["balanced_accuracy"]).all() and np.isfinite(few["genuine_accuracy"]).all()
    assert "balanced_accuracy" not in metric.evaluate(HAND_SOLUTION, HAND_SUBMISSION).splits["private"].intervals


@pytest.mark.parametrize(("right", "count", "high"), [(0, 4, 0.4899), (1, 3, 0.7923), (5, 10, 0.7634), (9, 9, 1.0)])
def test_wilsons_interval_equals_scipys(right: int, count: int, high: float) -> None:
    from scipy.stats import binomtest

    expected = binomtest(right, count).proportion_ci(method="wilson").high
    assert arrays.wilson_high(right / count, count) == pytest.approx(expected) == pytest.approx(high, abs=1e-4)


def test_pristine_is_the_other_class_of_speech() -> None:
    """The same rows with the other challenge's label give the same figures."""
    solution, submission = random_case(3)
    spoken = [frame.assign(pred=frame["pred"].replace("real", "pristine")) for frame in (solution, submission)]
    ours, theirs = metric.evaluate(solution, submission), metric.evaluate(*spoken)
    assert theirs.labels == ("generated", "pristine")
    for name in metric.SPLITS:
        assert metric._plain(asdict(theirs.splits[name])) == metric._plain(asdict(ours.splits[name]))
    assert "pristine accuracy" in metric.format_table(theirs)


# --- command line ---


def test_command_line_prints_the_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    solution, submission = tmp_path / "solution.csv", tmp_path / "submission.csv"
    HAND_SOLUTION.assign(id=["007", *HAND_SOLUTION["id"][1:]]).to_csv(solution, index=False)
    HAND_SUBMISSION.assign(id=["007", *HAND_SUBMISSION["id"][1:]]).to_csv(submission, index=False)
    assert metric.main([str(solution), str(submission)]) == 0
    table = capsys.readouterr().out
    assert "balanced accuracy" in table and "0.4375" in table
    assert "warning: 1 rows missing" in table
    assert metric.main([str(solution), str(submission), "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["splits"]["private"]["balanced_accuracy"] == pytest.approx(0.4375)
    assert plain["num_missing"] == 1  # and 007 was joined as text


def test_command_line_tells_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        metric.main([str(tmp_path / "absent.csv"), str(tmp_path / "absent.csv")])
    assert stop.value.code == 2
    assert "cannot be read as CSV" in capsys.readouterr().err


ODD_IDS = ["NA", "null", "nan", "None", "N/A", "", "007", "7", "1e5", "100000.0", "0x10", "True", "inf", " a", "a"]


def test_ids_stay_text(tmp_path: Path) -> None:
    """pandas takes the first six for missing values, and others for numbers that are equal."""
    for name, header in (("solution", "id,pred,source,split"), ("submission", "id,pred,score")):
        lines = [f'"{clip_id}",{"real" if k % 2 else "generated"},{k + 1},public' for k, clip_id in enumerate(ODD_IDS)]
        lines = lines if name == "solution" else [line.rpartition(",")[0] for line in lines]
        (tmp_path / f"{name}.csv").write_text("\n".join([header, *lines]) + "\n")
    solution, submission = (metric.load_csv(tmp_path / f"{name}.csv") for name in ("solution", "submission"))
    rows = metric.join_submission(solution, submission)
    assert list(rows["id"]) == ODD_IDS
    assert list(rows["score"]) == [k + 1 for k in range(len(ODD_IDS))] and rows["correct"].all()
    assert metric.evaluate(solution, submission, num_draws=0).num_missing == 0


def test_ids_stay_text_in_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from debug.compare import main

    for name, last in (("solution", "s,public"), ("one", "1"), ("two", "2")):
        header = "id,pred,source,split" if name == "solution" else "id,pred,score"
        lines = [
            f"{clip_id},{'real' if k % 2 else 'generated'},{last}" for k, clip_id in enumerate(["NA", "null", "nan"])
        ]
        (tmp_path / f"{name}.csv").write_text("\n".join([header, *lines]) + "\n")
    assert main([str(tmp_path / f"{name}.csv") for name in ("solution", "one", "two")]) == 0
    assert "1.0000" in capsys.readouterr().out


def test_a_key_knows_ids_that_pandas_would_take_for_missing(tmp_path: Path) -> None:
    from debug.report.rows import build_rows

    (tmp_path / "solution.csv").write_text("id,pred,source,split\nNA,generated,x,public\n007,real,y,public\n")
    (tmp_path / "submission.csv").write_text("id,pred,score\nNA,generated,1\n007,real,-1\n")
    (tmp_path / "key.csv").write_text("id,file,source,family,operation\nNA,NA,x,fx,\n007,null,y,fy,\n")
    tables = [metric.load_csv(tmp_path / f"{name}.csv") for name in ("solution", "submission", "key")]
    rows = build_rows(*tables)
    assert list(rows["file"]) == ["NA", "null"] and list(rows["family"]) == ["fx", "fy"]
