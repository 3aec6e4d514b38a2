"""How the weights are made: data and splits, post-processing, the fit, the figures; on real footage where it counts."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.config import LimitsConfig, SamplingConfig
from model.heads import KernelHead, LinearHead, merge_heads
from model.metric import balanced_accuracy
from model.training import cache, video
from model.training.__main__ import build_recipe
from model.training.clips import LabelledDataError, Record, assign_folds, balanced_weights, fingerprint, load_records
from model.training.fit import KernelFit, LinearFit, even_out, fit_linear_head, fit_scaling, fuse
from model.training.protocol import (
    calibrate,
    fit_experts,
    fuse_across,
    importance,
    offset_for_the_worst,
    out_of_fold_evidence,
    pages_can_be_held_out,
    prepare_fit,
)
from model.training.recipe import AS_FOUND, PROCESSED, Container
from model.training.record import family_recalls, recalls_of, summarise, write_scores
from model.video import copies
from model.video.reading import read_clip
from model.video.views import ViewConfig, cut_views, trim_bars
from tests.made_up import made_up_footage, made_up_records

# --- data ---


def test_a_folder_needs_no_manifest(tmp_path: Path) -> None:
    for file in ("real/phone/a.mp4", "real/phone/b.MOV", "generated/wan/deep/c.webm", "generated/wan/notes.txt"):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    records = load_records(tmp_path)
    assert [(record.file, record.label, record.source, record.family) for record in records] == [
        ("real/phone/a.mp4", "real", "phone", "phone"),
        ("real/phone/b.MOV", "real", "phone", "phone"),
        ("generated/wan/deep/c.webm", "generated", "wan", "wan"),
    ]


def test_the_manifest_of_the_shared_clips(shared_clips: Path) -> None:
    records = load_records(shared_clips)
    with (shared_clips / "manifest.csv").open() as file:
        assert len(records) == len(list(csv.DictReader(file)))
    assert all(record.page for record in records)
    assert fingerprint(records) == fingerprint(records[::-1])
    assert fingerprint(records) != fingerprint(records[1:])


def test_the_manifest_of_the_shared_speech(shared_clips: Path) -> None:
    if not (shared_clips / "audio" / "manifest.csv").is_file():
        pytest.skip("no labelled speech beside the labelled clips")
    records = load_records(shared_clips / "audio")
    assert {record.label for record in records} == {"pristine", "generated"}
    assert all(record.number("sampling_rate") >= 8000 and record.details["kind"] and record.page for record in records)
    folds = assign_folds(records, 5)
    for fold in range(5):
        assert {record.label for record, at in zip(records, folds, strict=True) if at == fold} == {
            "pristine", "generated",
        }  # fmt: skip
    assert balanced_weights(records)[[record.generated for record in records]].sum() == pytest.approx(len(records) / 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,label\na.mp4,real\n", r"lacks the columns \['source'\]"),
        ("file,label,source\na.mp4,fake,x\n", r"manifest.csv:2: label is 'fake'"),
        ("file,label,source\nb.mp4,real,x\n", r"b.mp4 does not exist"),
        ("file,label,source\na.mp4,real,x\n", r"no 'generated' clip"),
    ],
)
def test_a_bad_manifest_is_told(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "manifest.csv").write_text(content)
    with pytest.raises(LabelledDataError, match=message):
        load_records(tmp_path)


def test_a_clip_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    record = Record(tmp_path / "bad.mp4", "bad.mp4", "real", "s", "s")
    with pytest.raises(LabelledDataError, match=r"bad\.mp4: .*mend it or take it out"):
        cache._prepare(record, prepare=video.prepare, variant=AS_FOUND)


@pytest.mark.parametrize("num_folds", [2, 3, 5])
def test_folds_keep_families_whole_and_hold_both_classes(num_folds: int) -> None:
    records = made_up_records()
    folds = assign_folds(records, num_folds)
    by_family: dict[tuple[str, str], set[int]] = {}
    for record, fold in zip(records, folds, strict=True):
        by_family.setdefault((record.label, record.family), set()).add(int(fold))
    assert all(len(seen) == 1 for seen in by_family.values())
    for fold in range(num_folds):
        assert {record.label for record, at in zip(records, folds, strict=True) if at == fold} == {"real", "generated"}


def test_weights_make_sources_and_classes_equal() -> None:
    records = made_up_records()[:-7]
    weights = balanced_weights(records)
    assert weights.mean() == pytest.approx(1)
    totals: dict[tuple[str, str], float] = {}
    for record, weight in zip(records, weights, strict=True):
        totals[record.label, record.source] = totals.get((record.label, record.source), 0) + weight
    for label in ("real", "generated"):
        shares = [total for (of, _), total in totals.items() if of == label]
        assert sum(shares) == pytest.approx(len(records) / 2)
        assert max(shares) == pytest.approx(min(shares))


# --- post-processing ---


@pytest.mark.parametrize("name", sorted(copies.OPERATIONS))
@pytest.mark.parametrize("severity", copies.SEVERITIES)
def test_operations_are_seeded_and_keep_the_scene(name: str, severity: int) -> None:
    frames = made_up_footage()
    once, again = (copies.apply_operation(frames, name, severity, np.random.default_rng(3)) for _ in range(2))
    assert once.shape == again.shape
    # x264 is not always exact to the last level from run to run; everything else is.
    tolerance = 1.0 if name in copies.CODEC_OPERATIONS else 0.0
    assert np.abs(once.astype(int) - again).mean() <= tolerance
    assert once.dtype == np.uint8
    assert once.ndim == 4
    assert min(once.shape[1:3]) >= 64
    assert once.shape != frames.shape or (once != frames).any()
    assert abs(float(once.mean()) - float(frames.mean())) < 45


@pytest.mark.parametrize("name", ["blur", "h264", "noise", "rescale"])
def test_severity_grows(name: str) -> None:
    frames = made_up_footage()
    errors = [
        np.abs(copies.apply_operation(frames, name, severity, np.random.default_rng(3)) - frames.astype(float)).mean()
        for severity in copies.SEVERITIES
    ]
    assert errors[0] < errors[1] < errors[2]


def test_unknown_operation_and_severity_are_told() -> None:
    with pytest.raises(ValueError, match="operation is 'sepia'; valid operations"):
        copies.apply_operation(made_up_footage(), "sepia", 1, np.random.default_rng(0))
    with pytest.raises(ValueError, match="severity is 4"):
        copies.apply_operation(made_up_footage(), "blur", 4, np.random.default_rng(0))


def test_copies_depend_on_file_and_variant_not_on_class() -> None:
    frames = made_up_footage(20)
    first = copies.process(frames, "a1", "x.mp4")
    assert np.abs(first.astype(int) - copies.process(frames, "a1", "x.mp4")).mean() < 1.0
    others = [copies.process(frames, "a1", "y.mp4"), copies.process(frames, PROCESSED, "x.mp4")]
    assert all(other.shape != first.shape or (other != first).any() for other in others)


def test_content_resumes_and_matches_the_inference_path(shared_clips: Path, tmp_path: Path) -> None:
    records = load_records(shared_clips)[:3]
    recipe = build_recipe("video")
    built = cache.build_content(records, AS_FOUND, recipe, folder=tmp_path, workers=1)
    clip = read_clip(str(records[1].path), SamplingConfig(), LimitsConfig())
    np.testing.assert_array_equal(built[1], cut_views(trim_bars(clip.runs), ViewConfig()))
    built[2] = 7
    again = cache.build_content(records, AS_FOUND, recipe, folder=tmp_path, workers=1)
    assert (again[2] == 7).all()  # nothing was decoded a second time
    with pytest.raises(ValueError, match="remove its folder to start afresh"):
        cache.build_content(records, AS_FOUND, replace(recipe, num_bytes=32), folder=tmp_path, workers=1)


# --- fit ---


def _toy(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of two classes that no plane separates: a ring around a blob."""
    rng = np.random.default_rng(seed)
    generated = np.arange(count) % 2 == 0
    radius = np.where(generated, 3.0, 0.7) + rng.normal(0, 0.2, count)
    angle = rng.uniform(0, 2 * np.pi, count)
    flat = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return (flat @ rng.normal(size=(2, 12)) + rng.normal(0, 0.05, (count, 12))).astype(np.float32), generated


