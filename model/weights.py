"""The committed weights: a manifest that says how to build and feed the network, and a verified safetensors file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .quantised import unpack

if TYPE_CHECKING:
    import torch

_Config = TypeVar("_Config")
MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 8
_ahead: dict[Path, Future[dict[str, np.ndarray]]] = {}  # what `read_ahead` reads, by manifest


class WeightsError(Exception):
    """The weights cannot be used. The message names the file and the remedy."""


@dataclass(frozen=True)
class Manifest:
    """What stands in manifest.json: all that inference must know."""

    path: Path
    modality: str
    file: str  # beside the manifest
    sha256: str  # of the file
    input: Mapping[str, Mapping[str, Any]]  # what becomes of a file before the networks
    architecture: Mapping[str, Any]  # of the networks
    heads: Mapping[str, Mapping[str, Any]]  # as `heads.from_arrays` takes them
    offset: float  # of the score

    def configured(self, part: str, config: type[_Config]) -> _Config:
        """A part of `input` as the dataclass `config`. Raises: WeightsError: missing, or a value out of range."""
        try:
            return config(**self.input[part])
        except (TypeError, ValueError, KeyError) as error:
            raise WeightsError(
                f"{self.path}: input.{part} is not usable: {error!r}; restore it from the repository"
            ) from error


def load_manifest(folder: Path) -> Manifest:
    """Read `folder`/manifest.json. Raises: WeightsError: missing, unreadable, or of another format."""
    path = folder / MANIFEST_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format_version"] != FORMAT_VERSION:
            raise WeightsError(f"{path} has format {content['format_version']}; this code reads {FORMAT_VERSION}")
        parts = {name: content[name] for name in ("modality", "file", "sha256", "input", "architecture", "heads")}
        return Manifest(path=path, **parts, offset=float(content["calibration"]["offset"]))
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
    ahead = _ahead.pop(manifest.path, None)
    return to_tensors(_load_arrays(manifest) if ahead is None else ahead.result())


def read_ahead(folder: Path) -> None:
    """Read `folder`'s weights on a thread, for the next `load_tensors`: torch is imported meanwhile."""
    reader = ThreadPoolExecutor(1, thread_name_prefix="weights")
    try:
        _ahead[folder / MANIFEST_NAME] = reader.submit(lambda: _load_arrays(load_manifest(folder)))
    except RuntimeError:  # no more threads: they are read when asked for
        return
    reader.shutdown(wait=False)


def to_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Without copies where the arrays can be written to."""
    import torch

    return {name: torch.from_numpy(np.require(array, requirements="W")) for name, array in arrays.items()}


def _load_arrays(manifest: Manifest) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

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
