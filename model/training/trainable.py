"""EfficientNet-Lite as it is fine-tuned: late pointwise convolutions learn, all else keeps its ImageNet weights.

The same function as timm's network in evaluation mode, arranged for speed in bfloat16 (twice a step of the plain module
on a CPU): frozen batch normalisations are folded into the convolution before them, pointwise convolutions are matrix
products over channels-last pixels, and the frozen depthwise ones pass gradients on without computing their own.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import nn


class TrainableLite(nn.Module):
    """A timm EfficientNet-Lite with one logit; only what `trained` lists gets gradients."""

    def __init__(self, backbone: str, *, frozen_stages: int, drop_rate: float) -> None:
        super().__init__()
        self.plain = timm.create_model(backbone, pretrained=False, num_classes=1)
        self._drop_rate = drop_rate
        self._blocks = [block for stage in self.plain.blocks for block in stage]
        self._num_frozen = sum(len(stage) for stage in self.plain.blocks[:frozen_stages])
        nn.init.zeros_(self.plain.classifier.weight)
        nn.init.zeros_(self.plain.classifier.bias)
        self.plain.requires_grad_(False)
        for block in self._blocks[self._num_frozen :]:
            block.conv_pw.requires_grad_(True)
            block.conv_pwl.requires_grad_(True)
        self.plain.conv_head.requires_grad_(True)
        self.plain.classifier.requires_grad_(True)

    def trained(self) -> dict[str, nn.Parameter]:
        """Name in timm's network -> parameter."""
        return {name: parameter for name, parameter in self.plain.named_parameters() if parameter.requires_grad}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float (B, S, S, 3), normalised, channels last in memory -> float32 logits (B,)."""
        plain = self.plain
        with torch.no_grad():
            x = F.hardtanh(_strided(images.bfloat16(), plain.conv_stem, plain.bn1), 0.0, 6.0)
            for block in self._blocks[: self._num_frozen]:
                x = _apply(block, x)
        for block in self._blocks[self._num_frozen :]:
            x = _apply(block, x)
        x = _pointwise(x, plain.conv_head, plain.bn2, activate=True).float().mean((1, 2))
        return plain.classifier(F.dropout(x, self._drop_rate, self.training))[:, 0]


def _apply(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """One block of timm's, bfloat16 (B, H, W, C): inverted residual, or depthwise separable without expansion."""
    before: Any = block
    y = x
    if hasattr(block, "conv_pwl"):
        y = _pointwise(y, before.conv_pw, before.bn1, activate=True)
        y = F.hardtanh(_strided(y, before.conv_dw, before.bn2), 0.0, 6.0)
        y = _pointwise(y, before.conv_pwl, before.bn3, activate=False)
    else:
        y = F.hardtanh(_strided(y, before.conv_dw, before.bn1), 0.0, 6.0)
        y = _pointwise(y, before.conv_pw, before.bn2, activate=False)
    return y + x if before.has_skip else y


def _folded(conv: nn.Conv2d, norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """(weight, bias) of the convolution followed by its frozen normalisation, bfloat16."""
    scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach()
    bias = (norm.bias - norm.running_mean * scale).detach()
    return (conv.weight * scale[:, None, None, None]).bfloat16(), bias.bfloat16()


def _pointwise(x: torch.Tensor, conv: nn.Conv2d, norm: nn.Module, *, activate: bool) -> torch.Tensor:
    weight, bias = _folded(conv, norm)
    y = F.linear(x, weight[:, :, 0, 0], bias)
    return F.hardtanh(y, 0.0, 6.0, inplace=True) if activate else y


def _strided(x: torch.Tensor, conv: nn.Conv2d, norm: nn.Module) -> torch.Tensor:
    """The stem or a depthwise convolution; (B, H, W, C) -> (B, H', W', C'), "same" padding as TensorFlow has it."""
    weight, bias = _folded(conv, norm)
    size, stride = int(conv.kernel_size[0]), int(conv.stride[0])
    padded = max((-(-x.shape[1] // stride) - 1) * stride + size - x.shape[1], 0)
    pads = (padded // 2, padded - padded // 2)
    x = x.permute(0, 3, 1, 2)
    if conv.groups == 1:  # the stem, never trained
        y = F.conv2d(F.pad(x, (*pads, *pads)), weight, bias, stride)
    else:
        y = _FrozenDepthwise.apply(x, weight.detach(), bias, stride, pads)
    return y.permute(0, 2, 3, 1)


class _FrozenDepthwise(torch.autograd.Function):
    """A depthwise convolution with constant weights, whose gradient for the input is a depthwise convolution again."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int, pads: tuple[int, int]
    ) -> torch.Tensor:
        ctx.save_for_backward(weight)
        ctx.stride, ctx.pads, ctx.shape = stride, pads, x.shape
        if pads[0] == pads[1]:
            return F.conv2d(x, weight, bias, stride, pads[0], groups=x.shape[1])
        return F.conv2d(F.pad(x, (*pads, *pads)), weight, bias, stride, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        (weight,) = ctx.saved_tensors
        batch, channels, height, width = ctx.shape
        size, (before, after) = weight.shape[-1], ctx.pads
        turned = weight.flip(2, 3)
        if ctx.stride == 1:
            return F.conv2d(gradient, turned, None, 1, size - 1 - before, groups=channels), None, None, None, None
        rows, columns = height + before + after - size + 1, width + before + after - size + 1
        spread = gradient.new_zeros(batch, rows, columns, channels).permute(0, 3, 1, 2)
        spread[:, :, :: ctx.stride, :: ctx.stride] = gradient
        full = F.conv2d(spread, turned, None, 1, size - 1, groups=channels)
        return full[:, :, before : before + height, before : before + width], None, None, None, None
