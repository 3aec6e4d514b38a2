"""The network: traces in patches, the scene in the shrunk frame; kernel machines and a logit; one score a clip."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .fused import fuse_backbone, pack_linear_layers
from .scene import SceneArchitecture, SceneNetwork
from .traces import FeatureNetwork
from .transform import ViewConfig, split_views
from .weights import Manifest, WeightsError, load_manifest, load_tensors

Kind = Literal["patch", "resized"]  # of a view

_Network = TypeVar("_Network", bound=nn.Module)


class ViewNetwork(nn.Module):
    """Views -> their shares in the clip's places in the kernel machines' spaces, and the tuned blocks' logit.

    A clip has two places. Among the traces it is the sum of the mean over its patches and the mean over its resized
    views, each through a linear map of its own; of a resized view only the colours count. Among the scenes it is the
    mean over its resized views, and so is its logit.
    """

    support: torch.Tensor
    coefficients: torch.Tensor
    scene_support: torch.Tensor
    scene_coefficients: torch.Tensor

    def __init__(
        self,
        *,
        backbone: str,
        streams: Sequence[str],
        num_components: int,
        num_support: int,
        kernel_scale: float,
        scene: SceneArchitecture,
    ) -> None:
        super().__init__()
        if streams[0] != "colours":
            raise ValueError(f"the first stream is {streams[0]!r}; it must be 'colours', which all parts share")
        self.features = FeatureNetwork(backbone=backbone, streams=streams)
        self.as_patch = nn.Linear(self.features.num_features, num_components)
        self.as_resized = nn.Linear(self.features.num_features // len(streams), num_components, bias=False)
        self.scene = SceneNetwork(
            transformer=scene["transformer"], num_blocks=scene["num_blocks"], num_last=scene["num_last"],
            size=scene["size"],
        )  # fmt: skip
        self.as_scene = nn.Linear(self.scene.num_features, scene["num_components"])
        self.register_buffer("support", torch.zeros(num_support, num_components))
        self.register_buffer("coefficients", torch.zeros(num_support))
        self.register_buffer("scene_support", torch.zeros(scene["num_support"], scene["num_components"]))
        self.register_buffer("scene_coefficients", torch.zeros(scene["num_support"]))
        self.kernel_scale, self.scene_kernel_scale = kernel_scale, scene["kernel_scale"]

    def forward(self, views: torch.Tensor, kind: Kind) -> torch.Tensor:
        """uint8 (B, K, S, S, 3) -> float32 (B, D): as a patch, as a resized view, as a scene, the logit.

        kind: of all these views; zeros stand for what does not count for it.
        """
        on_patch = kind == "patch"
        features = self.features(views, num_streams=len(self.features.streams) if on_patch else 1)
        patch, resized, scene, logits = (features.new_zeros(len(views), size) for size in self.sizes)
        if not on_patch:
            scene_features, logits = self.scene(views)
        with torch.autocast(views.device.type, enabled=False):
            if on_patch:
                patch = self.as_patch(features)
            else:
                resized, scene = self.as_resized(features), self.as_scene(scene_features)
            return torch.cat([patch, resized, scene, logits], dim=1)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Of the parts of the output."""
        return self.as_patch.out_features, self.as_resized.out_features, self.as_scene.out_features, 1

    @torch.inference_mode()
    def prepare_for_cpu(self, size: int) -> None:
        """The same function, faster on a CPU; after `fold_batch_norms`. size: of the views, in pixels."""
        image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1)
        image = image.contiguous(memory_format=torch.channels_last)
        self.features.backbone = fuse_backbone(self.features.backbone, image)
        pack_linear_layers(self.scene.transformer)


class _KernelMachine(NamedTuple):
    """A Gaussian support vector machine, in double precision on the host. support: (M, P); coefficients: (M,)."""

    support: np.ndarray
    coefficients: np.ndarray
    scale: float

    def __call__(self, place: np.ndarray) -> float:
        """(P,) -> raw score."""
        squared_distances = ((self.support - place) ** 2).sum(axis=1)
        return float(np.exp(-self.scale * squared_distances) @ self.coefficients)


class _Parts(NamedTuple):
    """The outputs of one clip's views, by kind. traces of both kinds have one space: (P, C) and (R, C)."""

    patches: np.ndarray
    resized: np.ndarray
    scenes: np.ndarray  # (R, S), of the resized views
    logits: np.ndarray  # (R,), of the resized views


