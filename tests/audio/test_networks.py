"""The picture of the spectrum against NumPy, its encoder against timm's network; cepstra and Fisher vectors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.fft import dct
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from model.audio.cepstra import CepstralFrames, FisherVectors
from model.audio.picture import PictureEncoder, SpectrumPicture, resampling
from model.convolutions import FusedBlock
from model.training.pretrained_speech import picture_state
from model.video.timm_parts import create_model

from .toy_speech import toy_voice

ROWS = 224


@pytest.fixture(scope="module")
def backbone() -> Any:
    """timm's own, padded on all sides alike, with values drawn at random."""
    network: Any = create_model("efficientnet_lite0", num_classes=0, bn_eps=1e-3)
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for part, middle in ((module.weight, 1.0), (module.running_var, 1.0), (module.bias, 0.5)):
                assert part is not None
                part.data.copy_(middle + 0.3 * torch.rand(part.shape, generator=generator))
        elif isinstance(module, nn.Conv2d):
            spread = (module.weight[0].numel() / 2) ** -0.5
            module.weight.data.copy_(spread * torch.randn(module.weight.shape, generator=generator))
    return network.eval()


@pytest.fixture
def encoder(backbone: Any) -> PictureEncoder:
    stored = {f"features.backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    encoder = PictureEncoder(rows=ROWS, read_after=[3, 4, 5]).eval()
    state = picture_state(stored, encoder)
    encoder.load_state_dict(state, strict=True)
    return encoder


@torch.inference_mode()
def test_encoder_equals_timms_network(encoder: PictureEncoder, backbone: Any) -> None:
    """On a grey picture, whose three colours are the same."""
    samples = torch.from_numpy(np.stack([toy_voice(1.0, seed=seed) for seed in (0, 1)]))
    maps = backbone.bn1(backbone.conv_stem(encoder.picture(samples).expand(-1, 3, -1, -1)))
    expected = []
    for number, stage in enumerate(backbone.blocks[:5], start=1):
        maps = stage(maps)
        if number >= 3:
            expected += [maps.mean((2, 3)), maps.std((2, 3), correction=0)]
    given = encoder(samples)
    torch.testing.assert_close(given, torch.cat(expected, dim=1), atol=1e-4, rtol=1e-3)
    assert given.std(dim=0).min() > 0, "two voices have the same numbers somewhere"
    assert given.shape == (2, encoder.num_features)


@torch.inference_mode()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_prepared_for_a_cpu_it_is_the_same_function(
    encoder: PictureEncoder, dtype: torch.dtype, tolerance: float
) -> None:
    samples = torch.from_numpy(toy_voice(1.0))[None]
    expected = encoder(samples)
    encoder.prepare_for_cpu(16_000, dtype)
    assert any(isinstance(part, FusedBlock) for part in encoder.modules())
    given = encoder(samples)
    assert (given - expected).abs().max() / expected.abs().max() < tolerance


@pytest.mark.parametrize("stages", [[], [0, 3], [5, 6]])
def test_stages_that_are_not_there(stages: list[int]) -> None:
    with pytest.raises(ValueError, match="there are 1 to 5"):
        PictureEncoder(rows=ROWS, read_after=stages)


def test_picture_equals_numpys() -> None:
    samples = toy_voice(1.0)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    starts = range(0, len(samples) - 511, 80)
    power = np.array([np.abs(np.fft.rfft(samples[s : s + 512] * window)) ** 2 for s in starts])
    log = np.log(power[:, 1:237] + 512e-8).T  # up to 7,375 Hz
    whole = torch.from_numpy(log[::-1].copy())[None, None]
    resized = F.interpolate(whole, size=(ROWS, len(starts)), mode="bilinear", antialias=True, align_corners=False)
    picture = SpectrumPicture(ROWS)(torch.from_numpy(samples)[None])
    assert picture.shape == (1, 1, ROWS, len(starts))
    np.testing.assert_allclose(picture[0, 0].numpy(), np.clip((resized[0, 0].numpy() + 4) / 5, -2, 2), atol=2e-3)


def test_a_tone_is_a_line_at_its_height() -> None:
    tone = (0.1 * np.sin(2 * np.pi * 6000 * np.arange(48_000) / 16_000)).astype(np.float32)
    picture = SpectrumPicture(ROWS)(torch.from_numpy(tone)[None])[0, 0]
    assert int(picture.mean(1).argmax()) == pytest.approx(ROWS * (1 - 6000 / 7390), abs=2)


@pytest.mark.parametrize(("count", "size"), [(594, 224), (236, 224), (30, 32)])
def test_resampling_is_pytorchs(count: int, size: int) -> None:
    each = torch.eye(count)[None, None]
    expected = F.interpolate(each, size=(size, count), mode="bilinear", antialias=True, align_corners=False)[0, 0]
    np.testing.assert_allclose(resampling(count, size), expected.numpy(), atol=1e-4)


def test_cepstra_equal_scipys():
    samples = toy_voice(0.5)
    frames = CepstralFrames(bands=20, coefficients=12, top_hertz=7400.0)(torch.from_numpy(samples)[None])[0].numpy()
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    starts = range(0, len(samples) - 511, 128)
    power = np.array([np.abs(np.fft.rfft(samples[s : s + 512] * window)) ** 2 for s in starts])
    mels = np.linspace(0, 2595 * np.log10(1 + 7400 / 700), 21)
    edges = 1 + np.unique(np.floor(700 * (10 ** (mels / 2595) - 1) / (16_000 / 512)).astype(int))
    bands = np.stack([power[:, a:b].sum(1) for a, b in zip(edges[:-1], edges[1:], strict=True)], axis=1)
    cepstra = dct(np.log(bands + 512e-8), norm="ortho")[:, :12]
    cepstra -= cepstra.mean(axis=0)
    first = np.gradient(cepstra, axis=0)
    expected = np.concatenate([cepstra, first, np.gradient(first, axis=0)], axis=1)
    np.testing.assert_allclose(frames, expected, atol=2e-3)


def test_fisher_vector_is_the_gradient_of_the_likelihood():
    """Automatic differentiation of torch's own mixture, scaled by the Fisher information of each Gaussian."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(1, 50, 7, generator=generator)
    vectors = FisherVectors(size=7, components=4, gaussians=3)
    shapes = {name: tensor.shape for name, tensor in vectors.state_dict().items()}
    state = {name: torch.rand(shape, generator=generator) + 0.2 for name, shape in shapes.items()}
    state["weights"] /= state["weights"].sum()
    vectors.load_state_dict(state)
    places = (frames[0] - state["mean"]) @ state["projection"]
    centres, deviations = state["centres"].requires_grad_(), state["variances"].sqrt().requires_grad_()
    mixture = MixtureSameFamily(Categorical(state["weights"]), Independent(Normal(centres, deviations), 1))
    by_centre, by_deviation = torch.autograd.grad(mixture.log_prob(places).mean(), (centres, deviations))
    root = state["weights"].sqrt()[:, None]
    scaled = [by_centre * deviations / root, by_deviation * deviations / root / math.sqrt(2)]
    expected = torch.cat([part.flatten() for part in scaled])
    expected = expected.sign() * expected.abs().sqrt()
    torch.testing.assert_close(vectors(frames)[0], (expected / expected.norm()).detach(), atol=1e-4, rtol=1e-3)
