"""Tuning on all folds but one, for each fold, and on everything; side by side where there is no GPU.

Not in __main__: a spawned process cannot import what stands there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from . import protocol
from .data import Record, assign_folds
from .export import build_scene_network
from .finetune import FinetuneConfig, clip_logits, finetune
from .tokens import by_look, upright


@dataclass(frozen=True)
class FoldPlan:
    """folder: for checkpoints and results. tokens: variant -> file, (N, L, 1 + T, W). device: "cpu" or "cuda"."""

    folder: Path
    tokens: Mapping[str, Path]
    transformer: Path
    num_folds: int
    steps: int
    seed: int
    device: str

    def file(self, fold: int) -> Path:
        """What came out with this fold left out; none is, if it is `num_folds`."""
        left_out = "none" if fold == self.num_folds else f"{fold}of{self.num_folds}"
        return self.folder / f"tuned_{self.steps}_{left_out}_{self.seed}.safetensors"


def finetune_folds(records: Sequence[Record], plan: FoldPlan) -> tuple[dict[str, torch.Tensor], dict[str, np.ndarray]]:
    """(tuned state that all clips made, variant -> out-of-fold logits (N,)).

    On a CPU each run has a process of one thread: half again as fast as the runs in turn on all cores.
    """
    folds = assign_folds(records, plan.num_folds, seed=plan.seed)
    runs = range(plan.num_folds + 1)
    missing = [fold for fold in runs if not plan.file(fold).exists()]
    task = partial(_finetune_fold, records=records, folds=folds, plan=plan)
    if plan.device == "cpu" and missing:
        workers = min(len(missing), len(os.sched_getaffinity(0)))
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(task, missing))
    else:
        for fold in missing:
            task(fold)
    logits = {variant: np.zeros(len(records)) for variant in protocol.MEASURED}
    for fold in runs:
        state = load_file(plan.file(fold))
        for variant, column in logits.items():
            column[folds == fold] = state.pop(f"logits_{variant}").numpy()
    return state, logits


def _finetune_fold(fold: int, *, records: Sequence[Record], folds: np.ndarray, plan: FoldPlan) -> None:
    """Tune on all folds but this one; the tuned state and its logits on this fold go to a file of the cache."""
    file, device = plan.file(fold), torch.device(plan.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    scene = build_scene_network(plan.transformer)
    tokens = {variant: by_look(np.load(path, mmap_mode="r"), scene) for variant, path in plan.tokens.items()}
    state = finetune(
        tokens, records, folds != fold, scene, config=FinetuneConfig(steps=plan.steps), device=device,
        seed=plan.seed + fold, checkpoint=file.with_suffix(".pt"),
    )  # fmt: skip
    scene.load_state_dict(state, strict=False)
    state = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
    inside = np.flatnonzero(folds == fold)
    for variant in protocol.MEASURED:
        state[f"logits_{variant}"] = torch.from_numpy(clip_logits(scene, upright(tokens[variant]), inside, device))
    temporary = file.with_name(file.name + ".tmp")
    save_file(state, temporary)
    temporary.replace(file)
