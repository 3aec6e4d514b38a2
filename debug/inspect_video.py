"""A look at single videos: verdict and score, and by option a page that shows where the evidence lies.

`python -m debug.inspect_video VIDEO_OR_FOLDER... [--html PAGE]`; script.py offers the same.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from debug import markup
from debug.explain import look_at_clip
from debug.words import PEOPLE_WARNING, verdict_words
from model.config import LimitsConfig, SamplingConfig
from model.modality import VIDEO
from model.run.inputs import InputError
from model.run.isolated import IsolatedPreparation
from model.video.detector import VideoDetector
from model.video.prepare import FramesPreparation, VideoPreparation, unpack_clip
from model.video.reading import Clip, VideoReadError

PAGE_SECONDS = 3.0  # of the networks' work for the page, a clip


@dataclass(frozen=True)
class Verdict:
    """What script.py would write for this file."""

    path: Path
    pred: str  # "generated", "real", or empty if the file cannot be scored
    score: float | None  # log-likelihood ratio, > 0 means generated
    reason: str  # why there is no score, or what was lost on the way
    seconds: float


def find_videos(paths: Sequence[Path]) -> list[Path]:
    """Files as given; of folders, every video below them but hidden ones, sorted. Raises: FileNotFoundError."""
    videos: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = (file for file in path.rglob("*") if file.suffix.lower() in VIDEO.suffixes)
            videos += sorted(file for file in found if not _is_hidden(file.relative_to(path)))
        elif path.exists():
            videos.append(path)
        else:
            raise FileNotFoundError(f"{path} does not exist")
    return videos


def _is_hidden(path: Path) -> bool:
    """As for model.rows.dataset: anything in a hidden folder, or the half-copied `._clip.mp4` of some systems."""
    return any(part.startswith(".") for part in path.parts)


def inspect(paths: Sequence[Path], detector: VideoDetector, *, page: Path | None = None) -> list[Verdict]:
    """Score each video, print a line for it, and write the page if one is asked for.

    Raises: FileNotFoundError: a path does not exist. InputError: the page needs Matplotlib.
    A file that is no video gets a Verdict without a score.
    """
    if page:
        require_matplotlib()
    videos = find_videos(paths)
    verdicts: list[Verdict] = []
    sections: list[list[str]] = []
    for number, video in enumerate(videos, start=1):
        if page:
            print(f"page: {number} of {len(videos)}, {video}", file=sys.stderr)
        verdict, section = _look(video, detector, with_section=page is not None)
        print(format_verdict(verdict), flush=True)
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


def _look(video: Path, detector: VideoDetector, *, with_section: bool) -> tuple[Verdict, list[str]]:
    """The verdict, and its part of the page if it is wanted."""
    preparation = VideoPreparation(SamplingConfig(), LimitsConfig(), detector.view_config)
    started = time.monotonic()
    try:
        if not with_section:
            look = look_at_clip(_read(video, preparation), detector)
            return _verdict(video, look.score, look.clip.note, started), []
        from debug.video_page import more_frames, study_clip, video_section

        clip, more = (_read(video, part) for part in (preparation, more_frames(preparation)))
        study = study_clip(clip, more, detector, seconds=PAGE_SECONDS)
    except VideoReadError as error:
        verdict = Verdict(video, "", None, str(error), time.monotonic() - started)
        return verdict, [markup.box("warning", "No score.", str(error))]
    verdict = _verdict(video, study.look.score, study.look.clip.note, started)
    return verdict, video_section(study, VIDEO.genuine, verdict_words(study.look.score, VIDEO.genuine))


def _read(video: Path, preparation: VideoPreparation) -> Clip:
    """In a process of its own, which a broken decoder takes down alone. Raises: VideoReadError."""
    with IsolatedPreparation(FramesPreparation(preparation)) as read:
        done = read(str(video))
    if done.prepared is None:
        raise VideoReadError(done.reason)
    return unpack_clip(done.prepared.content)


def _verdict(video: Path, score: float, note: str, started: float) -> Verdict:
    pred = "generated" if score > 0 else VIDEO.genuine
    return Verdict(video, pred, score, note, time.monotonic() - started)


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


def _build_page(verdicts: Sequence[Verdict], sections: Sequence[list[str]], detector: VideoDetector) -> str:
    """The table of all files first, then a section for each."""
    noun = "video" if len(verdicts) == 1 else "videos"
    lead = (
        "Scores are log-likelihood ratios: above 0 speaks for generated, below for real; nearer to 0 than 1.1 is"
        " inconclusive. The pixels alone decide."
    )
    page = markup.Page(f"A look at {len(verdicts)} {noun}", lead, _describe_weights(detector))
    names = short_names([verdict.path for verdict in verdicts])
    rows = [
        (
            name,
            "no score" if verdict.score is None else verdict_words(verdict.score, VIDEO.genuine),
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


def _describe_weights(detector: VideoDetector) -> str:
    """Which weights these are."""
    manifest = getattr(detector, "manifest", None)
    if manifest is None:
        return ""
    date = time.strftime("%Y-%m-%d", time.gmtime((manifest.path.parent / manifest.file).stat().st_mtime))
    return f"Weights {manifest.file} of {date}, SHA-256 {manifest.sha256}."


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m debug.inspect_video", description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="+", type=Path, help="video files or folders of them")
    parser.add_argument("--html", type=Path, metavar="PAGE", help="write a page with frames, curve and heat maps")
    parser.add_argument("--weights", type=Path, default=Path(__file__).resolve().parent.parent / "weights" / "video")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    import torch

    from model.video.detector import load_detector
    from model.weights import WeightsError

    try:
        verdicts = inspect(
            options.videos, load_detector(options.weights, torch.device(options.device)), page=options.html
        )
    except (FileNotFoundError, InputError, WeightsError) as error:
        parser.exit(2, f"error: {error}\n")
    return 0 if all(verdict.score is not None for verdict in verdicts) else 1


if __name__ == "__main__":
    raise SystemExit(main())
