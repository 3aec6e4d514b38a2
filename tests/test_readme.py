"""README.md stays true: its figures are the measured ones, its paths and commands exist, its sentences are short."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from model.modality import MODALITIES

_ROWS = {  # of the table -> where measured.json holds the figures, in the order of the table's columns
    "video": {
        "families held out": ("clean", "post"),
        "their web pages held out too": ("pages held out too/clean", "pages held out too/post"),
        "container numbers alone (a warning)": ("container numbers alone (a warning)",),
    },
    "audio": {
        "families held out": ("clean", "codec, generated alone", "laundered, generated alone"),
        "their web pages held out too": (
            "pages held out too/clean",
            "pages held out too/codec, generated alone",
            "pages held out too/laundered, generated alone",
        ),
        "container numbers alone (a warning)": ("container numbers alone (a warning)",),
    },
}
_LONGEST_SENTENCE = 20  # words


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text(encoding="utf-8")


def _table(readme: str, modality: str) -> dict[str, list[str]]:
    """Row -> cells of the table whose header starts with the modality's name."""
    lines = readme.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {modality} |"))
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rows[name] = cells
    return rows


def _figures(measured: dict[str, Any], place: str) -> dict[str, Any]:
    for key in place.split("/"):
        measured = measured[key]
    return measured


@pytest.mark.parametrize("modality", sorted(MODALITIES))
def test_figures_are_the_measured_ones(readme: str, repository: Path, modality: str) -> None:
    measured = json.loads((repository / "weights" / modality / "measured.json").read_text(encoding="utf-8"))
    table = _table(readme, modality)
    assert list(table) == list(_ROWS[modality])
    for row, places in _ROWS[modality].items():
        wanted = [_figures(measured, place) for place in places]
        shown = [f"{figures['balanced_accuracy']:.3f} / {figures['auc']:.3f}" for figures in wanted]
        assert [cell for cell in table[row] if cell] == shown, row


@pytest.mark.parametrize("modality", sorted(MODALITIES))
def test_numbers_of_clips_are_the_measured_ones(readme: str, repository: Path, modality: str) -> None:
    measured = json.loads((repository / "weights" / modality / "measured.json").read_text(encoding="utf-8"))
    clips, sources = measured["clean"]["clips"], measured["clean"]["sources"]
    assert f"{clips:,} clips of {sources} sources" in readme


def test_every_path_and_module_exists(readme: str, repository: Path) -> None:
    paths = set(re.findall(r"`((?:model|debug|tests|weights|wheels)/[\w/.]*)`", readme))
    paths |= set(re.findall(r"\]\(([\w/.-]+)\)", readme))
    assert len(paths) > 10
    assert not [path for path in sorted(paths) if not (repository / path).exists()]
    modules = set(re.findall(r"python3? -m ((?:debug|model|tests)[\w.]*)", readme))
    assert modules and all(importlib.util.find_spec(module) for module in modules)


def test_sentences_are_short(readme: str) -> None:
    prose = re.sub(r"```.*?```|^---.*?^---|^\|.*?$|^#.*?$", "", readme, flags=re.S | re.M)
    prose = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", prose).replace("**", "")
    sentences = re.split(r"(?<=[.!?:;])\s+", prose)
    assert not [sentence for sentence in sentences if len(sentence.split()) > _LONGEST_SENTENCE]
