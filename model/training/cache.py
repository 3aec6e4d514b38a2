"""Every clip is decoded once per variant; its views are kept on disk, uncompressed, for all that follows."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..config import LimitsConfig, SamplingConfig
from ..video import copies
from ..video.reading import VideoReadError, read_clip
from ..video.views import ViewConfig, cut_views, trim_bars
from .clips import LabelledDataError, Record

AS_FOUND = "clean"  # read as in the challenge
PROCESSED = "post"  # the fixed post-processed copy that is measured, and learnt from in other families
VARIANTS = (AS_FOUND, PROCESSED)

_SOURCE_FRAMES = 20  # read for a post-processed copy: a higher frame rate needs more than a run has
_KEPT_FRAMES = 8  # of a copy: an encoder looks ahead; its views come from the first of them
_MAX_PIXELS = 1_000_000  # of a copy: larger frames are cut or shrunk to this first


def build_views(
    records: Sequence[Record], variant: str, *, folder: Path, layout: ViewConfig, workers: int
) -> np.ndarray:
    """uint8 (N, num_bytes), memory-mapped, from `folder` as far as an earlier run came; `split_views` tells them apart.

    Raises: LabelledDataError: a clip that cannot be read, by name.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}; valid variants: {VARIANTS}")
    folder.mkdir(parents=True, exist_ok=True)
    done_path = folder / f"views_{variant}.done.npy"
    done = np.load(done_path) if done_path.exists() else np.zeros(len(records), bool)
    array = _open_views(folder / f"views_{variant}.npy", len(records), layout, start=not done.any())
    missing = np.flatnonzero(~done)
    task = partial(_read_views, variant=variant, layout=layout)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        results = pool.map(task, [records[index] for index in missing], chunksize=4)
        progress = tqdm(results, total=len(missing), desc=f"views, {variant}", unit="clip")
        for count, (index, clip_views) in enumerate(zip(missing, progress, strict=True)):
            array[index] = clip_views
            done[index] = True
            if count % 50 == 49:
                _save_done(done_path, done)
    _save_done(done_path, done)
    return array


def _open_views(path: Path, num_clips: int, layout: ViewConfig, *, start: bool) -> np.ndarray:
    shape = (num_clips, layout.num_bytes)
    if start:
        return np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    array = np.lib.format.open_memmap(path, mode="r+")
    if array.shape != shape:
        raise ValueError(f"{path} holds views of shape {array.shape}, not {shape}; remove its folder to start afresh")
    return array


def _save_done(path: Path, done: np.ndarray) -> None:
    temporary = path.with_name(path.name + ".tmp.npy")
    np.save(temporary, done)
    os.replace(temporary, path)


def _read_views(record: Record, *, variant: str, layout: ViewConfig) -> np.ndarray:
    """Decode one clip, post-process it unless it is measured as found, cut its views."""
    whole = SamplingConfig(max_runs=1, max_run_frames=_SOURCE_FRAMES)
    sampling = SamplingConfig() if variant == AS_FOUND else whole
    try:
        runs = read_clip(str(record.path), sampling, LimitsConfig()).runs
    except VideoReadError as error:
        raise LabelledDataError(f"{record.file}: {error}; mend it or take it out of the data") from error
    if variant != AS_FOUND:
        runs = (process(runs[0], variant, record.file)[: SamplingConfig().max_run_frames],)
    return cut_views(trim_bars(runs), layout)


def process(frames_thwc: np.ndarray, variant: str, file: str) -> np.ndarray:
    """The post-processed copy of a clip's frames that variant and file name decide, whatever its class."""
    rng = np.random.default_rng([zlib.crc32(variant.encode()), zlib.crc32(file.encode())])
    chain = copies.random_chain(rng)
    for step in [step for step in chain if step[0] == "frame_rate"]:  # first, while all frames are there
        frames_thwc = copies.apply_chain(frames_thwc, [step], rng)
    frames_thwc = frames_thwc[:_KEPT_FRAMES]
    frames_thwc = _bound(frames_thwc, rng)
    return copies.apply_chain(frames_thwc, [step for step in chain if step[0] != "frame_rate"], rng)


def _bound(frames_thwc: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut a window out of large frames, or shrink them, each half of the time: 1080p costs as 480p does."""
    height, width = frames_thwc.shape[1:3]
    if height * width <= _MAX_PIXELS:
        return frames_thwc
    factor = (_MAX_PIXELS / (height * width)) ** 0.5
    kept_h, kept_w = int(height * factor), int(width * factor)
    if rng.random() < 0.5:
        top, left = rng.integers(height - kept_h + 1), rng.integers(width - kept_w + 1)
        return np.ascontiguousarray(frames_thwc[:, top : top + kept_h, left : left + kept_w])
    return copies.resize_frames(frames_thwc, kept_h, kept_w)
