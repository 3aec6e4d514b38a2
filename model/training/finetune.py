"""Tune the transformer's last blocks: their normalisations and a linear head learn, all else keeps CLIP's weights.

A few thousand numbers are what so few families can teach: low-rank changes of the matrices learn the families by heart
(EXPERIMENTS.md). Two cores make three steps a second; a run writes a checkpoint now and then and goes on from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from ..scene import SceneNetwork
from .data import Record, balanced_weights
from .tokens import mean_over_looks


@dataclass(frozen=True)
class FinetuneConfig:
    """Chosen by cross-validation, see EXPERIMENTS.md."""

    steps: int = 300
    batch: int = 32
    kept_tokens: float = 0.5  # share of the tokens of a picture that one step sees, beside the class token
    learning_rate: float = 1e-3
    warm_up_steps: int = 50
    weight_decay: float = 0.01
    head_weight_decay: float = 0.1
    label_smoothing: float = 0.05
    average_decay: float = 0.99  # of the moving average of the weights, which is what is kept
    checkpoint_steps: int = 50


def finetune(
    tokens: Mapping[str, np.ndarray],
    records: Sequence[Record],
    members: np.ndarray,
    scene: SceneNetwork,
    *,
    config: FinetuneConfig,
    device: torch.device,
    seed: int,
    checkpoint: Path,
) -> dict[str, torch.Tensor]:
    """Train `scene` on the member clips, classes, families' sources and variants alike; its averaged tuned state.

    tokens: variant -> float16 (N, L, 1 + T, W), as `tokens.load_tokens` gives them. members: bool (N,). Every step's
    draw is seeded by its number.
    """
    torch.manual_seed(seed)
    run = _Run(scene.to(device), config, checkpoint)
    arrays = list(tokens.values())
    chosen = np.flatnonzero(members)
    weights = balanced_weights([records[index] for index in chosen])
    shares = weights / weights.sum()
    labels = torch.tensor([float(record.generated) for record in records])
    smooth = labels * (1 - config.label_smoothing) + config.label_smoothing / 2
    for step in tqdm(range(run.step, config.steps), desc=checkpoint.stem, initial=run.step, total=config.steps):
        rng = np.random.default_rng([seed, step])
        clips = rng.choice(chosen, config.batch, p=shares)
        batch = np.stack([_draw(arrays, int(clip), config, rng) for clip in clips])
        run.learn(torch.from_numpy(batch).to(device).float(), smooth[clips].to(device))
    return run.averages


def _draw(arrays: Sequence[np.ndarray], clip: int, config: FinetuneConfig, rng: np.random.Generator) -> np.ndarray:
    """One look at one variant of a clip, some of its tokens, the class token first: (1 + kept, W)."""
    array = arrays[int(rng.integers(len(arrays)))]
    look = array[clip, rng.integers(array.shape[1])]
    num_tokens = len(look) - 1
    kept = rng.permutation(num_tokens)[: max(1, int(num_tokens * config.kept_tokens))]
    return look[np.concatenate([[0], 1 + kept])]


class _Run:
    """Network, optimiser and moving average of one training run, kept in a checkpoint."""

    def __init__(self, scene: SceneNetwork, config: FinetuneConfig, checkpoint: Path) -> None:
        self.step = 0
        self._scene, self._config, self._checkpoint = scene, config, checkpoint
        scene.requires_grad_(False)
        self._trained = dict(scene.tuned_parameters())
        for parameter in self._trained.values():
            parameter.requires_grad_(True)
        self.averages = {name: parameter.detach().clone() for name, parameter in self._trained.items()}
        groups = [
            {"params": list(scene.tuned.parameters()), "weight_decay": config.weight_decay},
            {"params": list(scene.head.parameters()), "weight_decay": config.head_weight_decay},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99))
        if checkpoint.exists():
            self._load()

    def learn(self, tokens: torch.Tensor, targets: torch.Tensor) -> None:
        """One step. tokens: float (B, 1 + T, W); targets: (B,), 0 to 1."""
        config = self._config
        warm = min(1.0, (self.step + 1) / config.warm_up_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * self.step / config.steps))
        self._scene.train()
        with torch.autocast(tokens.device.type, torch.bfloat16):
            logits = self._scene.logits(tokens)[:, 0]
        loss = F.binary_cross_entropy_with_logits(logits, targets)
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._trained.values(), 1.0)
        self._optimizer.step()
        decay = min(config.average_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, parameter in self._trained.items():
                self.averages[name].lerp_(parameter, 1 - decay)
        self.step += 1
        if self.step % config.checkpoint_steps == 0 or self.step == config.steps:
            self._save()

    def _save(self) -> None:
        state: dict[str, Any] = {
            "step": self.step,
            "weights": {name: parameter.detach() for name, parameter in self._trained.items()},
            "averages": self.averages,
            "optimizer": self._optimizer.state_dict(),
        }
        temporary = self._checkpoint.with_name(self._checkpoint.name + ".tmp")
        torch.save(state, temporary)
        temporary.replace(self._checkpoint)

    def _load(self) -> None:
        device = next(iter(self.averages.values())).device
        state = torch.load(self._checkpoint, map_location=device, weights_only=True)
        self.step = state["step"]
        self._scene.load_state_dict(state["weights"], strict=False)
        self.averages = state["averages"]
        self._optimizer.load_state_dict(state["optimizer"])


def clip_logits(scene: SceneNetwork, tokens: np.ndarray, clips: np.ndarray, device: torch.device) -> np.ndarray:
    """float32 (len(clips),): of each of these clips the mean over its looks. tokens: as `tokens.upright` gives them."""
    scene = scene.to(device).eval()

    def logits(looks: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return scene.logits(looks)

    # A run on everything leaves no clip to ask.
    return mean_over_looks(tokens[clips], logits, device)[:, 0] if len(clips) else np.zeros(0, np.float32)
