"""Which processes a process has started, from /proc."""

from __future__ import annotations

import os


def process_tree(pid: int) -> list[int]:
    """Itself, its children, their children, and so on."""
    found = [pid]
    for process in found:  # grows while it is walked
        for task in _listdir(f"/proc/{process}/task"):
            try:
                with open(f"/proc/{process}/task/{task}/children", encoding="ascii") as file:
                    found += [int(child) for child in file.read().split()]
            except OSError:
                continue
    return found


def _listdir(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # the process has ended
        return []
