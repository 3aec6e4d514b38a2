"""Frozen features of cached views, by OpenVINO in bfloat16 where it is installed, else by PyTorch."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np
import torch
from tqdm import tqdm

from ..cpu import pack_linear_layers
from .recipe import Extractor, Frozen, code_version


def load_features(
    views: np.ndarray, extractor: Extractor, *, folder: Path, name: str, device: torch.device, settings: object = None
) -> np.ndarray:
    """(N, V, F), memory-mapped, from a file in `folder`, computed first if it is not there.

    Float32 where the extractor works in full, else float16. views: uint8 (N, V, ...), memory-mapped, such as the folder
    was named for. Another state or code of the network, other settings or another backend have another file.
    Raises: ValueError: the file holds an array of another shape.
    """
    backend = choose_backend(extractor, device)
    file = folder / f"features_{name}_{_key(extractor.network, settings, backend)}.npy"
    if not file.exists():
        temporary = file.with_name(file.name + ".tmp.npy")
        statistics = _openvino_statistics if backend.startswith("openvino") else _torch_statistics
        compute = statistics(extractor.network, device)  # type: ignore[arg-type]  # a module is hashable
        np.save(temporary, _compute(views, extractor, compute, name))
        temporary.replace(file)
    array = np.load(file, mmap_mode="r")
    shape = (*views.shape[:2], extractor.network.num_features)
    if array.shape != shape:
        raise ValueError(f"{file} holds an array of shape {array.shape}, not {shape}; remove it to start afresh")
    return array


def choose_backend(extractor: Extractor, device: torch.device) -> str:
    """What computes the features, and how exactly: "openvino bfloat16", "torch cpu float32" and so on."""
    if extractor.in_full or device.type != "cpu" or not find_spec("openvino"):
        return f"torch {device.type} float32"
    import openvino

    # Without bfloat16 units OpenVINO takes float32, whatever it is asked for.
    able = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "openvino bfloat16" if able else "openvino float32"


def _key(network: Frozen, settings: object, backend: str) -> str:
    module = cast(torch.nn.Module, network)
    classes = {type(part) for part in module.modules() if type(part).__module__.startswith(__package__.split(".")[0])}
    sources = {Path(inspect.getfile(part)) for part in classes}
    digest = hashlib.sha256(f"{type(network).__name__} {settings!r} {backend} {code_version(sources)}".encode())
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def _compute(
    views: np.ndarray, extractor: Extractor, statistics: Callable[[torch.Tensor], np.ndarray], name: str
) -> np.ndarray:
    (num_clips, num_views), step = views.shape[:2], extractor.clips_per_batch
    dtype = np.float32 if extractor.in_full else np.float16
    features = np.zeros((num_clips, num_views, extractor.network.num_features), dtype)

    def render(start: int) -> torch.Tensor:
        batch = np.array(views[start : start + step])
        with torch.inference_mode():
            return extractor.network.render(torch.from_numpy(batch.reshape(-1, *batch.shape[2:])))

    with ThreadPoolExecutor(1) as reader:
        # One batch is rendered while the one before it is in the network.
        rendered = reader.submit(render, 0)
        for start in tqdm(range(0, num_clips, step), desc=f"features, {name}", unit="batch"):
            batch = rendered.result()
            if start + step < num_clips:
                rendered = reader.submit(render, start + step)
            features[start : start + step] = statistics(batch).reshape(-1, num_views, features.shape[2])
    return features


def _torch_statistics(network: Frozen, device: torch.device) -> Callable[[torch.Tensor], np.ndarray]:
    ready = copy.deepcopy(cast(torch.nn.Module, network)).to(device).eval()
    if device.type == "cpu":
        pack_linear_layers(ready)

    @torch.inference_mode()
    def compute(rendered: torch.Tensor) -> np.ndarray:
        return cast(Frozen, ready).statistics(rendered.to(device)).float().cpu().numpy()

    return compute


class _Statistics(torch.nn.Module):
    """`statistics` of a network as a forward pass, for the converter."""

    def __init__(self, network: Frozen) -> None:
        super().__init__()
        self.network = network

    def forward(self, rendered: torch.Tensor) -> torch.Tensor:
        return self.network.statistics(rendered)


@lru_cache(maxsize=8)  # compiling takes longer than many clips
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
