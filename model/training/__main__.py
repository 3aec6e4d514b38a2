"""From labelled clips to weights: `python -m model.training --data DIR --out weights`. Every step resumes."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import cache, protocol
from .data import LabelledDataError, Record, assign_folds, fingerprint, load_records
from .evaluate import family_recalls, metadata_only_scores, summarise, write_scores
from .export import build_feature_network, export_weights
from .features import load_features
from .finetune import FinetuneConfig
from .fit import FitConfig, merge_heads
from .folds import MORE_PATCHES, VIEWS, FoldPlan, finetune_folds

BACKBONE = "tf_efficientnet_lite0"
STREAMS = ("colours", "upsampling", "difference")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m model.training", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="manifest.csv or real/<source>/, generated/<source>/")
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights, manifest and scores")
    parser.add_argument("--cache", type=Path, default=Path("cache"), help="views and features (8 GB a 1,000 clips)")
    parser.add_argument("--folds", type=int, default=10, help="folds of the cross-validation")
    parser.add_argument("--finetune-folds", type=int, default=3, help="folds of the fine-tuning, the long step")
    steps = FinetuneConfig().steps
    parser.add_argument("--finetune-steps", type=int, default=steps, help="per fold; 0: leave out")
    parser.add_argument("--seed", type=int, default=0, help="seed of folds and fine-tuning")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="decoding processes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="for the networks")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    try:
        records = load_records(options.data)
        folder = options.cache / fingerprint(records)[:12]
        layouts = (VIEWS, MORE_PATCHES)
        views = {
            variant: cache.build_views(records, variant, folder=folder, layouts=layouts, workers=options.workers)
            for variant in cache.VARIANTS
        }
    except LabelledDataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finetuned: list[dict[str, torch.Tensor]] = []
    logits: dict[str, np.ndarray] = {}
    if options.finetune_steps:
        plan = FoldPlan(folder, options.finetune_folds, options.finetune_steps, options.seed, BACKBONE, options.device)
        finetuned, logits = finetune_folds(records, plan)
    features = _pooled_features({variant: arrays[0] for variant, arrays in views.items()}, folder, options.device)
    build_weights(
        features, logits, finetuned, records, out=options.out, num_folds=options.folds, seed=options.seed,
        command=f"python -m model.training --folds {options.folds} --finetune-folds {options.finetune_folds}"
        f" --finetune-steps {options.finetune_steps} --seed {options.seed}",
    )  # fmt: skip
    return 0


def build_weights(
    features: Mapping[str, np.ndarray],
    logits: Mapping[str, np.ndarray],
    finetuned: Sequence[dict[str, torch.Tensor]],
    records: Sequence[Record],
    *,
    out: Path,
    num_folds: int,
    seed: int,
    command: str,
) -> dict[str, Any]:
    """Cross-validate, fit on everything, write weights, manifest and out-of-fold scores. Returns the measured figures.

    features: variant -> clip features; logits: variant -> out-of-fold logits (N,) of the fine-tuned networks, or empty.
    """
    config = FitConfig()
    folds = assign_folds(records, num_folds, seed=seed)
    projection = protocol.fit_shared_projection(features, config)
    evidence = protocol.out_of_fold_evidence(features, records, folds, projection, config)
    if logits:
        evidence = {name: np.column_stack([columns, logits[name]]) for name, columns in evidence.items()}
    scores = protocol.fuse_across(evidence, records, folds)
    measured: dict[str, Any] = {variant: summarise(column, records) for variant, column in scores.items()}
    if logits:
        alone = {"kernel machines alone": slice(0, 2), "fine-tuned networks alone": slice(2, 3)}
        for name, columns in alone.items():
            part = {variant: array[:, columns] for variant, array in evidence.items()}
            fused = protocol.fuse_across(part, records, folds)
            measured[name] = {variant: summarise(column, records) for variant, column in fused.items()}
    measured["metadata only (a warning)"] = summarise(metadata_only_scores(records, folds), records)
    measured["recall by family, as found"] = family_recalls(scores[cache.AS_FOUND], records)
    print(json.dumps(measured, indent=2))
    shares, offset = protocol.calibrate(list(evidence.values()), records)
    experts = protocol.fit_experts(features, records, np.ones(len(records), bool), projection, config)
    export_weights(
        out,
        merge_heads(experts, [float(share) for share in shares[: len(experts)]]),
        backbone=BACKBONE,
        streams=STREAMS,
        views=VIEWS,
        finetuned=finetuned,
        calibration={"kernel": 1.0, "finetuned": float(shares[-1]) if logits else 0.0, "offset": offset},
        record={
            "command": command,
            "commit": _commit(),
            "clips": len(records),
            "data_sha256": fingerprint(records),
            "variants": list(features),
            "cross_validation": measured,
        },
    )
    write_scores(out / "cross_validation.csv", records, folds, scores)
    return measured


def _pooled_features(views: Mapping[str, np.ndarray], folder: Path, device: str) -> dict[str, np.ndarray]:
    """Variant -> clip features, float32 (N, D)."""
    network = build_feature_network(BACKBONE, STREAMS)
    pooled = {}
    for variant, array in views.items():
        file = folder / f"features_{BACKBONE}_{'_'.join(STREAMS)}_{variant}.npy"
        features = load_features(array, network, file=file, device=torch.device(device))
        pooled[variant] = protocol.pool_views(features, VIEWS.num_patches, len(STREAMS))
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
