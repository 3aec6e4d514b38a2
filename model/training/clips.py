"""Labelled clips: a manifest or a folder becomes a list of records, grouped by family for honest splits."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..modality import GENERATED, MODALITIES, VIDEO, Modality


class LabelledDataError(ValueError):
    """The folder or manifest cannot be used for training; the message says which part and how to mend it."""


@dataclass(frozen=True)
class Record:
    """One labelled clip. Numbers that the container told are for reports alone, never for the detector."""

    path: Path
    file: str  # path below the data folder, the clip's name in every report
    label: str  # "generated", or the modality's genuine one
    source: str  # generator or camera collection; every source counts the same
    family: str  # sources that share a base model, decoder or footage; never split
    num_bytes: int = 0
    page: str = ""  # where it was published, if known: one page shows like content, encoded alike, of many sources
    details: Mapping[str, str] = field(default_factory=dict, compare=False)  # all columns of the manifest

    @property
    def generated(self) -> bool:
        return self.label == GENERATED

    def number(self, name: str) -> float:
        """One of the details, 0 if it is not known."""
        return float(self.details.get(name) or 0)


def find_modality(data: Path) -> Modality:
    """By the label that is not "generated", in the manifest or among the folders; video where none is found."""
    manifest = data / "manifest.csv"
    rows = _read_csv(manifest) if manifest.is_file() else [{"label": path.name} for path in data.glob("*")]
    labels = {row.get("label") for row in rows}
    return next((modality for modality in MODALITIES.values() if modality.genuine in labels), VIDEO)


def load_records(data: Path, modality: Modality | None = None) -> list[Record]:
    """Read `data/manifest.csv`, or a folder `real/<source>/…`, `generated/<source>/…` (family = source).

    The manifest's columns: file, label, source; if it has them also family, repo (the page), and whatever a recipe
    takes container numbers from, such as width, height and fps.
    modality: default: by `find_modality`; speech has `pristine` for `real`.
    Raises: LabelledDataError: nothing usable, a missing column, an unknown label, or only one class.
    """
    if not data.is_dir():
        raise LabelledDataError(f"{data} is not a folder")
    modality = modality or find_modality(data)
    manifest = data / "manifest.csv"
    records = _from_manifest(manifest, modality.labels) if manifest.is_file() else _from_folder(data, modality)
    for label in modality.labels:
        if not any(record.label == label for record in records):
            raise LabelledDataError(f"{data} holds no {label!r} clip; both classes are needed")
    return records


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _from_manifest(manifest: Path, labels: tuple[str, ...]) -> list[Record]:
    rows = _read_csv(manifest)
    missing = {"file", "label", "source"} - set(rows[0] if rows else {})
    if missing:
        raise LabelledDataError(f"{manifest} lacks the columns {sorted(missing)}")
    records = []
    for line, row in enumerate(rows, start=2):
        if row["label"] not in labels:
            raise LabelledDataError(f"{manifest}:{line}: label is {row['label']!r}; valid labels: {labels}")
        path = manifest.parent / row["file"]
        if not path.is_file():
            raise LabelledDataError(f"{manifest}:{line}: {row['file']} does not exist")
        records.append(
            Record(
                path=path,
                file=row["file"],
                label=row["label"],
                source=row["source"],
                family=row.get("family") or row["source"],
                num_bytes=path.stat().st_size,
                page=row.get("repo") or "",
                details=row,
            )
        )
    return records


def _from_folder(data: Path, modality: Modality) -> list[Record]:
    records = []
    for label in modality.labels:
        for source in sorted(path for path in (data / label).glob("*") if path.is_dir()):
            for path in sorted(source.rglob("*")):
                if path.suffix.lower() in modality.suffixes:
                    file = path.relative_to(data).as_posix()
                    records.append(Record(path, file, label, source.name, source.name, num_bytes=path.stat().st_size))
    if not records:
        raise LabelledDataError(
            f"{data} has no manifest.csv and no clips below {modality.genuine}/<source>/ and generated/<source>/"
            f" (suffixes looked for: {', '.join(sorted(modality.suffixes))})"
        )
    return records


def fingerprint(records: Sequence[Record]) -> str:
    """SHA-256 over names, labels, groups and sizes: two runs with one fingerprint saw the same clips."""
    lines = sorted(f"{r.file}\t{r.label}\t{r.source}\t{r.family}\t{r.num_bytes}" for r in records)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def labels_of(records: Sequence[Record]) -> list[str]:
    """Those that occur, "generated" last."""
    return sorted({record.label for record in records}, key=lambda label: (label == GENERATED, label))


def balanced_weights(records: Sequence[Record]) -> np.ndarray:
    """Weight of each clip: both classes count the same, and so does every source within its class. Mean 1."""
    labels = np.array([record.label for record in records])
    sources = np.array([f"{record.label}/{record.source}" for record in records])
    _, inverse, counts = np.unique(sources, return_inverse=True, return_counts=True)
    weights = 1.0 / counts[inverse]
    for label in labels_of(records):
        weights[labels == label] /= weights[labels == label].sum()
    return weights * len(records) / weights.sum()


def assign_folds(records: Sequence[Record], num_folds: int, *, seed: int = 0) -> np.ndarray:
    """Fold of each clip, whole families together, sources and clips of each class spread evenly.

    Largest family first into the fold of its class that holds the fewest sources (ties: fewest clips).
    """
    rng = np.random.default_rng(seed)
    folds = np.empty(len(records), np.int64)
    for label in labels_of(records):
        members = [index for index, record in enumerate(records) if record.label == label]
        families = sorted({records[index].family for index in members})
        rng.shuffle(families)
        indices = {family: [i for i in members if records[i].family == family] for family in families}
        families.sort(key=lambda family: -len({records[i].source for i in indices[family]}))
        load = np.zeros((num_folds, 2))
        for family in families:
            fold = min(range(num_folds), key=lambda f: tuple(load[f]))
            folds[indices[family]] = fold
            load[fold] += len({records[i].source for i in indices[family]}), len(indices[family])
    return folds
