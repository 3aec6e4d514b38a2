"""A folder as people have them: 400 files, good and broken videos, images, sounds and text, nested, with odd names."""

from __future__ import annotations

import io
import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from debug.faults import damaged_rows, load_material, whole_rows
from model.modality import AUDIO, VIDEO
from model.rows.dataset import Row

GOOD, DAMAGED, MISNAMED, SOUNDS, IMAGES, TEXTS = 62, 48, 40, 100, 80, 70  # the first three as videos
FILES = GOOD + DAMAGED + MISNAMED + SOUNDS + IMAGES + TEXTS
_FOLDERS = ("", "2024", "2024/summer trip", "a/b/c/d", "Müller & Söhne", "日本", '"quoted", with comma', "#1 100%")
_NAMES = (
    "clip {}", "IMG_{:04}", "{}", "-{} starts with a dash", "é ü ß {}", "new\nline {}", "tab\t{}", "{}; $(echo no)",
    "😀 {}", "'{}'", "a.b.c.{}", "long " + 180 * "x" + " {}", "frame%03d {}", "~{}", "=1+{}",
)  # fmt: skip
_VIDEO_SUFFIXES = (".mp4", ".MP4", ".mkv", ".webm", ".mov", ".Avi")


def make_mixed_folder(root: Path) -> set[str]:
    """Write the files; the same for every call. Returns the paths, below `root`, of those that are called videos."""
    rng = random.Random(0)
    names = (f"{rng.choice(_FOLDERS)}/{rng.choice(_NAMES).format(number)}".lstrip("/") for number in itertools.count())
    videos = set()
    for (content, suffixes), name in zip(_contents(rng), names, strict=False):
        suffix = rng.choice(suffixes)
        path = root / (name + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if suffix in _VIDEO_SUFFIXES:
            videos.add(name + suffix)
    # A name that is no text in UTF-8: its byte stands in ids as Python escapes it.
    os.rename(os.fsencode(root / name) + os.fsencode(suffix), os.fsencode(root) + b"/caf\xe9" + os.fsencode(suffix))
    return videos


def _contents(rng: random.Random) -> Iterator[tuple[bytes, tuple[str, ...]]]:
    """Each file's bytes, and the suffixes that it may have. The last is a text."""
    video, sound = load_material(VIDEO), load_material(AUDIO)
    for row in whole_rows(GOOD, video):
        yield _content(row), _VIDEO_SUFFIXES
    for row in damaged_rows(DAMAGED, 5, video):
        yield _content(row), _VIDEO_SUFFIXES
    for number in range(MISNAMED):
        kinds = (b"", b"no video at all\n" * 50, _image("png", number), sound.clip(sound.families[0]))
        yield kinds[number % len(kinds)], _VIDEO_SUFFIXES
    for row in whole_rows(SOUNDS, sound):
        yield _content(row), (".wav", ".mp3", ".m4a")
    for number in range(IMAGES):
        kind = rng.choice(("png", "jpeg", "webp"))
        yield _image(kind, number), (f".{kind}", f".{kind.upper()}")
    for number in range(TEXTS):
        yield f"a line\nid,pred,score\n{number},real,1\n".encode(), (".txt", ".csv", ".json", ".srt", ".md", "")


def _content(row: Row) -> bytes:
    assert isinstance(row.media, bytes)
    return row.media


def _image(kind: str, seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()
