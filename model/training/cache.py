"""Every clip is read once per variant; its content is kept on disk, uncompressed, for all that follows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..modality import Unreadable
from .clips import LabelledDataError, Record, fingerprint
from .recipe import Recipe


def cache_key(records: Sequence[Record], recipe: Recipe) -> str:
    """Other clips, and content that was made in another way, are kept elsewhere."""
    return hashlib.sha256(f"{fingerprint(records)} {recipe.prepared_by}".encode()).hexdigest()[:12]


def build_content(records: Sequence[Record], variant: str, recipe: Recipe, *, folder: Path, workers: int) -> np.ndarray:
    """uint8 (N, num_bytes), memory-mapped, from `folder` as far as an earlier run came.

    Raises: LabelledDataError: a clip that cannot be read, by name.
    """
    if variant not in recipe.variants:
        raise ValueError(f"variant is {variant!r}; valid variants: {recipe.variants}")
    folder.mkdir(parents=True, exist_ok=True)
    done_path = folder / f"content_{variant}.done.npy"
    done = np.load(done_path) if done_path.exists() else np.zeros(len(records), bool)
    array = _open(folder / f"content_{variant}.npy", (len(records), recipe.num_bytes), start=not done.any())
    missing = np.flatnonzero(~done)
    task = partial(_prepare, prepare=recipe.prepare, variant=variant)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        results = pool.map(task, [records[index] for index in missing], chunksize=4)
        progress = tqdm(results, total=len(missing), desc=f"content, {variant}", unit="clip")
        for count, (index, content) in enumerate(zip(missing, progress, strict=True)):
            array[index] = content
            done[index] = True
            if count % 50 == 49:
                _save_done(done_path, done)
    _save_done(done_path, done)
    return array


def _prepare(record: Record, *, prepare: Callable[[Record, str], np.ndarray], variant: str) -> np.ndarray:
    try:
        return prepare(record, variant)
    except Unreadable as error:
        raise LabelledDataError(f"{record.file}: {error}; mend it or take it out of the data") from error


def _open(path: Path, shape: tuple[int, int], *, start: bool) -> np.ndarray:
    if start:
        return np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    array = np.lib.format.open_memmap(path, mode="r+")
    if array.shape != shape:
        raise ValueError(f"{path} holds content of shape {array.shape}, not {shape}; remove its folder to start afresh")
    return array


def _save_done(path: Path, done: np.ndarray) -> None:
    temporary = path.with_name(path.name + ".tmp.npy")
    np.save(temporary, done)
    os.replace(temporary, path)
