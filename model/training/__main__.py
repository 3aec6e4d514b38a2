"""From labelled clips to weights: `python -m model.training --data DIR --out weights`. Every step resumes."""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import SamplingConfig, available_cores
from ..heads import Decision, Head, merge_heads, side_by_side
from ..video.detector import pool_views
from ..video.views import PATCHES, RESIZED, BarConfig, ViewConfig, split_views
from . import cache, protocol
from .clips import LabelledDataError, Record, assign_folds, fingerprint, load_records
from .export import SCENE, WEIGHTS_NAME, build_feature_network, build_scene_network, export_weights, replace_file
from .features import FirstStream, load_features, load_scenes
from .fit import KernelFit, LinearFit
from .record import family_recalls, metadata_only_scores, summarise, write_scores

VIEWS = ViewConfig()  # what script.py cuts; everything is learnt from these and measured on them
BACKBONE = "tf_efficientnet_lite0"
STREAMS = ("colours", "upsampling", "difference")
HEADS: dict[str, KernelFit | LinearFit] = {
    "traces": KernelFit(("patch", "resized"), num_components=250),
    "scenes": KernelFit(("scene",), num_components=150, kernel_width=2.0),
    "class_tokens": KernelFit(("class_tokens",), num_components=250, kernel_width=2.0),
    "linear": LinearFit(("scene",)),
}
MEASURED_NAME = "measured.json"
_COMMITTED = Path(__file__).resolve().parents[2] / "weights" / "video" / WEIGHTS_NAME

Features = Mapping[str, Mapping[str, np.ndarray]]  # variant -> name -> features of clips, float32 (N, D)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m model.training", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="manifest.csv or real/<source>/, generated/<source>/")
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights, manifest and scores")
    parser.add_argument("--cache", type=Path, default=Path("cache"), help="views and features (3 GB a 1,000 clips)")
    parser.add_argument("--folds", type=int, default=10, help="folds of the cross-validation")
    parser.add_argument("--transformer", type=Path, default=_COMMITTED, help="safetensors that hold it")
    parser.add_argument("--seed", type=int, default=0, help="seed of the folds")
    parser.add_argument("--workers", type=int, default=available_cores(), help="decoding processes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="for the networks")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    try:
        records = load_records(options.data)
        folder = options.cache / _cache_key(records)
        scene = build_scene_network(options.transformer)
        views = {
            variant: cache.build_views(records, variant, folder=folder, layout=VIEWS, workers=options.workers)
            for variant in cache.VARIANTS
        }
    except (LabelledDataError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    pooled = {}
    of_scene = "_".join("-".join(map(str, np.atleast_1d(value))) for value in SCENE.values())
    features, device = build_feature_network(BACKBONE, STREAMS), torch.device(options.device)
    for variant, array in views.items():
        kinds = split_views(array, VIEWS)
        file = folder / f"features_{BACKBONE}_{'_'.join(STREAMS)}_{variant}.npy"
        of_patches = load_features(kinds[PATCHES], features, file=file, device=device)
        file = folder / f"features_{BACKBONE}_resized_{variant}.npy"
        of_resized = load_features(kinds[RESIZED], FirstStream(features), file=file, device=device)
        file = folder / f"scenes_{of_scene}_{variant}.npy"
        scenes = load_scenes(kinds[RESIZED], scene, file=file, device=device)
        named = {"patch": of_patches, "resized": of_resized, "scene": scenes[:, None]}
        pooled[variant] = pool_views(named, scene.num_class_features)
    build_weights(
        pooled, records, networks={"features": features, "scene": scene}, out=options.out, num_folds=options.folds,
        seed=options.seed, command=f"python -m model.training --folds {options.folds} --seed {options.seed}",
    )  # fmt: skip
    return 0


def _cache_key(records: Sequence[Record]) -> str:
    """Other clips, frames or views are kept elsewhere."""
    return hashlib.sha256(f"{fingerprint(records)} {SamplingConfig()} {VIEWS}".encode()).hexdigest()[:12]


def build_weights(
    features: Features,
    records: Sequence[Record],
    *,
    networks: Mapping[str, torch.nn.Module],
    out: Path,
    num_folds: int,
    seed: int,
    command: str,
) -> dict[str, Any]:
    """Cross-validate, fit on everything, write weights, manifest and out-of-fold scores. Returns the measured figures.

    features: variant -> name -> (N, D). networks: by the prefix of their tensors in the file.
    """
    folds = assign_folds(records, num_folds, seed=seed)
    read = {head: {v: side_by_side(named, fit.reads) for v, named in features.items()} for head, fit in HEADS.items()}
    fits = {head: protocol.prepare_fit(read[head], config) for head, config in HEADS.items()}

    def evidence(*, hold_out_pages: bool) -> dict[str, dict[str, np.ndarray]]:
        """Head -> variant -> (N, pieces)."""
        held_out = partial(protocol.out_of_fold_evidence, hold_out_pages=hold_out_pages)
        return {head: held_out(read[head], records, folds, fit) for head, fit in fits.items()}

    def figures(fused: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return {variant: summarise(column, records) for variant, column in fused.items()}

    columns = evidence(hold_out_pages=False)
    scores = protocol.fuse_across(list(columns.values()), records, folds)
    measured = figures(scores)
    for head, part in columns.items():
        measured[f"{head.replace('_', ' ')} alone"] = figures(protocol.fuse_across([part], records, folds))
    if protocol.pages_can_be_held_out(records, folds):
        off_pages = list(evidence(hold_out_pages=True).values())
        measured["pages held out too"] = figures(protocol.fuse_across(off_pages, records, folds))
    measured["metadata only (a warning)"] = summarise(metadata_only_scores(records, folds), records)
    measured["recall by family, as found"] = family_recalls(scores[cache.AS_FOUND], records)
    print(json.dumps(measured, indent=2))
    shares, offset = protocol.calibrate(list(columns.values()), records)
    everyone = np.ones(len(records), bool)
    heads: dict[str, Head] = {}
    for (head, fit), share in zip(fits.items(), shares, strict=True):
        heads[head] = merge_heads(protocol.fit_experts(read[head], records, everyone, fit), share.tolist())
    made = {
        "command": command,
        "commit": _commit(),
        "clips": len(records),
        "data_sha256": fingerprint(records),
        "variants": list(features),
    }
    export_weights(
        out,
        networks,
        Decision(heads, {head: config.reads for head, config in HEADS.items()}, offset),
        modality="video",
        sizes={name: array.shape[1] for name, array in features[cache.AS_FOUND].items()},
        input={"sampling": asdict(SamplingConfig()), "bars": asdict(BarConfig()), "views": asdict(VIEWS)},
        architecture={"backbone": BACKBONE, "streams": list(STREAMS), "scene": SCENE},
        made=made,
    )
    replace_file(out / MEASURED_NAME, (json.dumps(measured, indent=2) + "\n").encode())
    write_scores(out / "cross_validation.csv", records, folds, scores)
    return measured


def _commit() -> str:
    """The commit this code stands at, or "unknown" outside a git repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
