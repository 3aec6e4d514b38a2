"""A look at single files: verdict and score, and by option a page that shows where the evidence lies.

`python -m debug.inspect_files FILE_OR_FOLDER... [--modality audio] [--html PAGE]`; script.py offers the same.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from debug import markup
from debug.words import PEOPLE_WARNING
from model.config import LimitsConfig, SamplingConfig, SegmentConfig
from model.modality import AUDIO, MODALITIES, VIDEO, Modality, Preparation, Unreadable
from model.run.inputs import InputError, find_files
from model.run.isolated import IsolatedPreparation
from model.run.parts import default_weights
from model.segments import in_stretches
from model.verdict import Verdict as WindowsVerdict
from model.verdict import label_of, words_of

if TYPE_CHECKING:
    import torch

    from model.audio.detector import AudioDetector
    from model.modality import Detector
    from model.video.detector import VideoDetector

PAGE_SECONDS = 3.0  # of the networks' work for the page, a clip


@dataclass(frozen=True)
class Verdict:
    """What script.py would write for this file."""

    path: Path
    pred: str  # "generated", "real" or "pristine", or empty if the file cannot be scored
    score: float | None  # log-likelihood ratio, > 0 means generated
    reason: str  # why there is no score, or what was lost on the way
    seconds: float


def inspect(
    files: Sequence[Path], detector: Detector, *, page: Path | None = None, segments: SegmentConfig | None = None,
    sound: bool = False, deadline: float = math.inf,
) -> list[Verdict]:  # fmt: skip
    """Score each file, print a line for it, and write the page if one is asked for.

    segments: windows over each file's whole length, which then decide. sound: the page shows videos' sound tracks too.
    A file that cannot be read, or is not by `deadline` on time.monotonic(), gets a Verdict without a score.
    Raises: InputError: the page needs Matplotlib.
    """
    if page:
        require_matplotlib()
    verdicts: list[Verdict] = []
    sections: list[list[str]] = []
    for number, file in enumerate(files, start=1):
        if page:
            print(f"page: {number} of {len(files)}, {file}", file=sys.stderr)
        verdict, section = _look(file, detector, deadline, with_section=page is not None)
        if segments:
            verdict, section = _look_along(verdict, section, detector, segments, deadline)
        print(format_verdict(verdict), flush=True)
        if page and sound and modality_of(detector) == VIDEO:
            section = [*section, *_look_at_track(file, detector, segments, deadline)]
        verdicts.append(verdict)
        sections.append(section)
    if page:
        partial = page.with_name(f".{page.name}.partial")
        partial.write_text(_build_page(verdicts, sections, detector), encoding="utf-8")
        partial.replace(page)
        print(f"wrote {page}")
    return verdicts


def require_matplotlib() -> None:
    """Raises: InputError, with the remedy: requirements.txt leaves it out, since the evaluation draws no page."""
    if find_spec("matplotlib") is None:
        raise InputError("a page needs matplotlib, which requirements.txt leaves out: pip install matplotlib==3.10.9")


def _look(file: Path, detector: Detector, deadline: float, *, with_section: bool) -> tuple[Verdict, list[str]]:
    """The verdict, and its part of the page if it is wanted."""
    modality = modality_of(detector)
    look_at = _look_at_sound if modality == AUDIO else _look_at_video
    started = time.monotonic()
    try:
        score, note, section = look_at(file, detector, deadline, with_section)  # type: ignore[arg-type]
    except Unreadable as error:
        verdict = Verdict(file, "", None, str(error), time.monotonic() - started)
        return verdict, [markup.box("warning", "No score.", str(error))]
    return Verdict(file, label_of(score, modality.genuine), score, note, time.monotonic() - started), section


def _look_along(
    plain: Verdict, section: list[str], detector: Detector, segments: SegmentConfig, deadline: float
) -> tuple[Verdict, list[str]]:
    """What windows say, before what the page says of the plain score."""
    from debug.segments_page import PLAIN, segments_section

    found = _score_along(plain.path, detector, segments, deadline)
    note = ", ".join(filter(None, [in_stretches(found.segments), found.note]))
    verdict = Verdict(plain.path, found.label, found.score, note, plain.seconds + found.seconds)
    return verdict, [*segments_section(found, modality_of(detector)), PLAIN, *section]


def _score_along(file: Path, detector: Detector, segments: SegmentConfig, deadline: float) -> WindowsVerdict:
    """With its windows."""
    from model.run.files import score_windows
    from model.run.parts import load_windows

    modality = modality_of(detector)
    manifest = getattr(detector, "manifest", None)
    weights = default_weights(modality) if manifest is None else manifest.path.parent
    with IsolatedPreparation(load_windows(modality, weights, segments)) as read:
        return score_windows(read.windows(str(file), deadline=deadline), detector, modality, Lock())


def _look_at_video(
    file: Path, detector: VideoDetector, deadline: float, with_section: bool
) -> tuple[float, str, list[str]]:
    """(score, what was lost, the page's part). Raises: Unreadable."""
    from debug.explain import look_at_clip
    from debug.video_page import more_frames, study_clip, video_section
    from model.video.prepare import FramesPreparation, VideoPreparation, unpack_clip

    preparation = VideoPreparation(SamplingConfig(), LimitsConfig(), detector.view_config)
    clip = unpack_clip(_read(file, FramesPreparation(preparation), deadline))
    if not with_section:
        return look_at_clip(clip, detector).score, clip.note, []
    more = unpack_clip(_read(file, FramesPreparation(more_frames(preparation)), deadline))
    study = study_clip(clip, more, detector, seconds=PAGE_SECONDS)
    words = words_of(study.look.score, VIDEO.genuine)
    return study.look.score, clip.note, video_section(study, VIDEO.genuine, words)


def _look_at_sound(
    file: Path, detector: AudioDetector, deadline: float, with_section: bool
) -> tuple[float, str, list[str]]:
    """The same of a sound."""
    from debug.audio_page import sound_section, study_sound
    from debug.samples import SamplesPreparation, unpack_sound
    from model.audio.prepare import AudioPreparation

    preparation = AudioPreparation(LimitsConfig(), detector.view_config)
    sound = unpack_sound(_read(file, SamplesPreparation(preparation), deadline))
    look = study_sound(sound, detector)
    section = sound_section(look, AUDIO.genuine, words_of(look.score, AUDIO.genuine)) if with_section else []
    return look.score, sound.note, section


def _look_at_track(file: Path, detector: Detector, segments: SegmentConfig | None, deadline: float) -> list[str]:
    """The page's part on a video's sound, which no score rests on."""
    from debug.audio_page import sound_section, study_sound
    from debug.samples import SamplesPreparation, unpack_sound
    from debug.segments_page import PLAIN, segments_section
    from model.audio.prepare import load_preparation

    title = "<h3>Sound track</h3>"
    try:
        sound = unpack_sound(_read(file, SamplesPreparation(load_preparation(default_weights(AUDIO))), deadline))
    except Unreadable as error:
        return [title, markup.paragraph(f"No score: {error}.")]
    apart = "Taken for speech, whatever it is; apart from the picture, whose score does not rest on it."
    parts, networks = [title, markup.paragraph(apart)], _load_sound_detector(detector.device)
    if segments:
        found = _score_along(file, networks, segments, deadline)
        parts += [*segments_section(found, AUDIO, title="Along the whole sound track"), PLAIN]
    try:
        look = study_sound(sound, networks)
    except Unreadable as error:
        return [*parts, markup.paragraph(f"No score: {error}.")]
    return [*parts, *sound_section(look, AUDIO.genuine, words_of(look.score, AUDIO.genuine))]


@functools.cache
def _load_sound_detector(device: torch.device) -> AudioDetector:
    from model.audio.detector import load_detector

    return load_detector(default_weights(AUDIO), device)


def _read(file: Path, preparation: Preparation, deadline: float) -> np.ndarray:
    """In a process of its own, which a broken decoder takes down alone. Raises: Unreadable."""
    with IsolatedPreparation(preparation) as read:
        done = read(str(file), deadline=deadline)
    if done.prepared is None:
        raise Unreadable(done.reason)
    return done.prepared.content


def modality_of(detector: Detector) -> Modality:
    """As its manifest says; video where it has none."""
    manifest = getattr(detector, "manifest", None)
    return VIDEO if manifest is None else MODALITIES[manifest.modality]


def format_verdict(verdict: Verdict) -> str:
    if verdict.score is None:
        return f"no score          {verdict.path}: {verdict.reason}"
    note = f" ({verdict.reason})" if verdict.reason else ""
    return f"{verdict.pred:<9} {verdict.score:+7.2f}  {verdict.path}, {verdict.seconds:.1f} s{note}"


def short_names(paths: Sequence[Path]) -> list[str]:
    """Of each path its last parts, as many as tell it from the others.

    Example: a/1.mp4, b/1.mp4, b/2.mp4 -> a/1.mp4, b/1.mp4, 2.mp4
    """
    names = []
    for path in paths:
        others = [other.parts for other in paths if other != path]
        count = 1
        while count < len(path.parts) and any(parts[-count:] == path.parts[-count:] for parts in others):
            count += 1
        names.append(os.path.join(*path.parts[-count:]))
    return names


def _build_page(verdicts: Sequence[Verdict], sections: Sequence[list[str]], detector: Detector) -> str:
    """The table of all files first, then a section for each."""
    modality = modality_of(detector)
    noun = {VIDEO: "video", AUDIO: "sound"}[modality] + "s" * (len(verdicts) != 1)
    evidence = {VIDEO: "pixels", AUDIO: "samples"}[modality]
    lead = (
        f"Scores are log-likelihood ratios: above 0 speaks for generated, below for {modality.genuine}; nearer to 0"
        f" than 1.1 is inconclusive. The {evidence} alone decide."
    )
    page = markup.Page(f"A look at {len(verdicts)} {noun}", lead, _describe_weights(detector))
    names = short_names([verdict.path for verdict in verdicts])
    rows = [
        (
            name,
            words_of(verdict.score, modality.genuine),
            "" if verdict.score is None else f"{verdict.score:+.2f}",
            verdict.reason,
        )
        for name, verdict in zip(names, verdicts, strict=True)
    ]
    listing = markup.table(["file", "verdict", "score", "reason"], rows, numeric=(2,)) if len(rows) > 1 else ""
    warning = markup.box("note", "What this is.", PEOPLE_WARNING)
    if listing:
        page.add("All files", markup.side_by_side(listing, warning))
    else:
        page.add("Before you read on", warning)
    for name, section in zip(names, sections, strict=True):
        page.add(name, *section)
    return page.render()


def _describe_weights(detector: Detector) -> str:
    """Which weights these are."""
    manifest = getattr(detector, "manifest", None)
    if manifest is None:
        return ""
    date = time.strftime("%Y-%m-%d", time.gmtime((manifest.path.parent / manifest.file).stat().st_mtime))
    return f"Weights {manifest.file} of {date}, SHA-256 {manifest.sha256}."


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m debug.inspect_files", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", help="files or folders of them")
    parser.add_argument("--modality", choices=MODALITIES, default="video", help="default: %(default)s")
    parser.add_argument("--html", type=Path, metavar="PAGE", help="write a page that shows where the score comes from")
    parser.add_argument("--weights", type=Path, help="default: the repository's")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    import torch

    from model.run.parts import load_detector
    from model.weights import WeightsError

    modality = MODALITIES[options.modality]
    try:
        files = find_files(options.files, modality).files
        detector = load_detector(modality, options.weights or default_weights(modality), torch.device(options.device))
        verdicts = inspect(files, detector, page=options.html)
    except (InputError, WeightsError) as error:
        parser.exit(2, f"error: {error}\n")
    return 0 if all(verdict.score is not None for verdict in verdicts) else 1


if __name__ == "__main__":
    raise SystemExit(main())
