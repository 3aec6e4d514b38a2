"""Both ways to read a dataset."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["datasets in front", "own readers"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `datasets` in front, and without it, as where it refuses: every promise holds in both."""
    if request.param == "own readers":
        monkeypatch.setattr("model.rows.dataset.resolve", lambda *_: None)
        monkeypatch.setattr("model.rows.dataset.front_of", lambda *_: None)
