"""A backbone's fastest path on a CPU: each convolution with its activation and the block's shortcut in one oneDNN call.

Of timm's EfficientNet, with the operators and on the terms of `model.cpu`. Convolutions stay in float32: in bfloat16
they would move scores by more than a linear layer does (debug/BENCHMARK.md).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual
from torch import nn

from ..cpu import TOLERANCES, UnknownPartError, faster


class FusedConv(nn.Module):
    """A convolution, what follows it, and for the last one of a block the addition of the block's input."""

    def __init__(self, conv: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        if not isinstance(conv, nn.Conv2d) or not isinstance(activation, nn.ReLU6 | nn.Identity):
            raise UnknownPartError(f"{type(conv).__name__} and {type(activation).__name__}")
        weight, padding = conv.weight.detach(), conv.padding
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
        self._weight = pack(weight.to_mkldnn(), *self._geometry, None)
        self._bias = None if conv.bias is None else conv.bias.detach()
        self._activation = ("hardtanh", [0.0, 6.0]) if isinstance(activation, nn.ReLU6) else ("none", [])

    def forward(self, x: torch.Tensor, shortcut: torch.Tensor | None = None) -> torch.Tensor:
        operator = torch.ops.mkldnn._convolution_pointwise
        if shortcut is None:
            return operator(x, self._weight, self._bias, *self._geometry, *self._activation, "")
        return operator.binary(x, shortcut, self._weight, self._bias, *self._geometry, "add", 1.0, None, [], None)


class FusedBlock(nn.Module):
    """An inverted residual block, or the depthwise separable one that opens the network."""

    def __init__(self, block: nn.Module) -> None:
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
        self.convs = nn.ModuleList(FusedConv(getattr(block, conv), getattr(block, act)) for conv, act in names)
        if self._shortcut and not isinstance(getattr(block, names[-1][1]), nn.Identity):
            raise UnknownPartError("an activation before a shortcut")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = x
        for conv in self.convs[:-1]:
            maps = conv(maps)
        return self.convs[-1](maps, x if self._shortcut else None)


def fuse_backbone(backbone: nn.Module, probe: torch.Tensor) -> nn.Module:
    """The same network faster, or `backbone` itself where that cannot be had. For a CPU, in inference only.

    backbone: timm's EfficientNet with its batch norms folded.
    probe: an input, (1, 3, H, W), of the size that all inputs will have.
    """
    if not torch.backends.mkldnn.is_available():
        return backbone
    return faster(_fuse, backbone, probe, TOLERANCES[torch.float32], otherwise="the network runs unfused")


def _fuse(backbone: Any) -> nn.Module:
    fused = copy.copy(backbone)
    fused._modules = dict(backbone._modules)  # a copy shares it otherwise
    fused.conv_stem, fused.bn1 = FusedConv(backbone.conv_stem, backbone.bn1), nn.Identity()
    fused.blocks = nn.Sequential(*(nn.Sequential(*map(FusedBlock, stage)) for stage in backbone.blocks))
    fused.conv_head, fused.bn2 = FusedConv(backbone.conv_head, backbone.bn2), nn.Identity()
    return fused
