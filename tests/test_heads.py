"""The decision: heads against scikit-learn, storing and loading again, pooling."""

from __future__ import annotations

import re

import numpy as np
import pytest
from sklearn.svm import SVC

from model.heads import Decision, Head, KernelHead, LinearHead, Projection, from_arrays, merge_heads, to_arrays
from model.video.detector import pool_views

SIZES = {"sharp": 6, "flat": 4}


def _decision(seed: int = 0) -> Decision:
    rng = np.random.default_rng(seed)
    projection = Projection(rng.normal(size=(10, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32))
    kernel = KernelHead(projection, rng.normal(size=(5, 3)), rng.normal(size=5), kernel_scale=0.2, intercept=0.5)
    heads: dict[str, Head] = {"bent": kernel, "straight": LinearHead(rng.normal(size=4), -0.25)}
    return Decision(heads, {"bent": ("sharp", "flat"), "straight": ("flat",)}, offset=0.1)


def _features(count: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {name: rng.normal(size=(count, size)).astype(np.float32) for name, size in SIZES.items()}


def test_a_kernel_head_says_what_scikit_learns_machine_says() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 5))
    machine = SVC(C=3.0, kernel="rbf", gamma=0.3).fit(features, np.linalg.norm(features, axis=1) > 2)
    head = KernelHead(
        Projection(np.eye(5), np.zeros(5)), machine.support_vectors_, machine.dual_coef_[0], 0.3, machine.intercept_[0]
    )
    np.testing.assert_allclose(head.raw_scores(features), machine.decision_function(features), atol=1e-9)


def test_the_score_is_the_sum_of_all_raw_scores_and_the_offset() -> None:
    decision, features = _decision(), _features()
    bent, straight = decision.heads["bent"], decision.heads["straight"]
    both = np.concatenate([features["sharp"], features["flat"]], axis=1)
    expected = bent.raw_scores(both) + straight.raw_scores(features["flat"]) + 0.1
    np.testing.assert_allclose(decision.scores(features), expected, atol=1e-6)


def test_a_decision_that_was_stored_scores_the_same() -> None:
    decision, features = _decision(), _features()
    arrays, settings, offset = to_arrays(decision, SIZES)
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    again = from_arrays(arrays, settings, offset, SIZES)
    np.testing.assert_allclose(again.scores(features), decision.scores(features), atol=1e-5)
    assert settings == {"bent": {"reads": ["sharp", "flat"], "kernel_scale": 0.2}, "straight": {"reads": ["flat"]}}


def test_arrays_that_do_not_fit_are_refused() -> None:
    arrays, settings, offset = to_arrays(_decision(), SIZES)
    with pytest.raises(ValueError, match=re.escape("no head of the manifest has ['stray']")):
        from_arrays(arrays | {"stray": np.zeros(1)}, settings, offset, SIZES)
    with pytest.raises(KeyError, match=r"straight\.bias"):
        from_arrays({k: a for k, a in arrays.items() if k != "straight.bias"}, settings, offset, SIZES)
    with pytest.raises(ValueError, match="the head 'bent' reads 11 features"):
        from_arrays(arrays, settings, offset, SIZES | {"sharp": 7})
    with pytest.raises(ValueError, match="the head 'bent' reads 10 features"):
        from_arrays(arrays | {"machines.bent.coefficients": np.zeros(4)}, settings, offset, SIZES)
    with pytest.raises(ValueError, match="takes 10 features"):
        to_arrays(_decision(), SIZES | {"flat": 5})


def test_two_heads_that_map_one_feature_would_have_one_name() -> None:
    kernel = _decision().heads["bent"]
    reads = ("sharp", "flat")
    with pytest.raises(ValueError, match="the head 'twin' would overwrite .*as_sharp.weight"):
        to_arrays(Decision({"bent": kernel, "twin": kernel}, {"bent": reads, "twin": reads}, 0.0), SIZES)


def test_merged_heads_say_the_weighted_sum() -> None:
    decision, features = _decision(), _features()
    first = decision.heads["bent"]
    assert isinstance(first, KernelHead)
    second = KernelHead(first.projection, first.support[:2] + 1, np.ones(2), first.kernel_scale, 3.0)
    both = np.concatenate([features["sharp"], features["flat"]], axis=1)
    merged = merge_heads([first, second], [2.0, -1.0])
    np.testing.assert_allclose(
        merged.raw_scores(both), 2 * first.raw_scores(both) - second.raw_scores(both), rtol=1e-5, atol=1e-5
    )
    with pytest.raises(ValueError, match="different projections"):
        merge_heads([first, _decision(seed=2).heads["bent"]], [1.0, 1.0])


def test_pooling_means_over_each_kinds_views() -> None:
    views: dict[str, np.ndarray] = {
        "patch": np.arange(2 * 2 * 4, dtype=np.float16).reshape(2, 2, 4),
        "resized": np.zeros((2, 0, 3), np.float32),
        "scene": np.array([[[8, 9, 10]], [[6, 7, 8]]], np.float32),
    }
    pooled = pool_views(views, num_class_features=2)
    assert {name: array.tolist() for name, array in pooled.items()} == {
        "patch": [[2, 3, 4, 5], [10, 11, 12, 13]],
        "resized": [[0, 0, 0], [0, 0, 0]],
        "scene": [[8, 9, 10], [6, 7, 8]],
        "class_tokens": [[8, 9], [6, 7]],
    }
    assert {array.dtype for array in pooled.values()} == {np.dtype(np.float32)}
