"""What decoding gives: a Clip of a few runs of frames; and what the container says of a file, a Header."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ..config import LimitsConfig
from ..modality import Refused
from .boxes import TrackHeader


@dataclass(frozen=True)
class Clip:
    """Frames of one video.

    runs: uint8 RGB arrays of shape (T_i, H, W, 3), consecutive frames each, in display order, as
    displayed (crop, rotation and mirroring of the container applied). pts_seconds: for each run the
    presentation times, (T_i,) float64, nan where the file has none. decoder: which of the readers gave the
    frames. note: what was lost on the way, empty if nothing. duration_seconds: of the whole file, nan if
    unknown.
    """

    runs: tuple[np.ndarray, ...]
    pts_seconds: tuple[np.ndarray, ...]
    decoder: str
    note: str = ""
    duration_seconds: float = math.nan

    @property
    def num_frames(self) -> int:
        """How many were looked at."""
        return sum(len(run) for run in self.runs)


@dataclass(frozen=True)
class Header:
    """Of an MP4, MOV, Matroska or WebM file's main video. Places count the frames that are shown, in that order."""

    codec: str
    width: int
    height: int
    num_videos: int  # streams of pictures, of whatever kind
    track: TrackHeader
    seconds: np.ndarray = field(repr=False)  # when each frame is shown, (T,) float64, ascending
    key_places: tuple[int, ...]
    in_order: bool  # each frame is shown, at a time of its own
    closed_groups: bool  # no frame needs, or is shown before, one on the other side of a key frame
    same_sets: bool  # parameter sets do not change on the way
    duration_seconds: float  # of the whole file; nan if unknown


def check_frame_size(width: int, height: int, limits: LimitsConfig) -> None:
    """Raises: Refused: a decompression bomb."""
    if width * height > limits.max_frame_pixels:
        raise Refused(f"frames of {width}x{height} pixels; the limit is {limits.max_frame_pixels} pixels")


def max_frames_in_memory(width: int, height: int, limits: LimitsConfig) -> int:
    """How many RGB frames of this size one clip may hold at once."""
    return max(1, limits.max_decoded_bytes // max(1, 3 * width * height))
