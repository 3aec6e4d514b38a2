"""The parts of a modality that a run needs, by its name: preparation, detector, weights. Heavy imports come late."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import LimitsConfig, SegmentConfig
from ..modality import AUDIO, MODALITIES, AnyPreparation, Detector, Modality, Preparation

if TYPE_CHECKING:
    import torch

_WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
_DEVICE = re.compile(r"cpu|cuda(:[0-9]+)?")


class DeviceError(ValueError):
    """There is no such device here. The message says what to do."""


def default_weights(modality: Modality) -> Path:
    """The folder of the committed weights."""
    return _WEIGHTS / modality.name


def find_modality(name: str) -> Modality:
    """Raises: ValueError: there is none of that name."""
    if name not in MODALITIES:
        raise ValueError(f"modality is {name!r}; it must be one of {', '.join(MODALITIES)}")
    return MODALITIES[name]


def modality_of_weights(weights: Path) -> str:
    """As the manifest in the folder says. Raises: WeightsError."""
    from ..weights import load_manifest

    return load_manifest(weights).modality


def modality_of_file(name: str) -> Modality | None:
    """By the suffix; None where that does not tell."""
    suffix = Path(name).suffix.lower()
    return next((modality for modality in MODALITIES.values() if suffix in modality.suffixes), None)


def _module(modality: Modality, name: str) -> Any:
    """Of the modality's package; both have modules of the same names."""
    return importlib.import_module(f"..{modality.name}.{name}", __package__)


def load_preparation(modality: Modality, weights: Path, limits: LimitsConfig | None = None) -> Preparation:
    """As the manifest in `weights` says. Imports no torch. Raises: WeightsError."""
    return _module(modality, "prepare").load_preparation(weights, limits)


def load_windows(modality: Modality, weights: Path, config: SegmentConfig) -> AnyPreparation:
    """The same in windows over a file's whole length."""
    preparation: Any = load_preparation(modality, weights)
    if modality is AUDIO:
        from ..audio.prepare import AudioSegments

        return AudioSegments(preparation, config)
    from ..video.windows import VideoSegments

    return VideoSegments(preparation, config)


def load_detector(modality: Modality, weights: Path, device: torch.device, precision: str = "auto") -> Detector:
    """precision: on a CPU, one of `cpu.PRECISIONS`. Raises: WeightsError."""
    return _module(modality, "detector").load_detector(weights, device, precision)


def check_device(name: str | None) -> None:
    """Raises: DeviceError: no device of that name can be used here."""
    if name is None or name == "cpu":
        return
    if not _DEVICE.fullmatch(name):
        raise DeviceError(f"no device is called {name!r}; give cpu, cuda or cuda:N, or leave it out")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(name.partition(":")[2] or 0) >= count:
        found = f"{count} CUDA device{'s' * (count != 1)}" if count else "no CUDA device"
        raise DeviceError(f"device {name} is not here: {found} can be used; leave it out or give cpu")
