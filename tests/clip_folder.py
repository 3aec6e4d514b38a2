"""A small folder of labelled clips, encoded on the spot: moving texture as real, moving gradients as generated."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from model.video.copies import encode

SOURCES = {"real": ("canon", "phone"), "generated": ("modelscope", "sora", "wan")}


def render_frames(seed: int, *, generated: bool, num_frames: int = 6, height: int = 96, width: int = 128) -> np.ndarray:
    """uint8 RGB (T, H, W, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    frames = []
    for t in range(num_frames):
        smooth = 127 + 90 * np.sin((x + 3 * t) / 17 + seed) * np.cos(y / 13)
        frame = np.repeat(smooth[..., None], 3, axis=-1)
        if not generated:
            frame = frame + rng.normal(0, 18, size=frame.shape)
        frames.append(np.clip(frame, 0, 255).astype(np.uint8))
    return np.stack(frames)


def make_clip_folder(root: Path, *, clips_per_source: int = 2) -> Path:
    """root/<label>/<source>/<k>.mkv for every source in SOURCES."""
    for label, sources in SOURCES.items():
        for number, source in enumerate(sources):
            for k in range(clips_per_source):
                path = root / label / source / f"{k}.mkv"
                path.parent.mkdir(parents=True, exist_ok=True)
                frames = render_frames(100 * number + k, generated=label == "generated")
                path.write_bytes(encode(frames, "h264", 20, fps=12.0))
    return root
