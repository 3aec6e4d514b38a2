"""The CPU's fastest path: each convolution with its activation and the block's shortcut in one call of oneDNN.

Linear layers too are oneDNN's, their matrices laid out for it beforehand: PyTorch takes MKL, on AMD half as fast.
Where the processor multiplies in bfloat16, these may: `choose_dtype`. Convolutions in bfloat16 would move scores by
more than a linear layer does (debug/BENCHMARK.md).

It is what `torch.compile` would call, without a compiler on the machine. PyTorch does not promise these operators, so
they are used only where every part is of a known kind and the outputs equal the plain ones.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual
from torch import nn

from .text import shortened

log = logging.getLogger(__name__)

PRECISIONS = ("auto", "bfloat16", "float32")
# Of outputs between the fast and the plain network, over the largest value.
_TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 3e-2}
_LARGEST_NUMBER = 256  # up to which bfloat16 has every whole number
_ROUNDING = 1e-5  # of a float32 product, relative, generously
_INTO_TOKENS = ("proj", "fc2")  # names of layers that end a branch of a transformer's block
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})  # of the processor, as Linux names its units


class _UnknownPartError(Exception):
    """Something that is not fused here."""


def choose_dtype(precision: str = "auto") -> torch.dtype:
    """In which type the networks multiply on this CPU.

    precision: "auto" takes bfloat16 where the processor has units for it: AVX-512's do twice as many products a second
    as float32, AMX's more. Elsewhere it would be emulated. Raises: ValueError: not one of `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
    units = _BFLOAT16_FLAGS & processor_flags() if precision == "auto" else set()
    bfloat16 = torch.backends.mkldnn.is_available() and bool(precision == "bfloat16" or units)
    log.info(
        "networks on the CPU in %s (%s)",
        "bfloat16" if bfloat16 else "float32",
        ", ".join(sorted(units)) or ("as asked" if precision != "auto" else "no bfloat16 units"),
    )
    return torch.bfloat16 if bfloat16 else torch.float32


def processor_flags() -> frozenset[str]:
    """What Linux lists of the first processor's abilities; nothing where it does not."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            line = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return frozenset()
    return frozenset(line.partition(":")[2].split())


class FusedConv(nn.Module):
    """A convolution, what follows it, and for the last one of a block the addition of the block's input."""

    def __init__(self, conv: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        if not isinstance(conv, nn.Conv2d) or not isinstance(activation, nn.ReLU6 | nn.Identity):
            raise _UnknownPartError(f"{type(conv).__name__} and {type(activation).__name__}")
        weight, padding = conv.weight.detach(), conv.padding
        if isinstance(conv, Conv2dSame):
            # At even sizes TensorFlow pads k - 2 pixels, the odd one at the bottom and right. A row and a column of
            # zeros before the kernel make the padding symmetric: no padded copy of the largest maps.
            if conv.stride != (2, 2) or conv.kernel_size[0] != conv.kernel_size[1] or conv.kernel_size[0] % 2 == 0:
                raise _UnknownPartError(f"padding of {conv}")
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
            raise _UnknownPartError(type(block).__name__)
        known = {name for pair in names for name in pair} | {"drop_path"}  # drop_path does nothing outside training
        for name, child in block.named_children():
            if name not in known and not isinstance(child, nn.Identity):
                raise _UnknownPartError(f"{name} of {type(block).__name__}")
        self._shortcut = bool(block.has_skip)
        self.convs = nn.ModuleList(FusedConv(getattr(block, conv), getattr(block, act)) for conv, act in names)
        if self._shortcut and not isinstance(getattr(block, names[-1][1]), nn.Identity):
            raise _UnknownPartError("an activation before a shortcut")

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
    return _faster(_fuse, backbone, probe, _TOLERANCES[torch.float32], otherwise="the network runs unfused")


class PackedLinear(nn.Module):
    """A linear layer whose matrix lies as oneDNN reads it.

    products: the type of its factors. In bfloat16 the matrix loses nothing if each row is whole numbers of a step of
    its own, as `quantised` stores them: the numbers are the factors, and their sums are multiplied by the step in
    float32. Otherwise it is rounded, which moves scores half as much again. output: of what type.
    """

    def __init__(
        self, layer: nn.Linear, products: torch.dtype = torch.float32, output: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self._products, self._output = products, output
        weight, self._steps, self._bias = layer.weight.detach(), None, None
        bias = None if layer.bias is None else layer.bias.detach()
        if products is torch.bfloat16:
            weight, self._steps = whole_numbers(weight)
            self._shift = torch.zeros(len(weight)) if bias is None else bias
        else:
            self._bias = bias
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(products), None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sums = torch.ops.mkldnn._linear_pointwise(x.to(self._products), self._weight, self._bias, "none", [], "")
        if self._steps is not None:
            sums = torch.addcmul(self._shift, sums.float(), self._steps)
        return sums.to(self._output)


def whole_numbers(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 (R, C) -> (factors, steps), float32 (R, C) and (R,), whose product it is.

    Factors are whole numbers up to 256, which bfloat16 holds, of rows that are multiples of their smallest value; of
    other rows they are the values, and the step is 1.
    """
    sizes = matrix.abs()
    steps = sizes.where(sizes > 0, torch.inf).amin(dim=1)
    numbers = (matrix / steps[:, None]).round()
    whole = steps.isfinite() & (numbers.abs().amax(dim=1) <= _LARGEST_NUMBER)
    whole &= ((numbers * steps[:, None] - matrix).abs() <= _ROUNDING * sizes).all(dim=1)
    return numbers.where(whole[:, None], matrix), steps.where(whole, 1.0)


def pack_linear_layers(network: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Put a `PackedLinear` in the place of each linear layer within `network`. For a CPU, in inference only.

    dtype: of products and outputs. What layers called `proj` and `fc2` give is float32 in any case: in a transformer
    it is added to the tokens, which so stay float32.
    """
    if not torch.backends.mkldnn.is_available():
        return
    for module in list(network.modules()):
        for name, layer in module.named_children():
            if type(layer) is nn.Linear:
                probe = torch.rand(2, layer.in_features, generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1)
                build = partial(PackedLinear, products=dtype, output=torch.float32 if name in _INTO_TOKENS else dtype)
                packed = _faster(build, layer, probe, _TOLERANCES[dtype], otherwise="a linear layer runs as it is")
                setattr(module, name, packed)


@torch.inference_mode()
def _faster(
    build: Callable[[Any], nn.Module], plain: nn.Module, probe: torch.Tensor, tolerance: float, *, otherwise: str
) -> nn.Module:
    """What `build` makes of `plain`, or `plain` itself where that cannot be had or gives other values for `probe`."""
    try:
        built = build(plain)
        given, expected = built(probe).float(), plain(probe)
        if torch.allclose(given, expected, rtol=0, atol=tolerance * float(expected.abs().max())):
            return built
        raise _UnknownPartError("fused it gives other values")
    except (_UnknownPartError, AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        log.warning("%s, slower: %s", otherwise, shortened(str(error)))
        return plain


def _fuse(backbone: Any) -> nn.Module:
    fused = copy.copy(backbone)
    fused._modules = dict(backbone._modules)  # a copy shares it otherwise
    fused.conv_stem, fused.bn1 = FusedConv(backbone.conv_stem, backbone.bn1), nn.Identity()
    fused.blocks = nn.Sequential(*(nn.Sequential(*map(FusedBlock, stage)) for stage in backbone.blocks))
    fused.conv_head, fused.bn2 = FusedConv(backbone.conv_head, backbone.bn2), nn.Identity()
    return fused