def test_the_kernel_machine_learns_what_no_plane_can() -> None:
    features, generated = _toy(400, seed=0)
    train, test = slice(0, 300), slice(300, None)
    fit = prepare_fit({"all": features[train]}, KernelFit(("all",), num_components=6))
    head = fit(features[train], generated[train], np.ones(300))
    assert isinstance(head, KernelHead)
    assert ((head.raw_scores(features[test]) > 0) == generated[test]).mean() > 0.95
    twice = merge_heads([head, head], [0.5, 1.5])
    assert isinstance(twice, KernelHead) and len(twice.support) == len(head.support)
    np.testing.assert_allclose(twice.raw_scores(features[test]), 2 * head.raw_scores(features[test]), rtol=1e-6)


def test_the_linear_machine_is_a_direction_in_raw_features() -> None:
    rng = np.random.default_rng(0)
    generated = np.arange(400) % 2 == 0
    # Units and origins of the features differ; only one of them tells.
    features = rng.normal(size=(400, 12)) + np.outer(np.where(generated, 2.0, -2.0), np.eye(12)[3])
    features = (features * np.geomspace(0.01, 100, 12) + np.linspace(-50, 50, 12)).astype(np.float32)
    train, test = slice(0, 300), slice(300, None)
    head = fit_linear_head(
        features[train], generated[train], np.ones(300), scaling=fit_scaling(features[train]), penalty=1.0
    )
    scores = head.raw_scores(features[test])
    assert ((scores > 0) == generated[test]).mean() > 0.9
    assert np.abs(head.direction * features.std(0)).argmax() == 3
    twice = merge_heads([head, head], [0.5, 1.5])
    np.testing.assert_allclose(twice.raw_scores(features[test]), 2 * scores, rtol=1e-6)
    heavier = fit_linear_head(
        features[train],
        generated[train],
        np.where(generated[train], 9.0, 1.0),
        scaling=fit_scaling(features),
        penalty=1.0,
    )
    assert (heavier.raw_scores(features) > 0).mean() > (head.raw_scores(features) > 0).mean()


