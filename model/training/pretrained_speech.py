"""The networks of the speech detector from nothing: `python -m model.training.pretrained_speech CLIP.safetensors
--data DIR OUT.safetensors`. Training finds them in the weights it replaces.

CLIP's blocks come from what `model.training.pretrained` wrote, or from the video weights, which hold the same. The
mixture of cepstral frames is fitted to the clips in DIR, without their labels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.torch import save_file
from sklearn.mixture import GaussianMixture

from ..audio.cepstra import CepstralVectors
from ..audio.detector import AudioNetwork
from ..modality import AUDIO
from ..quantised import unpack
from ..weights import to_tensors
from .audio import CEPSTRA_SIZE, HALVED, PACKED, PICTURE_SIZE, PREPARATION, split
from .clips import LabelledDataError, load_records
from .export import store

_PREFIX = "scene.transformer."
_NUM_FRAMES = 15_000  # drawn for the mixture
_SEED = 0


def picture_state(stored: Mapping[str, torch.Tensor], blocks: int) -> dict[str, torch.Tensor]:
    """The transformer of the video weights -> the state of a `PictureEncoder` of that many blocks, float32.

    Raises: KeyError: `stored` lacks a part of it.
    """
    state = {
        "class_token": stored[f"{_PREFIX}cls_token"],
        "positions": stored[f"{_PREFIX}pos_embed"],
        "patch.weight": stored[f"{_PREFIX}patch_embed.proj.weight"].float().sum(dim=1, keepdim=True),  # three colours
        "norm_pre.weight": stored[f"{_PREFIX}norm_pre.weight"],
        "norm_pre.bias": stored[f"{_PREFIX}norm_pre.bias"],
    }
    for block in range(blocks):
        for layer in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            for kind in ("weight", "bias"):
                name = f"blocks.{block}.{layer}.{kind}"
                state[name.replace("mlp.", "")] = stored[_PREFIX + name]
    return {name: tensor.float() for name, tensor in state.items()}


def fit_mixture(windows: np.ndarray, cepstra: CepstralVectors) -> None:
    """Fit principal components and Gaussians to frames of int16 windows (N, window_samples); seeded, without labels."""
    rng = np.random.default_rng(_SEED)
    drawn = []
    with torch.inference_mode():
        for window in windows:
            frames = cepstra.frames(torch.from_numpy(window.astype(np.float32) / 32768)[None])[0].numpy()
            drawn.append(frames[rng.integers(len(frames), size=-(-_NUM_FRAMES // len(windows)))])
    frames = np.concatenate(drawn).astype(np.float64)
    mean = frames.mean(0)
    values, directions = np.linalg.eigh(np.cov((frames - mean).T))
    kept = CEPSTRA_SIZE["components"]
    projection = directions[:, ::-1][:, :kept] / np.sqrt(values[::-1][:kept])
    mixture = GaussianMixture(
        CEPSTRA_SIZE["gaussians"], covariance_type="diag", reg_covar=1e-2, max_iter=30, random_state=_SEED,
        init_params="k-means++",
    ).fit((frames - mean) @ projection)  # fmt: skip
    learnt = {
        "mean": mean, "projection": projection, "centres": mixture.means_, "variances": mixture.covariances_,
        "weights": mixture.weights_,
    }  # fmt: skip
    cepstra.vectors.load_state_dict({name: torch.from_numpy(array).float() for name, array in learnt.items()})


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m model.training.pretrained_speech", description=__doc__)
    parser.add_argument("clip", type=Path, help="safetensors with CLIP's blocks, such as the video weights")
    parser.add_argument("--data", type=Path, required=True, help="labelled clips, as for training")
    parser.add_argument("out", type=Path, help="safetensors file, for `python -m model.training --pretrained`")
    options = parser.parse_args(arguments)
    try:
        state = picture_state(to_tensors(unpack(load_file(options.clip))), PICTURE_SIZE["blocks"])
        records = load_records(options.data, AUDIO)
    except (OSError, KeyError, ValueError, SafetensorError, LabelledDataError) as error:
        print(f"error: {options.clip}: {error}", file=sys.stderr)
        return 2
    network = AudioNetwork(picture=PICTURE_SIZE, cepstra=CEPSTRA_SIZE)
    network.picture.load_state_dict(state, strict=True)
    content = np.stack([PREPARATION.cut(PREPARATION.read(str(record.path)).samples) for record in records])
    fit_mixture(split(content)["windows"][:, 0], network.cepstra)
    save_file(store(network.state_dict(), packed=PACKED, halved=HALVED), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
