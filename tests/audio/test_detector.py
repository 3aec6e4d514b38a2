"""The detector from a file to a score, on tiny made-up weights; batches, devices, exactness."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.audio.detector import CEPSTRA, PICTURE, AudioDetector, AudioNetwork, load_detector, pool_windows
from model.audio.prepare import AudioPreparation, load_preparation
from model.audio.views import WINDOWS, ViewConfig
from model.heads import Decision, KernelHead, LinearHead, Projection
from model.training.audio import Hearing
from model.training.export import export_weights
from model.weights import WeightsError

from .test_views import write_wav
from .toy_speech import toy_voice

SIZES: dict[str, Any] = {
    "picture": {"rows": 32, "read_after": [1, 2]},
    "cepstra": {"bands": 20, "coefficients": 8, "top_hertz": 7400.0, "components": 6, "gaussians": 3},
}
VIEWS = ViewConfig(window_samples=16_000, max_windows=4)
CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]


class MadeUp:
    """What `export_weights` asks of a recipe."""

    def __init__(self, network: AudioNetwork) -> None:
        from model.modality import AUDIO

        self.modality = AUDIO
        self.networks = {"picture": network.picture, "cepstra": network.cepstra}
        self.input, self.architecture = {"views": asdict(VIEWS)}, SIZES
        self.packed: tuple[str, ...] = ()
        self.halved: tuple[str, ...] = ()


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Random networks and heads, written as training writes them; all numbers fit half precision."""
    folder, generator = tmp_path_factory.mktemp("weights"), torch.Generator().manual_seed(0)
    network = AudioNetwork(**SIZES)
    state = {}
    for name, tensor in network.state_dict().items():
        least = 0.1 if "vectors" in name or "running_var" in name else -0.15  # variances and weights are positive
        state[name] = (least + 0.3 * torch.rand(tensor.shape, generator=generator)).half().float()
    network.load_state_dict(state)
    rng, sizes = np.random.default_rng(0), network.sizes

    def half(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / 8).astype(np.float16).astype(np.float32)

    decision = Decision(
        {
            "pictures": LinearHead(half(sizes[PICTURE]), 0.25),
            "places": KernelHead(Projection(half(sizes[PICTURE], 5), half(5)), half(7, 5), half(7), 0.5, 0.125),
            "vectors": LinearHead(half(sizes[CEPSTRA]), -0.5),
        },
        {"pictures": (PICTURE,), "places": (PICTURE,), "vectors": (CEPSTRA,)},
        0.75,
    )
    export_weights(folder, MadeUp(network), decision, sizes=sizes, made={})  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def detector(weights) -> AudioDetector:
    return load_detector(weights, CPU)


def content_of(path: Path, seconds: float, seed: int = 0) -> np.ndarray:
    preparation = AudioPreparation(views=VIEWS)
    return preparation(write_wav(path, toy_voice(seconds, seed=seed)).read_bytes()).content


def test_file_to_score(detector, tmp_path):
    content = content_of(tmp_path / "voice.wav", 3.3)
    features = detector.clip_features(content)
    assert features[WINDOWS].shape == (4, sum(AudioNetwork(**SIZES).sizes.values()))
    score = detector.score(features)
    assert math.isfinite(score)
    assert detector.view_scores(features)[WINDOWS].shape == (4,)
    one = {WINDOWS: features[WINDOWS][:1]}
    assert detector.view_scores(features)[WINDOWS][0] == pytest.approx(detector.score(one), abs=1e-5)


def test_preparation_is_the_manifests(weights, tmp_path):
    assert load_preparation(weights) == AudioPreparation(views=VIEWS)
    text = (weights / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(text.replace('"max_windows": 4', '"max_windows": 0'))
    with pytest.raises(WeightsError, match="max_windows is 0"):
        load_preparation(tmp_path)


def test_networks_hear_what_training_heard(detector, tmp_path):
    """The extractors of the recipe give the same features as the detector: a mismatch is a silent loss."""
    windows = detector.split(content_of(tmp_path / "voice.wav", 2.0))[WINDOWS]
    given = torch.from_numpy(detector.features(torch.from_numpy(windows), WINDOWS).numpy())
    parts = []
    for extractor in (Hearing(detector._network.picture), Hearing(detector._network.cepstra)):
        with torch.inference_mode():
            parts.append(extractor.statistics(extractor.render(torch.from_numpy(windows))))
    torch.testing.assert_close(given, torch.cat(parts, dim=1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_scores_do_not_depend_on_the_batch(detector, batch, tmp_path):
    contents = [content_of(tmp_path / f"{seed}.wav", 1.0 + seed, seed) for seed in range(3)]
    windows = np.concatenate([detector.split(content)[WINDOWS] for content in contents])
    counts = [len(detector.split(content)[WINDOWS]) for content in contents]
    parts = [torch.from_numpy(windows[start : start + batch].copy()) for start in range(0, len(windows), batch)]
    joined = np.concatenate([detector.features(part, WINDOWS).numpy() for part in parts])
    scores = [detector.score({WINDOWS: rows}) for rows in np.split(joined, np.cumsum(counts)[:-1])]
    alone = [detector.score(detector.clip_features(content)) for content in contents]
    assert scores == pytest.approx(alone, abs=1e-4)


def test_nothing_is_imported_that_the_organisers_audio_environment_lacks():
    """It has no torchvision, so timm, which imports it, cannot be had there either."""
    code = "import sys, model.audio.detector; print(sorted({'timm', 'torchvision', 'decord'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_windows_are_pooled_by_their_mean():
    windows = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(pool_windows(windows), windows.mean(1), rtol=1e-6)


def test_mistakes_are_told(detector, weights, tmp_path):
    with pytest.raises(ValueError, match="kind is 'patch'"):
        detector.features(torch.zeros(1, 16_000, dtype=torch.int16), "patch")
    with pytest.raises(ValueError, match="are not 1 to 4 windows"):
        detector.split(np.zeros(7, np.uint8))
    manifest = weights / "manifest.json"
    for file in weights.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "manifest.json").write_text(manifest.read_text().replace("[1, 2]", "[1, 3]"))
    with pytest.raises(WeightsError, match="does not fit the architecture"):
        load_detector(tmp_path, CPU)
