"""What an actor works with, made on its own node."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..modality import MODALITIES, Preparation
from ..run.parts import load_detector, load_preparation

if TYPE_CHECKING:
    from ..run.pipeline import Scorer

PRECISIONS = ("auto", "bfloat16", "float32")  # as model.cpu has them, whose import takes torch


@dataclass(frozen=True)
class BuildConfig:
    """Called by an actor: the preparation and the scorer of a modality. weights: a folder on the node."""

    modality: str
    weights: str
    precision: str = "auto"

    def __call__(self) -> tuple[Preparation, Scorer]:
        """Raises: WeightsError."""
        from ..run.scoring import BatchScorer, choose_device

        modality, folder = MODALITIES[self.modality], Path(self.weights)
        scorer = BatchScorer(
            lambda device: load_detector(modality, folder, device, self.precision),
            choose_device(),
        )
        return load_preparation(modality, folder), scorer
