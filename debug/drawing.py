"""Matplotlib figures of one size and look, for every page."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# 4.8 inches are 346 points: 8.5-point text stays readable on a phone 360 pixels wide
_WIDTH = 4.8
FONT = 8.5


def new_figure(height: float = 3.2, *, width: float = _WIDTH) -> tuple[Figure, Axes]:
    drawing = Figure(figsize=(width, height), layout="constrained")
    axes = drawing.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=FONT)
    return drawing, axes
