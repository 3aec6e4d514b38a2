"""How the speech detector is made: a backbone sees windows as pictures, cepstra describe them, two heads decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ..audio import copies
from ..audio.cepstra import CepstraArchitecture, CepstralVectors
from ..audio.detector import CEPSTRA, PICTURE, AudioNetwork, pool_windows
from ..audio.picture import PictureArchitecture, PictureEncoder
from ..audio.prepare import AudioPreparation
from ..audio.views import SAMPLE_RATE, WINDOWS, ViewConfig, loud_level
from ..modality import AUDIO
from ..quantised import unpack
from ..weights import to_tensors
from .clips import Record
from .fit import KernelFit, LinearFit
from .recipe import AS_FOUND, Container, Extractor, Recipe, code_version

VIEWS = ViewConfig()  # in the manifest; a labelled clip has one window
PICTURE_SIZE: PictureArchitecture = {"rows": 224, "read_after": [3, 4, 5]}
CEPSTRA_SIZE: CepstraArchitecture = {
    "bands": 70, "coefficients": 30, "top_hertz": 7400.0, "components": 60, "gaussians": 32,
}  # fmt: skip
HEADS: dict[str, KernelFit | LinearFit] = {
    "pictures": LinearFit((PICTURE,), penalty=10.0),
    "vectors": LinearFit((CEPSTRA,), penalty=0.3),
}
PREPARATION = AudioPreparation(views=replace(VIEWS, max_windows=1))
_NETWORK_FILES = ("cepstra.py", "detector.py", "picture.py")  # of model/audio; all others decide what windows hold
_FULL_SCALE = 32768


def build_recipe(pretrained: Path) -> Recipe:
    """pretrained: safetensors with the backbone and the mixture of cepstra. Raises: ValueError: it lacks one."""
    network = load_pretrained(pretrained)
    package = Path(copies.__file__).parent
    code = code_version(file for file in package.glob("*.py") if file.name not in _NETWORK_FILES)
    return Recipe(
        modality=AUDIO,
        prepare=prepare,
        num_bytes=PREPARATION.max_bytes,
        prepared_by=f"{PREPARATION.views} code {code} av {av.__version__}",
        split=split,
        extractors={
            PICTURE: Extractor(WINDOWS, Hearing(network.picture), in_full=True, clips_per_batch=8),
            CEPSTRA: Extractor(WINDOWS, Hearing(network.cepstra), in_full=True, clips_per_batch=8),
        },
        pool=pool,
        heads=HEADS,
        container=Container(container_numbers, predictors, bands),
        input={"views": asdict(VIEWS)},
        architecture={"picture": PICTURE_SIZE, "cepstra": CEPSTRA_SIZE},
        networks={"picture": network.picture, "cepstra": network.cepstra},
        variants=(AS_FOUND, *copies.VARIANTS),
        sharp=False,
        trait=log_bandwidth,
        generated_alone=True,
    )


def prepare(record: Record, variant: str) -> np.ndarray:
    """The window of one clip, as found or of its processed copy: uint8 (num_bytes,). Raises: Unreadable."""
    samples = PREPARATION.read(str(record.path)).samples
    return PREPARATION.cut(samples if variant == AS_FOUND else copies.process(samples, variant, record.file))


def split(content: np.ndarray) -> dict[str, np.ndarray]:
    """uint8 (N, num_bytes) -> {"windows": int16 (N, 1, window_samples)}, without a copy."""
    return {WINDOWS: content.view(np.int16).reshape(len(content), -1, VIEWS.window_samples)}


def pool(windows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Name -> (N, V, F) to name -> (N, F)."""
    return {name: pool_windows(array) for name, array in windows.items()}


class Hearing(torch.nn.Module):
    """A network as training runs it."""

    def __init__(self, network: PictureEncoder | CepstralVectors) -> None:
        super().__init__()
        self.network, self.num_features = network, network.num_features

    def render(self, windows: torch.Tensor) -> torch.Tensor:
        """int16 (B, N) -> float32 (B, N), full scale 1."""
        return windows.float() / _FULL_SCALE

    def statistics(self, x: torch.Tensor) -> torch.Tensor:
        """float32 (B, N) -> (B, num_features)."""
        return self.network(x)


def load_pretrained(source: Path) -> AudioNetwork:
    """The networks from weights of this project or from what `pretrained_speech` wrote. Raises: ValueError."""
    network = AudioNetwork(picture=PICTURE_SIZE, cepstra=CEPSTRA_SIZE)
    try:
        stored = to_tensors(unpack(load_file(source)))
        network.load_state_dict({name: stored[name].float() for name in network.state_dict()}, strict=True)
    except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{source} does not hold the networks ({error}); take this repository's weights/audio/"
            "detector.safetensors, or make it anew with `python -m model.training.pretrained_speech`"
        ) from error
    return network.eval()


@lru_cache(maxsize=4)
def _measure(paths: tuple[Path, ...]) -> dict[str, np.ndarray]:
    """Level and bandwidth of files as found, each (N,)."""
    levels, widths = [], []
    for path in paths:
        samples = PREPARATION.read(str(path)).samples
        power = np.abs(np.fft.rfft(samples)) ** 2
        share = np.cumsum(power) / max(float(power.sum()), 1e-12)
        levels.append(20 * np.log10(max(loud_level(samples), 1e-9)))
        widths.append(np.searchsorted(share, 0.99) / len(power) * SAMPLE_RATE / 2)
    return {"level_decibels": np.array(levels), "bandwidth_hertz": np.array(widths)}


def log_bandwidth(records: Sequence[Record]) -> np.ndarray:
    """(N,): a dull sound is no sign of who made it, but codecs and old recordings are dull."""
    return np.log(_measure(tuple(record.path for record in records))["bandwidth_hertz"])


def container_numbers(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """What files tell beside their content: rate and seconds as found, bytes a second; and level and bandwidth."""
    seconds = np.array([record.number("seconds") for record in records])
    return {
        "sampling_rate": np.array([record.number("sampling_rate") for record in records]),
        "seconds": seconds,
        "bytes_per_second": np.array([record.num_bytes for record in records]) / np.maximum(seconds, 0.1),
        **_measure(tuple(record.path for record in records)),
    }


def predictors(records: Sequence[Record]) -> np.ndarray:
    """(N, 6): rate, whether it is one of three, format, seconds; none of the sound itself."""
    rates = np.array([record.number("sampling_rate") for record in records])
    wav = np.array([record.details.get("format") == "wav" for record in records])
    columns = [np.log(rates + 1), *(rates == rate for rate in _RATES), wav]
    return np.stack([*columns, [record.number("seconds") for record in records]], axis=1).astype(float)


_RATES = (16_000, 22_050, 24_000)


def bands(numbers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Clips of one sampling rate as found."""
    return {f"{rate} Hz as found": numbers["sampling_rate"] == rate for rate in _RATES}
