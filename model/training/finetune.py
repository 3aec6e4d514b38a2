"""Fine-tune the backbone on single frames of native patches: a second opinion beside the frozen features.

About 70 crops a second and CPU core. A run writes a checkpoint now and then and goes on from it; the learning rate is
constant until the last part, so that a checkpoint of that part can also be the start of a longer or a shorter run.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from tqdm import tqdm

from .data import Record, balanced_weights
from .export import build_feature_network
from .trainable import TrainableLite

_FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BOX)


@dataclass(frozen=True)
class FinetuneConfig:
    """Chosen by what two cores finish in an hour for three folds; a GPU can afford more steps."""

    steps: int = 2800
    batch: int = 32
    size: int = 128  # pixels of a training crop; measured on whole patches
    frozen_stages: int = 4  # the stem and so many stages keep their ImageNet weights: fewer do no better, and cost more
    drop_rate: float = 0.2
    learning_rate: float = 4e-4
    warm_up_steps: int = 50
    falling_share: float = 0.3  # of the steps, at the end, over which the learning rate falls to 0
    weight_decay: float = 0.03
    as_found_share: float = 0.4  # of the crops; the others come from post-processed variants
    label_smoothing: float = 0.06
    average_decay: float = 0.998  # of the moving average of the weights, which is what is kept
    checkpoint_steps: int = 100


def finetune(
    as_found: Sequence[np.ndarray],
    processed: Sequence[np.ndarray],
    records: Sequence[Record],
    members: np.ndarray,
    *,
    backbone: str,
    config: FinetuneConfig,
    device: torch.device,
    seed: int,
    checkpoint: Path,
) -> nn.Module:
    """Train on the member clips; returns timm's network with averaged weights, in evaluation mode.

    as_found, processed: arrays of patches, uint8 (N, V, K, S, S, 3). members: bool (N,). Batch statistics and depthwise
    convolutions stay frozen; their gradients cost most on a CPU. Every crop is seeded by step and place in the batch.
    """
    torch.manual_seed(seed)
    run = _Run(_start(backbone, config, device), config, checkpoint)
    chosen = np.flatnonzero(members)
    weights = balanced_weights([records[index] for index in chosen])
    labels = torch.tensor([float(record.generated) for record in records])
    smooth = labels * (1 - config.label_smoothing) + config.label_smoothing / 2

    def draw(step: int) -> tuple[np.ndarray, list[Future[np.ndarray]]]:
        batch = np.random.default_rng([seed, step]).choice(chosen, config.batch, p=weights / weights.sum())
        return batch, [
            pool.submit(_draw_crop, as_found, processed, int(index), config, np.random.default_rng([seed, step, place]))
            for place, index in enumerate(batch)
        ]

    # One batch is cut while the one before it is in the network.
    with ThreadPoolExecutor(1 if device.type == "cpu" else os.cpu_count()) as pool:
        upcoming = draw(run.step)
        for step in tqdm(range(run.step, config.steps), desc=checkpoint.stem, initial=run.step, total=config.steps):
            batch, crops = upcoming
            upcoming = draw(step + 1)
            images = torch.from_numpy(np.stack([crop.result() for crop in crops])).to(device)
            run.learn(_normalised(images), smooth[batch].to(device))
    return run.averaged()


class _Run:
    """Network, optimiser and moving average of one training run, kept in a checkpoint."""

    def __init__(self, network: TrainableLite, config: FinetuneConfig, checkpoint: Path) -> None:
        self.step = 0
        self._network, self._config, self._checkpoint = network.train(), config, checkpoint
        self._trained = network.trained()
        self._averages = {name: parameter.detach().clone() for name, parameter in self._trained.items()}
        groups = [
            {"params": [p for p in self._trained.values() if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in self._trained.values() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
        if checkpoint.exists():
            self._load()

    def learn(self, images: torch.Tensor, targets: torch.Tensor) -> None:
        """One step. images: normalised float (B, S, S, 3); targets: (B,), 0 to 1."""
        config = self._config
        falling = max(1.0, config.falling_share * config.steps)
        share = min(1.0, (self.step + 1) / config.warm_up_steps, (config.steps - self.step) / falling)
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate * share
        loss = F.binary_cross_entropy_with_logits(self._network(images), targets)
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._trained.values(), 1.0)
        self._optimizer.step()
        decay = min(config.average_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, parameter in self._trained.items():
                self._averages[name].lerp_(parameter, 1 - decay)
        self.step += 1
        if self.step % config.checkpoint_steps == 0 or self.step == config.steps:
            self._save()

    def averaged(self) -> nn.Module:
        self._network.plain.load_state_dict(self._averages, strict=False)
        return self._network.plain.eval()

    def _save(self) -> None:
        weights = {name: parameter.detach() for name, parameter in self._trained.items()}
        state: dict[str, Any] = {
            "step": self.step,
            "weights": weights,
            "averages": self._averages,
            "optimizer": self._optimizer.state_dict(),
        }
        temporary = self._checkpoint.with_name(self._checkpoint.name + ".tmp")
        torch.save(state, temporary)
        temporary.replace(self._checkpoint)

    def _load(self) -> None:
        state = torch.load(self._checkpoint, map_location=self._averages["classifier.weight"].device, weights_only=True)
        self.step = state["step"]
        self._network.plain.load_state_dict(state["weights"], strict=False)
        self._averages = state["averages"]
        self._optimizer.load_state_dict(state["optimizer"])


@torch.inference_mode()
def patch_logits(
    network: nn.Module, views: np.ndarray, clips: np.ndarray, num_patches: int, device: torch.device
) -> np.ndarray:
    """float32 (len(clips),): of each of these clips the mean over its patches' first frames. views: as above."""
    logits = np.zeros(len(clips), np.float32)
    for position, clip in enumerate(clips):
        images = torch.from_numpy(np.ascontiguousarray(views[clip, :num_patches, 0])).float().to(device)
        inputs = _normalised(images).permute(0, 3, 1, 2)  # channels last in memory
        logits[position] = float(network(inputs).mean())
    return logits


