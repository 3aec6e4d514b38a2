"""The frozen speech encoder: samples -> log-mel spectrogram -> the first blocks of OpenAI's Whisper, read in between.

Whisper (arXiv 2212.04356, MIT) was trained to write speech down. Its early blocks still hear how a sound was made;
its last ones only what was said. So the first convolutions and the early blocks are read, each by its statistics over
time. A clip is not padded to Whisper's 30 s: the table of positions is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..cpu import pack_linear_layers

SAMPLE_RATE = 16_000
_FFT_SIZE, _HOP = 400, 160  # 25 ms and 10 ms
_NUM_MELS = 80
_NUM_POSITIONS = 1500  # 30 s after the convolution of stride 2
_FLOOR = 1e-10
_RANGE = 8.0  # decades below the loudest that are kept
_STATISTICS = 3  # mean, deviation, deviation of the difference


class SpeechArchitecture(TypedDict):
    """Size of the part of Whisper that is kept."""

    width: int
    heads: int
    blocks: int


def mel_filters() -> np.ndarray:
    """Triangles of unit area on Slaney's mel scale, as librosa makes them: float64 (_NUM_MELS, _FFT_SIZE // 2 + 1)."""
    top = 15 + 27 * np.log(SAMPLE_RATE / 2 / 1000) / np.log(6.4)  # in mel
    mels = np.linspace(0, top, _NUM_MELS + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))  # in hertz
    bins = np.arange(_FFT_SIZE // 2 + 1) * SAMPLE_RATE / _FFT_SIZE
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]


class LogMel(nn.Module):
    """float32 samples (B, N) at 16 kHz in -1..1 -> Whisper's input, float32 (B, 80, N // 160)."""

    window: torch.Tensor
    filters: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(_FFT_SIZE), persistent=False)
        self.register_buffer("filters", torch.from_numpy(mel_filters()).float(), persistent=False)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        spectrum = torch.stft(samples, _FFT_SIZE, _HOP, window=self.window, return_complex=True)[..., :-1]
        power = spectrum.real.square() + spectrum.imag.square()  # (B, 201, T)
        log = (self.filters @ power).clamp(min=_FLOOR).log10()
        log = torch.maximum(log, log.amax(dim=(1, 2), keepdim=True) - _RANGE)
        return (log + 4) / 4


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        parts = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (B, heads, T, width / heads)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(batch, length, width))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = _Attention(width, heads)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class SpeechEncoder(nn.Module):
    """Whisper's encoder up to the last block that is read."""

    positions: torch.Tensor

    def __init__(self, *, width: int, heads: int, blocks: int) -> None:
        super().__init__()
        self.log_mel = LogMel()
        self.conv1 = nn.Conv1d(_NUM_MELS, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.register_buffer("positions", torch.zeros(_NUM_POSITIONS, width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(blocks))
        self.num_features = (blocks + 1) * _STATISTICS * width  # of `statistics`

    def prepare_for_cpu(self, dtype: torch.dtype = torch.float32) -> None:
        """The same function, faster on a CPU. dtype: of products; what the blocks add up stays float32."""
        self.conv1.to(dtype)
        self.conv2.to(dtype)
        pack_linear_layers(self.blocks, dtype)

    def forward(self, samples: torch.Tensor) -> list[torch.Tensor]:
        """float32 (B, N), at most 30 s -> what follows the convolutions, then each block: (B, N // 320, width)."""
        x = F.gelu(self.conv1(self.log_mel(samples).to(self.conv1.weight.dtype)))
        x = F.gelu(self.conv2(x)).transpose(1, 2).float()
        x = x + self.positions[: x.shape[1]]
        layers = [x]
        for block in self.blocks:
            x = block(x)
            layers.append(x)
        return layers


def statistics(layers: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean, deviation and mean size of the change over time of each layer: (B, T, W) each -> (B, layers * 3 * W)."""
    parts = []
    for layer in layers:
        mean = layer.mean(dim=1)
        deviation = (layer - mean[:, None]).square().mean(dim=1).sqrt()  # layer.std(dim=1) takes ten times as long
        parts += [mean, deviation, layer.diff(dim=1).abs().mean(dim=1)]
    return torch.cat(parts, dim=1)
