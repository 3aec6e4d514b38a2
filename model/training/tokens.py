"""Tokens of the resized views after the transformer's first blocks, kept on disk: all that is learnt of scenes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..scene import SceneNetwork
from .features import kept, load_features

_CLIPS_PER_BATCH = 16


class SceneTokens(nn.Module):
    """A view and its mirror image -> the tokens of both, as `features.load_features` has it computed."""

    def __init__(self, scene: SceneNetwork) -> None:
        super().__init__()
        self.scene = scene

    @property
    def num_features(self) -> int:
        """Of both pictures, all tokens in a row."""
        num_tokens, width = self.scene.token_shape
        return 2 * num_tokens * width

    def render(self, views: torch.Tensor) -> torch.Tensor:
        """(B, K, S, S, 3) -> float32 (2 * B, 3, size, size): pictures, then mirror images."""
        pictures = self.scene.render(views)
        return torch.cat([pictures, pictures.flip(-1)]).contiguous()

    def statistics(self, x: torch.Tensor) -> torch.Tensor:
        """float (2 * B, 3, size, size) -> (B, num_features)."""
        return torch.cat(self.scene.tokens(x).flatten(1).tensor_split(2), dim=1)


def load_tokens(views: np.ndarray, scene: SceneNetwork, *, file: Path, device: torch.device) -> np.ndarray:
    """float16 (N, 2 * R, 1 + T, W), memory-mapped, from `file`, computed first if it is not there.

    views: the resized ones, uint8 (N, R, 1, Z, Z, 3). Of each view the tokens of the picture, then of its mirror image.
    """
    return by_look(load_features(views, SceneTokens(scene), file=file, device=device), scene)


def by_look(rows: np.ndarray, scene: SceneNetwork) -> np.ndarray:
    """(N, R, F), as the file of `load_tokens` holds them -> (N, 2 * R, 1 + T, W)."""
    return rows.reshape(len(rows), -1, *scene.token_shape)


def upright(tokens: np.ndarray) -> np.ndarray:
    """(N, 2 * R, 1 + T, W) -> (N, R, 1 + T, W), what inference sees: without the mirror images."""
    return tokens[:, ::2]


def load_scenes(tokens: np.ndarray, scene: SceneNetwork, *, file: Path, device: torch.device) -> np.ndarray:
    """float32 (N, F): what the scenes' kernel machine reads, the mean over a clip's views; from `file`, computed first
    if it is not there. tokens: as `upright` gives them.
    """
    compute = partial(mean_over_looks, tokens, scene.to(device).describe, device)
    return kept(file, (len(tokens), scene.num_features), compute)


@torch.inference_mode()
def mean_over_looks(
    tokens: np.ndarray, compute: Callable[[torch.Tensor], torch.Tensor], device: torch.device
) -> np.ndarray:
    """(N, L, 1 + T, W) -> float32 (N, F): the mean over a clip's looks of what `compute` makes of each.

    compute: float32 (B, 1 + T, W) on the device -> (B, F).
    """
    parts = []
    for start in tqdm(range(0, len(tokens), _CLIPS_PER_BATCH), desc="reading tokens", unit="batch"):
        batch = np.array(tokens[start : start + _CLIPS_PER_BATCH])
        values = compute(torch.from_numpy(batch.reshape(-1, *batch.shape[2:])).to(device).float())
        parts.append(values.reshape(len(batch), -1, values.shape[1]).mean(1).cpu().numpy())
    return np.concatenate(parts)
