"""From labelled clips to weights: `python -m model.training --data DIR --out weights`. Every step resumes."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..network import SceneNetwork
from . import cache, protocol
from .data import LabelledDataError, Record, assign_folds, fingerprint, load_records
from .evaluate import family_recalls, metadata_only_scores, summarise, write_scores
from .export import SCENE, WEIGHTS_NAME, build_feature_network, build_scene_network, export_weights
from .features import Frozen, load_features
from .finetune import FinetuneConfig
from .fit import FitConfig, Head, merge_heads
from .folds import MORE_PATCHES, VIEWS, FoldPlan, finetune_folds

BACKBONE = "tf_efficientnet_lite0"
STREAMS = ("colours", "upsampling", "difference")
FIT_TRACES = FitConfig(num_components=250)
FIT_SCENES = FitConfig(num_components=250, kernel_width=2.0)
_COMMITTED = Path(__file__).resolve().parents[2] / "weights" / WEIGHTS_NAME

Features = Mapping[str, np.ndarray]  # variant -> clip features, float32 (N, D)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m model.training", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="manifest.csv or real/<source>/, generated/<source>/")
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights, manifest and scores")
    parser.add_argument("--cache", type=Path, default=Path("cache"), help="views and features (8 GB a 1,000 clips)")
    parser.add_argument("--folds", type=int, default=10, help="folds of the cross-validation")
    parser.add_argument("--finetune-folds", type=int, default=3, help="folds of the fine-tuning, if any")
    steps = f"per fold, {FinetuneConfig().steps} are enough; 0 leaves fine-tuned networks out, which costs little"
    parser.add_argument("--finetune-steps", type=int, default=0, help=steps)
    parser.add_argument("--transformer", type=Path, default=_COMMITTED, help="safetensors that hold the frozen one")
    parser.add_argument("--seed", type=int, default=0, help="seed of folds and fine-tuning")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="decoding processes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="for the networks")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    try:
        records = load_records(options.data)
        folder = options.cache / fingerprint(records)[:12]
        scene = build_scene_network(options.transformer)
        layouts = (VIEWS, MORE_PATCHES)
        views = {
            variant: cache.build_views(records, variant, folder=folder, layouts=layouts, workers=options.workers)
            for variant in cache.VARIANTS
        }
    except (LabelledDataError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finetuned: list[dict[str, torch.Tensor]] = []
    logits: dict[str, np.ndarray] = {}
    if options.finetune_steps:
        plan = FoldPlan(folder, options.finetune_folds, options.finetune_steps, options.seed, BACKBONE, options.device)
        finetuned, logits = finetune_folds(records, plan)
    whole = {variant: arrays[0] for variant, arrays in views.items()}
    resized = {variant: array[:, VIEWS.num_patches :] for variant, array in whole.items()}
    pool = partial(protocol.pool_views, num_patches=VIEWS.num_patches, num_streams=len(STREAMS))
    name = f"features_{BACKBONE}_{'_'.join(STREAMS)}"
    traces = _pooled(whole, build_feature_network(BACKBONE, STREAMS), name, pool, folder, options.device)
    name = "_".join(["scenes", *map(str, SCENE.values())])
    scenes = _pooled(resized, scene, name, protocol.pool_scenes, folder, options.device)
    build_weights(
        traces, scenes, logits, finetuned, records, scene=scene, out=options.out, num_folds=options.folds,
        seed=options.seed, command=f"python -m model.training --folds {options.folds}"
        f" --finetune-folds {options.finetune_folds} --finetune-steps {options.finetune_steps} --seed {options.seed}",
    )  # fmt: skip
    return 0


def build_weights(
    traces: Features,
    scenes: Features,
    logits: Features,
    finetuned: Sequence[dict[str, torch.Tensor]],
    records: Sequence[Record],
    *,
    scene: SceneNetwork,
    out: Path,
    num_folds: int,
    seed: int,
    command: str,
) -> dict[str, Any]:
    """Cross-validate, fit on everything, write weights, manifest and out-of-fold scores. Returns the measured figures.

    traces, scenes: the two kinds of clip features. logits: of the fine-tuned networks, out of fold, (N,), or empty.
    """
    folds = assign_folds(records, num_folds, seed=seed)
    everyone = np.ones(len(records), bool)
    columns: list[dict[str, np.ndarray]] = []  # by kind of evidence: variant -> (N, 1 or 2)
    experts: list[list[Head]] = []  # by kind of features
    for features, config in ((traces, FIT_TRACES), (scenes, FIT_SCENES)):
        projection = protocol.fit_shared_projection(features, config)
        columns.append(protocol.out_of_fold_evidence(features, records, folds, projection, config))
        experts.append(protocol.fit_experts(features, records, everyone, projection, config))
    if logits:
        columns.append({variant: logits[variant][:, None] for variant in protocol.MEASURED})
    evidence = {variant: np.hstack([part[variant] for part in columns]) for variant in protocol.MEASURED}
    scores = protocol.fuse_across(evidence, records, folds)
    measured: dict[str, Any] = {variant: summarise(column, records) for variant, column in scores.items()}
    names = ("traces alone", "scenes alone", "fine-tuned networks alone")
    for name, part in zip(names, columns, strict=False):
        fused = protocol.fuse_across(part, records, folds)
        measured[name] = {variant: summarise(column, records) for variant, column in fused.items()}
    measured["metadata only (a warning)"] = summarise(metadata_only_scores(records, folds), records)
    measured["recall by family, as found"] = family_recalls(scores[cache.AS_FOUND], records)
    print(json.dumps(measured, indent=2))
    shares, offset = protocol.calibrate(list(evidence.values()), records)
    by_kind = np.split(shares, np.cumsum([len(heads) for heads in experts]))
    merged = [merge_heads(heads, part.tolist()) for heads, part in zip(experts, by_kind, strict=False)]
    export_weights(
        out,
        *merged,
        backbone=BACKBONE,
        streams=STREAMS,
        scene=scene,
        views=VIEWS,
        finetuned=finetuned,
        calibration={"kernel": 1.0, "scene": 1.0, "finetuned": float(by_kind[-1].sum()), "offset": offset},
        record={
            "command": command,
            "commit": _commit(),
            "clips": len(records),
            "data_sha256": fingerprint(records),
            "variants": list(traces),
            "cross_validation": measured,
        },
    )
    write_scores(out / "cross_validation.csv", records, folds, scores)
    return measured


def _pooled(
    views: Features, network: Frozen, name: str, pool: Callable[[np.ndarray], np.ndarray], folder: Path, device: str
) -> Features:
    """Variant -> clip features, float32 (N, D). name: of the network, for its files; pool: over a clip's views."""
    pooled = {}
    for variant, array in views.items():
        file = folder / f"{name}_{variant}.npy"
        pooled[variant] = pool(load_features(array, network, file=file, device=torch.device(device)))
    return pooled


def _commit() -> str:
    """The commit this code stands at, or "unknown" outside a git repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
