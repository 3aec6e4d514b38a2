"""The speech recipe from sound files to weights, on made-up voices: every step runs, and what is measured is right."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from model.audio import copies
from model.audio.detector import load_detector
from model.audio.prepare import load_preparation
from model.modality import AUDIO
from model.training.__main__ import build_features, build_recipe, build_weights
from model.training.audio import PREPARATION, container_numbers, prepare
from model.training.clips import Record, load_records

from .test_views import write_wav
from .toy_speech import toy_voice


@pytest.fixture(scope="module")
def voices(tmp_path_factory) -> Path:
    """Eight sources of each class, two clips each; the generated ones hum at 3 kHz."""
    folder = tmp_path_factory.mktemp("voices")
    for source in range(8):
        for clip in range(2):
            voice = toy_voice(1.5 + 0.2 * clip, seed=10 * source + clip)
            hum = 0.1 * np.sin(2 * np.pi * 3000 * np.arange(len(voice)) / 16_000).astype(np.float32)
            for label, samples in (("pristine", voice), ("generated", voice + hum)):
                path = folder / label / f"s{source}" / f"{clip}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_wav(path, samples)
    return folder


@pytest.fixture(scope="module")
def records(voices) -> list[Record]:
    return load_records(voices, AUDIO)


def test_copies_differ_from_what_was_found(records):
    found = prepare(records[0], "clean")
    assert len(found) == PREPARATION.max_bytes
    for variant in copies.VARIANTS:
        copied = prepare(records[0], variant)
        assert copied.shape == found.shape
        assert not np.array_equal(copied, found)
        assert np.array_equal(copied, prepare(records[0], variant))


def test_level_and_bandwidth_are_measured_on_the_sound(tmp_path):
    """A tone of 0.2 at 2 kHz: loud level 0.2 / sqrt(2), all power below 2 kHz and a little."""
    tone = (0.2 * np.sin(2 * np.pi * 2000 * np.arange(32_000) / 16_000)).astype(np.float32)
    path = write_wav(tmp_path / "tone.wav", tone)
    details = {"sampling_rate": "22050", "seconds": "2"}
    numbers = container_numbers([Record(path, "tone.wav", "pristine", "s", "f", 64_044, "", details)])
    assert numbers["level_decibels"][0] == pytest.approx(20 * np.log10(0.2 / np.sqrt(2)), abs=0.05)
    assert numbers["bandwidth_hertz"][0] == pytest.approx(2000, abs=2)
    assert numbers["sampling_rate"][0] == 22_050
    assert numbers["bytes_per_second"][0] == 32_022


def test_from_files_to_weights(voices, records, tmp_path):
    recipe = build_recipe("audio")
    features, backends = build_features(
        records, recipe, folder=tmp_path / "cache", workers=1, device=torch.device("cpu")
    )
    out = tmp_path / "weights"
    measured = build_weights(features, records, recipe, out=out, num_folds=4, seed=0, made={"backends": backends})
    assert measured["clean"]["auc"] > 0.9  # the hum is easy to hear
    assert measured["clean"] == json.loads((out / "measured.json").read_text())["clean"]
    with (out / "cross_validation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for variant in copies.VARIANTS:
        recalls: dict[str, list[bool]] = {"generated": [], "pristine": []}
        for row in rows:
            score = float(row[f"score_{variant}" if row["label"] == "generated" else "score_clean"])
            recalls[row["label"]].append((score > 0) == (row["label"] == "generated"))
        expected = (np.mean(recalls["generated"]) + np.mean(recalls["pristine"])) / 2
        assert measured[f"{variant}, generated alone"]["balanced_accuracy"] == pytest.approx(expected, abs=1e-3)
    detector, preparation = load_detector(out, torch.device("cpu")), load_preparation(out)
    scores_of = {
        label: [detector.score(detector.clip_features(preparation(str(path)).content)) for path in files]
        for label in ("generated", "pristine")
        if (files := sorted((voices / label).rglob("0.wav")))
    }
    assert np.mean(scores_of["generated"]) > np.mean(scores_of["pristine"]) + 0.5
