"""What both detectors do with convolutional networks: statistics of their maps, and their fastest path on a CPU.

That is each convolution with its activation and the block's shortcut in one oneDNN call, with the operators and on the
terms of `cpu`. In bfloat16 all but a network's first convolutions are; what shortcuts add up stays float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .cpu import UnknownPartError


def statistics_of(maps: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> float32 (B, 2 * C): means, then standard deviations."""
    maps = maps.float()
    mean = maps.mean((2, 3))
    return torch.cat([mean, (maps - mean[:, :, None, None]).pow(2).mean((2, 3)).sqrt()], dim=1)


def expected_output(norm: nn.BatchNorm2d, activation: nn.Module) -> torch.Tensor | None:
    """(C,): the mean of what a batch normalisation and its activation give, its inputs being those of its training.

    Normal ones, then, as in arXiv 1906.04721, which corrects biases with it. None: of an activation not known here.
    """
    mean, deviation = norm.bias.detach(), norm.weight.detach().abs().clamp(min=1e-6)
    if isinstance(activation, nn.Identity):
        return mean.clone()
    if not isinstance(activation, nn.ReLU6):
        return None
    normal = torch.distributions.Normal(0.0, 1.0)
    low, high = -mean / deviation, (6 - mean) / deviation
    between = normal.cdf(high) - normal.cdf(low)
    slopes = normal.log_prob(low).exp() - normal.log_prob(high).exp()
    return mean * between + deviation * slopes + 6 * (1 - normal.cdf(high))


class FusedConv(nn.Module):
    """A convolution, what follows it, and for the last one of a block the addition of the block's input.

    expected: of its input, (C,), for products in bfloat16: what rounding the kernel adds to the output's mean is taken
    off again. Without it scores move by up to 0.18, with it by 0.02. padded_as_tensorflow: inputs of even sizes, on a
    convolution without padding of its own.
    """

    def __init__(
        self,
        conv: nn.Module,
        activation: nn.Module,
        dtype: torch.dtype = torch.float32,
        expected: Any = None,
        *,
        padded_as_tensorflow: bool = False,
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
        if padded_as_tensorflow:
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
    """Fused convolutions one after the other, and the addition of the block's input if there is a shortcut."""

    def __init__(self, convs: Sequence[FusedConv], *, shortcut: bool) -> None:
        super().__init__()
        self.convs, self._shortcut = nn.ModuleList(convs), shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = x
        for conv in self.convs[:-1]:
            maps = conv(maps)
        return self.convs[-1](maps, x if self._shortcut else None)
