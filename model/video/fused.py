"""The fastest path of timm's EfficientNet on a CPU: see `model.convolutions`."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import nn

from ..convolutions import FusedBlock, FusedConv
from ..cpu import TOLERANCES, UnknownPartError, faster
from .timm_parts import Conv2dSame, DepthwiseSeparableConv, InvertedResidual


def _fuse_block(block: nn.Module, dtype: torch.dtype, expected: Any) -> tuple[FusedBlock, Any]:
    """An inverted residual block, or the depthwise separable one that opens the network.

    expected: mean of its input, see `FusedConv`. Returns: the block and the mean of its output.
    """
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
    shortcut = bool(block.has_skip)
    if shortcut and not isinstance(getattr(block, names[-1][1]), nn.Identity):
        raise UnknownPartError("an activation before a shortcut")
    convs, inner = [], expected
    for conv, act in names:
        convs.append(_fuse_conv(getattr(block, conv), getattr(block, act), dtype, inner))
        inner = getattr(block, conv).expected_output if dtype is torch.bfloat16 else None
    return FusedBlock(convs, shortcut=shortcut), expected + inner if shortcut and inner is not None else inner


def _fuse_conv(
    conv: nn.Module, activation: nn.Module, dtype: torch.dtype = torch.float32, expected: Any = None
) -> FusedConv:
    return FusedConv(conv, activation, dtype, expected, padded_as_tensorflow=isinstance(conv, Conv2dSame))


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
    fused.conv_stem, fused.bn1 = _fuse_conv(backbone.conv_stem, backbone.bn1), nn.Identity()
    expected = backbone.conv_stem.expected_output if dtype is torch.bfloat16 else None
    stages = []
    for stage in backbone.blocks:
        blocks = []
        for block in stage:
            fast, expected = _fuse_block(block, dtype, expected)
            blocks.append(fast)
        stages.append(nn.Sequential(*blocks))
    fused.blocks = nn.Sequential(*stages)
    fused.conv_head = _fuse_conv(backbone.conv_head, backbone.bn2, dtype, expected)
    fused.bn2 = _Float32()
    return fused
