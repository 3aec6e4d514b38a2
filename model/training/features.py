"""Frozen features of cached views, by OpenVINO in bfloat16 where it is installed, else by PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from tqdm import tqdm

from ..cpu import pack_linear_layers
from ..video.scene import SceneNetwork
from ..video.traces import FeatureNetwork


class Frozen(Protocol):
    """A network whose statistics of views are kept, such as `FeatureNetwork`; an nn.Module."""

    @property
    def num_features(self) -> int:
        """F."""

    def render(self, views: torch.Tensor) -> torch.Tensor:
        """uint8 (B, K, S, S, 3) -> float32 pictures, several a view if need be."""

    def statistics(self, x: torch.Tensor) -> torch.Tensor:
        """Pictures -> (B, F)."""


class FirstStream(torch.nn.Module):
    """Of a `FeatureNetwork` what counts for resized views."""

    def __init__(self, network: FeatureNetwork) -> None:
        super().__init__()
        self.network = network

    @property
    def num_features(self) -> int:
        """Of one stream."""
        return self.network.num_features // len(self.network.streams)

    def render(self, views: torch.Tensor) -> torch.Tensor:
        """(B, K, S, S, 3) -> float32 (B, 3, S, S)."""
        return self.network.render(views, num_streams=1)

    def statistics(self, x: torch.Tensor) -> torch.Tensor:
        """float (B, 3, S, S) -> (B, num_features)."""
        return self.network.statistics(x, num_streams=1)


_CLIPS_PER_BATCH = 2  # 2 clips x 4 patches x 3 streams fill two cores
_SCENES_PER_BATCH = 4


def load_features(views: np.ndarray, network: Frozen, *, file: Path, device: torch.device) -> np.ndarray:
    """float16 (N, V, F), memory-mapped, from `file`, computed first if it is not there.

    views: uint8 (N, V, K, S, S, 3), memory-mapped. The file must be named for these views and this network.
    """

    def compute() -> np.ndarray:
        statistics = _openvino_statistics if device.type == "cpu" and find_spec("openvino") else _torch_statistics
        return _compute(views, network, statistics(network, device))

    return kept(file, (len(views), views.shape[1], network.num_features), compute)


def load_scenes(views: np.ndarray, scene: SceneNetwork, *, file: Path, device: torch.device) -> np.ndarray:
    """float32 (N, F), memory-mapped, from `file`, computed first if it is not there: means over a clip's views.

    views: the resized ones, uint8 (N, R, 1, Z, Z, 3). In full precision, as inference on a CPU does it.
    """
    return kept(file, (len(views), scene.num_features), partial(_scenes, views, scene, device))


@torch.inference_mode()
def _scenes(views: np.ndarray, scene: SceneNetwork, device: torch.device) -> np.ndarray:
    network = copy.deepcopy(scene).to(device).eval()
    if device.type == "cpu":
        pack_linear_layers(network.transformer)
    parts = []
    for start in tqdm(range(0, len(views), _SCENES_PER_BATCH), desc="scenes", unit="batch"):
        batch = np.array(views[start : start + _SCENES_PER_BATCH])
        described = network(torch.from_numpy(batch.reshape(-1, *batch.shape[2:])).to(device))
        parts.append(described.reshape(*batch.shape[:2], -1).mean(1).cpu().numpy())
    return np.concatenate(parts)


def kept(file: Path, shape: tuple[int, ...], compute: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in `file`, memory-mapped, computed first if it is not there. Raises: ValueError: of another shape."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(file.name + ".tmp.npy")
        np.save(temporary, compute())
        temporary.replace(file)
    array = np.load(file, mmap_mode="r")
    if array.shape != shape:
        raise ValueError(f"{file} holds an array of shape {array.shape}, not {shape}; remove it to start afresh")
    return array


def _compute(views: np.ndarray, network: Frozen, statistics: Callable[[torch.Tensor], np.ndarray]) -> np.ndarray:
    num_clips, num_views = views.shape[:2]
    features = np.zeros((num_clips, num_views, network.num_features), np.float16)

    def render(start: int) -> torch.Tensor:
        batch = np.ascontiguousarray(views[start : start + _CLIPS_PER_BATCH])
        with torch.inference_mode():
            return network.render(torch.from_numpy(batch.reshape(-1, *batch.shape[2:])))

    starts = range(0, num_clips, _CLIPS_PER_BATCH)
    with ThreadPoolExecutor(1) as reader:
        # One batch is rendered while the one before it is in the network.
        rendered = reader.submit(render, 0)
        for start in tqdm(starts, desc="features", unit="batch"):
            batch = rendered.result()
            if start + _CLIPS_PER_BATCH < num_clips:
                rendered = reader.submit(render, start + _CLIPS_PER_BATCH)
            part = statistics(batch)
            features[start : start + _CLIPS_PER_BATCH] = part.reshape(-1, num_views, network.num_features)
    return features


def _torch_statistics(network: Frozen, device: torch.device) -> Callable[[torch.Tensor], np.ndarray]:
    cast(torch.nn.Module, network).to(device).eval()

    @torch.inference_mode()
    def compute(rendered: torch.Tensor) -> np.ndarray:
        return network.statistics(rendered.to(device)).float().cpu().numpy()

    return compute


class _Statistics(torch.nn.Module):
    """`statistics` of a network as a forward pass, for the converter."""

    def __init__(self, network: Frozen) -> None:
        super().__init__()
        self.network = network

    def forward(self, rendered: torch.Tensor) -> torch.Tensor:
        return self.network.statistics(rendered)


def _openvino_statistics(network: Frozen, device: torch.device) -> Callable[[torch.Tensor], np.ndarray]:
    """Residuals are rendered in float32 by PyTorch before: in bfloat16 they would drown in rounding."""
    import openvino

    compiled: dict[int, openvino.CompiledModel] = {}  # by batch size: the last batch may be smaller
    core = openvino.Core()

    def compute(rendered: torch.Tensor) -> np.ndarray:
        if len(rendered) not in compiled:
            shape = tuple(rendered.shape)
            with torch.no_grad():
                model = openvino.convert_model(
                    _Statistics(network).eval(), example_input=torch.zeros(shape), input=[shape]
                )
            compiled[len(rendered)] = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
        return compiled[len(rendered)](rendered.numpy())[0]

    return compute
