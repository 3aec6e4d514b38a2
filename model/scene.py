"""The scene: what a whole frame, shrunk, looks like to a vision transformer (CLIP, arXiv 2103.00020).

What tells generated from real lies in its middle blocks (as in RINE, arXiv 2402.19091), not in its last one: a class
token, and the mean and deviation of the other tokens, after each of the last blocks that are kept.
"""

from __future__ import annotations

from typing import TypedDict, TypeVar

import numpy as np
import timm
import torch
from torch import nn

from .traces import pictures, statistics_of

_Array = TypeVar("_Array", torch.Tensor, np.ndarray)


class SceneArchitecture(TypedDict):
    """What the manifest says of the transformer."""

    transformer: str
    num_blocks: int
    num_last: int
    size: int


class SceneNetwork(nn.Module):
    """Resized views -> statistics of a frozen vision transformer's tokens.

    transformer: a VisionTransformer of timm. num_blocks: of its blocks, from the first on; the later ones and the last
    normalisation are left out. num_last: so many of these, the last ones, are described. size: of its input in pixels,
    a multiple of its patches' size; views are resized to it.
    """

    def __init__(self, *, transformer: str, num_blocks: int, num_last: int, size: int) -> None:
        super().__init__()
        self.transformer = timm.create_model(
            transformer, pretrained=False, num_classes=0, depth=num_blocks, img_size=size
        )
        self.transformer.norm = nn.Identity()
        self.size = size
        self._num_last = num_last

    @property
    def num_features(self) -> int:
        """Per block described: class token, then mean and deviation of the other tokens, each of the same width."""
        return self._num_last * 3 * int(self.transformer.num_features)

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        """uint8 or float (B, K, S, S, 3), 0 to 255 -> float32 (B, num_features), of each view's first frame."""
        transformer = self.transformer
        tokens = transformer.norm_pre(transformer._pos_embed(transformer.patch_embed(self.render(views))))
        parts = []
        num_first = len(transformer.blocks) - self._num_last
        for index, block in enumerate(transformer.blocks):
            tokens = block(tokens)  # (B, 1 + T, W), the class token first
            if index >= num_first:
                parts += [tokens[:, 0].float(), statistics_of(tokens[:, 1:].transpose(1, 2)[..., None])]
        return torch.cat(parts, dim=1)

    def render(self, views: torch.Tensor) -> torch.Tensor:
        """(B, K, S, S, 3) -> float32 (B, 3, size, size), normalised as the transformer's training images."""
        frames = pictures(views[:, 0], self.size)
        origin = self.transformer.pretrained_cfg
        mean, deviation = (frames.new_tensor(origin[name]).view(3, 1, 1) for name in ("mean", "std"))
        return (frames / 255 - mean) / deviation

    def class_tokens(self, described: _Array) -> _Array:
        """(B, num_features), as the network gives it -> the part of it that class tokens are, (B, num_features / 3)."""
        width = int(self.transformer.num_features)
        return described.reshape(len(described), -1, 3, width)[:, :, 0].reshape(len(described), -1)
