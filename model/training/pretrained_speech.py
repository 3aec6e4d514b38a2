"""The networks of the speech detector from nothing: `python -m model.training.pretrained_speech VIDEO.safetensors
--data DIR OUT.safetensors`. Training finds them in the weights it replaces.

The backbone comes from what `model.training.pretrained` wrote, or from the video weights, which hold the same. The
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
from ..audio.picture import PictureEncoder
from ..modality import AUDIO
from ..quantised import unpack
from ..weights import to_tensors
from .audio import CEPSTRA_SIZE, PICTURE_SIZE, PREPARATION, split
from .clips import LabelledDataError, load_records
from .export import store

_PREFIX = "features.backbone."
_CONVS, _SEPARABLE_CONVS = ("conv_pw", "conv_dw", "conv_pwl"), ("conv_dw", "conv_pw")  # of timm's blocks
_NUM_FRAMES = 15_000  # drawn for the mixture
_SEED = 0


def picture_state(stored: Mapping[str, torch.Tensor], encoder: PictureEncoder) -> dict[str, torch.Tensor]:
    """The backbone of the video weights, for pictures of three colours -> the state of `encoder`.

    Raises: KeyError: `stored` lacks a part of it.
    """
    backbone = encoder.backbone
    places = {"stem": ("conv_stem", "bn1")}
    for number, stage in enumerate(backbone.stages):
        for place, block in enumerate(stage):
            convs = _CONVS if len(block.units) == len(_CONVS) else _SEPARABLE_CONVS
            for unit, conv in enumerate(convs):
                prefix = f"blocks.{number}.{place}."
                places[f"stages.{number}.{place}.units.{unit}"] = (f"{prefix}{conv}", f"{prefix}bn{unit + 1}")
    state = {}
    for name, (conv, norm) in places.items():
        weight = stored[f"{_PREFIX}{conv}.weight"].float()
        state[f"{name}.conv.weight"] = weight.sum(dim=1, keepdim=True) if name == "stem" else weight
        for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            state[f"{name}.norm.{kind}"] = stored[f"{_PREFIX}{norm}.{kind}"]
    return {f"backbone.{name}": tensor for name, tensor in state.items()}


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
    parser.add_argument("video", type=Path, help="safetensors with EfficientNet-Lite0, such as the video weights")
    parser.add_argument("--data", type=Path, required=True, help="labelled clips, as for training")
    parser.add_argument("out", type=Path, help="safetensors file, for `python -m model.training --pretrained`")
    options = parser.parse_args(arguments)
    try:
        network = AudioNetwork(picture=PICTURE_SIZE, cepstra=CEPSTRA_SIZE)
        state = picture_state(to_tensors(unpack(load_file(options.video))), network.picture)
        records = load_records(options.data, AUDIO)
    except (OSError, KeyError, ValueError, SafetensorError, LabelledDataError) as error:
        print(f"error: {options.video}: {error}", file=sys.stderr)
        return 2
    network.picture.load_state_dict(state, strict=True)
    content = np.stack([PREPARATION.cut(PREPARATION.read(str(record.path)).samples) for record in records])
    fit_mixture(split(content)["windows"][:, 0], network.cepstra)
    save_file(store(network.state_dict()), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
