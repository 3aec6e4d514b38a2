"""The CPU's fastest path: linear layers are oneDNN's, their matrices laid out for it beforehand.

PyTorch takes MKL, on AMD half as fast. Where the processor multiplies in bfloat16, these may: `choose_dtype`.
It is what `torch.compile` would call, without a compiler on the machine. PyTorch does not promise these operators, so
they are used only where every part is of a known kind and the outputs equal the plain ones: `faster`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import nn

from .config import available_cores
from .text import shortened

log = logging.getLogger(__name__)

PRECISIONS = ("auto", "bfloat16", "float32")
# Of outputs between the fast and the plain network, over the largest value.
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 3e-2}
_LARGEST_NUMBER = 256  # up to which bfloat16 has every whole number
_ROUNDING = 1e-4  # of a step: what a float32 product is off, generously
_ELEMENTS_AT_ONCE = 1 << 15  # of a matrix: they stay in the cache, and PyTorch takes one thread for so few
_INTO_TOKENS = ("proj", "fc2")  # names of layers that end a branch of a transformer's block
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})  # of the processor, as Linux names its units


class UnknownPartError(Exception):
    """Something that has no faster form here."""


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


class PackedLinear(nn.Module):
    """A linear layer whose matrix lies as oneDNN reads it.

    products: the type of its factors. In bfloat16 the matrix loses nothing if each row is whole numbers of a step of
    its own, as `quantised` stores them: the numbers are the factors, and their sums are multiplied by the step in
    float32. Otherwise it is rounded, which moves scores half as much again. output: of what type.

    exact_first: rounding errors of tokens cancel where many are averaged; what it takes off the first one, the class
    token, which is read alone, is multiplied as one more token. Inputs are then float32 (B, T, C).
    """

    def __init__(
        self,
        layer: nn.Linear,
        products: torch.dtype = torch.float32,
        output: torch.dtype = torch.float32,
        *,
        exact_first: bool = False,
    ) -> None:
        super().__init__()
        self._products, self._output = products, output
        weight, self._steps = layer.weight.detach(), None
        self._bias: torch.Tensor | None = None if layer.bias is None else layer.bias.detach()
        self._exact_first = exact_first and products is not torch.float32
        if products is torch.bfloat16:
            weight, steps = whole_numbers(weight)
            if self._exact_first or bool((steps != 1).any()):
                self._steps, self._shift = steps, torch.zeros(len(weight)) if self._bias is None else self._bias
                self._bias = None
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(products), None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = _with_remainder(x, self._products) if self._exact_first else x.to(self._products)
        sums = torch.ops.mkldnn._linear_pointwise(rows, self._weight, self._bias, "none", [], "")
        if self._steps is not None:
            sums = sums.float()
            if self._exact_first:
                sums[:, 0] += sums[:, -1]
                sums = sums[:, :-1]
            sums = torch.addcmul(self._shift, sums, self._steps)
        return sums.to(self._output)


def _with_remainder(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """float32 (B, T, C) -> (B, T + 1, C) of another type; the last is what rounding took off the first."""
    count = x.shape[1]
    rows = x.new_empty(len(x), count + 1, x.shape[2], dtype=dtype)
    rows[:, :count] = x
    rows[:, count] = x[:, 0] - rows[:, 0]
    return rows


def whole_numbers(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 (R, C) -> (factors, steps), float32 (R, C) and (R,), whose product it is.

    Factors are whole numbers up to 256, which bfloat16 holds, of rows that are multiples of their smallest value; of
    other rows they are the values, and the step is 1.
    """
    factors, steps = zip(*map(_whole_numbers, matrix.split(max(1, _ELEMENTS_AT_ONCE // matrix.shape[1]))), strict=True)
    return torch.cat(factors), torch.cat(steps)


def _whole_numbers(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    sizes = matrix.abs()
    largest = sizes.amax(dim=1)
    steps = sizes.masked_fill_(sizes == 0, torch.inf).amin(dim=1)
    numbers = (matrix / steps[:, None]).round_()
    errors = torch.addcmul(matrix, numbers, steps[:, None], value=-1).abs_().amax(dim=1)
    whole = steps.isfinite() & (largest <= (_LARGEST_NUMBER + 0.5) * steps) & (errors <= _ROUNDING * steps)
    if not whole.all():
        numbers = numbers.where(whole[:, None], matrix)
    return numbers, steps.where(whole, 1.0)


def pack_linear_layers(network: nn.Module, dtype: torch.dtype = torch.float32, *, exact_first: bool = False) -> None:
    """Put a `PackedLinear` in the place of each linear layer within `network`. For a CPU, in inference only.

    dtype: of products and outputs. What layers called `proj` and `fc2` give is float32 in any case: in a transformer
    it is added to the tokens, which so stay float32. exact_first: see `PackedLinear`; all outputs are float32 then.
    """
    if not torch.backends.mkldnn.is_available():
        return

    def pack(place: tuple[nn.Module, str, nn.Linear]) -> None:
        module, name, layer = place
        probe = torch.rand(1, 2, layer.in_features, generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1)
        output = torch.float32 if name in _INTO_TOKENS or exact_first else dtype
        build = partial(PackedLinear, products=dtype, output=output, exact_first=exact_first)
        packed = faster(build, layer, probe, TOLERANCES[dtype], otherwise="a linear layer runs as it is")
        setattr(module, name, packed)

    parts = [(module, *child) for module in network.modules() for child in module.named_children()]
    with start_threads(available_cores()) as cores:
        list(cores.map(pack, [place for place in parts if type(place[2]) is nn.Linear]))


def start_threads(count: int) -> ThreadPoolExecutor:
    """Threads that each run operators alone: PyTorch takes no others for them."""
    return ThreadPoolExecutor(count, thread_name_prefix="network", initializer=torch.set_num_threads, initargs=(1,))


@torch.inference_mode()
def faster(
    build: Callable[[Any], nn.Module], plain: nn.Module, probe: torch.Tensor, tolerance: float, *, otherwise: str
) -> nn.Module:
    """What `build` makes of `plain`, or `plain` itself where that cannot be had or gives other values for `probe`."""
    try:
        built = build(plain)
        given, expected = built(probe).float(), plain(probe)
        if torch.allclose(given, expected, rtol=0, atol=tolerance * float(expected.abs().max())):
            return built
        raise UnknownPartError("fused it gives other values")
    except (UnknownPartError, AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        log.warning("%s, slower: %s", otherwise, shortened(str(error)))
        return plain