class Detector:
    """The loaded network on one device, with its kernel machines and calibration."""

    def __init__(self, network: ViewNetwork, manifest: Manifest, device: torch.device) -> None:
        self.view_config: ViewConfig = manifest.views
        self.device = device
        self._sizes = network.sizes

        def machine(support: torch.Tensor, coefficients: torch.Tensor, scale: float) -> _KernelMachine:
            return _KernelMachine(support.double().cpu().numpy(), coefficients.double().cpu().numpy(), scale)

        self._traces = machine(network.support, network.coefficients, network.kernel_scale)
        self._scenes = machine(network.scene_support, network.scene_coefficients, network.scene_kernel_scale)
        self._calibration = {name: float(value) for name, value in manifest.calibration.items()}
        self._network = fold_batch_norms(network.eval()).to(device)
        if device.type == "cpu":
            self._network.prepare_for_cpu(manifest.views.size)
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in the stubs

    @torch.inference_mode()
    def outputs(self, views: torch.Tensor, kind: Kind) -> torch.Tensor:
        """uint8 (B, K, S, S, 3), all of one kind, of any clips, on any device -> float32 (B, D) on the detector's."""
        views = views.to(self.device, non_blocking=True)
        with torch.autocast("cuda", dtype=torch.float16, enabled=self.device.type == "cuda"):
            return self._network(views, kind).float()

    def clip_outputs(self, views: np.ndarray) -> np.ndarray:
        """Of one clip: uint8 (num_bytes,), as `cut_views` gives them -> float32 (V, D), for `score`."""
        return clip_outputs(views, self.view_config, self.outputs)

    def view_scores(self, outputs: np.ndarray) -> np.ndarray:
        """(V, D) -> (V,), > 0 for generated: the clip's score if all its views of the kind were this one."""
        parts = self._split(outputs)
        patch, resized, scene, logit = map(_mean, parts)
        scores = [self._score(place + resized, scene, float(logit)) for place in parts.patches]
        views = zip(parts.resized, parts.scenes, parts.logits, strict=True)
        return np.array(scores + [self._score(patch + place, view, own) for place, view, own in views])

    def score(self, outputs: np.ndarray) -> float:
        """Calibrated log-likelihood ratio of one clip from the outputs of its views, (V, D)."""
        patch, resized, scene, logit = map(_mean, self._split(outputs))
        return self._score(patch + resized, scene, float(logit))

    def _split(self, outputs: np.ndarray) -> _Parts:
        if len(outputs) != self.view_config.num_views:
            raise ValueError(f"outputs of {len(outputs)} views; a clip has {self.view_config.num_views}")
        patch, resized, scene, logit = np.split(outputs.astype(np.float64), np.cumsum(self._sizes)[:-1], axis=1)
        count = self.view_config.num_patches
        return _Parts(patch[:count], resized[count:], scene[count:], logit[count:, 0])

    def _score(self, traces: np.ndarray, scene: np.ndarray, logit: float) -> float:
        """Both kernel machines and the tuned blocks' logit, fused by the calibration."""
        weight = self._calibration
        kernels = weight["kernel"] * self._traces(traces) + weight["scene"] * self._scenes(scene)
        return float(kernels + weight["tuned"] * logit + weight["offset"])


def clip_outputs(
    views: np.ndarray, config: ViewConfig, outputs: Callable[[torch.Tensor, Kind], torch.Tensor]
) -> np.ndarray:
    """Of one clip: uint8 (num_bytes,) -> float32 (V, D). outputs: of views of one kind, such as `Detector.outputs`."""
    kinds: tuple[Kind, Kind] = "patch", "resized"
    parts = zip(split_views(views, config), kinds, strict=True)
    return np.concatenate([outputs(torch.from_numpy(part), kind).cpu().numpy() for part, kind in parts if len(part)])


def _mean(rows: np.ndarray) -> np.ndarray:
    """(N, ...) -> (...); zeros where there are no rows, as of resized views that a manifest does without."""
    return rows.mean(axis=0) if len(rows) else np.zeros(rows.shape[1:])


def fold_batch_norms(network: _Network) -> _Network:
    """Fold each batch normalisation of the timm backbones into the convolution before it: same function, faster."""
    for module in list(network.modules()):
        names = [name for name, _ in module.named_children()]
        for conv_name, norm_name in itertools.pairwise(names):
            conv, norm = getattr(module, conv_name), getattr(module, norm_name)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, BatchNormAct2d):
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, norm.act)
    return network


def load_detector(folder: Path, device: torch.device) -> Detector:
    """Build the network of `folder`'s manifest and load its verified weights, strictly. Raises: WeightsError."""
    manifest = load_manifest(folder)
    try:
        network = ViewNetwork(**manifest.architecture)
        network.load_state_dict(load_tensors(manifest), strict=True)
    except (RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{manifest.file} does not fit the architecture in {manifest.path}: {error}") from error
    return Detector(network, manifest, device)