def test_fusion_gives_log_likelihood_ratios() -> None:
    rng = np.random.default_rng(0)
    generated = rng.random(20_000) < 0.5
    # Two normal densities at +1 and -1 with deviation 1: the ratio's logarithm is 2 x.
    evidence = (rng.normal(size=20_000) + np.where(generated, 1, -1))[:, None]
    weights, offset = fuse([evidence, evidence], np.ones(1), generated, np.ones(20_000))
    assert weights == pytest.approx([2.0], rel=0.05)
    assert offset == pytest.approx(0.0, abs=0.05)


def test_kinds_of_evidence_count_alike_whatever_their_units_and_pieces() -> None:
    rng = np.random.default_rng(0)
    generated = rng.random(20_000) < 0.5
    evidence = rng.normal(size=(20_000, 3)) + np.where(generated, 1, -1)[:, None]
    one, other = {AS_FOUND: evidence[:, :2]}, {AS_FOUND: evidence[:, 2:]}
    shares = importance([one, other])
    assert shares.tolist() == [0.5, 0.5, 1.0]
    weights, _ = fuse([evidence], shares, generated, np.ones(20_000))
    assert weights[:2].sum() == pytest.approx(weights[2], rel=0.02)
    in_other_units, _ = fuse([evidence * [1, 1, 1000]], shares, generated, np.ones(20_000))
    assert in_other_units == pytest.approx(weights / [1, 1, 1000])


