"""From prepared views to the score as one module of plain PyTorch, to be traced.

The networks are those that the detectors load, before anything is fused or packed for a CPU. The heads, NumPy
elsewhere, are written in tensors: projections in single precision, the rest in double. A runtime's sum of a linear
head's thousands of products in single precision moved speech's scores by up to 0.001.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from ..audio.detector import AudioNetwork
from ..audio.views import WINDOWS
from ..heads import Decision, KernelHead, LinearHead
from ..video.detector import VideoNetwork
from ..video.views import PATCHES, RESIZED

_Features = Mapping[str, torch.Tensor]  # name -> (N, D of the name)


class _KernelHead(nn.Module):
    matrix: torch.Tensor
    origin: torch.Tensor
    support: torch.Tensor
    coefficients: torch.Tensor

    def __init__(self, head: KernelHead) -> None:
        super().__init__()
        self._scale, self._intercept = head.kernel_scale, head.intercept
        self.register_buffer("matrix", _tensor(head.projection.matrix))
        self.register_buffer("origin", _tensor(head.projection.origin))
        self.register_buffer("support", _tensor(head.support))
        self.register_buffer("coefficients", _tensor(head.coefficients))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        places = (features @ self.matrix + self.origin).double()
        squares = places.square().sum(1, keepdim=True) + self.support.square().sum(1)
        distances = (squares - 2 * places @ self.support.T).clamp(min=0)
        return torch.exp(-self._scale * distances) @ self.coefficients + self._intercept


class _LinearHead(nn.Module):
    direction: torch.Tensor

    def __init__(self, head: LinearHead) -> None:
        super().__init__()
        self._intercept = head.intercept
        self.register_buffer("direction", _tensor(head.direction.astype(np.float64)))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.double() @ self.direction + self._intercept


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


class _Decision(nn.Module):
    """`heads.Decision.scores`: features of clips -> float32 (N,)."""

    def __init__(self, decision: Decision) -> None:
        super().__init__()
        self._reads, self._offset = decision.reads, decision.offset
        self.heads = nn.ModuleDict(
            {
                name: _KernelHead(head) if isinstance(head, KernelHead) else _LinearHead(head)
                for name, head in decision.heads.items()
            }
        )

    def forward(self, features: _Features) -> torch.Tensor:
        raw = [
            head(torch.cat([features[feature] for feature in self._reads[name]], dim=1))
            for name, head in self.heads.items()
        ]
        return (torch.stack(raw).sum(0) + self._offset).float()


class VideoGraph(nn.Module):
    """uint8 (N, P, K, S, S, 3) and (N, R, 1, Z, Z, 3), as `views.split_views` gives them -> float32 (N,)."""

    inputs = (PATCHES, RESIZED)

    def __init__(self, network: VideoNetwork, decision: Decision) -> None:
        super().__init__()
        self.network, self.decision = network, _Decision(decision)

    def forward(self, patches: torch.Tensor, resized: torch.Tensor) -> torch.Tensor:
        named: dict[str, torch.Tensor] = {}
        for kind, views in ((PATCHES, patches), (RESIZED, resized)):
            features = _mean_over_views(self.network(views.flatten(0, 1), kind), views.shape[1])
            sizes = self.network.layout[kind]
            named |= dict(zip(sizes, features.split(list(sizes.values()), dim=1), strict=True))
        named["class_tokens"] = named["scene"][:, : self.network.scene.num_class_features]
        return self.decision(named)


class AudioGraph(nn.Module):
    """int16 (N, V, window_samples), as `views.split_windows` gives them -> float32 (N,)."""

    inputs = (WINDOWS,)

    def __init__(self, network: AudioNetwork, decision: Decision) -> None:
        super().__init__()
        self.network, self.decision = network, _Decision(decision)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        features = _mean_over_views(self.network(windows.flatten(0, 1)), windows.shape[1])
        sizes = self.network.sizes
        return self.decision(dict(zip(sizes, features.split(list(sizes.values()), dim=1), strict=True)))


def _mean_over_views(features: torch.Tensor, num_views: int) -> torch.Tensor:
    """(N * V, D) -> float32 (N, D)."""
    return features.unflatten(0, (-1, num_views)).double().mean(1).float()
