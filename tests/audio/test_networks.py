"""The picture of the spectrum against NumPy, its encoder against timm's transformer; cepstra and Fisher vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import signal
from scipy.fft import dct
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from model.audio.cepstra import CepstralFrames, FisherVectors
from model.audio.picture import PictureEncoder, SpectrumPicture, resampling, statistics
from model.training.pretrained_speech import picture_state
from model.video.scene import SceneNetwork

from .toy_speech import toy_voice

SIZE, BLOCKS = 32, 3


@pytest.fixture(scope="module")
def transformer() -> SceneNetwork:
    """timm's own, with values drawn at random; for pictures of 32 pixels."""
    network = SceneNetwork(
        transformer="vit_base_patch16_clip_quickgelu_224", class_tokens=[2, 3], statistics=[2, 3], size=SIZE
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        spread = 1 / math.sqrt(parameter[0].numel()) if parameter.ndim > 1 else 0.2
        parameter.data.add_(spread * torch.randn(parameter.shape, generator=generator))
    return network.eval()


@pytest.fixture
def encoder(transformer: SceneNetwork) -> PictureEncoder:
    stored = {f"scene.{name}": tensor for name, tensor in transformer.state_dict().items()}
    encoder = PictureEncoder(width=768, heads=12, blocks=BLOCKS, size=SIZE, patch=16, read_after=[2, 3]).eval()
    encoder.load_state_dict(picture_state(stored, BLOCKS), strict=True)
    return encoder


@torch.inference_mode()
def test_encoder_equals_timms_transformer(encoder: PictureEncoder, transformer: SceneNetwork) -> None:
    """On a grey picture, whose three colours are the same."""
    samples = torch.from_numpy(np.stack([toy_voice(1.0, seed=seed) for seed in (0, 1)]))
    expected = transformer.statistics(encoder.picture(samples).expand(-1, 3, -1, -1))
    class_tokens, others = expected[:, : 2 * 768], expected[:, 2 * 768 :]
    given = statistics(encoder(samples)).unflatten(1, (2, 3, 768))
    torch.testing.assert_close(given[:, :, 0].flatten(1), class_tokens, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(given[:, :, 1:].flatten(1), others, atol=1e-4, rtol=1e-4)
    assert given[0].numel() == encoder.num_features


@torch.inference_mode()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_prepared_for_a_cpu_it_is_the_same_function(
    encoder: PictureEncoder, dtype: torch.dtype, tolerance: float
) -> None:
    samples = torch.from_numpy(toy_voice(1.0))[None]
    expected = statistics(encoder(samples))
    encoder.prepare_for_cpu(dtype)
    error = (statistics(encoder(samples)) - expected).abs().max() / expected.abs().max()
    assert error < tolerance


def test_the_last_block_is_read() -> None:
    with pytest.raises(ValueError, match=r"3 blocks, of which \[1, 2\] are read"):
        PictureEncoder(width=8, heads=2, blocks=3, size=32, patch=16, read_after=[1, 2])


def test_picture_equals_numpys() -> None:
    samples = toy_voice(1.0)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    starts = range(0, len(samples) - 511, 80)
    power = np.array([np.abs(np.fft.rfft(samples[s : s + 512] * window)) ** 2 for s in starts])
    log = np.log(power[:, 1:237] + 512e-8).T  # up to 7,375 Hz
    log -= log.mean(axis=1, keepdims=True)
    whole = torch.from_numpy(log[::-1].copy())[None, None]
    resized = F.interpolate(whole, size=(224, 224), mode="bilinear", antialias=True, align_corners=False)
    picture = SpectrumPicture(224)(torch.from_numpy(samples)[None])
    assert picture.shape == (1, 1, 224, 224)
    np.testing.assert_allclose(picture[0, 0].numpy(), np.clip(resized[0, 0].numpy() / 3, -2, 2), atol=2e-3)


def test_a_tone_is_a_line_at_its_height() -> None:
    """It comes and goes: what stays is taken off."""
    times = np.arange(48_000) / 16_000
    tone = np.where(times % 1 < 0.5, 0.1 * np.sin(2 * np.pi * 6000 * times), 0).astype(np.float32)
    picture = SpectrumPicture(224)(torch.from_numpy(tone)[None])[0, 0]
    row = int(picture[:, :30].mean(1).argmax())
    assert row == pytest.approx(224 * (1 - 6000 / 7390), abs=2)


@pytest.mark.parametrize(("count", "size"), [(594, 224), (236, 224), (30, 32)])
def test_resampling_is_pytorchs(count: int, size: int) -> None:
    each = torch.eye(count)[None, None]
    expected = F.interpolate(each, size=(size, count), mode="bilinear", antialias=True, align_corners=False)[0, 0]
    np.testing.assert_allclose(resampling(count, size), expected.numpy(), atol=1e-4)


def test_gain_and_a_microphones_response_hardly_show() -> None:
    voice = toy_voice(3.0) + 0.05 * np.random.default_rng(0).standard_normal(48_000).astype(np.float32)
    picture = SpectrumPicture(224)(torch.from_numpy(voice)[None])
    for other in (2 * voice, signal.lfilter([1, -0.7], 1, voice).astype(np.float32)):
        difference = SpectrumPicture(224)(torch.from_numpy(other)[None]) - picture
        assert difference.abs().mean() < 0.02 * picture.std()


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
