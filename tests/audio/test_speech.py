"""The speech encoder against a slow plain implementation; its weights file; cepstra and Fisher vectors likewise."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
import torch
from scipy.fft import dct
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from model.audio.cepstra import CepstralFrames, FisherVectors
from model.audio.speech import SpeechEncoder, mel_filters, statistics
from model.training.pretrained_speech import encoder_state, read_variables

from .toy_speech import toy_voice

WIDTH, HEADS, BLOCKS = 16, 2, 2
_MATRICES = (
    ("self_attention/linear_0", 3 * WIDTH, WIDTH), ("self_attention/linear_1", WIDTH, WIDTH),
    ("ffn/linear_0", 4 * WIDTH, WIDTH), ("ffn/linear_1", WIDTH, 4 * WIDTH),
)  # fmt: skip


def made_up_variables(seed: int = 0) -> dict[str, np.ndarray]:
    """CTranslate2's names, as in the file of Whisper-base, for a tiny encoder."""
    rng = np.random.default_rng(seed)

    def random(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / math.sqrt(shape[-1])).astype(np.float16)

    variables = {
        "encoder/conv1/weight": random(WIDTH, 80, 3), "encoder/conv1/bias": random(WIDTH),
        "encoder/conv2/weight": random(WIDTH, WIDTH, 3), "encoder/conv2/bias": random(WIDTH),
        "encoder/position_encodings/encodings": random(1500, WIDTH),
    }  # fmt: skip
    for block in range(BLOCKS):
        layer = f"encoder/layer_{block}"
        for name, rows, columns in _MATRICES:
            variables |= {f"{layer}/{name}/weight": random(rows, columns), f"{layer}/{name}/bias": random(rows)}
        for name in ("self_attention", "ffn"):
            variables |= {f"{layer}/{name}/layer_norm/{kind}": 1 + random(WIDTH) for kind in ("gamma", "beta")}
    return variables


def plain_encoder(samples: np.ndarray, variables: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Whisper's encoder of one clip in float64, in loops: what follows the convolutions, then each block, (T, W)."""
    v = {name.removeprefix("encoder/"): array.astype(np.float64) for name, array in variables.items()}
    gelu = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))
    padded = np.pad(samples.astype(np.float64), 200, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = [np.abs(np.fft.rfft(padded[160 * t : 160 * t + 400] * window)) ** 2 for t in range(len(samples) // 160)]
    log = np.log10(np.maximum(mel_filters() @ np.array(power).T, 1e-10))  # (80, T)
    x = (np.maximum(log, log.max() - 8) + 4) / 4
    for name, stride in (("conv1", 1), ("conv2", 2)):
        weight, padded = v[f"{name}/weight"], np.pad(x, ((0, 0), (1, 1)))
        columns = [np.tensordot(weight, padded[:, t : t + 3]) for t in range(0, x.shape[1], stride)]
        x = gelu(np.array(columns).T + v[f"{name}/bias"][:, None])
    x = x.T + v["position_encodings/encodings"][: x.shape[1]]
    layers = [x]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
        return scaled * v[f"{name}/layer_norm/gamma"] + v[f"{name}/layer_norm/beta"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ v[f"{name}/weight"].T + v[f"{name}/bias"]

    for block in range(BLOCKS):
        attention, ffn = f"layer_{block}/self_attention", f"layer_{block}/ffn"
        query, key, value = np.split(linear(norm(x, attention), f"{attention}/linear_0"), 3, axis=1)
        mixed = np.zeros_like(x)
        for head in range(HEADS):
            part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            products = query[:, part] @ key[:, part].T / math.sqrt(WIDTH // HEADS)
            shares = np.exp(products - products.max(1, keepdims=True))
            mixed[:, part] = shares / shares.sum(1, keepdims=True) @ value[:, part]
        x = x + linear(mixed, f"{attention}/linear_1")
        x = x + linear(gelu(linear(norm(x, ffn), f"{ffn}/linear_0")), f"{ffn}/linear_1")
        layers.append(x)
    return layers


def test_encoder_equals_a_plain_one():
    """With Whisper-base's weights it also equals CTranslate2's own encoder, 7e-4 at most of a deviation of 1.4."""
    variables = made_up_variables()
    encoder = SpeechEncoder(width=WIDTH, heads=HEADS, blocks=BLOCKS).eval()
    encoder.load_state_dict(encoder_state(variables, BLOCKS), strict=True)
    samples = toy_voice(1.0)
    with torch.inference_mode():
        layers = encoder(torch.from_numpy(samples)[None])
        joined = statistics(layers)[0].numpy()
    expected = plain_encoder(samples, variables)
    assert len(layers) == len(expected) == BLOCKS + 1
    for layer, plain in zip(layers, expected, strict=True):
        np.testing.assert_allclose(layer[0].numpy(), plain, atol=2e-4)
    numbers = [f(x) for x in expected for f in (lambda x: x.mean(0), lambda x: x.std(0),
                                                lambda x: np.abs(np.diff(x, axis=0)).mean(0))]  # fmt: skip
    np.testing.assert_allclose(joined, np.concatenate(numbers), atol=2e-4)
    assert joined.shape == (encoder.num_features,)


def test_mel_filters_are_librosas():
    """Sums and peaks of `librosa.filters.mel(sr=16000, n_fft=400, n_mels=80)`, librosa 0.11."""
    filters = mel_filters()[[0, 10, 40, 79]]
    np.testing.assert_allclose(filters.sum(1), [0.0248625949, 0.0248625930, 0.0266648605, 0.0249253400], rtol=1e-6)
    np.testing.assert_allclose(filters.max(1), [0.0248625949, 0.0199082177, 0.0147355665, 0.0031647119], rtol=1e-6)


def test_file_of_variables_is_read_as_written():
    variables = {"encoder/num_heads": np.array(8, np.int16), "encoder/conv1/bias": np.arange(6, dtype=np.float16)}
    numbers = {np.dtype("f4"): 0, np.dtype("i2"): 2, np.dtype("f2"): 4}
    content = struct.pack("<IH12sII", 6, 12, b"WhisperSpec\0", 3, len(variables))
    for name, array in variables.items():
        content += struct.pack(f"<H{len(name) + 1}sB", len(name) + 1, name.encode() + b"\0", array.ndim)
        content += struct.pack(f"<{array.ndim}IBI", *array.shape, numbers[array.dtype], array.nbytes) + array.tobytes()
    read = read_variables(content)
    assert read.keys() == variables.keys()
    assert all(np.array_equal(read[name], array) for name, array in variables.items())
    with pytest.raises(ValueError, match="version 7"):
        read_variables(struct.pack("<I", 7) + content[4:])
    with pytest.raises(ValueError, match="not a CTranslate2 file"):
        read_variables(content[:30])


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
