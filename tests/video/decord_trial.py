"""Run by itself: what decord makes of a file when it is used as its documentation says, against ffmpeg's frames.

Prints `right`, `wrong` or `refused`; a crash of decord ends this process and no other. Arguments: a file of ffmpeg's
frames (.npy, uint8 (T, H, W, 3)), how often to try, the video.
"""

from __future__ import annotations

import sys

import numpy as np

from model.config import SamplingConfig
from model.video.reading_decord import DECORDError, decord
from model.video.sampling import choose_runs


def trial(path: str, shown: np.ndarray) -> str:
    """Runs at decord's own key frames, by its own count."""
    try:
        reader = decord.VideoReader(path, num_threads=1)
        runs = choose_runs(reader.get_key_indices(), len(reader), SamplingConfig())
        frames = [reader.get_batch(list(run)).asnumpy() for run in runs]
    except (DECORDError, RuntimeError):
        return "refused"
    if len(reader) != len(shown) or frames[0].shape[1:] != shown.shape[1:]:
        return "wrong"
    off = max(int(abs(shown[list(run)].astype(np.int16) - got).max()) for run, got in zip(runs, frames, strict=True))
    return "right" if off <= 1 else "wrong"


if __name__ == "__main__":
    answers = {trial(sys.argv[3], np.load(sys.argv[1])) for _ in range(int(sys.argv[2]))}
    print(next(answer for answer in ("wrong", "refused", "right") if answer in answers))
