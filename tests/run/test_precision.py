"""What bfloat16 does to scores, on real clips with the committed weights."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest
import torch

from model.modality import AUDIO, VIDEO, Modality
from model.run.parts import default_weights, load_detector, load_preparation
from model.run.scoring import score_clip

CLIPS_A_LABEL = 40
MOST = 0.05  # that a score may move; a verdict closer to 0 than this may turn


@pytest.mark.long
@pytest.mark.parametrize(("modality", "folder"), [(VIDEO, "."), (AUDIO, "audio")], ids=["video", "audio"])
def test_bfloat16_turns_no_verdict(modality: Modality, folder: str, shared_clips: Path) -> None:
    weights = default_weights(modality)
    preparation = load_preparation(modality, weights)
    with open(shared_clips / folder / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = random.Random(1)
    files = [
        row["file"]
        for label in modality.labels
        for row in chosen.sample([row for row in rows if row["label"] == label], CLIPS_A_LABEL)
    ]
    contents = [preparation(str(shared_clips / folder / file)).content for file in files]
    cpu = torch.device("cpu")
    detectors = [load_detector(modality, weights, cpu, precision) for precision in ("float32", "bfloat16")]
    exact, rounded = ([score_clip(detector, content) for content in contents] for detector in detectors)
    moved = {file: abs(b - a) for file, a, b in zip(files, exact, rounded, strict=True)}
    assert max(moved.values()) <= MOST, max(moved, key=lambda file: moved[file])
    assert max(moved.values()) > 0, "bfloat16 was not used"
    turned = [(file, a, b) for file, a, b in zip(files, exact, rounded, strict=True) if (a > 0) != (b > 0)]
    assert all(abs(a) <= MOST for _, a, _ in turned), turned
    print(f"{len(files)} clips: scores move by {max(moved.values()):.4f} at most; turned: {turned}")