def test_cross_validation_holds_families_out() -> None:
    records = made_up_records()
    generated = np.array([record.generated for record in records])
    families = np.array([f"{record.label}/{record.family}" for record in records])
    # Features that name the family and nothing else: whoever memorises families learns nothing about others.
    rng = np.random.default_rng(0)
    names = {family: rng.normal(size=30) for family in np.unique(families)}
    features = np.stack([names[family] for family in families]).astype(np.float32)
    variants = {AS_FOUND: features, PROCESSED: features}
    folds = assign_folds(records, 4)
    for config in (KernelFit(("names",), num_components=10), LinearFit(("names",), penalty=100.0)):
        fit = prepare_fit(variants, config)
        evidence = out_of_fold_evidence(variants, records, folds, fit)
        scores = fuse_across([evidence], records, folds)
        assert balanced_accuracy(recalls_of(scores[AS_FOUND], records))[0] < 0.75
        inside = fit_experts(variants, records, np.ones(len(records), bool), fit)[0].raw_scores(features)
        assert ((inside > 0) == generated).mean() == 1


def test_a_score_can_be_made_to_rest_less_on_a_trait() -> None:
    """Half of the features tell the class and the trait, half the trait alone."""
    rng, count = np.random.default_rng(0), 400
    generated = np.arange(count) % 2 == 0
    trait = rng.normal(size=count) + np.where(generated, 5.0, 0.0)  # classes may differ in it
    within = trait - np.where(generated, 5.0, 0.0)
    loads = np.repeat([1.0, 0.0], 10)
    features = np.where(generated, 1.0, -1.0)[:, None] * loads + 0.3 * within[:, None] + rng.normal(size=(count, 20))
    head = LinearHead(loads, 0.5)
    evened = even_out(head, features.astype(np.float32), trait, generated)

    def correlation(chosen: LinearHead) -> float:
        scores = chosen.raw_scores(features)
        return float(np.mean([np.corrcoef(scores[of], trait[of])[0, 1] for of in (generated, ~generated)]))

    assert 0 < correlation(evened) < correlation(head) - 0.05
    for chosen in (head, evened):
        assert ((chosen.raw_scores(features) > 0.5) == generated).mean() > 0.75
    assert evened.raw_scores(features).mean() == pytest.approx(head.raw_scores(features).mean(), abs=1e-3)


def test_cross_validation_can_hold_pages_out() -> None:
    apart = ("f0", "f1")
    records = [
        replace(record, page=("", "x", "x" if record.family in apart else "y")[index % 3])
        for index, record in enumerate(made_up_records())
    ]
    features = np.random.default_rng(0).normal(size=(len(records), 30)).astype(np.float32)
    variants = {AS_FOUND: features, PROCESSED: features}
    folds = np.array([int(record.family in apart) for record in records])
    held_out = folds == 1
    members = np.array([record.family not in apart and record.page != "x" for record in records])
    fit = prepare_fit(variants, KernelFit(("noise",), num_components=10))
    evidence = out_of_fold_evidence(variants, records, folds, fit, hold_out_pages=True)
    for index, expert in enumerate(fit_experts(variants, records, members, fit)):
        np.testing.assert_allclose(evidence[AS_FOUND][held_out, index], expert.raw_scores(features[held_out]))

    assert pages_can_be_held_out(records, folds)
    assert not pages_can_be_held_out([replace(record, page="") for record in records], folds)
    assert not pages_can_be_held_out([replace(record, page="one") for record in records], folds)


def test_scores_are_log_likelihood_ratios_whatever_the_numbers_of_clips() -> None:
    """Evidence from unit normals around 1 and -1 is worth twice itself; generated clips are three times as many."""
    records = made_up_records(families=40, clips=30)
    records = [record for index, record in enumerate(records) if record.generated or index % 3 == 0]
    generated = np.array([record.generated for record in records])
    evidence = np.random.default_rng(0).normal(np.where(generated, 1.0, -1.0))[:, None]
    (shares,), offset = calibrate([[{AS_FOUND: evidence, PROCESSED: evidence}]], records)
    assert shares == pytest.approx([2.0], abs=0.25)
    assert offset == pytest.approx(0.0, abs=0.15)


