"""What the speech detector's front ends do, in ONNX operators, for PyTorch's exporter, which lacks them.

Complex numbers get a last axis of size 2: the real part, then the imaginary one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.onnx import register_custom_op_symbolic

OPSET = 17  # the first with DFT


def register() -> None:
    """Teach the exporter; once or more often, it is the same."""
    functions: dict[str, Callable[..., Any]] = {
        "aten::unfold": _unfold,
        "aten::fft_rfft": _rfft,
        "aten::real": _real,
        "aten::imag": _imag,
        "aten::gradient": _gradient,
    }
    for name, function in functions.items():
        register_custom_op_symbolic(name, function, OPSET)


def _number(g: Any, value: int) -> Any:
    return g.op("Constant", value_t=torch.tensor(value))


def _axes(g: Any, *axes: int) -> Any:
    return g.op("Constant", value_t=torch.tensor(axes))


def _unfold(g: Any, x: Any, _: Any, size: Any, step: Any) -> Any:
    """(B, N) -> (B, T, size). The exporter's own takes the last axis for another one."""
    length = g.op("Gather", g.op("Shape", x), _number(g, -1))
    starts = g.op("Range", _number(g, 0), g.op("Add", g.op("Sub", length, size), _number(g, 1)), step)
    pieces = g.op("Constant", value_t=torch.arange(int(size.node().t("value"))))
    return g.op("Gather", x, g.op("Add", g.op("Unsqueeze", starts, _axes(g, 1)), pieces), axis_i=-1)


def _rfft(g: Any, frames: Any, size: Any, dim: Any, norm: Any) -> Any:
    """(B, T, N) -> (B, T, F, 2)."""
    return g.op("DFT", g.op("Unsqueeze", frames, _axes(g, 3)), axis_i=2, onesided_i=1)


def _real(g: Any, numbers: Any) -> Any:
    return g.op("Gather", numbers, _number(g, 0), axis_i=-1)


def _imag(g: Any, numbers: Any) -> Any:
    return g.op("Gather", numbers, _number(g, 1), axis_i=-1)


def _part(g: Any, x: Any, start: int, end: int) -> Any:
    """x[:, start:end]."""
    return g.op("Slice", x, _axes(g, start), _axes(g, end), _axes(g, 1))


_LAST = 2**63 - 1


def _gradient(g: Any, x: Any, *_: Any) -> Any:
    """Along axis 1: half the difference of the neighbours, at the ends that to the only one."""
    inner = g.op("Sub", _part(g, x, 2, _LAST), _part(g, x, 0, -2))
    half = g.op("Mul", inner, g.op("Constant", value_t=torch.tensor(0.5)))
    first = g.op("Sub", _part(g, x, 1, 2), _part(g, x, 0, 1))
    last = g.op("Sub", _part(g, x, -1, _LAST), _part(g, x, -2, -1))
    return g.op("prim::ListConstruct", g.op("Concat", first, half, last, axis_i=1))
