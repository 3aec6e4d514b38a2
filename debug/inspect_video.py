"""A look at single videos: verdict and score, and by option a page that shows where the evidence lies.

`python -m debug.inspect_video VIDEO_OR_FOLDER... [--html PAGE]`; script.py offers the same.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from debug.explain import ClipLook, heat_map, look_at_video, score_moments
from model.config import LimitsConfig, SamplingConfig
from model.modality import VIDEO
from model.video.detector import VideoDetector
from model.video.reading import VideoReadError, read_clip

if TYPE_CHECKING:
    from debug.markup import Page

_MAX_HEAT_MAPS = 3  # frames of a clip that get one
_MAX_MOMENTS = 16  # points of the curve over time
# The verdict comes from the frames that script.py reads; the curve over time from more of them.
_TIMELINE_SAMPLING = SamplingConfig(max_runs=8, max_run_frames=16)


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

    Raises: FileNotFoundError: a path does not exist. ModuleNotFoundError: the page needs Matplotlib.
    A file that is no video gets a Verdict without a score.
    """
    if page and find_spec("matplotlib") is None:
        raise ModuleNotFoundError("the page needs matplotlib: pip install -r tests/requirements.txt")
    videos = find_videos(paths)
    verdicts = []
    document = _new_page(videos) if page else None
    for video in videos:
        started = time.monotonic()
        try:
            look = look_at_video(str(video), detector)
        except VideoReadError as error:
            verdict = Verdict(video, "", None, str(error), time.monotonic() - started)
            look = None
        else:
            pred = "generated" if look.score > 0 else "real"
            verdict = Verdict(video, pred, look.score, look.clip.note, time.monotonic() - started)
        print(format_verdict(verdict), flush=True)
        verdicts.append(verdict)
        if document:
            document.add(video.name, *_video_section(verdict, look, detector))
    if page and document:
        partial = page.with_name(f".{page.name}.partial")
        partial.write_text(document.render(), encoding="utf-8")
        partial.replace(page)
        print(f"wrote {page}")
    return verdicts


def format_verdict(verdict: Verdict) -> str:
    if verdict.score is None:
        return f"no score          {verdict.path}: {verdict.reason}"
    note = f" ({verdict.reason})" if verdict.reason else ""
    return f"{verdict.pred:<9} {verdict.score:+7.2f}  {verdict.path}, {verdict.seconds:.1f} s{note}"


def explain_score(score: float) -> str:
    """The score in words."""
    times = float(np.exp(min(abs(score), 20.0)))
    amount = f"{times:.1f}" if times < 10 else f"{times:,.0f}"
    side, other = ("generated", "real") if score > 0 else ("real", "generated")
    return (
        f"If the calibration holds, what was seen is {amount} times likelier in a {side} video than in a {other} one."
    )


def _new_page(videos: Sequence[Path]) -> Page:
    from debug.markup import Page

    noun = "video" if len(videos) == 1 else "videos"
    lead = "Scores are log-likelihood ratios: above 0 speaks for generated, below for real. The pixels alone decide."
    return Page(f"A look at {len(videos)} {noun}", lead)


def _video_section(verdict: Verdict, look: ClipLook | None, detector: VideoDetector) -> list[str]:
    from debug import markup
    from debug.report.strips import frame_strip

    if look is None or verdict.score is None:
        return [markup.box("warning", "No score.", verdict.reason)]
    clip = look.clip
    height, width = clip.runs[0].shape[1:3]
    tiles = [
        markup.tile("Verdict", verdict.pred),
        markup.tile("Score", f"{verdict.score:+.2f}", "above 0: generated"),
        markup.tile("Frames read", str(clip.num_frames), f"{width} x {height}, {clip.decoder}"),
    ]
    size = detector.view_config.size
    parts = [f'<div class="tiles">{"".join(tiles)}</div>', markup.paragraph(explain_score(verdict.score))]
    if verdict.reason:
        parts.append(markup.box("note", "Read with losses.", verdict.reason))
    parts += ["<h3>Over time</h3>", _timeline(verdict, detector)]
    parts += [
        "<h3>Where in the frame</h3>",
        markup.paragraph(
            "Measured: a dense grid of overlapping patches is scored, each as if all patches of the clip were like it,"
            f" and each place takes the mean of its patches. They are {size} pixels wide: nothing finer is told."
        ),
        f'<div class="figures">{"".join(_heat_figures(look, detector))}</div>',
        "<h3>Frames behind the score</h3>",
        markup.paragraph("Outlines are the views: vermilion speaks for generated, blue for real."),
        frame_strip(look, max_frames=12),
    ]
    return parts


