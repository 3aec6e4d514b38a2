"""A backbone's fastest path on a CPU: each convolution with its activation and the block's shortcut in one oneDNN call.

Of timm's EfficientNet, with the operators and on the terms of `model.cpu`. In bfloat16 all but the first convolution
are; what shortcuts add up stays float32.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..cpu import TOLERANCES, UnknownPartError, faster
from .timm_parts import BatchNormAct2d, Conv2dSame, DepthwiseSeparableConv, InvertedResidual


def expected_output(norm: BatchNormAct2d) -> torch.Tensor | None:
    """(C,): the mean of what a batch normalisation and its activation give, its inputs being those of its training.

    Normal ones, then, as in arXiv 1906.04721, which corrects biases with it. None: of an activation not known here.
    """
    mean, deviation = norm.bias.detach(), norm.weight.detach().abs().clamp(min=1e-6)
    if isinstance(norm.act, nn.Identity):
        return mean.clone()
    if not isinstance(norm.act, nn.ReLU6):
        return None
    normal = torch.distributions.Normal(0.0, 1.0)
    low, high = -mean / deviation, (6 - mean) / deviation
    between = normal.cdf(high) - normal.cdf(low)
    slopes = normal.log_prob(low).exp() - normal.log_prob(high).exp()
    return mean * between + deviation * slopes + 6 * (1 - normal.cdf(high))


class FusedConv(nn.Module):
    """A convolution, what follows it, and for the last one of a block the addition of the block's input.

    expected: of its input, (C,), for products in bfloat16: what rounding the kernel adds to the output's mean is taken
    off again. Without it scores move by up to 0.18, with it by 0.02.
    """

    def __init__(
        self, conv: nn.Module, activation: nn.Module, dtype: torch.dtype = torch.float32, expected: Any = None
    ) -> None:
        super().__init__()
        if not isinstance(conv, nn.Conv2d) or not isinstance(activation, nn.ReLU6 | nn.Identity):
            raise UnknownPartError(f"{type(conv).__name__} and {type(activation).__name__}")
        weight, padding = conv.weight.detach(), conv.padding
        self._bias = None if conv.bias is None else conv.bias.detach()
        if dtype is torch.bfloat16:
            if expected is None or self._bias is None:
                raise UnknownPartError("a convolution without a batch normalisation before or after it")
            lost = (weight - weight.to(dtype).float()).sum((2, 3))  # (C_out, C_in / groups)
            self._bias = self._bias + (
                lost * expected.view(conv.groups, -1).repeat_interleave(len(lost) // conv.groups, dim=0)
            ).sum(1)
        if isinstance(conv, Conv2dSame):
            # At even sizes TensorFlow pads k - 2 pixels, the odd one at the bottom and right. A row and a column of
            # zeros before the kernel make the padding symmetric: no padded copy of the largest maps.
            if conv.stride != (2, 2) or conv.kernel_size[0] != conv.kernel_size[1] or conv.kernel_size[0] % 2 == 0:
                raise UnknownPartError(f"padding of {conv}")
            weight = F.pad(weight, (1, 0, 1, 0))
            padding = ((conv.kernel_size[0] - 1) // 2,) * 2
        assert isinstance(padding, tuple)
        self._geometry = (padding, conv.stride, conv.dilation, conv.groups)
        pack: Any = torch._C._nn.mkldnn_reorder_conv2d_weight  # the stubs know fewer arguments
        self._dtype = dtype
        self._weight = pack(weight.to_mkldnn(dtype), *self._geometry, None)
        self._activation = ("hardtanh", [0.0, 6.0]) if isinstance(activation, nn.ReLU6) else ("none", [])

    def forward(self, x: torch.Tensor, shortcut: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, H, W) of any type -> of the products'; float32 if there is a shortcut."""
        operator = torch.ops.mkldnn._convolution_pointwise
        x = x.to(self._dtype)
        if shortcut is not None and self._dtype is torch.float32:
            return operator.binary(x, shortcut, self._weight, self._bias, *self._geometry, "add", 1.0, None, [], None)
        maps = operator(x, self._weight, self._bias, *self._geometry, *self._activation, "")
        return maps if shortcut is None else shortcut.float() + maps


class FusedBlock(nn.Module):
    """An inverted residual block, or the depthwise separable one that opens the network. expected: see `FusedConv`."""

    def __init__(self, block: nn.Module, dtype: torch.dtype = torch.float32, expected: Any = None) -> None:
        super().__init__()
        if isinstance(block, InvertedResidual):
            names = (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3"))
        elif isinstance(block, DepthwiseSeparableConv):
            names = (("conv_dw", "bn1"), ("conv_pw", "bn2"))
        else:
            raise UnknownPartError(type(block).__name__)
        known = {name for pair in names for name in pair} | {"drop_path"}  # drop_path does nothing outside training
        for name, child in block.named_children():
            if name not in known and not isinstance(child, nn.Identity):
                raise UnknownPartError(f"{name} of {type(block).__name__}")
        self._shortcut = bool(block.has_skip)
        self.convs = nn.ModuleList()
        inner = expected
        for conv, act in names:
            self.convs.append(FusedConv(getattr(block, conv), getattr(block, act), dtype, inner))
            inner = getattr(block, conv).expected_output if dtype is torch.bfloat16 else None
        self.expected_output = expected + inner if self._shortcut and dtype is torch.bfloat16 else inner
        if self._shortcut and not isinstance(getattr(block, names[-1][1]), nn.Identity):
            raise UnknownPartError("an activation before a shortcut")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = x
        for conv in self.convs[:-1]:
            maps = conv(maps)
        return self.convs[-1](maps, x if self._shortcut else None)


def fuse_backbone(backbone: nn.Module, probe: torch.Tensor, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The same network faster, or `backbone` itself where that cannot be had. For a CPU, in inference only.

    backbone: timm's EfficientNet with its batch norms folded (`detector.fold_batch_norms`).
    probe: an input, (1, 3, H, W), of the size that all inputs will have. dtype: of products after the first layer.
    """
    if not torch.backends.mkldnn.is_available():
        return backbone
    build = partial(_fuse, dtype=dtype)
    return faster(build, backbone, probe, TOLERANCES[dtype], otherwise="the network runs unfused")


class _Float32(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float()


def _fuse(backbone: Any, dtype: torch.dtype = torch.float32) -> nn.Module:
    fused = copy.copy(backbone)
    fused._modules = dict(backbone._modules)  # a copy shares it otherwise
    fused.conv_stem, fused.bn1 = FusedConv(backbone.conv_stem, backbone.bn1), nn.Identity()
    expected = backbone.conv_stem.expected_output if dtype is torch.bfloat16 else None
    stages = []
    for stage in backbone.blocks:
        blocks = []
        for block in stage:
            blocks.append(FusedBlock(block, dtype, expected))
            expected = blocks[-1].expected_output
        stages.append(nn.Sequential(*blocks))
    fused.blocks = nn.Sequential(*stages)
    fused.conv_head, fused.bn2 = FusedConv(backbone.conv_head, backbone.bn2, dtype, expected), _Float32()
    return fused
