"""The network: traces in patches, the scene in the shrunk frame; support vector machines decide; one score a clip."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..cpu import fuse_backbone, pack_linear_layers
from ..weights import Manifest, WeightsError, load_manifest, load_tensors
from .scene import SceneArchitecture, SceneNetwork
from .traces import FeatureNetwork
from .views import ViewConfig, split_views

Kind = Literal["patch", "resized"]  # of a view
KINDS: tuple[Kind, Kind] = "patch", "resized"
MACHINES = ("traces", "scenes", "class_tokens")  # kernel machines, by what they read

_Network = TypeVar("_Network", bound=nn.Module)


class MachineArchitecture(TypedDict):
    """What the manifest says of a kernel machine."""

    num_components: int
    num_support: int
    kernel_scale: float


class KernelMachine(nn.Module):
    """A Gaussian support vector machine, computed in double precision on the host. support: (M, P)."""

    support: torch.Tensor
    coefficients: torch.Tensor

    def __init__(self, *, num_components: int, num_support: int, kernel_scale: float) -> None:
        super().__init__()
        self.register_buffer("support", torch.zeros(num_support, num_components))
        self.register_buffer("coefficients", torch.zeros(num_support))
        self.kernel_scale = kernel_scale

    def on_host(self) -> Callable[[np.ndarray], float]:
        """A function of a place, (P,), that gives its raw score."""
        support, coefficients = self.support.double().cpu().numpy(), self.coefficients.double().cpu().numpy()

        def raw_score(place: np.ndarray) -> float:
            squared_distances = ((support - place) ** 2).sum(axis=1)
            return float(np.exp(-self.kernel_scale * squared_distances) @ coefficients)

        return raw_score


class ViewNetwork(nn.Module):
    """Views -> their shares in the clip's places in the kernel machines' spaces, and the linear machine's raw score.

    A clip's place among the traces is the sum of the mean over its patches and the mean over its resized views, each
    through a linear map of its own; of a resized view only the colours count. Its places among the scenes and among
    their class tokens are means over its resized views, and so is the linear machine's raw score of the scene.
    """

    def __init__(
        self,
        *,
        backbone: str,
        streams: Sequence[str],
        scene: SceneArchitecture,
        machines: Mapping[str, MachineArchitecture],
    ) -> None:
        super().__init__()
        if streams[0] != "colours":
            raise ValueError(f"the first stream is {streams[0]!r}; it must be 'colours', which all parts share")
        self.machines = nn.ModuleDict({name: KernelMachine(**machines[name]) for name in MACHINES})
        traces, scenes, class_tokens = (machines[name]["num_components"] for name in MACHINES)
        self.features = FeatureNetwork(backbone=backbone, streams=streams)
        self.as_patch = nn.Linear(self.features.num_features, traces)
        self.as_resized = nn.Linear(self.features.num_features // len(streams), traces, bias=False)
        self.scene = SceneNetwork(**scene)
        self.as_scene = nn.Linear(self.scene.num_features, scenes)
        self.as_class_tokens = nn.Linear(self.scene.num_class_features, class_tokens)
        self.linear = nn.Linear(self.scene.num_features, 1)

    def forward(self, views: torch.Tensor, kind: Kind) -> torch.Tensor:
        """uint8 (B, K, S, S, 3) -> float32 (B, D): parts of the sizes `sizes`, in its order.

        kind: of all these views; zeros stand for what does not count for it.
        """
        on_patch = kind == "patch"
        features = self.features(views, num_streams=len(self.features.streams) if on_patch else 1)
        if on_patch:
            with torch.autocast(views.device.type, enabled=False):
                return F.pad(self.as_patch(features), (0, sum(self.sizes[1:])))
        scene = self.scene(views)
        with torch.autocast(views.device.type, enabled=False):
            class_tokens = self.as_class_tokens(scene[:, : self.scene.num_class_features])
            parts = self.as_resized(features), self.as_scene(scene), class_tokens, self.linear(scene)
            return F.pad(torch.cat(parts, dim=1), (self.sizes[0], 0))

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """Of the output's parts: as a patch, as a resized view, as a scene, its class tokens, the raw score."""
        layers = self.as_patch, self.as_resized, self.as_scene, self.as_class_tokens
        patch, resized, scene, class_tokens = (layer.out_features for layer in layers)
        return patch, resized, scene, class_tokens, 1

    @torch.inference_mode()
    def prepare_for_cpu(self, size: int) -> None:
        """The same function, faster on a CPU; after `fold_batch_norms`. size: of the views, in pixels."""
        image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1)
        image = image.contiguous(memory_format=torch.channels_last)
        self.features.backbone = fuse_backbone(self.features.backbone, image)
        pack_linear_layers(self.scene.transformer)


