"""Tells AI-generated video from real video, and machine speech from human speech; see README.md.

from model import load_detector
print(load_detector().score("clip.mp4"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from os import PathLike

    from .run.files import FileDetector
    from .verdict import Verdict

__all__ = ["Verdict", "load_detector"]  # importing this package imports nothing else


def load_detector(
    modality: str | None = None,
    *,
    weights: str | PathLike[str] | None = None,
    device: str | None = None,
    segments: float | None = None,
    sound: bool = False,
) -> FileDetector:
    """A detector of single files, each decoded in a process of its own.

    modality: "video" or "audio"; None: by each file's suffix, video where that does not tell; loaded at its first file.
    weights: a folder with manifest.json; default: the repository's. device: "cpu", "cuda" or "cuda:N"; default: CUDA if
    there is one. segments: seconds of a window; each file is then taken in windows over its whole length.
    sound: a video's sound track gets a verdict of its own, beside the picture's, taken for speech. Raises: WeightsError
    (of `model.weights`); ValueError: no such modality, device or window.
    """
    from .run.files import FileDetector

    return FileDetector(modality, weights=weights, device=device, segments=segments, sound=sound)


def __getattr__(name: str) -> Any:
    if name == "Verdict":
        from .verdict import Verdict

        return Verdict
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
