"""The figures against scikit-learn, and against the means that the competitions' metric takes, in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from model import metric


def _case(seed: int, clips: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with ties, labels, and sources of very different sizes, some in both classes."""
    rng = np.random.default_rng(seed)
    is_generated = rng.random(clips) < 0.4
    sources = np.array([f"s{int(12 * rng.random() ** 2)}" for _ in range(clips)])
    return rng.normal(np.where(is_generated, 0.8, -0.8)).round(1), is_generated, sources


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_scikit_learns(seed: int) -> None:
    scores, is_generated, _ = _case(seed)
    assert metric.roc_auc(scores, is_generated) == pytest.approx(roc_auc_score(is_generated, scores))
    assert math.isnan(metric.roc_auc(scores[is_generated], is_generated[is_generated]))


@pytest.mark.parametrize("seed", range(5))
def test_balanced_accuracy_is_the_mean_over_sources_then_over_classes(seed: int) -> None:
    scores, is_generated, sources = _case(seed)
    right = (scores > 0) == is_generated
    recalls = metric.source_recalls(right, is_generated, sources)
    classes = []
    for label in (True, False):
        by_source: dict[str, list[bool]] = {}
        for of, source, correct in zip(is_generated, sources, right, strict=True):
            if of == label:
                by_source.setdefault(source, []).append(bool(correct))
        classes.append(sum(sum(rows) / len(rows) for rows in by_source.values()) / len(by_source))
        assert dict(zip(recalls.names[recalls.is_generated == label], recalls.of(label), strict=True)) == pytest.approx(
            {source: sum(rows) / len(rows) for source, rows in by_source.items()}
        )
    assert metric.balanced_accuracy(recalls) == pytest.approx((sum(classes) / 2, *classes))


def test_with_a_source_for_every_clip_it_is_scikit_learns() -> None:
    scores, is_generated, _ = _case(0)
    recalls = metric.source_recalls((scores > 0) == is_generated, is_generated, np.arange(len(scores)).astype(str))
    assert metric.balanced_accuracy(recalls)[0] == pytest.approx(balanced_accuracy_score(is_generated, scores > 0))
    assert recalls.counts.tolist() == [1] * len(scores)


def test_a_class_without_clips_has_no_figure() -> None:
    recalls = metric.source_recalls(np.array([True, False]), np.array([True, True]), np.array(["a", "a"]))
    overall, generated, genuine = metric.balanced_accuracy(recalls)
    assert generated == 0.5 and math.isnan(overall) and math.isnan(genuine)


def test_the_best_threshold_is_the_best_of_all_of_them() -> None:
    scores, is_generated, sources = _case(3)
    best = metric.best_threshold(scores, is_generated, metric.source_weights(is_generated, sources))

    def at(threshold: float) -> float:
        return metric.balanced_accuracy(
            metric.source_recalls((scores > threshold) == is_generated, is_generated, sources)
        )[0]

    tried = [at(threshold) for threshold in [-math.inf, math.inf, *np.unique(scores), *(np.unique(scores) + 0.05)]]
    assert best.balanced_accuracy == pytest.approx(max(tried)) == pytest.approx(at(best.threshold))
    assert best.loss == pytest.approx(max(tried) - at(0.0))
