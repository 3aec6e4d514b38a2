"""The spectrum as a picture, and what the first blocks of a frozen vision transformer make of it.

CLIP (ViT-B/16, arXiv 2103.00020, MIT) was trained on photographs. Its middle blocks still tell machine speech from
human speech better than the early blocks of Whisper, a recogniser of speech (DECISIONS.md). The transformer is written
out in PyTorch: the organisers' audio environment has no timm.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..cpu import QUICK_GELU, pack_linear_layers, scale_for_silu

_FFT_SIZE, _HOP = 512, 80  # 32 ms and 5 ms at 16 kHz
_NUM_BINS = 236  # up to 7.4 kHz, without the constant part
_FLOOR = 1e-8 * _FFT_SIZE  # of a bin's power; a window's loud level is 0.1
_UNIT, _LARGEST = 3.0, 2.0  # of the natural logarithm of power become 1 in the picture, and where it is cut off
_STATISTICS = 3  # the class token, mean and deviation of the others


class PictureArchitecture(TypedDict):
    """Size of the picture and of the part of the transformer that is kept."""

    width: int
    heads: int
    blocks: int
    size: int  # of the picture, in pixels a side
    patch: int  # of the picture that becomes a token, in pixels a side
    read_after: list[int]  # blocks, counted from 1


class SpectrumPicture(nn.Module):
    """float32 samples (B, N) at 16 kHz -> the logarithm of power by time and frequency, float32 (B, 1, size, size).

    The mean over time is taken off each frequency, and so a microphone's response. High frequencies are at the top.
    """

    window: torch.Tensor
    rows: torch.Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("window", torch.hann_window(_FFT_SIZE), persistent=False)
        rows = resampling(_NUM_BINS, size)[::-1].copy()
        self.register_buffer("rows", torch.from_numpy(rows), persistent=False)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft(samples.unfold(-1, _FFT_SIZE, _HOP) * self.window)
        power = spectrum.real.square() + spectrum.imag.square()  # (B, T, F)
        log = (power[..., 1 : _NUM_BINS + 1] + _FLOOR).log()
        log = (log - log.mean(dim=1, keepdim=True)).transpose(1, 2)
        columns = torch.from_numpy(resampling(int(log.shape[2]), self.size)).to(log)
        return (self.rows @ log @ columns.T / _UNIT).clamp(-_LARGEST, _LARGEST)[:, None]


@lru_cache(maxsize=8)
def resampling(count: int, size: int) -> np.ndarray:
    """The matrix, float32 (size, count), that resizes `count` numbers as pictures are: bilinear, without aliases.

    It is that of PyTorch's `interpolate` with `antialias`, which cannot be exported.
    """
    scale = count / size
    centres = (np.arange(size)[:, None] + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(np.arange(count) + 0.5 - centres) / max(1.0, scale))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


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
        self.scaled = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        inner = self.fc1(self.norm2(x))
        return x + self.fc2(F.silu(inner) if self.scaled else inner * torch.sigmoid(QUICK_GELU * inner))

    def scale(self) -> None:
        """The same function with an activation of one pass: SiLU between scaled layers."""
        scale_for_silu(self.fc1, self.fc2)
        self.scaled = True


class PictureEncoder(nn.Module):
    """CLIP's image tower up to the last block that is read, for pictures of one colour."""

    def __init__(
        self, *, width: int, heads: int, blocks: int, size: int, patch: int, read_after: Sequence[int]
    ) -> None:
        super().__init__()
        if max(read_after) != blocks:
            raise ValueError(f"{blocks} blocks, of which {list(read_after)} are read; the last one must be among them")
        self.picture = SpectrumPicture(size)
        self.patch = nn.Conv2d(1, width, patch, stride=patch, bias=False)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + (size // patch) ** 2, width))
        self.norm_pre = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(blocks))
        self._read_after = frozenset(read_after)
        self.num_features = len(read_after) * _STATISTICS * width  # of `statistics`

    @torch.inference_mode()
    def prepare_for_cpu(self, dtype: torch.dtype = torch.float32) -> None:
        """The same function, faster on a CPU. dtype: of products; what the blocks add up stays float32."""
        for block in self.blocks:
            block.scale()
        pack_linear_layers(self.blocks, dtype, exact_first=True)

    def forward(self, samples: torch.Tensor) -> list[torch.Tensor]:
        """float32 (B, N) at 16 kHz -> the tokens after each block that is read, (B, 1 + T, width), the class first."""
        tokens = self.patch(self.picture(samples)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        tokens = self.norm_pre(tokens + self.positions)
        layers = []
        for number, block in enumerate(self.blocks, start=1):
            tokens = block(tokens)
            if number in self._read_after:
                layers.append(tokens)
        return layers


def statistics(layers: Sequence[torch.Tensor]) -> torch.Tensor:
    """Of each layer, (B, 1 + T, W): class token, mean and deviation of the others -> (B, layers * 3 * W)."""
    parts = []
    for layer in layers:
        others = layer[:, 1:]
        mean = others.mean(dim=1)
        deviation = (others - mean[:, None]).square().mean(dim=1).sqrt()  # std(dim=1) takes ten times as long
        parts += [layer[:, 0], mean, deviation]
    return torch.cat(parts, dim=1)
