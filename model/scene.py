"""The scene: what a whole frame, shrunk, looks like to a vision transformer (CLIP, arXiv 2103.00020).

What tells generated from real lies in its middle blocks (as in RINE, arXiv 2402.19091), not in its last one. A kernel
machine reads its tokens there. Beside it, the last blocks are run through normalisations of their own, trained to tell
the classes apart, and give a logit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypedDict

import timm
import torch
from torch import nn

from .traces import pictures, statistics_of


class SceneArchitecture(TypedDict):
    """What the manifest says of the transformer and of its kernel machine."""

    transformer: str
    num_blocks: int
    num_last: int
    size: int
    num_components: int
    num_support: int
    kernel_scale: float


class SceneNetwork(nn.Module):
    """Resized views -> statistics of a frozen vision transformer's tokens, and the logit of its tuned last blocks.

    transformer: a VisionTransformer of timm. num_blocks: of its blocks, from the first on; the later ones and the last
    normalisation are left out. num_last: so many of these, the last ones, are described, and give the logit when they
    are run again through normalisations other than the transformer's own, which stay beside them. size: of its input
    in pixels, a multiple of its patches' size; views are resized to it.
    """

    def __init__(self, *, transformer: str, num_blocks: int, num_last: int, size: int) -> None:
        super().__init__()
        self.transformer = timm.create_model(
            transformer, pretrained=False, num_classes=0, depth=num_blocks, img_size=size
        )
        self.transformer.norm = nn.Identity()
        self.size = size
        self._num_first = num_blocks - num_last
        width = int(self.transformer.num_features)
        self.head = nn.Sequential(nn.LayerNorm(2 * width), nn.Dropout(0.2), nn.Linear(2 * width, 1))
        self.start_tuning()

    @property
    def _last_blocks(self) -> Any:
        return self.transformer.blocks[self._num_first :]

    @property
    def num_features(self) -> int:
        """Per block described: class token, then mean and deviation of the other tokens, each of the same width."""
        return len(self.tuned) * 3 * int(self.transformer.num_features)

    @property
    def token_shape(self) -> tuple[int, int]:
        """Tokens of one view, the class token included, and their width."""
        return int(self.transformer.pos_embed.shape[1]), int(self.transformer.num_features)

    def start_tuning(self) -> None:
        """The transformer's own normalisations and a head that says nothing."""
        self.tuned = nn.ModuleList(TunedBlock(block) for block in self._last_blocks)
        for parameter in self.head[-1].parameters():
            nn.init.zeros_(parameter)

    def tuned_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Name and tensor of all that is learnt from labelled clips."""
        for name, parameter in self.named_parameters():
            if not name.startswith("transformer."):
                yield name, parameter

    def forward(self, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 or float (B, K, S, S, 3), 0 to 255 -> float32 (B, num_features), (B, 1), of each view's first frame."""
        tokens = self.tokens(self.render(views))
        return self.describe(tokens), self.logits(tokens)

    def render(self, views: torch.Tensor) -> torch.Tensor:
        """(B, K, S, S, 3) -> float32 (B, 3, size, size), normalised as the transformer's training images."""
        frames = pictures(views[:, 0], self.size)
        origin = self.transformer.pretrained_cfg
        mean, deviation = (frames.new_tensor(origin[name]).view(3, 1, 1) for name in ("mean", "std"))
        return (frames / 255 - mean) / deviation

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """float (B, 3, size, size) -> (B, 1 + T, W) after the blocks that both outputs share, the class token first."""
        transformer = self.transformer
        x = transformer.norm_pre(transformer._pos_embed(transformer.patch_embed(x)))
        for block in transformer.blocks[: self._num_first]:
            x = block(x)
        return x

    def describe(self, tokens: torch.Tensor) -> torch.Tensor:
        """What `tokens` gives -> float32 (B, num_features)."""
        parts = []
        for block in self._last_blocks:
            tokens = block(tokens)
            parts += [tokens[:, 0].float(), statistics_of(tokens[:, 1:].transpose(1, 2)[..., None])]
        return torch.cat(parts, dim=1)

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """What `tokens` gives -> float32 (B, 1)."""
        for tuned, block in zip(self.tuned, self._last_blocks, strict=True):
            tokens = tuned(tokens, block)
        with torch.autocast(tokens.device.type, enabled=False):
            return self.head(torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=1).float())


class TunedBlock(nn.Module):
    """Two normalisations, at first those of a transformer's block, through which its attention and its MLP are read."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm1, self.norm2 = copy.deepcopy(block.norm1), copy.deepcopy(block.norm2)

    def forward(self, tokens: torch.Tensor, block: Any) -> torch.Tensor:
        """(B, 1 + T, W) -> the same, as `block` with these normalisations gives it."""
        tokens = tokens + block.ls1(block.attn(self.norm1(tokens)))
        return tokens + block.ls2(block.mlp(self.norm2(tokens)))
