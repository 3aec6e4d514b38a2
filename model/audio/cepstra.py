"""Mel-frequency cepstra, and how a clip's frames differ from what all clips have in common: a Fisher vector.

Bands of equal width on the mel scale, 30 cepstral coefficients less their mean over the window, so that a microphone's
response is taken off, with first and second derivatives. Each frame is projected on principal components and compared
with a Gaussian mixture of the frames of all clips; the gradient of its log-likelihood, by each Gaussian's mean and
variance, summed over time, is the clip's vector (Perronnin, Sánchez and Mensink 2010). So vowels are compared with
vowels and pauses with pauses. Nothing above 7.4 kHz is looked at, where resampling leaves its mark.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import torch
from torch import nn

SAMPLE_RATE = 16_000


class CepstraArchitecture(TypedDict):
    """Size of the front end and of the mixture."""

    bands: int  # on the mel scale; those narrower than a bin of the spectrum are joined
    coefficients: int  # a third of a frame's numbers; the others are its first and second derivatives
    top_hertz: float  # nothing above is looked at
    components: int  # principal, of a frame
    gaussians: int


_FFT_SIZE, _HOP = 512, 128  # 32 ms and 8 ms
_FLOOR = 1e-8 * _FFT_SIZE  # of a band's power; a window's loud level is 0.1


class CepstralFrames(nn.Module):
    """float32 samples (B, N) at 16 kHz -> float32 (B, T, 3 * coefficients)."""

    window: torch.Tensor
    sums: torch.Tensor
    cosines: torch.Tensor

    def __init__(self, *, bands: int, coefficients: int, top_hertz: float) -> None:
        super().__init__()
        edges = _band_edges(bands, top_hertz)
        bands = len(edges) - 1
        sums = np.zeros((_FFT_SIZE // 2 + 1, bands))
        for band, (start, end) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
            sums[start:end, band] = 1
        angles = np.pi / bands * (np.arange(bands)[:, None] + 0.5) * np.arange(coefficients)
        cosines = np.cos(angles) * np.sqrt(2 / bands)  # the orthonormal DCT-II
        cosines[:, 0] = np.sqrt(1 / bands)
        self.register_buffer("window", torch.hann_window(_FFT_SIZE), persistent=False)
        self.register_buffer("sums", torch.from_numpy(sums).float(), persistent=False)
        self.register_buffer("cosines", torch.from_numpy(cosines).float(), persistent=False)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft(samples.unfold(-1, _FFT_SIZE, _HOP) * self.window)
        power = spectrum.real.square() + spectrum.imag.square()  # (B, T, F)
        cepstra = (power @ self.sums + _FLOOR).log() @ self.cosines
        cepstra = cepstra - cepstra.mean(dim=1, keepdim=True)
        first = torch.gradient(cepstra, dim=1)[0]
        return torch.cat([cepstra, first, torch.gradient(first, dim=1)[0]], dim=-1)


def _band_edges(bands: int, top_hertz: float) -> np.ndarray:
    """Bins of the spectrum where bands begin, and where the last one ends; without the constant part."""
    hertz = 700 * np.expm1(np.linspace(0, np.log1p(top_hertz / 700), bands + 1))
    return 1 + np.unique((hertz * _FFT_SIZE / SAMPLE_RATE).astype(int))


class FisherVectors(nn.Module):
    """Frames (B, T, F) -> (B, 2 * gaussians * components), of length 1, with signed square roots."""

    mean: torch.Tensor
    projection: torch.Tensor
    centres: torch.Tensor
    variances: torch.Tensor
    weights: torch.Tensor

    def __init__(self, *, size: int, components: int, gaussians: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("projection", torch.zeros(size, components))
        self.register_buffer("centres", torch.zeros(gaussians, components))
        self.register_buffer("variances", torch.ones(gaussians, components))
        self.register_buffer("weights", torch.full((gaussians,), 1 / gaussians))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        places = (frames - self.mean) @ self.projection  # (B, T, C)
        squares = places.square()
        precisions = 1 / self.variances
        constant = self.weights.log() - 0.5 * (self.variances.log() + self.centres.square() * precisions).sum(1)
        likelihood = places @ (self.centres * precisions).T - 0.5 * squares @ precisions.T + constant
        shares = likelihood.softmax(-1).transpose(1, 2)  # (B, K, T)
        count, first, second = shares.sum(2, keepdim=True), shares @ places, shares @ squares
        by_mean = (first - count * self.centres) / self.variances.sqrt() / self.weights.sqrt()[:, None]
        spread = second - 2 * first * self.centres + count * (self.centres.square() - self.variances)
        by_variance = spread * precisions / (2 * self.weights).sqrt()[:, None]
        vector = torch.cat([by_mean.flatten(1), by_variance.flatten(1)], dim=1) / frames.shape[1]
        vector = vector.sign() * vector.abs().sqrt()
        return vector / vector.norm(dim=1, keepdim=True).clamp(min=1e-12)


class CepstralVectors(nn.Module):
    """float32 samples (B, N) at 16 kHz -> the Fisher vector of their cepstra, float32 (B, num_features)."""

    def __init__(self, *, bands: int, coefficients: int, top_hertz: float, components: int, gaussians: int) -> None:
        super().__init__()
        self.frames = CepstralFrames(bands=bands, coefficients=coefficients, top_hertz=top_hertz)
        self.vectors = FisherVectors(size=3 * coefficients, components=components, gaussians=gaussians)
        self.num_features = 2 * gaussians * components

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        return self.vectors(self.frames(samples))
