"""Tuning the transformer, and the whole command from clips to weights."""

from __future__ import annotations

import copy
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from model.network import load_detector
from model.scene import SceneNetwork
from model.training.__main__ import main
from model.training.data import Record, load_records
from model.training.export import WEIGHTS_NAME, build_scene_network
from model.training.finetune import FinetuneConfig, _Run, clip_logits, finetune
from model.training.tokens import load_scenes, load_tokens, upright
from tests.made_up import made_up_records


@pytest.fixture
def scene() -> SceneNetwork:
    """A small transformer with random weights: four blocks, the last two tuned; 3 x 3 tokens and the class token."""
    torch.manual_seed(0)
    network = SceneNetwork(transformer="vit_tiny_patch16_224", num_blocks=4, num_last=2, size=48)
    network.start_tuning()
    return network.eval()


def _tokens(scene: SceneNetwork, records: Sequence[Record]) -> np.ndarray:
    """Random ones, those of generated clips moved a little along one direction: float16 (N, 2, 1 + T, W)."""
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(len(records), 2, *scene.token_shape))
    trace = rng.normal(size=scene.token_shape[1])
    generated = np.array([record.generated for record in records])
    return (tokens + 0.3 * generated[:, None, None, None] * trace).astype(np.float16)


def _tune(
    scene: SceneNetwork, tokens: np.ndarray, records: Sequence[Record], config: FinetuneConfig, checkpoint: Path
) -> dict[str, torch.Tensor]:
    members = np.arange(len(records)) % 4 > 0  # a clip in four of either class is not learnt from
    return finetune(
        {"clean": tokens}, records, members, copy.deepcopy(scene), config=config, device=torch.device("cpu"), seed=0,
        checkpoint=checkpoint,
    )  # fmt: skip


def test_tuning_learns_and_leaves_the_transformer_alone(scene: SceneNetwork, tmp_path: Path) -> None:
    records = made_up_records(families=4, clips=4)
    tokens = _tokens(scene, records)
    before = clip_logits(scene, upright(tokens), np.arange(len(records)), torch.device("cpu"))
    assert not before.any()
    state = _tune(scene, tokens, records, FinetuneConfig(steps=30, batch=8, warm_up_steps=5), tmp_path / "run.pt")
    assert set(state) == {name for name, _ in scene.tuned_parameters()}
    assert not any(name.startswith("transformer.") for name in state)
    scene.load_state_dict(state, strict=False)
    left_out = np.arange(0, len(records), 4)
    logits = clip_logits(scene, upright(tokens), left_out, torch.device("cpu"))
    generated = np.array([records[index].generated for index in left_out])
    assert logits[generated].min() > logits[~generated].max()


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    scene: SceneNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = made_up_records(families=3, clips=2)
    tokens = _tokens(scene, records)
    scene.head[1].p = 0.0  # what dropout leaves out is not seeded by step
    config = FinetuneConfig(steps=5, batch=4, warm_up_steps=2, checkpoint_steps=2)
    whole = _tune(scene, tokens, records, config, tmp_path / "one go.pt")
    learn = _Run.learn

    def interrupted(run: _Run, *arguments: torch.Tensor) -> None:
        if run.step == 3:
            raise KeyboardInterrupt
        learn(run, *arguments)

    monkeypatch.setattr(_Run, "learn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _tune(scene, tokens, records, config, tmp_path / "two goes.pt")
    monkeypatch.setattr(_Run, "learn", learn)
    resumed = _tune(scene, tokens, records, config, tmp_path / "two goes.pt")
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor)
    assert not torch.equal(whole["tuned.0.norm1.weight"], scene.state_dict()["tuned.0.norm1.weight"])


def test_tokens_are_those_of_the_picture_and_of_its_mirror_image(scene: SceneNetwork, tmp_path: Path) -> None:
    views = np.random.default_rng(0).integers(0, 256, (3, 2, 1, 64, 64, 3), np.uint8)
    tokens = load_tokens(views, scene, file=tmp_path / "tokens.npy", device=torch.device("cpu"))
    assert tokens.shape == (3, 4, *scene.token_shape)
    with torch.inference_mode():
        for look, picture in ((2, views[1, 1]), (3, views[1, 1][:, :, ::-1])):
            expected = scene.tokens(scene.render(torch.from_numpy(picture.copy())[None]))[0]
            scale = float(expected.abs().max())
            np.testing.assert_allclose(tokens[1, look], expected.numpy(), atol=0.03 * scale)
    described = load_scenes(upright(tokens), scene, file=tmp_path / "scenes.npy", device=torch.device("cpu"))
    with torch.inference_mode():
        wanted = scene(torch.from_numpy(views[1]))[0].mean(0).numpy()
    np.testing.assert_allclose(described[1], wanted, atol=0.03 * np.abs(wanted).max())


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
    arguments += ["--device", "cpu", "--workers", "1", "--folds", "2", "--steps", "2"]
    assert main(arguments) == 0
    detector = load_detector(tmp_path / "out", torch.device("cpu"))
    outputs = detector.clip_outputs(np.zeros(detector.view_config.num_bytes, np.uint8))
    assert np.isfinite(detector.score(outputs))
    with (tmp_path / "out" / "cross_validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and all(np.isfinite(float(row["score_clean"]) + float(row["score_post"])) for row in rows)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["record"]["clips"] == 8 and "tuned blocks alone" in manifest["record"]["cross_validation"]

    cached = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("[fst]*") if path.is_file()}
    # Features of both kinds of views, tokens, scenes by variant; state and checkpoint of folds and whole.
    assert len(cached) == 4 * 3 + 2 * 3
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in cached} == cached

    untuned, source = (
        build_scene_network(tmp_path / "out" / WEIGHTS_NAME),
        build_scene_network(repository / "weights" / WEIGHTS_NAME),
    )
    for name, tensor in untuned.state_dict().items():
        torch.testing.assert_close(tensor, source.state_dict()[name])  # so weights can be made from these weights
