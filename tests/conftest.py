"""What every test shares: where things are, tests that need a GPU or the training clips, tiny weights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED_CLIPS = Path(os.environ.get("SAFE_SHARED_DATA", ROOT.parent / "shared" / "data"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests marked `long` as well: campaigns of minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests marked `long` without --long, and skip those marked `gpu` without a CUDA device.

    SAFE_REQUIRE_GPU=1 lets the latter fail instead.
    """
    if not config.getoption("--long"):
        left_out = [item for item in items if item.get_closest_marker("long")]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if not item.get_closest_marker("long")]
    if os.environ.get("SAFE_REQUIRE_GPU") == "1" or not any(item.get_closest_marker("gpu") for item in items):
        return
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared_clips() -> Path:
    """The folder of labelled clips that the weights were made from; the test is skipped where it is absent."""
    if not (SHARED_CLIPS / "manifest.csv").is_file():
        pytest.skip(f"no labelled clips at {SHARED_CLIPS} (they do not ship with the project)")
    return SHARED_CLIPS
