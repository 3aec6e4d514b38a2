"""From labelled clips to weights: `python -m model.training --data DIR --out weights`. Every step resumes."""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import SamplingConfig, available_cores
from ..video.scene import SceneNetwork
from ..video.views import ViewConfig, split_views
from . import cache, protocol
from .clips import LabelledDataError, Record, assign_folds, fingerprint, load_records
from .export import SCENE, WEIGHTS_NAME, build_feature_network, build_scene_network, export_weights
from .features import FirstStream, load_features, load_scenes
from .fit import FitConfig, merge_heads, merge_linear_heads
from .record import family_recalls, metadata_only_scores, summarise, write_scores

VIEWS = ViewConfig()  # what script.py cuts; everything is learnt from these and measured on them
BACKBONE = "tf_efficientnet_lite0"
STREAMS = ("colours", "upsampling", "difference")
KERNEL_MACHINES = {  # by what they read
    "traces": FitConfig(num_components=250),
    "scenes": FitConfig(num_components=150, kernel_width=2.0),
    "class_tokens": FitConfig(num_components=250, kernel_width=2.0),
}
_COMMITTED = Path(__file__).resolve().parents[2] / "weights" / "video" / WEIGHTS_NAME

Features = Mapping[str, np.ndarray]  # variant -> clip features, float32 (N, D)


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
    traces, scenes = {}, {}
    of_scene = "_".join("-".join(map(str, np.atleast_1d(value))) for value in SCENE.values())
    features, device = build_feature_network(BACKBONE, STREAMS), torch.device(options.device)
    for variant, array in views.items():
        patches, resized = split_views(array, VIEWS)
        file = folder / f"features_{BACKBONE}_{'_'.join(STREAMS)}_{variant}.npy"
        of_patches = load_features(patches, features, file=file, device=device)
        file = folder / f"features_{BACKBONE}_resized_{variant}.npy"
        of_resized = load_features(resized, FirstStream(features), file=file, device=device)
        traces[variant] = protocol.pool_views(of_patches, of_resized)
        file = folder / f"scenes_{of_scene}_{variant}.npy"
        scenes[variant] = load_scenes(resized, scene, file=file, device=device)
    build_weights(
        traces, scenes, records, scene=scene, out=options.out, num_folds=options.folds, seed=options.seed,
        command=f"python -m model.training --folds {options.folds} --seed {options.seed}",
    )  # fmt: skip
    return 0


def _cache_key(records: Sequence[Record]) -> str:
    """Other clips, frames or views are kept elsewhere."""
    return hashlib.sha256(f"{fingerprint(records)} {SamplingConfig()} {VIEWS}".encode()).hexdigest()[:12]


def build_weights(
    traces: Features,
    scenes: Features,
    records: Sequence[Record],
    *,
    scene: SceneNetwork,
    out: Path,
    num_folds: int,
    seed: int,
    command: str,
) -> dict[str, Any]:
    """Cross-validate, fit on everything, write weights, manifest and out-of-fold scores. Returns the measured figures.

    traces, scenes: the two kinds of clip features.
    """
    folds = assign_folds(records, num_folds, seed=seed)
    everyone = np.ones(len(records), bool)
    classes = {variant: array[:, : scene.num_class_features] for variant, array in scenes.items()}
    features = {"traces": traces, "scenes": scenes, "class_tokens": classes}
    kernels = {name: protocol.kernel_machine(features[name], config) for name, config in KERNEL_MACHINES.items()}
    linear = protocol.linear_machine(scenes)

    def evidence(*, hold_out_pages: bool) -> dict[str, dict[str, np.ndarray]]:
        """Kind of evidence -> variant -> (N, pieces)."""
        held_out = partial(protocol.out_of_fold_evidence, hold_out_pages=hold_out_pages)
        kinds = {name: held_out(features[name], records, folds, fit) for name, fit in kernels.items()}
        return {**kinds, "linear": held_out(scenes, records, folds, linear)}

    def figures(fused: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return {variant: summarise(column, records) for variant, column in fused.items()}

    columns = evidence(hold_out_pages=False)
    scores = protocol.fuse_across(list(columns.values()), records, folds)
    measured = figures(scores)
    for name, part in columns.items():
        measured[f"{name.replace('_', ' ')} alone"] = figures(protocol.fuse_across([part], records, folds))
    if protocol.pages_can_be_held_out(records, folds):
        off_pages = list(evidence(hold_out_pages=True).values())
        measured["pages held out too"] = figures(protocol.fuse_across(off_pages, records, folds))
    measured["metadata only (a warning)"] = summarise(metadata_only_scores(records, folds), records)
    measured["recall by family, as found"] = family_recalls(scores[cache.AS_FOUND], records)
    print(json.dumps(measured, indent=2))
    shares, offset = protocol.calibrate(list(columns.values()), records)
    by_kind = dict(zip(columns, shares, strict=True))
    heads = {
        name: merge_heads(protocol.fit_experts(features[name], records, everyone, fit), by_kind[name].tolist())
        for name, fit in kernels.items()
    }
    export_weights(
        out,
        heads,
        merge_linear_heads(protocol.fit_experts(scenes, records, everyone, linear), by_kind["linear"].tolist()),
        backbone=BACKBONE,
        streams=STREAMS,
        scene=scene,
        views=VIEWS,
        offset=offset,
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


def _commit() -> str:
    """The commit this code stands at, or "unknown" outside a git repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
