"""Records and footage made up for tests of training, where no real clip is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from model.training.clips import Record
from model.video import copies

DETAILS = {"width": "640", "height": "480", "fps": "25.0"}


def made_up_records(families: int = 12, clips: int = 4) -> list[Record]:
    """`families` families of each class; every third one has two sources."""
    records = []
    for label in ("real", "generated"):
        for family in range(families):
            for clip in range(clips):
                source = f"s{family}_{clip % (2 if family % 3 == 0 else 1)}"
                file = f"{label}/{source}/{clip}.mp4"
                records.append(Record(Path(file), file, label, source, f"f{family}", 1000 + clip, details=DETAILS))
    return records


def made_up_footage(length: int = 8, height: int = 120, width: int = 160) -> np.ndarray:
    """A textured scene that moves one pixel a frame, uint8 (length, height, width, 3)."""
    noise = np.random.default_rng(0).integers(0, 256, (height // 8 + 4, width // 8 + 4, 3), dtype=np.uint8)
    scene = copies.resize_frames(noise[None], height + 32, width + 32)[0]
    return np.stack([scene[t : t + height, t : t + width] for t in range(length)])