def _timeline(verdict: Verdict, detector: VideoDetector) -> str:
    """The score that each moment would have alone, over time."""
    from debug.markup import BLUE, VERMILION, figure
    from debug.report.figures import new_figure

    clip = read_clip(str(verdict.path), _TIMELINE_SAMPLING, LimitsConfig())
    moments = score_moments(clip, detector, max_moments=_MAX_MOMENTS)
    drawing, axes = new_figure(2.6)
    for run in range(len(clip.runs)):  # one line a run: between runs nothing was read
        seconds, scores = [m[1] for m in moments if m[0] == run], [m[2] for m in moments if m[0] == run]
        axes.plot(seconds, scores, color="black", linewidth=0.8)
        axes.scatter(seconds, scores, c=[VERMILION if score > 0 else BLUE for score in scores], s=16, zorder=3)
    axes.axhline(0, color="black", linewidth=0.8, linestyle=":")
    axes.set_xlabel("time (s)")
    axes.set_ylabel("score (> 0: generated)")
    values = [score for _, _, score in moments]
    text = (
        f"Score of {len(values)} moments, each alone: lowest {min(values):+.2f}, highest {max(values):+.2f},"
        f" {sum(value > 0 for value in values) / len(values):.0%} above 0. The clip as a whole: {verdict.score:+.2f}."
    )
    return figure(drawing, text, text)


def _heat_figures(look: ClipLook, detector: VideoDetector) -> list[str]:
    """The first frame of up to three runs or moments, with the evidence laid over it."""
    from debug.markup import figure
    from debug.report.figures import new_figure

    picks = np.unique(np.linspace(0, len(look.frames) - 1, min(_MAX_HEAT_MAPS, len(look.frames))).round().astype(int))
    chosen = [look.frames[index] for index in picks]
    maps = [heat_map(look, frame, detector) for frame in chosen]
    reach = max(0.5, *(float(np.abs(values).max()) for values in maps))  # one scale for all frames of the clip
    figures = []
    for frame, values in zip(chosen, maps, strict=True):
        height, width = values.shape
        drawing, axes = new_figure(4.4 * min(1.6, height / width) + 0.5)
        axes.imshow(frame.pixels.mean(axis=2), cmap="gray", vmin=0, vmax=255)
        # purple to orange: safe for colour-blind eyes; weak evidence lets the frame through
        strength = 0.65 * np.sqrt(np.abs(values) / reach)
        shown = axes.imshow(values, cmap="PuOr_r", vmin=-reach, vmax=reach, alpha=strength)
        axes.set_axis_off()
        bar = drawing.colorbar(shown, ax=axes, orientation="horizontal", fraction=0.06, pad=0.02)
        bar.ax.tick_params(labelsize=8)
        bar.set_label("evidence: purple real, orange generated", fontsize=8)
        top, left = np.unravel_index(int(np.abs(values).argmax()), values.shape)
        text = (
            f"At {frame.seconds:.2f} s: evidence from {values.min():+.2f} to {values.max():+.2f}, strongest at"
            f" {left / width:.0%} from the left and {top / height:.0%} from the top."
        )
        figures.append(figure(drawing, f"Heat map over the frame. {text}", text))
    return figures


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
    except (FileNotFoundError, WeightsError) as error:
        parser.exit(2, f"error: {error}\n")
    return 0 if all(verdict.score is not None for verdict in verdicts) else 1


if __name__ == "__main__":
    raise SystemExit(main())
