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
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from debug import markup
from debug.segments_page import PLAIN, segments_section
from debug.whole import read_isolated
from debug.words import PEOPLE_WARNING
from model.atomic import replace_file
from model.config import SegmentConfig
from model.modality import AUDIO, MODALITIES, VIDEO, Modality, Unreadable
from model.run.inputs import InputError, find_files
from model.run.isolated import IsolatedPreparation
from model.run.parts import default_weights
from model.run.words import verdict_line
from model.segments import in_stretches
from model.verdict import Verdict, label_of, words_of

if TYPE_CHECKING:
    import torch

    from model.audio.detector import AudioDetector
    from model.modality import Detector
    from model.video.detector import VideoDetector

PAGE_SECONDS = 3.0  # of the networks' work for the page, a clip


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
    modality = modality_of(detector)
    verdicts: list[Verdict] = []
    sections: list[list[str]] = []
    for number, file in enumerate(files, start=1):
        if page:
            print(f"page: {number} of {len(files)}, {file}", file=sys.stderr)
        verdict, section = _look(file, detector, deadline, with_section=page is not None)
        if segments:
            found = _score_along(file, detector, segments, deadline)
            verdict = replace(found, seconds=verdict.seconds + found.seconds)
            section = [*segments_section(found, modality), PLAIN, *section]
        print(verdict_line(str(file), verdict, modality), flush=True)
        if page and sound and modality == VIDEO:
            section = [*section, *_look_at_track(file, detector, segments, deadline)]
        verdicts.append(verdict)
        sections.append(section)
    if page:
        replace_file(page, _build_page(files, verdicts, sections, detector).encode())
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
        verdict, section = look_at(file, detector, deadline, with_section)  # type: ignore[arg-type]
    except Unreadable as error:
        verdict, section = Verdict("", None, 0, str(error)), [markup.box("warning", "No score.", str(error))]
    return replace(verdict, seconds=time.monotonic() - started), section


def _score_along(file: Path, detector: Detector, segments: SegmentConfig, deadline: float) -> Verdict:
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
) -> tuple[Verdict, list[str]]:
    """The verdict without its time, and the page's part. Raises: Unreadable."""
    from debug.explain import look_at_clip
    from debug.video_page import more_frames, study_clip, video_section
    from model.video.clip import Clip
    from model.video.prepare import VideoPreparation

    preparation = VideoPreparation(views=detector.view_config)
    clip, section = read_isolated(file, preparation, Clip, deadline), []
    if with_section:
        more = read_isolated(file, more_frames(preparation), Clip, deadline)
        study = study_clip(clip, more, detector, seconds=PAGE_SECONDS)
        score = study.look.score
        section = video_section(study, VIDEO.genuine, words_of(score, VIDEO.genuine))
    else:
        score = look_at_clip(clip, detector).score
    return Verdict(
        label_of(score, VIDEO.genuine), score, 0, clip.note, duration_seconds=clip.duration_seconds,
        num_frames=clip.num_frames, num_places=len(clip.runs),
    ), section  # fmt: skip


def _look_at_sound(
    file: Path, detector: AudioDetector, deadline: float, with_section: bool
) -> tuple[Verdict, list[str]]:
    """The same of a sound."""
    from debug.audio_page import sound_section, study_sound
    from model.audio.prepare import AudioPreparation
    from model.audio.reading import Sound

    sound = read_isolated(file, AudioPreparation(views=detector.view_config), Sound, deadline)
    look = study_sound(sound, detector)
    section = sound_section(look, AUDIO.genuine, words_of(look.score, AUDIO.genuine)) if with_section else []
    return Verdict(
        label_of(look.score, AUDIO.genuine), look.score, 0, sound.note, duration_seconds=sound.duration_seconds,
        num_frames=sound.num_read,
    ), section  # fmt: skip


def _look_at_track(file: Path, detector: Detector, segments: SegmentConfig | None, deadline: float) -> list[str]:
    """The page's part on a video's sound, which no score rests on."""
    from debug.audio_page import sound_section, study_sound
    from model.audio.prepare import load_preparation
    from model.audio.reading import Sound

    title = "<h3>Sound track</h3>"
    try:
        sound = read_isolated(file, load_preparation(default_weights(AUDIO)), Sound, deadline)
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


def modality_of(detector: Detector) -> Modality:
    """As its manifest says; video where it has none."""
    manifest = getattr(detector, "manifest", None)
    return VIDEO if manifest is None else MODALITIES[manifest.modality]


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


def _build_page(
    files: Sequence[Path], verdicts: Sequence[Verdict], sections: Sequence[list[str]], detector: Detector
) -> str:
    """The table of all files first, then a section for each."""
    modality = modality_of(detector)
    noun = {VIDEO: "video", AUDIO: "sound"}[modality] + "s" * (len(verdicts) != 1)
    evidence = {VIDEO: "pixels", AUDIO: "samples"}[modality]
    lead = (
        f"Scores are log-likelihood ratios: above 0 speaks for generated, below for {modality.genuine}; nearer to 0"
        f" than 1.1 is inconclusive. The {evidence} alone decide."
    )
    page = markup.Page(f"A look at {len(verdicts)} {noun}", lead, _describe_weights(detector))
    names = short_names(files)
    rows = [
        (
            name,
            verdict.in_words,
            "" if verdict.score is None else f"{verdict.score:+.2f}",
            ", ".join(filter(None, [in_stretches(verdict.segments), verdict.note])),
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
