"""The network: what each view looks like to frozen timm backbones, statistics of their maps, kernel machines.

A convolutional backbone (ImageNet) looks for traces in the pixels. What it sees decides: beside the colours it gets
what is left of them after halving and doubling the size (NPR, arXiv 2312.10461), and the change to the next frame. A
vision transformer (CLIP, arXiv 2103.00020) looks at the scene: of the whole frame, shrunk, the colours alone. What
tells generated from real lies in its middle blocks (as in RINE, arXiv 2402.19091), not in its last one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict, TypeVar

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .fused import fuse_backbone
from .transform import ViewConfig
from .weights import Manifest, WeightsError, load_manifest, load_tensors

Kind = Literal["patch", "resized", "any"]  # of a view; "any": it may be either

_Network = TypeVar("_Network", bound=nn.Module)

_BLUR_SIGMA = 1.0
_BLUR_RADIUS = 3
_RESIDUAL_LEVELS = 16.0  # grey levels of an unnormalised residual that become 1.0 at the backbone's input
_NORMALISED_DEVIATION = 0.5  # what a normalised residual's standard deviation becomes
_MIN_DEVIATION = 1.0  # grey levels; a flatter residual is not blown up further
_MAX_INPUT = 2.0  # residuals are cut off here


def _colours(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The frame as the backbone was trained on it (TensorFlow's Lite models: (x - 127) / 128)."""
    return (first - 127.0) / 128.0


