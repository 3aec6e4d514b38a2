"""The whole command from clips to weights, and what it keeps of scenes."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from model.config import SamplingConfig
from model.training import __main__ as command
from model.training.__main__ import main
from model.training.clips import Record, load_records
from model.training.export import WEIGHTS_NAME, build_scene_network
from model.training.features import load_scenes
from model.video.detector import load_detector
from model.video.scene import SceneNetwork


def test_scenes_are_means_over_a_clips_views_and_are_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    scene = SceneNetwork(transformer="vit_tiny_patch16_224", class_tokens=[3, 4], statistics=[2], size=48).eval()
    views = np.random.default_rng(0).integers(0, 256, (5, 2, 1, 64, 64, 3), np.uint8)
    scenes = load_scenes(views, scene, file=tmp_path / "scenes.npy", device=torch.device("cpu"))
    assert scenes.shape == (5, scene.num_features) == (5, (2 + 2) * 192)
    with torch.inference_mode():
        for row, clip in zip(scenes, views, strict=True):
            np.testing.assert_allclose(row, scene(torch.from_numpy(clip)).mean(0).numpy(), atol=1e-4, rtol=1e-4)
    (again,) = tmp_path.iterdir()
    before = again.stat().st_mtime_ns
    load_scenes(views, scene, file=again, device=torch.device("cpu"))
    assert again.stat().st_mtime_ns == before


def test_views_of_other_frames_or_clips_are_kept_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [Record(Path(name), name, "real", "source", "family") for name in ("a.mp4", "b.mp4")]
    key = command._cache_key(records)
    assert key == command._cache_key(records) != command._cache_key(records[:1])
    monkeypatch.setattr(command, "SamplingConfig", partial(SamplingConfig, max_runs=3))
    assert command._cache_key(records) != key


def test_from_clips_to_weights_in_one_command(shared_clips: Path, repository: Path, tmp_path: Path) -> None:
    """Two clips each of two families a class; a second run finds every step's result in the cache."""
    for label in ("real", "generated"):
        by_family: dict[str, list[Path]] = {}
        for record in load_records(shared_clips):
            if record.label == label and record.width * record.height < 500_000:
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
    with (tmp_path / "out" / "cross_validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and all(np.isfinite(float(row["score_clean"]) + float(row["score_post"])) for row in rows)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    measured = json.loads((tmp_path / "out" / "measured.json").read_text())
    assert manifest["made"]["clips"] == measured["clean"]["clips"] == 8 and "class tokens alone" in measured

    cached = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("[fs]*") if path.is_file()}
    assert len(cached) == 3 * 2  # features of both kinds of views, scenes; by variant
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in cached} == cached

    written, source = (
        build_scene_network(tmp_path / "out" / WEIGHTS_NAME),
        build_scene_network(repository / "weights" / "video" / WEIGHTS_NAME),
    )
    for name, tensor in written.state_dict().items():
        torch.testing.assert_close(tensor, source.state_dict()[name])  # so weights can be made from these weights
