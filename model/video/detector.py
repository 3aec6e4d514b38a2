"""The detector for video: frozen networks read patches and resized views, heads decide; one score a clip."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..convolutions import expected_output
from ..cpu import choose_dtype
from ..heads import Decision, from_arrays
from ..weights import Manifest, WeightsError, load_manifest, load_tensors
from .fused import fuse_backbone
from .scene import SceneArchitecture, SceneNetwork
from .timm_parts import BatchNormAct2d, NoRandomValues
from .traces import FeatureNetwork
from .views import PATCHES, RESIZED, ViewConfig, split_views

_NETWORKS = ("features.", "scene.")  # prefixes of the networks' tensors in the file; the others belong to heads

_Network = TypeVar("_Network", bound=nn.Module)


class VideoNetwork(nn.Module):
    """The frozen networks: views of one kind -> named features, side by side.

    Patches give "patch": traces in all streams. Resized views give "resized", traces in the colours alone, and "scene".
    """

    def __init__(self, *, backbone: str, streams: Sequence[str], scene: SceneArchitecture) -> None:
        super().__init__()
        if streams[0] != "colours":
            raise ValueError(f"the first stream is {streams[0]!r}; it must be 'colours', which resized views share")
        self.features = FeatureNetwork(backbone=backbone, streams=streams)
        self.scene = SceneNetwork(**scene)

    @property
    def layout(self) -> dict[str, dict[str, int]]:
        """Kind of view -> name of a feature -> its size, in the order of the output."""
        traces = self.features.num_features
        resized = {"resized": traces // len(self.features.streams), "scene": self.scene.num_features}
        return {PATCHES: {"patch": traces}, RESIZED: resized}

    @property
    def sizes(self) -> dict[str, int]:
        """Name -> size of every feature that `pool_views` gives."""
        views = {name: size for kind in self.layout.values() for name, size in kind.items()}
        return {**views, "class_tokens": self.scene.num_class_features}

    def forward(self, views: torch.Tensor, kind: str) -> torch.Tensor:
        """uint8 (B, K, S, S, 3), all of one kind -> float32 (B, D of the kind)."""
        if kind == PATCHES:
            return self.features(views)
        return torch.cat([self.features(views, num_streams=1), self.scene(views)], dim=1)

    @torch.inference_mode()
    def prepare_for_cpu(self, size: int, dtype: torch.dtype = torch.float32) -> None:
        """The same function, faster on a CPU; after `fold_batch_norms`.

        size: of the views, in pixels. dtype: of products; tokens, shortcuts and attention are float32 in any case.
        """
        image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1)
        image = image.contiguous(memory_format=torch.channels_last)
        self.features.backbone = fuse_backbone(self.features.backbone, image, dtype)
        self.scene.prepare_for_cpu(dtype)


def pool_views(views: Mapping[str, np.ndarray], num_class_features: int) -> dict[str, np.ndarray]:
    """Features of views, (N, V, D) by name -> of clips, float32 (N, D): means over views, and the class tokens apart.

    A feature of which a clip has no view is zero. num_class_features: the first ones of the scene.
    """
    pooled = {
        name: (array.sum(axis=1, dtype=np.float64) / max(1, array.shape[1])).astype(np.float32)
        for name, array in views.items()
    }
    return {**pooled, "class_tokens": pooled["scene"][:, :num_class_features]}


class VideoDetector:
    """The networks on one device, and the decision. Serves `modality.Detector`."""

    def __init__(
        self,
        network: VideoNetwork,
        decision: Decision,
        manifest: Manifest,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """dtype: of products on a CPU."""
        self.manifest = manifest
        self.view_config = manifest.configured("views", ViewConfig)
        self.views_per_clip = self.view_config.num_views
        self.device = device
        self._layout, self._decision = network.layout, decision
        self._num_class_features = network.scene.num_class_features
        self._network = fold_batch_norms(network.eval()).to(device)
        if device.type == "cpu":
            self._network.prepare_for_cpu(self.view_config.size, dtype)
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in the stubs

    def split(self, content: np.ndarray) -> dict[str, np.ndarray]:
        """uint8 (num_bytes,), as cut -> kind -> (V, K, S, S, 3), without copies. Raises: ValueError."""
        return split_views(content, self.view_config)

    @torch.inference_mode()
    def features(self, views: torch.Tensor, kind: str) -> torch.Tensor:
        """uint8 (B, K, S, S, 3) of one kind, of any clips, on any device -> float32 (B, D) on the detector's."""
        views = views.to(self.device, non_blocking=True)
        with torch.autocast("cuda", dtype=torch.float16, enabled=self.device.type == "cuda"):
            return self._network(views, kind).float()

    def clip_features(self, content: np.ndarray) -> dict[str, np.ndarray]:
        """Of one clip: uint8 (num_bytes,) -> kind -> float32 (V, D), for `score`."""
        return {
            kind: self.features(torch.from_numpy(part), kind).cpu().numpy()
            for kind, part in self.split(content).items()
        }

    def score(self, features: Mapping[str, np.ndarray]) -> float:
        """Kind -> (V, D) of one clip -> calibrated log-likelihood ratio. A kind without views may be missing."""
        named: dict[str, np.ndarray] = {}
        for kind, sizes in self._layout.items():
            array = features.get(kind, np.zeros((0, sum(sizes.values())), np.float32))
            parts = np.split(array[None], np.cumsum(list(sizes.values()))[:-1], axis=2)
            named |= dict(zip(sizes, parts, strict=True))
        return float(self._decision.scores(pool_views(named, self._num_class_features))[0])

    def view_scores(self, features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Kind -> (V, D) of one clip -> kind -> (V,): the score that it would have if all views were like this one."""
        return {
            kind: np.array([self.score({**features, kind: array[view : view + 1]}) for view in range(len(array))])
            for kind, array in features.items()
        }


def fold_batch_norms(network: _Network) -> _Network:
    """Fold each batch normalisation of the timm backbones into the convolution before it: same function, faster."""
    for module in list(network.modules()):
        names = [name for name, _ in module.named_children()]
        for conv_name, norm_name in itertools.pairwise(names):
            conv, norm = getattr(module, conv_name), getattr(module, norm_name)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, BatchNormAct2d):
                folded = fuse_conv_bn_eval(conv, norm)
                if (expected := expected_output(norm, norm.act)) is not None:
                    folded.expected_output = expected  # for `FusedConv`
                setattr(module, conv_name, folded)
                setattr(module, norm_name, norm.act)
    return network


def load_network(manifest: Manifest) -> tuple[VideoNetwork, Decision]:
    """Build what the manifest describes and load its verified weights, strictly. Raises: WeightsError."""
    tensors = load_tensors(manifest)
    try:
        with NoRandomValues():  # every one is loaded
            network = VideoNetwork(**manifest.architecture)
        network.load_state_dict({n: t for n, t in tensors.items() if n.startswith(_NETWORKS)}, strict=True)
        arrays = {name: t.float().numpy() for name, t in tensors.items() if not name.startswith(_NETWORKS)}
        decision = from_arrays(arrays, manifest.heads, manifest.offset, network.sizes)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{manifest.file} does not fit the architecture in {manifest.path}: {error}") from error
    return network, decision


def load_detector(folder: Path, device: torch.device, precision: str = "float32") -> VideoDetector:
    """The detector of `folder`'s manifest and weights. Raises: WeightsError.

    precision: on a CPU, one of `cpu.PRECISIONS`.
    """
    manifest = load_manifest(folder)
    dtype = choose_dtype(precision) if device.type == "cpu" else torch.float32
    return VideoDetector(*load_network(manifest), manifest, device, dtype)
