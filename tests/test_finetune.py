"""Fine-tuning, and the whole command from clips to weights."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from model.network import load_detector
from model.training.__main__ import main
from model.training.data import load_records
from model.training.export import build_feature_network
from model.training.finetune import FinetuneConfig, finetune, patch_logits
from model.training.trainable import TrainableLite
from tests.made_up import made_up_footage, made_up_records


def test_finetuning_learns_and_resumes(tmp_path: Path) -> None:
    records = made_up_records(families=3, clips=2)
    rng = np.random.default_rng(0)
    views = rng.integers(0, 256, (len(records), 6, 2, 64, 64, 3), dtype=np.uint8)
    for index, record in enumerate(records):
        if record.generated:
            views[index] = views[index] // 4 + 96  # the made-up trace: lower contrast
    config = FinetuneConfig(steps=12, batch=8, size=48, as_found_share=1.0, warm_up_steps=1, checkpoint_steps=5)

    def train(config: FinetuneConfig, checkpoint: str) -> torch.nn.Module:
        return finetune(
            [views], [views // 2], records, np.ones(len(records), bool), backbone="tf_efficientnet_lite0",
            config=config, device=torch.device("cpu"), seed=0, checkpoint=tmp_path / checkpoint,
        )  # fmt: skip

    network = train(config, "whole.pt")
    logits = patch_logits(network, views, np.arange(len(records)), 4, torch.device("cpu"))
    generated = np.array([record.generated for record in records])
    assert logits[generated].mean() > logits[~generated].mean()

    no_fall = replace(config, steps=4, checkpoint_steps=2, falling_share=0.0, drop_rate=0.0)
    whole = train(no_fall, "one go.pt").state_dict()
    train(replace(no_fall, steps=2), "two goes.pt")
    for name, tensor in train(no_fall, "two goes.pt").state_dict().items():
        torch.testing.assert_close(tensor, whole[name])
    assert not torch.equal(whole["conv_head.weight"], network.state_dict()["conv_head.weight"])


def test_the_trainable_network_is_timms(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = TrainableLite("tf_efficientnet_lite0", frozen_stages=2, drop_rate=0.0).eval()
    plain = network.plain
    plain.load_state_dict(
        build_feature_network("tf_efficientnet_lite0", ("colours",)).backbone.state_dict(), strict=False
    )
    torch.nn.init.normal_(plain.classifier.weight, std=0.1)
    images = torch.from_numpy(made_up_footage(6)[:, :96, :128].astype(np.float32) / 128 - 1)
    wanted = plain(images.permute(0, 3, 1, 2))[:, 0]
    logits = network(images)
    torch.testing.assert_close(logits, wanted, atol=0.05 * float(wanted.detach().abs().max()), rtol=0)
    names = set(network.trained())
    assert {"conv_head.weight", "blocks.2.0.conv_pw.weight", "classifier.bias"} <= names
    assert not any(name.startswith(("conv_stem", "blocks.0", "blocks.1")) or "conv_dw" in name for name in names)
    ours = torch.autograd.grad((logits**2).sum(), list(network.trained().values()))
    theirs = torch.autograd.grad((wanted**2).sum(), list(network.trained().values()))
    for name, one, other in zip(network.trained(), ours, theirs, strict=True):
        similarity = torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0)
        assert similarity > 0.99, (name, similarity)


def test_from_clips_to_weights_in_one_command(shared_clips: Path, tmp_path: Path) -> None:
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
    arguments += ["--device", "cpu", "--workers", "1", "--folds", "2", "--finetune-folds", "2", "--finetune-steps", "2"]
    assert main(arguments) == 0
    detector = load_detector(tmp_path / "out", torch.device("cpu"))
    outputs = detector.outputs(torch.zeros(detector.view_config.num_views, 2, 224, 224, 3, dtype=torch.uint8))
    assert np.isfinite(detector.score(outputs.numpy()))
    with (tmp_path / "out" / "cross_validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and all(np.isfinite(float(row["score_clean"]) + float(row["score_post"])) for row in rows)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["record"]["clips"] == 8 and manifest["architecture"]["num_finetuned"] == 2

    cached = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("[fs]*") if path.is_file()}
    assert len(cached) == 2 * 3 + 2 * 2  # features and scenes of each variant; network and checkpoint of each fold
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in cached} == cached
