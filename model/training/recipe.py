"""What training must know of a modality: how content is made, which networks read it, which heads decide.

`model.training.video.build_recipe` is one; all other steps are the same for every modality.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ..modality import Modality
from .clips import Record
from .fit import KernelFit, LinearFit

AS_FOUND = "clean"  # read as in the challenge
PROCESSED = "post"  # the fixed post-processed copy that is measured, and learnt from in other families
VARIANTS = (AS_FOUND, PROCESSED)


class Frozen(Protocol):
    """A network that is not trained; an nn.Module."""

    @property
    def num_features(self) -> int:
        """F."""

    def render(self, views: torch.Tensor) -> torch.Tensor:
        """uint8 (B, ...) of one kind of view -> the network's float32 input, one row or several a view."""

    def statistics(self, x: torch.Tensor) -> torch.Tensor:
        """That input -> float32 (B, F)."""


@dataclass(frozen=True)
class Extractor:
    """A frozen network as training runs it."""

    kind: str  # of the views it reads
    network: Frozen
    in_full: bool = False  # PyTorch, float32, as inference on a CPU; else OpenVINO in bfloat16 where it is installed
    clips_per_batch: int = 2


@dataclass(frozen=True)
class Container:
    """What files tell without their content. No detector may use it: it shows what labels give away by themselves."""

    numbers: Callable[[Sequence[Record]], dict[str, np.ndarray]]  # name -> (N,), in reports
    predictors: Callable[[Sequence[Record]], np.ndarray]  # (N, C), of a classifier on these alone
    bands: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]  # of the numbers: name -> which clips, bool (N,)


@dataclass(frozen=True)
class Recipe:
    """How the weights of one modality are made."""

    modality: Modality
    prepare: Callable[[Record, str], np.ndarray]  # a variant of a clip -> uint8 (num_bytes,); pickles; Unreadable
    num_bytes: int  # of a clip's content
    prepared_by: str  # other settings or other code give another text, and the content is made anew
    split: Callable[[np.ndarray], Mapping[str, np.ndarray]]  # uint8 (N, num_bytes) -> kind of view -> (N, V, ...)
    extractors: Mapping[str, Extractor]  # by the name of the feature that each gives
    pool: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]  # name -> (N, V, F) to name -> (N, D), as in
    # the detector's `score`
    heads: Mapping[str, KernelFit | LinearFit]
    container: Container
    input: Mapping[str, Any]  # for the manifest, as the two that follow
    architecture: Mapping[str, Any]
    networks: Mapping[str, torch.nn.Module]  # by the prefix of their tensors in the file
    packed: tuple[str, ...] = ()  # prefixes of tensors whose matrices are stored in few bits
    halved: tuple[str, ...] = ()  # prefixes of tensors of which vectors too are stored in half precision
    variants: tuple[str, ...] = VARIANTS  # of every clip, AS_FOUND first: learnt from in other families, and measured
    sharp: bool = True  # beside the expert of all variants one of clips as found alone
    assignments: int = 1  # of families to folds; the threshold is the best for the worst of several (1: a regression's)
    trait: Callable[[Sequence[Record]], np.ndarray] | None = None  # (N,) of clips as found, on which scores rest less
    generated_alone: bool = False  # also measure with the variant of generated clips beside genuine ones as found


def code_version(files: Iterable[Path]) -> str:
    """A hash of these source files: what was made by other code is not taken for this code's."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
