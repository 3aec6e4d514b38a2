"""The scene: what a whole frame, shrunk, looks like to a vision transformer (CLIP, arXiv 2103.00020).

What tells generated from real lies in its middle blocks (as in RINE, arXiv 2402.19091), not in its last one. Class
tokens of later blocks hold on post-processed clips, the mean and deviation of the other tokens tell most before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import nn

from ..convolutions import statistics_of
from ..cpu import pack_linear_layers
from .timm_parts import Block, QuickGELU, create_model
from .traces import pictures

_QUICK_GELU = 1.702  # the sigmoid's factor


class SceneArchitecture(TypedDict):
    """What the manifest says of the transformer."""

    transformer: str
    class_tokens: list[int]
    statistics: list[int]
    size: int


class SceneNetwork(nn.Module):
    """Resized views -> what a frozen vision transformer makes of them.

    transformer: a VisionTransformer of timm. class_tokens: taken after these of its blocks, counted from 1. statistics:
    of the other tokens, after these blocks. Blocks after all of them and the last normalisation are left out. size: of
    its input in pixels, a multiple of its patches' size; views are resized to it.
    """

    def __init__(self, *, transformer: str, class_tokens: Sequence[int], statistics: Sequence[int], size: int) -> None:
        super().__init__()
        depth = max(*class_tokens, *statistics)
        self.transformer = create_model(transformer, num_classes=0, depth=depth, img_size=size)
        self.transformer.norm = nn.Identity()
        self.size = size
        self._class_tokens, self._statistics = frozenset(class_tokens), frozenset(statistics)

    @property
    def num_features(self) -> int:
        """The class tokens, then by block mean and deviation of the other tokens, all of the transformer's width."""
        return self.num_class_features + len(self._statistics) * 2 * int(self.transformer.num_features)

    @property
    def num_class_features(self) -> int:
        """So many of the features, the first ones, are the class tokens."""
        return len(self._class_tokens) * int(self.transformer.num_features)

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        """uint8 or float (B, K, S, S, 3), 0 to 255 -> float32 (B, num_features), of each view's first frame."""
        return self.statistics(self.render(views))

    def statistics(self, x: torch.Tensor) -> torch.Tensor:
        """float (B, 3, size, size) -> float32 (B, num_features)."""
        transformer = self.transformer
        tokens = transformer.norm_pre(transformer._pos_embed(transformer.patch_embed(x)))
        class_tokens, statistics = [], []
        for number, block in enumerate(transformer.blocks, start=1):
            alone = number == len(transformer.blocks) and number not in self._statistics
            # (B, 1 + T, W), the class token first; alone where nothing reads the others
            tokens = _class_token_after(block, tokens) if alone else block(tokens)
            if number in self._class_tokens:
                class_tokens.append(tokens[:, 0].float())
            if number in self._statistics:
                statistics.append(statistics_of(tokens[:, 1:].transpose(1, 2)[..., None]))
        return torch.cat(class_tokens + statistics, dim=1)

    @torch.inference_mode()
    def prepare_for_cpu(self, dtype: torch.dtype) -> None:
        """The same function, faster on a CPU. dtype: of products; all else is float32."""
        for block in self.transformer.blocks:
            mlp = block.mlp
            if isinstance(mlp.act, QuickGELU):  # x * sigmoid(1.702 * x): SiLU between scaled layers, in one pass
                for parameter in mlp.fc1.parameters():
                    parameter.mul_(_QUICK_GELU)
                mlp.fc2.weight.div_(_QUICK_GELU)
                mlp.act = nn.SiLU(inplace=True)
        pack_linear_layers(self.transformer, dtype, exact_first=True)

    def render(self, views: torch.Tensor) -> torch.Tensor:
        """(B, K, S, S, 3) -> float32 (B, 3, size, size), normalised as the transformer's training images."""
        frames = pictures(views[:, 0], self.size)
        origin = self.transformer.pretrained_cfg
        mean, deviation = (frames.new_tensor(origin[name]).view(3, 1, 1) for name in ("mean", "std"))
        return (frames / 255 - mean) / deviation


def _class_token_after(block: Block, tokens: torch.Tensor) -> torch.Tensor:
    """(B, 1 + T, W) -> (B, 1, W): the first of `block(tokens)` at a quarter of its work, for a block in inference."""
    attention = block.attn
    normed = block.norm1(tokens)
    projected = attention.qkv(normed).unflatten(2, (3, attention.num_heads, attention.head_dim))
    query, key, value = projected.permute(2, 0, 3, 1, 4)  # (B, heads, 1 + T, W / heads) each
    query, key = attention.q_norm(query[:, :, :1]), attention.k_norm(key)
    attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    token = tokens[:, :1] + block.ls1(attention.proj(attention.norm(attended)))
    return token + block.ls2(block.mlp(block.norm2(token)))
