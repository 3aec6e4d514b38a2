"""The whole command from clips to weights, and what it keeps for the next time."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.training import features as features_module
from model.training import video
from model.training.__main__ import build_features, build_recipe, main
from model.training.cache import cache_key
from model.training.clips import Record, load_records
from model.training.export import WEIGHTS_NAME
from model.training.features import choose_backend, load_features
from model.training.recipe import Extractor, code_version
from model.training.video import build_scene_network
from model.video import copies
from model.video.detector import load_detector, load_network
from model.video.scene import SceneNetwork
from model.weights import load_manifest

CPU = torch.device("cpu")


def _tiny_scene(seed: int = 0) -> SceneNetwork:
    torch.manual_seed(seed)
    return SceneNetwork(transformer="vit_tiny_patch16_224", class_tokens=[3, 4], statistics=[2], size=48).eval()


def _views(clips: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (clips, 2, 1, 64, 64, 3), np.uint8)


def test_features_are_the_networks_and_are_kept(tmp_path: Path) -> None:
    scene, views = _tiny_scene(), _views()
    extractor = Extractor("resized", scene, in_full=True)
    features = load_features(views, extractor, folder=tmp_path, name="scene", device=CPU)
    assert features.shape == (5, 2, scene.num_features) == (5, 2, (2 + 2) * 192)
    with torch.inference_mode():
        for rows, clip in zip(features, views, strict=True):
            np.testing.assert_allclose(rows, scene(torch.from_numpy(clip)).numpy(), atol=1e-4, rtol=1e-4)
    (again,) = tmp_path.iterdir()
    before = again.stat().st_mtime_ns
    load_features(views, extractor, folder=tmp_path, name="scene", device=CPU)
    assert again.stat().st_mtime_ns == before


def test_another_transformer_on_a_warm_cache_is_not_given_the_old_ones_features(tmp_path: Path) -> None:
    """Before, the files were named for the architecture alone: the fit saw one network, the weights held another."""
    views, old, new = _views(2), Extractor("resized", _tiny_scene(0), True), Extractor("resized", _tiny_scene(1), True)
    given = [load_features(views, extractor, folder=tmp_path, name="scene", device=CPU) for extractor in (old, new)]
    assert np.abs(given[0] - given[1]).max() > 1e-3
    other_settings = load_features(views, new, folder=tmp_path, name="scene", device=CPU, settings={"blocks": 3})
    np.testing.assert_array_equal(other_settings, given[1])
    assert len(list(tmp_path.iterdir())) == 3


def test_features_of_another_backend_are_kept_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, features that OpenVINO had made in bfloat16 were taken for PyTorch's in float32, and the reverse."""
    extractor, views = Extractor("resized", _tiny_scene()), _views(2)
    for backend in ("torch cpu float32", "torch cuda float32"):
        monkeypatch.setattr(features_module, "choose_backend", lambda *_, backend=backend: backend)
        load_features(views, extractor, folder=tmp_path, name="scene", device=CPU)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_backend_is_told() -> None:
    extractor = Extractor("resized", _tiny_scene())
    assert choose_backend(replace(extractor, in_full=True), CPU) == "torch cpu float32"
    assert choose_backend(extractor, torch.device("cuda")) == "torch cuda float32"
    if importlib.util.find_spec("openvino") is None:
        assert choose_backend(extractor, CPU) == "torch cpu float32"
    else:
        assert choose_backend(extractor, CPU) in ("openvino bfloat16", "openvino float32")


def test_content_of_other_clips_or_made_in_another_way_is_kept_elsewhere() -> None:
    recipe = build_recipe("video")
    records = [Record(Path(name), name, "real", "source", "family") for name in ("a.mp4", "b.mp4")]
    key = cache_key(records, recipe)
    assert key == cache_key(records, recipe) != cache_key(records[:1], recipe)
    assert key != cache_key(records, replace(recipe, prepared_by="other settings"))
    for setting in (video.SAMPLING, video.BARS, video.VIEWS):
        assert str(setting) in recipe.prepared_by
    assert code_version([Path(copies.__file__)]) != code_version([Path(video.__file__)])


