"""From labelled clips to weights: `python -m model.training --data DIR --out weights/video`. Every step resumes."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..atomic import replace_file
from ..config import available_cores
from ..heads import Decision, merge_heads, side_by_side
from ..modality import MODALITIES
from . import cache, protocol
from .clips import LabelledDataError, Record, assign_folds, fingerprint, load_records
from .export import WEIGHTS_NAME, export_weights
from .features import choose_backend, load_features
from .recipe import AS_FOUND, Recipe
from .record import container_only_scores, family_recalls, summarise, write_scores

MEASURED_NAME = "measured.json"
SCORES_NAME = "cross_validation.csv"
_WEIGHTS = Path(__file__).resolve().parents[2] / "weights"

Features = Mapping[str, Mapping[str, np.ndarray]]  # variant -> name -> features of clips, float32 (N, D)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m model.training", description=__doc__)
    parser.add_argument("--modality", choices=sorted(MODALITIES), default="video")
    parser.add_argument("--data", type=Path, required=True, help="manifest.csv or <label>/<source>/ for both labels")
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights, manifest and scores")
    parser.add_argument("--cache", type=Path, default=Path("cache"), help="content and features (3 GB a 1,000 videos)")
    parser.add_argument("--folds", type=int, default=10, help="folds of the cross-validation")
    parser.add_argument("--pretrained", type=Path, help="safetensors with frozen networks (default: committed weights)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the folds")
    parser.add_argument("--workers", type=int, default=available_cores(), help="decoding processes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="for the networks")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    try:
        records = load_records(options.data, MODALITIES[options.modality])
        recipe = build_recipe(options.modality, options.pretrained)
        features, backends = build_features(
            records, recipe, folder=options.cache, workers=options.workers, device=torch.device(options.device)
        )
    except (LabelledDataError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    build_weights(
        features, records, recipe, out=options.out, num_folds=options.folds, seed=options.seed,
        made={
            "command": f"python -m model.training --modality {options.modality} --folds {options.folds}"
            f" --seed {options.seed}",
            "backends": backends,
        },
    )  # fmt: skip
    return 0


def build_recipe(modality: str, pretrained: Path | None = None) -> Recipe:
    """What `model.training.<modality>` says. pretrained: None for the committed weights. Raises: ValueError."""
    module = importlib.import_module(f".{modality}", __package__)
    return module.build_recipe(pretrained or _WEIGHTS / modality / WEIGHTS_NAME)


def build_features(
    records: Sequence[Record], recipe: Recipe, *, folder: Path, workers: int, device: torch.device
) -> tuple[Features, dict[str, str]]:
    """Features of all clips in all variants, and what computed each; kept in `folder`, by all that decides them.

    Raises: LabelledDataError: a clip that cannot be read.
    """
    folder = folder / cache.cache_key(records, recipe)
    features = {}
    for variant in recipe.variants:
        content = cache.build_content(records, variant, recipe, folder=folder, workers=workers)
        views = recipe.split(content)
        features[variant] = recipe.pool(
            {
                name: load_features(
                    views[extractor.kind], extractor, folder=folder, name=f"{name}_{variant}", device=device,
                    settings=recipe.architecture,
                )
                for name, extractor in recipe.extractors.items()
            }
        )  # fmt: skip
    return features, {name: choose_backend(extractor, device) for name, extractor in recipe.extractors.items()}


def build_weights(
    features: Features,
    records: Sequence[Record],
    recipe: Recipe,
    *,
    out: Path,
    num_folds: int,
    seed: int,
    made: Mapping[str, Any],
) -> dict[str, Any]:
    """Cross-validate, fit on everything, write weights, manifest, figures and out-of-fold scores. Returns the figures.

    made: for the manifest, beside the clips' fingerprint and the commit.
    """
    folds = assign_folds(records, num_folds, seed=seed)
    read = {
        head: {variant: side_by_side(named, config.reads) for variant, named in features.items()}
        for head, config in recipe.heads.items()
    }
    fits = {head: protocol.prepare_fit(read[head], config) for head, config in recipe.heads.items()}
    trait = recipe.trait(records) if recipe.trait else None

    def evidence(folds: np.ndarray, *, hold_out_pages: bool) -> dict[str, dict[str, np.ndarray]]:
        """Head -> variant -> (N, pieces)."""
        held_out = partial(
            protocol.out_of_fold_evidence, hold_out_pages=hold_out_pages, sharp=recipe.sharp, trait=trait
        )
        return {head: held_out(read[head], records, folds, fit) for head, fit in fits.items()}

    def fused(part: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Scores from the evidence of some heads."""
        assigned = [[other[head] for head in part] for other in assignments]
        return protocol.fuse_across(list(part.values()), records, folds, assignments=assigned)

    def figures(scores: Mapping[str, np.ndarray]) -> dict[str, Any]:
        columns = dict(scores)
        if recipe.generated_alone:
            generated = np.array([record.generated for record in records])
            others = [variant for variant in scores if variant != AS_FOUND]
            columns |= {f"{v}, generated alone": np.where(generated, scores[v], scores[AS_FOUND]) for v in others}
        return {name: summarise(column, records, recipe.container) for name, column in columns.items()}

    columns = evidence(folds, hold_out_pages=False)
    pages = protocol.pages_can_be_held_out(records, folds)
    off_pages = evidence(folds, hold_out_pages=True) if pages else None
    # New pages are what the detector will meet: where they can be held out, the threshold is chosen so.
    assignments = [off_pages or columns] if recipe.assignments > 1 else []
    for extra in range(1, recipe.assignments):
        assignments.append(evidence(assign_folds(records, num_folds, seed=seed + extra), hold_out_pages=pages))
    scores = fused(columns)
    measured = figures(scores)
    for head, part in columns.items():
        measured[f"{head.replace('_', ' ')} alone"] = figures(fused({head: part}))
    if off_pages:
        measured["pages held out too"] = figures(fused(off_pages))
    from_container = container_only_scores(records, folds, recipe.container)
    measured["container numbers alone (a warning)"] = summarise(from_container, records, recipe.container)
    measured["recall by family, as found"] = family_recalls(scores[AS_FOUND], records)
    print(json.dumps(measured, indent=2))
    shares, offset = protocol.calibrate([list(other.values()) for other in assignments or [columns]], records)
    everyone = np.ones(len(records), bool)
    heads = {
        head: merge_heads(
            protocol.fit_experts(read[head], records, everyone, fit, sharp=recipe.sharp, trait=trait), share.tolist()
        )
        for (head, fit), share in zip(fits.items(), shares, strict=True)
    }
    export_weights(
        out,
        recipe,
        Decision(heads, {head: config.reads for head, config in recipe.heads.items()}, offset),
        sizes={name: array.shape[1] for name, array in features[AS_FOUND].items()},
        made={"commit": _commit(), "clips": len(records), "data_sha256": fingerprint(records), **made},
    )
    replace_file(out / MEASURED_NAME, (json.dumps(measured, indent=2) + "\n").encode())
    write_scores(out / SCORES_NAME, records, folds, scores)
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