def _normalised(images: torch.Tensor) -> torch.Tensor:
    """As `network.STREAMS["colours"]`."""
    return (images - 127.0) / 128.0


def _start(backbone: str, config: FinetuneConfig, device: torch.device) -> TrainableLite:
    """ImageNet weights, a zero classifier, and gradients only where they are wanted."""
    network = TrainableLite(backbone, frozen_stages=config.frozen_stages, drop_rate=config.drop_rate)
    network.plain.load_state_dict(build_feature_network(backbone, ("colours",)).backbone.state_dict(), strict=False)
    return network.to(device)


def _draw_crop(
    as_found: Sequence[np.ndarray],
    processed: Sequence[np.ndarray],
    index: int,
    config: FinetuneConfig,
    rng: np.random.Generator,
) -> np.ndarray:
    """A random square of a random patch of one clip, scaled and degraded: float32 (size, size, 3), 0 to 255."""
    arrays = as_found if not processed or rng.random() < config.as_found_share else processed
    array = arrays[int(rng.integers(len(arrays)))]
    frame = array[index, rng.integers(array.shape[1]), rng.integers(array.shape[2])]
    scale = 2 ** rng.uniform(-0.6, 0.8) if rng.random() < 0.6 else 1.0
    side = min(int(config.size * scale), frame.shape[0])
    top, left = rng.integers(0, frame.shape[0] + 1 - side, 2)
    crop = np.ascontiguousarray(frame[top : top + side, left : left + side])
    if side != config.size:
        resample = _FILTERS[rng.integers(len(_FILTERS))]
        crop = np.asarray(Image.fromarray(crop).resize((config.size, config.size), resample))
    if rng.random() < 0.3:
        buffer = io.BytesIO()
        Image.fromarray(crop).save(buffer, "JPEG", quality=int(rng.integers(40, 96)))
        crop = np.asarray(Image.open(buffer))
    return _jitter(crop.astype(np.float32), rng)


def _jitter(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise, contrast, brightness, white balance, grey, mirror."""
    if rng.random() < 0.2:
        crop = crop + rng.normal(0, rng.uniform(1, 8), crop.shape)
    if rng.random() < 0.4:
        crop = (crop - 127) * rng.uniform(0.7, 1.3) + 127 + rng.uniform(-25, 25)
    if rng.random() < 0.3:
        crop = crop * rng.uniform(0.85, 1.15, (1, 1, 3))
    if rng.random() < 0.1:
        crop = np.repeat(crop.mean(2, keepdims=True), 3, 2)
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return np.ascontiguousarray(np.clip(crop, 0, 255), dtype=np.float32)