def test_other_code_of_the_copies_makes_the_content_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before, the copies that an earlier version of the code had made were taken for this version's."""
    before = build_recipe("video").prepared_by
    package = shutil.copytree(Path(copies.__file__).parent, tmp_path / "video")
    with (package / "copies.py").open("a") as file:
        file.write("\n# changed\n")
    monkeypatch.setattr(copies, "__file__", str(package / "copies.py"))
    assert build_recipe("video").prepared_by != before


def test_openvino_gives_the_networks_features(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the faster backend of training is not installed")
    torch.manual_seed(0)
    extractor = Extractor("resized", video.build_feature_network(video.BACKBONE, ("colours",)))
    features = load_features(_views(2), extractor, folder=tmp_path, name="resized", device=CPU)
    with torch.inference_mode():
        expected = extractor.network.statistics(extractor.network.render(torch.from_numpy(_views(2)).flatten(0, 1)))
    given = torch.from_numpy(features.astype(np.float32)).flatten(0, 1)
    assert given.shape == expected.shape
    assert torch.nn.functional.cosine_similarity(given, expected).min() > 0.999  # bfloat16


@pytest.mark.long
def test_from_clips_to_weights_in_one_command(
    shared_clips: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clips each of two families a class; what was computed is found again."""
    monkeypatch.setattr(features_module, "find_spec", lambda name: None)  # PyTorch: OpenVINO compiles for a minute
    for label in ("real", "generated"):
        by_family: dict[str, list[Path]] = {}
        for record in load_records(shared_clips):
            if record.label == label and record.number("width") * record.number("height") < 500_000:
                by_family.setdefault(record.family, []).append(record.path)
        for family in [name for name, paths in by_family.items() if len(paths) > 1][:2]:
            (tmp_path / "clips" / label / family).mkdir(parents=True)
            for path in by_family[family][:2]:
                (tmp_path / "clips" / label / family / path.name).symlink_to(path)
    arguments = ["--data", str(tmp_path / "clips"), "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    arguments += ["--device", "cpu", "--workers", "1", "--folds", "2"]
    assert main(arguments) == 0
    detector = load_detector(tmp_path / "out", torch.device("cpu"))
    features = detector.clip_features(np.zeros(detector.view_config.num_bytes, np.uint8))
    assert np.isfinite(detector.score(features))
    # What the heads say of the features that they were fitted on is what the detector says of the clip's views.
    records, recipe = load_records(tmp_path / "clips"), build_recipe("video")
    cached = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("features_*")}
    assert len(cached) == 3 * 2  # three features; by variant
    fitted_on, _ = build_features(records, recipe, folder=tmp_path / "cache", workers=1, device=CPU)
    assert {path: path.stat().st_mtime_ns for path in cached} == cached  # found, not computed again
    (content,) = (tmp_path / "cache").rglob("content_post.npy")
    _, decision = load_network(load_manifest(tmp_path / "out"))
    scores = [detector.score(detector.clip_features(np.array(clip))) for clip in np.load(content, mmap_mode="r")[:2]]
    assert scores == pytest.approx(decision.scores(fitted_on["post"])[:2], abs=0.02)  # features are kept as float16
    with (tmp_path / "out" / "cross_validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and all(np.isfinite(float(row["score_clean"]) + float(row["score_post"])) for row in rows)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    measured = json.loads((tmp_path / "out" / "measured.json").read_text())
    assert manifest["made"]["clips"] == measured["clean"]["clips"] == 8 and "class tokens alone" in measured
    assert measured["clean"]["interval_95"] is None  # two sources a class are too few
    assert manifest["made"]["backends"]["scene"] == "torch cpu float32"
    assert manifest["input"] == json.loads((repository / "weights/video/manifest.json").read_text())["input"]

    written, source = (
        build_scene_network(tmp_path / "out" / WEIGHTS_NAME),
        build_scene_network(repository / "weights" / "video" / WEIGHTS_NAME),
    )
    for name, tensor in written.state_dict().items():
        torch.testing.assert_close(tensor, source.state_dict()[name])  # so weights can be made from these weights
