"""Traces in the pixels: statistics of the maps of a frozen convolutional backbone (ImageNet).

What the backbone sees decides: beside the colours it gets what is left of them after halving and doubling the size
(NPR, arXiv 2312.10461), and the change to the next frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ..convolutions import statistics_of
from .timm_parts import create_model

_RESIDUAL_LEVELS = 16.0  # grey levels of an unnormalised residual that become 1.0 at the backbone's input
_NORMALISED_DEVIATION = 0.5  # what a normalised residual's standard deviation becomes
_MIN_DEVIATION = 1.0  # grey levels; a flatter residual is not blown up further
_MAX_INPUT = 2.0  # residuals are cut off here


def _colours(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The frame as the backbone was trained on it (TensorFlow's Lite models: (x - 127) / 128)."""
    return (first - 127.0) / 128.0


def _upsampling(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """NPR: what each pixel differs from the top left pixel of its 2x2 block."""
    block = F.interpolate(first[..., ::2, ::2], size=first.shape[-2:], mode="nearest")
    return ((first - block) / _RESIDUAL_LEVELS).clamp(-_MAX_INPUT, _MAX_INPUT)


def _difference(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Next frame minus this one, each view at the same contrast: how much moves (frame rate!) is taken out."""
    return _normalise(second - first)


def _normalise(residual: torch.Tensor) -> torch.Tensor:
    deviation = residual.pow(2).mean((1, 2, 3), keepdim=True).sqrt()
    return (residual * (_NORMALISED_DEVIATION / deviation.clamp(min=_MIN_DEVIATION))).clamp(-_MAX_INPUT, _MAX_INPUT)


STREAMS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "colours": _colours,
    "upsampling": _upsampling,
    "difference": _difference,
}


class FeatureNetwork(nn.Module):
    """Views -> statistics of the backbone's feature maps for every stream. Frozen; shared by training and inference."""

    def __init__(self, *, backbone: str, streams: Sequence[str]) -> None:
        super().__init__()
        unknown = set(streams) - set(STREAMS)
        if unknown:
            raise ValueError(f"unknown streams {sorted(unknown)}; valid streams: {sorted(STREAMS)}")
        self.backbone = create_model(backbone, num_classes=0)
        self.streams = tuple(streams)

    @property
    def num_features(self) -> int:
        """Per stream: mean and deviation of each channel after each stage, mean of each of the head's channels."""
        outs = [_last_conv(stage).out_channels for stage in self.backbone.blocks]
        return len(self.streams) * (2 * sum(outs) + self.backbone.num_features)

    def forward(self, views: torch.Tensor, *, num_streams: int | None = None) -> torch.Tensor:
        """uint8 or float (B, K, S, S, 3), 0 to 255 -> float32 (B, num_features), one stream after the other.

        num_streams: only the first so many.
        """
        return self.statistics(self.render(views, num_streams=num_streams), num_streams=num_streams)

    def render(self, views: torch.Tensor, *, num_streams: int | None = None) -> torch.Tensor:
        """(B, K, S, S, 3) -> float32 (streams * B, 3, S, S). In full precision: residuals are small against 255.

        Views larger than the images the backbone was trained on are shrunk to their size, which S then is.
        num_streams: only the first so many.
        """
        size = min(views.shape[-2], self.backbone.pretrained_cfg["input_size"][-1])
        first, second = pictures(views[:, 0], size), pictures(views[:, -1], size)
        with torch.autocast(views.device.type, enabled=False):
            return torch.cat([STREAMS[name](first, second) for name in self.streams[:num_streams]])

    def statistics(self, x: torch.Tensor, *, num_streams: int | None = None) -> torch.Tensor:
        """float (streams * B, 3, S, S) -> float32 (B, num_features)."""
        return side_by_side([statistics_of(maps) for maps in self.maps(x)], num_streams or len(self.streams))

    def maps(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """float (B, 3, S, S) -> (B, C, H, W) after each stage of the backbone, at last after its head."""
        x = self.backbone.bn1(self.backbone.conv_stem(x))
        for stage in self.backbone.blocks:
            x = stage(x)
            yield x
        yield self.backbone.bn2(self.backbone.conv_head(x))


def pictures(frames: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 or float (B, S, S, 3) -> float32 (B, 3, size, size) with the same levels, resized where need be."""
    frames = frames.permute(0, 3, 1, 2).float()
    if frames.shape[-1] == size:
        return frames
    return F.interpolate(frames, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


def side_by_side(statistics: list[torch.Tensor], num_streams: int) -> torch.Tensor:
    """Statistics of the stages and the head, (streams * B, 2 * C) each -> (B, D), streams in turn. Head: means."""
    *stages, head = statistics
    features = torch.cat([*stages, head[:, : head.shape[1] // 2]], dim=1)
    return torch.cat(features.tensor_split(num_streams), dim=1)


def _last_conv(stage: nn.Sequential) -> nn.Conv2d:
    """Named conv_pwl where the block has an expansion, conv_pw where it has none."""
    return getattr(stage[-1], "conv_pwl", stage[-1].conv_pw)
