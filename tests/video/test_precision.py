"""What bfloat16 does to scores, on real clips with the committed weights."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest
import torch

from model.run.scoring import score_clip
from model.video.detector import load_detector
from model.video.prepare import load_preparation

CLIPS_A_LABEL = 40
MOST = 0.05  # that a score may move; a verdict closer to 0 than this may turn


@pytest.mark.long
def test_bfloat16_turns_no_verdict(repository: Path, shared_clips: Path) -> None:
    weights = repository / "weights" / "video"
    preparation = load_preparation(weights)
    with open(shared_clips / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = random.Random(1)
    files = [
        row["file"]
        for label in ("real", "generated")
        for row in chosen.sample([row for row in rows if row["label"] == label], CLIPS_A_LABEL)
    ]
    contents = [preparation(str(shared_clips / file)).content for file in files]
    cpu = torch.device("cpu")
    detectors = [load_detector(weights, cpu, precision) for precision in ("float32", "bfloat16")]
    exact, rounded = ([score_clip(detector, content) for content in contents] for detector in detectors)
    moved = {file: abs(b - a) for file, a, b in zip(files, exact, rounded, strict=True)}
    assert max(moved.values()) <= MOST, max(moved, key=lambda file: moved[file])
    assert max(moved.values()) > 0, "bfloat16 was not used"
    turned = [(file, a, b) for file, a, b in zip(files, exact, rounded, strict=True) if (a > 0) != (b > 0)]
    assert all(abs(a) <= MOST for _, a, _ in turned), turned
    print(f"{len(files)} clips: scores move by {max(moved.values()):.4f} at most; turned: {turned}")
