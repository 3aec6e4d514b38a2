"""The spectrum as a picture, and what the first stages of a frozen convolutional backbone make of it.

EfficientNet-Lite0 (arXiv 1905.11946, Apache-2.0) was trained on photographs. Its middle stages tell machine speech
from human speech better than the early blocks of Whisper, a recogniser of speech (DECISIONS.md). It is written out in
PyTorch: the organisers' audio environment has no timm.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import TypedDict, cast

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..convolutions import FusedBlock, FusedConv, expected_output, statistics_of
from ..cpu import TOLERANCES, faster

_FFT_SIZE, _HOP = 512, 80  # 32 ms and 5 ms at 16 kHz
_NUM_BINS = 236  # up to 7.4 kHz, without the constant part
_FLOOR = 1e-8 * _FFT_SIZE  # of a bin's power; a window's loud level is 0.1
_MIDDLE, _UNIT, _LARGEST = -4.0, 5.0, 2.0  # the logarithm of power that is 0 in the picture, what is 1, the limit
_STEM_CHANNELS = 32
_EPSILON = 1e-3  # of the batch normalisations, as trained
_EXACT_BLOCKS = 3  # the first ones are float32 in any case: rounding their flat maps moves scores by 0.5
# Stages of inverted residual blocks: expansion, kernel, stride, channels, blocks.
_STAGES = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3))


class PictureArchitecture(TypedDict):
    """Size of the picture and the part of the backbone that is kept."""

    rows: int  # of the picture, in pixels
    read_after: list[int]  # stages, counted from 1; the last one that is read is the last one kept


class SpectrumPicture(nn.Module):
    """float32 samples (B, N) at 16 kHz -> logarithm of power by frequency and time, float32 (B, 1, rows, T).

    High frequencies are at the top; 5 ms are a column.
    """

    window: torch.Tensor
    rows: torch.Tensor

    def __init__(self, num_rows: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(_FFT_SIZE), persistent=False)
        rows = resampling(_NUM_BINS, num_rows)[::-1].copy()
        self.register_buffer("rows", torch.from_numpy(rows), persistent=False)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft(samples.unfold(-1, _FFT_SIZE, _HOP) * self.window)
        power = spectrum.real.square() + spectrum.imag.square()  # (B, T, F)
        log = (power[..., 1 : _NUM_BINS + 1] + _FLOOR).log().transpose(1, 2)
        return ((self.rows @ log - _MIDDLE) / _UNIT).clamp(-_LARGEST, _LARGEST)[:, None]


def resampling(count: int, size: int) -> np.ndarray:
    """The matrix, float32 (size, count), that resizes `count` numbers as pictures are: bilinear, without aliases.

    It is that of PyTorch's `interpolate` with `antialias`, which cannot be exported.
    """
    scale = count / size
    centres = (np.arange(size)[:, None] + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(np.arange(count) + 0.5 - centres) / max(1.0, scale))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


class _Unit(nn.Module):
    """A convolution, its batch normalisation and, but for the last one of a block, ReLU6."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=_EPSILON)
        self.act = nn.Identity() if linear else nn.ReLU6()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm(self.conv(x)))

    def fused(self, dtype: torch.dtype, expected: torch.Tensor | None) -> tuple[FusedConv, torch.Tensor]:
        """(the same function faster, mean of its output). expected: mean of its input, for bfloat16."""
        conv = FusedConv(fuse_conv_bn_eval(self.conv, self.norm), self.act, dtype, expected)
        output = expected_output(self.norm, self.act)
        assert output is not None  # of the two activations here it is known
        return conv, output


class _Block(nn.Module):
    """An inverted residual block (arXiv 1801.04381); without expansion a depthwise separable convolution."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        units = [] if expansion == 1 else [_Unit(inputs, inner)]
        units += [_Unit(inner, inner, kernel, stride=stride, groups=inner), _Unit(inner, outputs, linear=True)]
        self.units = nn.ModuleList(units)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = x
        for unit in self.units:
            maps = unit(maps)
        return maps + x if self.shortcut else maps


class Backbone(nn.Module):
    """EfficientNet-Lite0 up to the last stage that is read, for pictures of one colour. Frozen."""

    def __init__(self, read_after: Sequence[int]) -> None:
        super().__init__()
        if not read_after or not all(1 <= stage <= len(_STAGES) for stage in read_after):
            raise ValueError(f"stages {list(read_after)} are to be read; there are 1 to {len(_STAGES)}")
        self.stem: nn.Module = _Unit(1, _STEM_CHANNELS, 3, stride=2)
        self.stages = nn.ModuleList()
        inputs = _STEM_CHANNELS
        for expansion, kernel, stride, outputs, count in _STAGES[: max(read_after)]:
            stage = nn.Sequential()
            for block in range(count):
                step = stride if block == 0 else 1
                stage.append(_Block(inputs, outputs, expansion=expansion, kernel=kernel, stride=step))
                inputs = outputs
            self.stages.append(stage)
        self._read_after = frozenset(read_after)
        self.num_features = 2 * sum(_STAGES[stage - 1][3] for stage in self._read_after)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """float32 (B, 1, H, W) -> (B, num_features): of each stage that is read the channels' means and deviations."""
        x = self.stem(pictures.contiguous(memory_format=torch.channels_last))
        parts = []
        for number, stage in enumerate(self.stages, start=1):
            x = stage(x)
            if number in self._read_after:
                parts.append(statistics_of(x))
        return torch.cat(parts, dim=1)

    def fused(self, dtype: torch.dtype) -> Backbone:
        """The same function faster. dtype: of products after the first blocks. Raises: UnknownPartError."""
        fast = copy.copy(self)
        fast._modules = dict(self._modules)  # a copy shares it otherwise
        assert isinstance(self.stem, _Unit)
        fast.stem, expected = self.stem.fused(torch.float32, None)
        fast.stages = nn.ModuleList()
        exact = _EXACT_BLOCKS
        for stage in self.stages:
            blocks = nn.Sequential()
            for block in stage:
                convs, inner = [], expected
                for unit in block.units:
                    conv, inner = unit.fused(torch.float32 if exact > 0 else dtype, inner)
                    convs.append(conv)
                exact -= 1
                expected = expected + inner if block.shortcut else inner
                blocks.append(FusedBlock(convs, shortcut=block.shortcut))
            fast.stages.append(blocks)
        return fast


class PictureEncoder(nn.Module):
    """float32 samples (B, N) at 16 kHz -> float32 (B, num_features)."""

    def __init__(self, *, rows: int, read_after: Sequence[int]) -> None:
        super().__init__()
        self.picture = SpectrumPicture(rows)
        self.backbone = Backbone(read_after)
        self.num_features = self.backbone.num_features

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        return self.backbone(self.picture(samples))

    @torch.inference_mode()
    def prepare_for_cpu(self, num_samples: int, dtype: torch.dtype = torch.float32) -> None:
        """The same function, faster on a CPU. num_samples: of a window. dtype: of products after the first blocks."""
        if not torch.backends.mkldnn.is_available():
            return
        noise = torch.rand(1, num_samples, generator=torch.Generator().manual_seed(0)).sub_(0.5)
        build = partial(Backbone.fused, dtype=dtype)
        probe, otherwise = self.picture(noise), "the network runs unfused"
        self.backbone = cast(Backbone, faster(build, self.backbone, probe, TOLERANCES[dtype], otherwise=otherwise))
