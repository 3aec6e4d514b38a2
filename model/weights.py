"""The committed weights: a manifest that says how to build and feed the network, and a verified safetensors file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import SamplingConfig
from .video.views import BarConfig, ViewConfig

if TYPE_CHECKING:
    import torch

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 8


class WeightsError(Exception):
    """The weights cannot be used. The message names the file and the remedy."""


@dataclass(frozen=True)
class Manifest:
    """What stands in manifest.json: all that inference must know. sampling, bars and views are for video alone."""

    path: Path
    modality: str
    file: str  # beside the manifest
    sha256: str  # of the file
    input: Mapping[str, Mapping[str, Any]]  # what becomes of a file before the networks
    architecture: Mapping[str, Any]  # of the networks
    heads: Mapping[str, Mapping[str, Any]]  # as `heads.from_arrays` takes them
    offset: float  # of the score

    @property
    def sampling(self) -> SamplingConfig:
        """Which frames are read."""
        return SamplingConfig(**self.input["sampling"])

    @property
    def bars(self) -> BarConfig:
        """What is cut off as black bars."""
        return BarConfig(**self.input["bars"])

    @property
    def views(self) -> ViewConfig:
        """What is cut out of the frames."""
        return ViewConfig(**self.input["views"])


def load_manifest(folder: Path) -> Manifest:
    """Read `folder`/manifest.json. Raises: WeightsError: missing, unreadable, or of another format."""
    path = folder / MANIFEST_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format_version"] != FORMAT_VERSION:
            raise WeightsError(f"{path} has format {content['format_version']}; this code reads {FORMAT_VERSION}")
        parts = {name: content[name] for name in ("modality", "file", "sha256", "input", "architecture", "heads")}
        manifest = Manifest(path=path, **parts, offset=float(content["calibration"]["offset"]))
        if manifest.modality == "video":
            _ = manifest.sampling, manifest.bars, manifest.views  # a value out of range is told here
        return manifest
    except OSError as error:
        raise WeightsError(
            f"no weights: cannot read {path} ({error.strerror}); fetch the repository with its LFS files"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path} is not a manifest of this project: {error!r}; restore it from the repository"
        ) from error


def load_tensors(manifest: Manifest) -> dict[str, torch.Tensor]:
    """Verify the SHA-256, then read and unpack the tensors (safetensors: no code runs).

    Raises: WeightsError: the file is missing or is not the one the manifest was written for.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    from .quantised import unpack

    path = manifest.path.with_name(manifest.file)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}; fetch the repository with its LFS files") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != manifest.sha256:
        hint = " (a Git LFS pointer: run `git lfs pull`)" if content.startswith(b"version https://git-lfs") else ""
        raise WeightsError(
            f"{path} has SHA-256 {digest}, the manifest says {manifest.sha256}{hint}; fetch the file again"
        )
    try:
        return unpack(load(content))
    except (SafetensorError, ValueError) as error:
        raise WeightsError(f"{path} is not a safetensors file of this project: {error}") from error
