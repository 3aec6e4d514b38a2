"""What a modality is: what the challenge says of it, and the two parts that the run asks of it.

A row travels one way: rows -> pool -> worker process (`Preparation`) -> scorer (`Detector`) -> result file. The run
knows these protocols alone, not what a video or a sound is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .config import LimitsConfig

if TYPE_CHECKING:
    import torch

GENERATED = "generated"


@dataclass(frozen=True)
class Modality:
    """What a challenge says. Data only."""

    name: str  # "video" or "audio"; also the folder below weights/
    column_type: str  # the type of the media column in `datasets`
    column_names: tuple[str, ...]  # of the media column, the likeliest first, in lower case
    suffixes: frozenset[str]  # of files, in lower case, with the dot; each is one that the modality's readers open
    genuine: str  # the label that is not "generated"
    with_time: bool  # the result file has the column `time`

    @property
    def labels(self) -> tuple[str, str]:
        """The genuine one, then `GENERATED`."""
        return self.genuine, GENERATED


def _suffixes(names: str) -> frozenset[str]:
    return frozenset(names.split())


VIDEO = Modality(
    name="video",
    column_type="Video",
    column_names=("video", "video_bytes", "clip", "mp4", "webm", "mov", "avi", "mkv", "movie", "footage"),
    suffixes=_suffixes(  # tests/video/test_formats.py builds a file of each and reads it
        ".mp4 .m4v .mp4v .mov .qt .insv .lrv .webm .mkv .mk3d .avi .divx .xvid .ts .mts .m2ts .m2t .mpg .mpeg"
        " .mpe .mpv .m1v .m2v .vob .wmv .asf .dvr-ms .flv .f4v .3gp .3gpp .3g2 .3gp2 .ogv .ogm .gif .apng .y4m"
        " .mxf .dv .rm .rmvb .ivf .obu .nut .wtv .mjpeg .mjpg .h264 .264 .avc .h265 .265 .hevc .h263 .h261 .av1"
    ),
    genuine="real",
    with_time=False,
)
AUDIO = Modality(
    name="audio",
    column_type="Audio",
    column_names=("audio", "audio_bytes", "speech", "sound", "wav", "flac", "mp3", "ogg", "m4a", "opus", "recording"),
    suffixes=_suffixes(
        ".wav .flac .mp3 .mp2 .ogg .oga .opus .spx .m4a .m4b .mka .weba .aac .wma .amr .aif .aiff .aifc .au .snd"
        " .caf .w64 .rf64 .sph .wv .tta .ac3 .eac3 .dts .gsm .voc"
    ),
    genuine="pristine",
    with_time=True,
)
MODALITIES: Mapping[str, Modality] = {modality.name: modality for modality in (VIDEO, AUDIO)}


class Unreadable(Exception):
    """Nothing of this file can be used. The message names the limit or the cause."""


class Refused(Unreadable):
    """No media of this kind at all, or one that costs more than a clip may: no other attempt is to be made."""


@dataclass(frozen=True)
class Prepared:
    """One file, or one window of it, ready for the networks. content: uint8 (n,), n <= the preparation's max_bytes.

    Content of a window may be empty; the note then says why.
    """

    content: np.ndarray
    reader: str  # which decoder gave it
    note: str = ""  # what was lost on the way; empty if nothing
    read_seconds: float = 0.0  # wall time of decoding
    cut_seconds: float = 0.0  # wall time of all that follows
    duration_seconds: float = float("nan")  # of the file, as far as it is known
    num_frames: int = 0  # frames (video) or samples at the file's rate (audio) that were looked at
    num_places: int = 0  # where these lie together: runs of frames, or windows of sound
    start_seconds: float = float("nan")  # of a window, in the file
    end_seconds: float = float("nan")


class AnyPreparation(Protocol):
    """File -> what the networks eat, at once or in windows. Frozen, pickles, imports no torch; runs in the worker."""

    @property
    def limits(self) -> LimitsConfig:
        """What one file may cost; the worker's ceiling and its deadline come from here."""

    @property
    def max_bytes(self) -> int:
        """Of `Prepared.content`."""

    @property
    def attempts(self) -> int:
        """How many ways there are to read a file; each is tried in a worker that the one before did not spoil."""

    def __call__(self, source: bytes | str, attempt: int = 0) -> Prepared | Iterator[Prepared]:
        """source: the file's bytes, or its path. An iterator gives windows, in order. Raises: Unreadable."""


class Preparation(AnyPreparation, Protocol):
    """That gives the file at once."""

    def __call__(self, source: bytes | str, attempt: int = 0) -> Prepared:
        """source: the file's bytes, or its path. Raises: Unreadable."""


class Detector(Protocol):
    """The networks and the decision; runs in the parent process, with torch.

    A clip's content is split into views by kind; features of views of one kind, of any clips, are computed together;
    a clip's score comes from the features of its own views.
    """

    @property
    def device(self) -> torch.device:
        """Where the networks are."""

    @property
    def views_per_clip(self) -> int:
        """The usual number, over all kinds, for the size of batches."""

    def split(self, content: np.ndarray) -> dict[str, np.ndarray]:
        """uint8 (n,) -> kind -> (V, ...), without copies. Raises: ValueError: not the content of a clip."""

    def features(self, views: torch.Tensor, kind: str) -> torch.Tensor:
        """(B, ...) of one kind, on any device -> float32 (B, D of the kind) on the detector's."""

    def score(self, features: Mapping[str, np.ndarray]) -> float:
        """kind -> (V, D) of one clip -> calibrated log-likelihood ratio, natural logarithm, > 0: generated.

        A kind of which the clip has no view is missing.
        """