def test_the_offset_is_the_best_one_for_the_worst_of_the_assignments() -> None:
    """Classes part at 0 in one assignment and at 1.2 in the other: in between neither loses more than the other."""
    rng = np.random.default_rng(0)
    generated = np.arange(40_000) % 2 == 0
    weights = np.full(len(generated), 1 / len(generated))
    sums = [[rng.normal(np.where(generated, 1.0, -1.0) + shift)] for shift in (0.0, 1.2)]
    alone = offset_for_the_worst(sums[:1], generated, weights, around=0.3)
    assert alone == pytest.approx(0.0, abs=0.06)
    assert offset_for_the_worst(sums, generated, weights, around=0.3) == pytest.approx(-0.6, abs=0.06)
    # Twice the first one beside the second: a mean would lean to the first, the worst case does not.
    assert offset_for_the_worst([sums[0], *sums], generated, weights, around=0.3) == pytest.approx(-0.6, abs=0.06)


# --- figures ---


def test_every_source_counts_the_same() -> None:
    records = [Record(Path(), f"{n}", "real", "big", "a") for n in range(9)]
    records += [Record(Path(), "r", "real", "small", "b"), Record(Path(), "g", "generated", "gen", "c")]
    scores = np.array([-1.0] * 9 + [1.0, 1.0])  # big all right, small all wrong, generated right
    assert balanced_accuracy(recalls_of(scores, records)) == (0.75, 1.0, 0.5)
    figures = summarise(scores + 5, records, Container(video.container_numbers, video.predictors, video.bands))
    assert figures["threshold_loss"] == 0.25


def test_summary_and_table(tmp_path: Path) -> None:
    records = made_up_records()
    rng = np.random.default_rng(0)
    scores = np.array([1.0 if record.generated else -1.0 for record in records]) + rng.normal(0, 0.8, len(records))
    figures = summarise(scores, records, Container(video.container_numbers, video.predictors, video.bands))
    assert figures["clips"] == len(records)
    interval = figures["interval_95"]
    assert isinstance(interval, (list, tuple))
    assert interval[0] <= figures["balanced_accuracy"] <= interval[1]
    assert figures["threshold_loss"] >= -1e-9  # type: ignore[operator]
    assert set(family_recalls(scores, records)) == {f"{record.label}/{record.family}" for record in records}
    write_scores(tmp_path / "scores.csv", records, np.zeros(len(records)), {"clean": scores})
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [record.file for record in records]
    assert [float(row["score_clean"]) for row in rows] == scores.tolist()


def test_a_score_near_zero_keeps_its_side(tmp_path: Path) -> None:
    """Written with four digits it became 0.0000, which is not above the threshold: the table gave other figures."""
    records = [Record(Path(), "g", "generated", "s", "f"), Record(Path(), "r", "real", "s", "f")]
    write_scores(tmp_path / "scores.csv", records, np.zeros(2), {"clean": np.array([2e-5, -2e-5])})
    with (tmp_path / "scores.csv").open() as file:
        assert [float(row["score_clean"]) > 0 for row in csv.DictReader(file)] == [True, False]


def test_the_committed_scores_give_the_committed_figures(repository: Path) -> None:
    """The table gave 0.842 for the processed copies where the manifest said 0.8427."""
    folder = repository / "weights" / "video"
    measured = json.loads((folder / "measured.json").read_text())
    with (folder / "cross_validation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    records = [Record(Path(row["file"]), row["file"], row["label"], row["source"], row["family"]) for row in rows]
    container = Container(video.container_numbers, video.predictors, lambda numbers: {})
    for variant in (AS_FOUND, PROCESSED):
        figures = summarise(np.array([float(row[f"score_{variant}"]) for row in rows]), records, container)
        for name in set(figures) - {"spearman", "matched_bands"}:  # these need the container's numbers
            assert figures[name] == measured[variant][name], (variant, name)
