"""The committed speech weights: the manifest is what the recipe makes, and the card has the measured figures."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from model.audio.detector import load_detector
from model.audio.prepare import load_preparation
from model.audio.views import WINDOWS
from model.training.audio import CEPSTRA_SIZE, HEADS, PICTURE_SIZE, VIEWS, load_pretrained
from model.training.export import manifest_text, store
from model.weights import load_manifest

from .toy_speech import toy_voice

_VARIANTS = {
    "as found": "clean", "task 2, both classes": "codec", "task 2, generated alone": "codec, generated alone",
    "task 3, both classes": "laundered", "task 3, generated alone": "laundered, generated alone",
}  # fmt: skip


@pytest.fixture
def committed(repository: Path) -> Path:
    return repository / "weights" / "audio"


def test_the_manifest_is_the_recipes(committed: Path) -> None:
    text = (committed / "manifest.json").read_text()
    assert text == manifest_text(json.loads(text))
    manifest = load_manifest(committed)
    content = (committed / manifest.file).read_bytes()
    assert hashlib.sha256(content).hexdigest() == manifest.sha256
    assert len(content) < 2 << 20
    assert manifest.modality == "audio"
    assert manifest.input == {"views": asdict(VIEWS)}
    assert manifest.architecture == {"picture": PICTURE_SIZE, "cepstra": CEPSTRA_SIZE}
    assert {name: tuple(head["reads"]) for name, head in manifest.heads.items()} == {
        name: fit.reads for name, fit in HEADS.items()
    }


def test_training_finds_its_networks_in_the_weights(committed: Path) -> None:
    """Stored again they are the same, bit by bit: training again starts from the same."""
    file = committed / "detector.safetensors"
    again, stored = store(load_pretrained(file).state_dict()), load_file(file)
    assert len(again) > 80
    assert all(torch.equal(tensor, stored[name]) for name, tensor in again.items())


def test_a_voice_has_a_score_whatever_its_length(committed: Path) -> None:
    detector, preparation = load_detector(committed, torch.device("cpu")), load_preparation(committed)
    for seconds, count in ((0.5, 1), (3.0, 1), (10.0, 4)):
        features = detector.clip_features(preparation.cut(toy_voice(seconds)))
        assert len(features[WINDOWS]) == count
        assert np.isfinite(detector.score(features))


def test_the_card_has_the_measured_figures(committed: Path) -> None:
    measured = json.loads((committed / "measured.json").read_text())
    results = (committed / "CARD.md").read_text().split("## Results")[1].split("\n\n")[1]
    compared = 0
    for line in results.splitlines()[2:]:
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        of, _, variant = name.partition(", ")
        figures = measured if of == "**all heads**" else measured[of]
        figures = figures[_VARIANTS[variant]] if variant else figures
        names = ("balanced_accuracy", "generated_accuracy", "genuine_accuracy", "auc")
        assert [cells[0], *cells[2:]] == [f"{figures[name]:.3f}" for name in names], name
        low, high = (float(end) for end in re.findall(r"\d\.\d+", cells[1]))
        assert (low, high) == pytest.approx(figures["interval_95"], abs=0.0051)
        compared += 1
    assert compared == len(_VARIANTS) * (2 + len(HEADS)) + 1
