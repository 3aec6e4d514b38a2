"""Rows are read while torch is imported."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from model.config import torch_import
from model.rows.streamed import _started


def test_datasets_meets_no_half_imported_torch() -> None:
    """It ended a run: both threads imported parts of torch, and the main one met `torch.utils` half done."""
    begun: list[bool] = []

    def rows() -> Iterator[dict[str, Any]]:
        begun.append(torch_import.locked())
        yield {"id": 1}
        begun.append(torch_import.locked())
        yield {"id": 2}

    found: list[dict[str, Any]] = []
    reader = threading.Thread(target=lambda: found.extend(_started(rows())))
    with torch_import:
        reader.start()
        reader.join(0.2)
        assert begun == [], "reading began while torch was being imported"
    reader.join()
    assert found == [{"id": 1}, {"id": 2}]
    assert begun == [True, False], "the lock is held for the start alone"
