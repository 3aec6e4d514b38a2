"""The committed weights: what the manifest says, and that card, table and figures agree. Manifests that are refused."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from pathlib import Path

import pytest
import torch

from model.config import SamplingConfig
from model.training.export import manifest_text
from model.video.prepare import load_preparation
from model.video.views import BarConfig, ViewConfig
from model.weights import FORMAT_VERSION, WeightsError, load_manifest, load_tensors, read_ahead


@pytest.fixture
def committed(repository: Path) -> Path:
    return repository / "weights" / "video"


def _changed(committed: Path, folder: Path, **changes: object) -> Path:
    content = json.loads((committed / "manifest.json").read_text())
    (folder / "manifest.json").write_text(manifest_text(content | changes))
    return folder


def test_the_manifest_holds_what_decides_and_no_more(committed: Path) -> None:
    """Before, how frames are read and bars cut off was left to whatever the code had as defaults."""
    text = (committed / "manifest.json").read_text()
    assert len(text.splitlines()) <= 45
    assert text == manifest_text(json.loads(text))
    manifest = load_manifest(committed)
    assert manifest.modality == "video"
    assert hashlib.sha256((committed / manifest.file).read_bytes()).hexdigest() == manifest.sha256
    assert set(json.loads(text)["made"]["backends"]) == {"patch", "resized", "scene"}


def test_settings_of_the_input_are_the_manifests(committed: Path, tmp_path: Path) -> None:
    parts = {
        "sampling": {"max_runs": 2, "max_run_frames": 3, "min_run_frames": 1},
        "bars": {"level": 20, "step": 8, "rim": 1},
        "views": {"num_patches": 3, "size": 64},
    }
    preparation = load_preparation(_changed(committed, tmp_path, input=parts))
    assert preparation.sampling == SamplingConfig(max_runs=2, max_run_frames=3, min_run_frames=1)
    assert preparation.bars == BarConfig(level=20, step=8, rim=1)
    assert preparation.views == ViewConfig(num_patches=3, size=64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 7}, f"has format 7; this code reads {FORMAT_VERSION}"),
        ({"input": {"sampling": {}, "views": {}}}, "input.bars is not usable: KeyError.'bars'."),
        ({"input": {"sampling": {"max_runs": 0}, "views": {}, "bars": {}}}, "max_runs must be at least 1, got 0"),
        ({"input": {"sampling": {"speed": 2}, "views": {}, "bars": {}}}, "unexpected keyword argument 'speed'"),
        ({"input": {"sampling": {}, "views": {}, "bars": {"step": 0}}}, "step .0. must be at least 1"),
        ({"calibration": {}}, "KeyError.'offset'."),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    committed: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        load_preparation(_changed(committed, tmp_path, **changes))


def test_no_manifest_is_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no weights: cannot read .*fetch the repository with its LFS files"):
        load_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(WeightsError, match="is not a manifest of this project"):
        load_manifest(tmp_path)


def test_the_card_has_the_measured_figures(committed: Path) -> None:
    measured = json.loads((committed / "measured.json").read_text())
    variants = {"as found": "clean", "processed": "post"}
    results = (committed / "CARD.md").read_text().split("## Results")[1].split("\n\n")[1]
    compared = 0
    for line in results.splitlines()[2:]:
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        of, _, variant = name.rpartition(", ")
        if of == "**all heads**":
            figures = measured[variants[variant]]
        elif of:
            figures = measured[of.replace("linear head", "linear")][variants[variant]]
        else:
            figures = measured[name]
        names = ("balanced_accuracy", "generated_accuracy", "genuine_accuracy", "auc")
        assert [cells[0], *cells[2:]] == [f"{figures[name]:.3f}" for name in names], name
        if "interval_95" in figures:
            assert [float(end) for end in re.findall(r"\d\.\d+", cells[1])] == [
                round(end, 2) for end in figures["interval_95"]
            ]
        compared += 1
    assert compared >= 2 * (1 + len(json.loads((committed / "manifest.json").read_text())["heads"]))


def test_the_logs_table_has_a_date_and_a_commit_a_row(repository: Path) -> None:

    with (repository / "model" / "training" / "experiments.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 300
    figures = ("balanced_accuracy", "auc", "processed_balanced_accuracy", "processed_auc")
    for row in rows:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", row["date"]) and re.fullmatch(r"[0-9a-f]{7,}", row["commit"])
        assert row["protocol"] and row["setting"]
        assert row["other_figures"] or any(row[name] for name in figures)
        assert all(0 < float(row[name]) <= 1 for name in figures if row[name])


def test_weights_read_ahead_are_those_that_are_loaded_next(committed: Path, tmp_path: Path) -> None:
    plain = load_tensors(load_manifest(committed))
    for file in committed.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    manifest = load_manifest(tmp_path)
    read_ahead(tmp_path)
    ahead = load_tensors(manifest)
    assert ahead.keys() == plain.keys() and all(torch.equal(ahead[name], plain[name]) for name in plain)
    (tmp_path / manifest.file).write_bytes(b"another file")
    with pytest.raises(WeightsError, match="has SHA-256"):  # read again, not what was read before
        load_tensors(manifest)


def test_what_keeps_weights_from_being_read_ahead_is_told_when_they_are_loaded(committed: Path, tmp_path: Path) -> None:
    manifest = load_manifest(_changed(committed, tmp_path))
    read_ahead(tmp_path)
    with pytest.raises(WeightsError, match="cannot read .*fetch the repository with its LFS files"):
        load_tensors(manifest)
