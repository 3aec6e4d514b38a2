"""Fine-tuning on all folds but one, for each fold, side by side where there is no GPU.

Not in __main__: a spawned process cannot import what stands there.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ..transform import ViewConfig
from . import cache, protocol
from .data import Record, assign_folds
from .finetune import FinetuneConfig, finetune, patch_logits

VIEWS = ViewConfig()  # what script.py cuts; the frozen features and every measurement see these
MORE_PATCHES = ViewConfig(num_patches=8, num_resized=0, num_frames=1)  # for fine-tuning alone


@dataclass(frozen=True)
class FoldPlan:
    """folder: of the cached views, where checkpoints and finished networks go too. device: "cpu" or "cuda"."""

    folder: Path
    num_folds: int
    steps: int
    seed: int
    backbone: str
    device: str

    def name(self, fold: int) -> str:
        """Of the fold's files, without a suffix."""
        return f"finetuned_{self.steps}_{fold}of{self.num_folds}_{self.seed}"


def finetune_folds(
    records: Sequence[Record], plan: FoldPlan
) -> tuple[list[dict[str, torch.Tensor]], dict[str, np.ndarray]]:
    """(weights of each fold's network, variant -> out-of-fold logits (N,)).

    On a CPU each fold has a process of one thread: half again as fast as the folds in turn on all cores.
    """
    folds = assign_folds(records, plan.num_folds, seed=plan.seed + 1)
    files = [plan.folder / f"{plan.name(fold)}.safetensors" for fold in range(plan.num_folds)]
    missing = [fold for fold, file in enumerate(files) if not file.exists()]
    task = partial(_finetune_fold, records=records, folds=folds, plan=plan)
    if plan.device == "cpu" and missing:
        with ProcessPoolExecutor(len(missing), mp_context=get_context("spawn")) as pool:
            list(pool.map(task, missing))
    else:
        for fold in missing:
            task(fold)
    logits = {variant: np.zeros(len(records)) for variant in protocol.MEASURED}
    states = []
    for fold, file in enumerate(files):
        state = load_file(file)
        for variant in protocol.MEASURED:
            logits[variant][folds == fold] = state.pop(f"logits_{variant}").numpy()
        states.append(state)
    return states, logits


def _finetune_fold(fold: int, *, records: Sequence[Record], folds: np.ndarray, plan: FoldPlan) -> None:
    """Fine-tune on all folds but this one; the network and its logits on this fold go to a file of the cache."""
    file, device = plan.folder / f"{plan.name(fold)}.safetensors", torch.device(plan.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    views = {variant: cache.open_views(plan.folder, variant, 2) for variant in cache.VARIANTS}
    patches = {variant: [first[:, : VIEWS.num_patches], more] for variant, (first, more) in views.items()}
    network = finetune(
        patches[cache.AS_FOUND],
        [array for variant in cache.VARIANTS if variant != cache.AS_FOUND for array in patches[variant]],
        records,
        folds != fold,
        backbone=plan.backbone,
        config=FinetuneConfig(steps=plan.steps),
        device=device,
        seed=plan.seed + fold,
        checkpoint=file.with_suffix(".pt"),
    )
    state = {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    inside = np.flatnonzero(folds == fold)
    for variant in protocol.MEASURED:
        values = patch_logits(network, views[variant][0], inside, VIEWS.num_patches, device)
        state[f"logits_{variant}"] = torch.from_numpy(values)
    temporary = file.with_name(file.name + ".tmp")
    save_file({name: tensor.cpu().contiguous() for name, tensor in state.items()}, temporary)
    temporary.replace(file)
