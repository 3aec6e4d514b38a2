"""Frozen networks and fitted heads become detector.safetensors and manifest.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ..atomic import replace_file
from ..heads import Decision, to_arrays
from ..quantised import pack
from ..weights import FORMAT_VERSION, MANIFEST_NAME, to_tensors
from .recipe import Recipe

WEIGHTS_NAME = "detector.safetensors"


def export_weights(
    folder: Path, recipe: Recipe, decision: Decision, *, sizes: Mapping[str, int], made: Mapping[str, Any]
) -> None:
    """Write the weights, then the manifest that holds their hash; each appears whole or not at all.

    sizes: feature -> how many numbers. made: how the weights came to be, for the manifest.
    """
    arrays, settings, offset = to_arrays(decision, sizes)
    networks = recipe.networks.items()
    state = {f"{prefix}.{name}": tensor for prefix, part in networks for name, tensor in part.state_dict().items()}
    state |= {name: torch.from_numpy(array) for name, array in arrays.items()}
    content = save(store(state, packed=recipe.packed, halved=recipe.halved))
    manifest = {
        "format_version": FORMAT_VERSION,
        "modality": recipe.modality.name,
        "file": WEIGHTS_NAME,
        "sha256": hashlib.sha256(content).hexdigest(),
        "input": recipe.input,
        "architecture": recipe.architecture,
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


def store(
    state: Mapping[str, torch.Tensor], *, packed: Sequence[str] = (), halved: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
    """As the file holds them: every matrix in half precision, biases and such as they are.

    packed: prefixes of tensors whose matrices take few bits. halved: of those whose vectors too take half precision.
    What each costs stands in DECISIONS.md.
    """
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if name.startswith(tuple(packed)) and tensor.ndim == 2:
            stored |= to_tensors(pack(name, tensor.detach().numpy()))
        elif tensor.is_floating_point() and (tensor.ndim >= 2 or name.startswith(tuple(halved))):
            stored[name] = tensor.half().contiguous()
        else:
            stored[name] = tensor.contiguous()
    return stored
