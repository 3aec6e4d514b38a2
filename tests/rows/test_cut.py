"""model.rows: parts of a dataset hold its rows, each once, and are read each for itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from debug.layouts import LAYOUTS, Example
from model.modality import VIDEO
from model.rows.dataset import open_dataset
from model.rows.sources import ClipDataset

EXAMPLES = [Example(f"clip-{n}", "real", "s", "test", ".mp4", bytes([n]) * 9) for n in range(10)]


@pytest.mark.parametrize("num_rows", [1, 3, 100])
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_parts_hold_every_row_once(layout: str, num_rows: int, tmp_path: Path) -> None:
    LAYOUTS[layout](EXAMPLES, tmp_path / "data", VIDEO)
    dataset = open_dataset(tmp_path / "data", VIDEO)
    parts = dataset.cut(num_rows)
    assert all(len(part.ids) <= num_rows for part in parts)
    assert [clip_id for part in parts for clip_id in part.ids] == dataset.ids
    assert all([row.id for row in part.rows()] == part.ids for part in parts)
    assert [row.media for part in parts for row in part.rows()] == [row.media for row in dataset.rows()]


def test_what_cannot_be_cut_says_so() -> None:
    with pytest.raises(ValueError, match="one row cannot be cut"):
        ClipDataset(["a"], "one row", lambda: iter(())).cut(3)