class _Parts(NamedTuple):
    """The outputs of one clip's views, by kind. Traces of both kinds have one space."""

    patches: np.ndarray  # (P, C)
    resized: np.ndarray  # (R, C)
    scenes: np.ndarray  # (R, S), what else resized views give: two places and a raw score


class Detector:
    """The loaded network on one device, with its kernel machines and calibration."""

    def __init__(self, network: ViewNetwork, manifest: Manifest, device: torch.device) -> None:
        self.view_config: ViewConfig = manifest.views
        self.device = device
        self._sizes = network.sizes

        self._machines = {name: cast(KernelMachine, machine).on_host() for name, machine in network.machines.items()}
        self._offset = float(manifest.calibration["offset"])
        self._network = fold_batch_norms(network.eval()).to(device)
        if device.type == "cpu":
            self._network.prepare_for_cpu(manifest.views.size)
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in the stubs

    @property
    def views_per_clip(self) -> int:
        return self.view_config.num_views

    def split(self, content: np.ndarray) -> dict[str, np.ndarray]:
        """See `modality.Detector`."""
        if content.shape != (self.view_config.num_bytes,):
            raise ValueError(f"content of shape {content.shape}; a clip has {self.view_config.num_bytes} bytes")
        return dict(zip(KINDS, split_views(content, self.view_config), strict=True))

    def features(self, views: torch.Tensor, kind: str) -> torch.Tensor:
        """See `modality.Detector`."""
        return self.outputs(views, cast(Kind, kind))

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
        patch, resized, scene = map(_mean, parts)
        scores = [self._score(place + resized, scene) for place in parts.patches]
        pairs = zip(parts.resized, parts.scenes, strict=True)
        return np.array(scores + [self._score(patch + place, own) for place, own in pairs])

    def score(self, outputs: np.ndarray | Mapping[str, np.ndarray]) -> float:
        """Calibrated log-likelihood ratio of one clip from the outputs of its views, (V, D), or of each kind's."""
        if isinstance(outputs, Mapping):
            outputs = np.concatenate([outputs[kind] for kind in KINDS if kind in outputs])
        patch, resized, scene = map(_mean, self._split(outputs))
        return self._score(patch + resized, scene)

    def _split(self, outputs: np.ndarray) -> _Parts:
        if len(outputs) != self.view_config.num_views:
            raise ValueError(f"outputs of {len(outputs)} views; a clip has {self.view_config.num_views}")
        patch, resized, scene = np.split(outputs.astype(np.float64), np.cumsum(self._sizes[:2]), axis=1)
        count = self.view_config.num_patches
        return _Parts(patch[:count], resized[count:], scene[count:])

    def _score(self, traces: np.ndarray, scene: np.ndarray) -> float:
        """What all the machines say, added up. scene: two places and the linear machine's raw score."""
        place, class_tokens, (linear,) = np.split(scene, np.cumsum(self._sizes[2:4]))
        places = {"traces": traces, "scenes": place, "class_tokens": class_tokens}
        kernels = sum(machine(places[name]) for name, machine in self._machines.items())
        return float(kernels + linear + self._offset)


def clip_outputs(
    views: np.ndarray, config: ViewConfig, outputs: Callable[[torch.Tensor, Kind], torch.Tensor]
) -> np.ndarray:
    """Of one clip: uint8 (num_bytes,) -> float32 (V, D). outputs: of views of one kind, such as `Detector.outputs`."""
    parts = zip(split_views(views, config), KINDS, strict=True)
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
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{manifest.file} does not fit the architecture in {manifest.path}: {error}") from error
    return Detector(network, manifest, device)