def _highpass(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Frame minus its Gaussian blur, each view at the same contrast."""
    offsets = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1, device=first.device, dtype=first.dtype)
    kernel = torch.exp(-(offsets**2) / (2 * _BLUR_SIGMA**2))
    kernel = kernel / kernel.sum()
    weight = (kernel[:, None] * kernel[None, :]).expand(3, 1, -1, -1)
    padded = F.pad(first, (_BLUR_RADIUS,) * 4, mode="reflect")
    return _normalise(first - F.conv2d(padded, weight, groups=3))


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
    "highpass": _highpass,
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
        self.backbone = timm.create_model(backbone, pretrained=False, num_classes=0)
        self.streams = tuple(streams)

    @property
    def num_features(self) -> int:
        """Per stream: mean and deviation of each channel after each stage, mean of each of the head's channels."""
        outs = [_last_conv(stage).out_channels for stage in self.backbone.blocks]
        return len(self.streams) * (2 * sum(outs) + self.backbone.num_features)

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        """uint8 or float (B, K, S, S, 3), 0 to 255 -> float32 (B, num_features), one stream after the other."""
        return self.statistics(self.render(views))

    def render(self, views: torch.Tensor, *, num_streams: int | None = None) -> torch.Tensor:
        """(B, K, S, S, 3) -> float32 (streams * B, 3, S, S). In full precision: residuals are small against 255.

        num_streams: only the first so many.
        """
        first = views[:, 0].permute(0, 3, 1, 2).float()
        second = views[:, -1].permute(0, 3, 1, 2).float()
        with torch.autocast(views.device.type, enabled=False):
            return torch.cat([STREAMS[name](first, second) for name in self.streams[:num_streams]])

    def statistics(self, x: torch.Tensor) -> torch.Tensor:
        """float (streams * B, 3, S, S) -> float32 (B, num_features)."""
        return side_by_side([statistics_of(maps) for maps in self.maps(x)], len(self.streams))

    def maps(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """float (B, 3, S, S) -> (B, C, H, W) after each stage of the backbone, at last after its head."""
        x = self.backbone.bn1(self.backbone.conv_stem(x))
        for stage in self.backbone.blocks:
            x = stage(x)
            yield x
        yield self.backbone.bn2(self.backbone.conv_head(x))


class SceneArchitecture(TypedDict):
    """What the manifest says of the transformer and of its kernel machine."""

    transformer: str
    num_blocks: int
    num_outputs: int
    size: int
    num_components: int
    num_support: int
    kernel_scale: float


class SceneNetwork(nn.Module):
    """Resized views -> statistics of a vision transformer's tokens. Frozen; shared by training and inference.

    transformer: a VisionTransformer of timm. num_blocks: of its blocks, from the first on; the later ones and the last
    normalisation are left out. num_outputs: so many of these, the last ones, are described. size: of its input in
    pixels, a multiple of its patches' size; views are shrunk to it.
    """

    def __init__(self, *, transformer: str, num_blocks: int, num_outputs: int, size: int) -> None:
        super().__init__()
        self.transformer = timm.create_model(
            transformer, pretrained=False, num_classes=0, depth=num_blocks, img_size=size
        )
        self.transformer.norm = nn.Identity()
        self.num_outputs, self.size = num_outputs, size

    @property
    def num_features(self) -> int:
        """Per output: class token, then mean and deviation of the other tokens, each of the transformer's width."""
        return self.num_outputs * 3 * int(self.transformer.num_features)

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        """uint8 or float (B, K, S, S, 3), 0 to 255 -> float32 (B, num_features), of each view's first frame."""
        return self.statistics(self.render(views))

    def render(self, views: torch.Tensor) -> torch.Tensor:
        """(B, K, S, S, 3) -> float32 (B, 3, size, size), normalised as the transformer's training images."""
        frames = views[:, 0].permute(0, 3, 1, 2).float()
        if frames.shape[-1] != self.size:
            frames = F.interpolate(frames, size=(self.size,) * 2, mode="bilinear", antialias=True, align_corners=False)
        origin = self.transformer.pretrained_cfg
        mean, deviation = (frames.new_tensor(origin[name]).view(3, 1, 1) for name in ("mean", "std"))
        return (frames / 255 - mean) / deviation

    def statistics(self, x: torch.Tensor) -> torch.Tensor:
        """float (B, 3, size, size) -> float32 (B, num_features)."""
        outputs = self.transformer.forward_intermediates(
            x, indices=self.num_outputs, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
        )
        parts = []
        for tokens, prefix in outputs:
            parts += [prefix[:, 0].float(), statistics_of(tokens.transpose(1, 2)[..., None])]
        return torch.cat(parts, dim=1)


def statistics_of(maps: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> float32 (B, 2 * C): means, then standard deviations."""
    maps = maps.float()
    mean = maps.mean((2, 3))
    return torch.cat([mean, (maps - mean[:, :, None, None]).pow(2).mean((2, 3)).sqrt()], dim=1)


def side_by_side(statistics: list[torch.Tensor], num_streams: int) -> torch.Tensor:
    """Statistics of the stages and the head, (streams * B, 2 * C) each -> (B, D), streams in turn. Head: means."""
    *stages, head = statistics
    features = torch.cat([*stages, head[:, : head.shape[1] // 2]], dim=1)
    return torch.cat(features.tensor_split(num_streams), dim=1)


class ViewNetwork(nn.Module):
    """Views -> their shares in the clip's places in the kernel machines' spaces, and fine-tuned networks' mean logit.

    A clip has two places. Among the traces it is the sum of the mean over its patches and the mean over its resized
    views, each through a linear map of its own; of a resized view only the colours count. Among the scenes it is the
    mean over its resized views. Only patches go through the fine-tuned networks.
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
        num_finetuned: int,
        scene: SceneArchitecture,
    ) -> None:
        super().__init__()
        if streams[0] != "colours":
            raise ValueError(f"the first stream is {streams[0]!r}; it must be 'colours', which all parts share")
        self.features = FeatureNetwork(backbone=backbone, streams=streams)
        self.as_patch = nn.Linear(self.features.num_features, num_components)
        self.as_resized = nn.Linear(self.features.num_features // len(streams), num_components, bias=False)
        self.scene = SceneNetwork(
            transformer=scene["transformer"], num_blocks=scene["num_blocks"], num_outputs=scene["num_outputs"],
            size=scene["size"],
        )  # fmt: skip
        self.as_scene = nn.Linear(self.scene.num_features, scene["num_components"])
        self.finetuned = nn.ModuleList(
            timm.create_model(backbone, pretrained=False, num_classes=1) for _ in range(num_finetuned)
        )
        self.register_buffer("support", torch.zeros(num_support, num_components))
        self.register_buffer("coefficients", torch.zeros(num_support))
        self.register_buffer("scene_support", torch.zeros(scene["num_support"], scene["num_components"]))
        self.register_buffer("scene_coefficients", torch.zeros(scene["num_support"]))
        self.kernel_scale, self.scene_kernel_scale = kernel_scale, scene["kernel_scale"]
        self.shared_stages = 0  # see `share_stages`

    def forward(self, views: torch.Tensor, kind: Kind = "any") -> torch.Tensor:
        """uint8 (B, K, S, S, 3) -> float32 (B, D): as a patch, as a resized view, as a scene, the logit.

        kind: of all these views; zeros stand for what does not count for it.
        """
        streams = 1 if kind == "resized" else len(self.features.streams)
        x = self.features.render(views, num_streams=streams)
        statistics, colours = [], x[: len(views)]
        for stage, maps in enumerate(self.features.maps(x), start=1):
            statistics.append(statistics_of(maps))
            if stage == self.shared_stages:
                colours = maps[: len(views)]
        features = side_by_side(statistics, streams)
        patch, resized, scene, logits = (features.new_zeros(len(views), size) for size in self.sizes)
        if kind != "resized":
            for network in self.finetuned:
                logits = logits + network(colours).float() / len(self.finetuned)
        scene_features = self.scene(views) if kind != "patch" else None
        with torch.autocast(views.device.type, enabled=False):
            if kind != "resized":
                patch = self.as_patch(features)
            if scene_features is not None:
                resized = self.as_resized(features[:, : self.as_resized.in_features])
                scene = self.as_scene(scene_features)
            return torch.cat([patch, resized, scene, logits], dim=1)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Of the parts of the output."""
        return self.as_patch.out_features, self.as_resized.out_features, self.as_scene.out_features, 1

    def share_stages(self) -> None:
        """Compute once what all networks have in common: the stem and the first stages that fine-tuning left alone."""
        frozen = self.features.backbone
        for stage in range(len(frozen.blocks)):
            parts = ("conv_stem", "bn1", "blocks.0") if stage == 0 else (f"blocks.{stage}",)
            if not all(
                _same_weights(frozen.get_submodule(part), network.get_submodule(part))
                for network in self.finetuned
                for part in parts
            ):
                break
            self.shared_stages = stage + 1
        for network in self.finetuned:
            if self.shared_stages:
                network.conv_stem = network.bn1 = nn.Identity()
            network.blocks = network.blocks[self.shared_stages :]

    @torch.inference_mode()
    def fuse_convolutions(self, size: int) -> None:
        """For a CPU, after `fold_batch_norms`. size: of the views, in pixels."""
        image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1)
        image = image.contiguous(memory_format=torch.channels_last)
        shared = [image, *self.features.maps(image)][self.shared_stages]
        self.features.backbone = fuse_backbone(self.features.backbone, image)
        self.finetuned = nn.ModuleList(fuse_backbone(network, shared) for network in self.finetuned)


def _last_conv(stage: nn.Sequential) -> nn.Conv2d:
    """Named conv_pwl where the block has an expansion, conv_pw where it has none."""
    return getattr(stage[-1], "conv_pwl", stage[-1].conv_pw)


def _same_weights(module: nn.Module, other: nn.Module) -> bool:
    """To half precision, in which fine-tuned networks are stored."""
    pairs = zip(module.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(tensor.half(), stored.half()) for tensor, stored in pairs)


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
    logits: np.ndarray  # (P,), of the patches


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
        network.share_stages()
        self._network = fold_batch_norms(network.eval()).to(device)
        if device.type == "cpu":
            self._network.fuse_convolutions(manifest.views.size)
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in the stubs

    @torch.inference_mode()
    def outputs(self, views: torch.Tensor, kind: Kind = "any") -> torch.Tensor:
        """uint8 (B, K, S, S, 3) of any clips, on any device -> float32 (B, D) on the detector's device.

        kind: of all these views, where it is known: what does not count for it is not computed.
        """
        views = views.to(self.device, non_blocking=True)
        with torch.autocast("cuda", dtype=torch.float16, enabled=self.device.type == "cuda"):
            return self._network(views, kind).float()

    def view_scores(self, outputs: np.ndarray) -> np.ndarray:
        """(V, D) -> (V,), > 0 for generated: the clip's score if all its views of the kind were this one."""
        parts = self._split(outputs)
        patch, resized, scene, logit = map(_mean, parts)
        scores = [
            self._score(place + resized, scene, view_logit)
            for place, view_logit in zip(parts.patches, parts.logits, strict=True)
        ]
        scores += [
            self._score(patch + place, view_scene, float(logit))
            for place, view_scene in zip(parts.resized, parts.scenes, strict=True)
        ]
        return np.array(scores)

    def score(self, outputs: np.ndarray) -> float:
        """Calibrated log-likelihood ratio of one clip from the outputs of its views, (V, D)."""
        patch, resized, scene, logit = map(_mean, self._split(outputs))
        return self._score(patch + resized, scene, float(logit))

    def _split(self, outputs: np.ndarray) -> _Parts:
        if len(outputs) != self.view_config.num_views:
            raise ValueError(f"outputs of {len(outputs)} views; a clip has {self.view_config.num_views}")
        patch, resized, scene, logit = np.split(outputs.astype(np.float64), np.cumsum(self._sizes)[:-1], axis=1)
        count = self.view_config.num_patches
        return _Parts(patch[:count], resized[count:], scene[count:], logit[:count, 0])

    def _score(self, traces: np.ndarray, scene: np.ndarray, logit: float) -> float:
        """Both kernel machines and the mean logit, fused by the calibration."""
        weight = self._calibration
        kernels = weight["kernel"] * self._traces(traces) + weight["scene"] * self._scenes(scene)
        return float(kernels + weight["finetuned"] * logit + weight["offset"])


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
