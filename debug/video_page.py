"""What a page shows of one video: verdict, curve over time, where in the frame it lies, the frames behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from debug import markup
from debug.explain import Budget, ClipLook, FrameLook, Moment, heat_maps, look_at_clip, score_moments
from debug.markup import CLASS_COLOURS, GREY
from debug.words import explain_score
from model.video.clip import Clip
from model.video.detector import VideoDetector
from model.video.prepare import VideoPreparation

_MAX_HEAT_MAPS = 3
_MAX_MOMENTS = 16  # of the curve over time, besides those behind the score
_MORE_RUNS, _MORE_FRAMES = 8, 16  # what is read for the curve besides the frames behind the score


@dataclass(frozen=True)
class VideoLook:
    """Everything the page shows of one video. maps: may be empty where time was short."""

    look: ClipLook
    moments: tuple[Moment, ...]
    maps: tuple[tuple[FrameLook, np.ndarray], ...]


def more_frames(preparation: VideoPreparation) -> VideoPreparation:
    """The same preparation, reading more frames: those of the curve over time."""
    sampling = replace(preparation.sampling, max_runs=_MORE_RUNS, max_run_frames=_MORE_FRAMES)
    return replace(preparation, sampling=sampling)


def study_clip(clip: Clip, more: Clip, detector: VideoDetector, *, seconds: float) -> VideoLook:
    """Score a video and work out the page's figures; the networks work for about `seconds` on top of the score.

    clip, more: as the detector's preparation and `more_frames` of it read the file, both without black bars: every
    figure rests on one way of reading, so that none contradicts the verdict.
    """
    budget = Budget(seconds)
    with budget.spend(detector.view_config.num_views, free=True):
        look = look_at_clip(clip, detector)
    moments = score_moments(clip, detector, budget, max_moments=_MAX_MOMENTS, behind_score=True)
    seen = {round(moment.seconds, 3) for moment in moments}
    others = score_moments(more, detector, budget, max_moments=_MAX_MOMENTS)
    moments += [moment for moment in others if round(moment.seconds, 3) not in seen]
    maps = heat_maps(look, detector, budget, count=_MAX_HEAT_MAPS)
    return VideoLook(look, tuple(sorted(moments, key=lambda moment: moment.seconds)), tuple(maps))


def video_section(study: VideoLook, genuine: str, words: str) -> list[str]:
    """HTML parts. genuine: the label that is not "generated"; words: the verdict in words."""
    look = study.look
    clip = look.clip
    height, width = clip.runs[0].shape[1:3]
    times = sorted({round(frame.seconds, 2) for frame in look.frames})
    length = f"of {clip.duration_seconds:.1f} s" if math.isfinite(clip.duration_seconds) else "length unknown"
    tiles = [
        markup.tile("Verdict", words),
        markup.tile("Score", f"{look.score:+.2f}", "above 0: generated"),
        markup.tile("Frames looked at", str(clip.num_frames), length),
        markup.tile("Picture", f"{width} x {height}", f"read by {clip.decoder}, without black bars"),
    ]
    rests_on = (
        f"The score rests on {clip.num_frames} frames, at {_listed(times)} s: pairs of neighbours at up to four key"
        " frames, which can be read without decoding the rest. What lies between was not looked at."
    )
    said = markup.paragraph(explain_score(look.score, genuine)), markup.paragraph(rests_on)
    parts = [f'<div class="tiles">{"".join(tiles)}</div>', markup.side_by_side(*said)]
    if clip.note:
        parts.append(markup.box("note", "Read with losses.", clip.note))
    parts.append(markup.side_by_side(
        "<h3>Over time</h3>" + _timeline(study, genuine),
        "<h3>Frames behind the score</h3>" + _strip_words(genuine) + frame_strip(look, study.moments, genuine),
    ))  # fmt: skip
    parts.append("<h3>Where in the frame</h3>")
    if study.maps:
        parts.append(markup.paragraph(
            "A grid of overlapping patches is scored, each as if all patches of the clip were like it. Each place shows"
            " the mean of its patches, less the mean of all maps of this clip: what stands out, not what the clip is."
        ))  # fmt: skip
        parts.append(markup.figures(_heat_figures(study, genuine)))
    else:
        parts.append(markup.paragraph("No map: the time for this clip was used up before."))
    return parts


def _listed(times: list[float]) -> str:
    return ", ".join(f"{seconds:.2f}" for seconds in times)


def _timeline(study: VideoLook, genuine: str) -> str:
    """The score that each moment would have alone, over time; filled where the clip's score rests on it."""
    from debug.drawing import new_figure

    drawing, axes = new_figure(2.8)
    for moment in study.moments:
        colour = CLASS_COLOURS["generated" if moment.score > 0 else genuine]
        face = colour if moment.behind_score else "white"
        axes.scatter(moment.seconds, moment.score, s=34, facecolor=face, edgecolor=colour, zorder=3)
    seconds, scores = [m.seconds for m in study.moments], [m.score for m in study.moments]
    axes.plot(seconds, scores, color=GREY, linewidth=0.6, zorder=1)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.axhline(study.look.score, color="black", linewidth=0.8, linestyle="--")
    axes.annotate(
        "clip", (1, study.look.score), xycoords=("axes fraction", "data"), fontsize=8, ha="right", va="bottom"
    )
    whole = study.look.clip.duration_seconds
    axes.set_xlim(0, max(seconds[-1] + 0.1, whole) if math.isfinite(whole) else seconds[-1] + 0.1)
    reach = 1.1 * max(1.0, max(map(abs, scores)), abs(study.look.score))
    axes.set_ylim(-reach, reach)
    axes.set_xlabel("time (s)")
    axes.set_ylabel("score (> 0: generated)")
    text = (
        f"Score of {len(scores)} moment{'s' * (len(scores) > 1)}, each alone: lowest {min(scores):+.2f}, highest"
        f" {max(scores):+.2f}, {sum(score > 0 for score in scores)} above 0."
        f" The clip as a whole: {study.look.score:+.2f}."
    )
    return markup.figure(drawing, text, f"{text} Filled dots are the frames behind the score.")


def _strip_words(genuine: str) -> str:
    return markup.paragraph(
        "Under each frame: the score of its moment alone, as in the curve. Outlines are the views that were cut out:"
        f" vermilion speaks for generated, blue for {genuine}."
    )


def frame_strip(look: ClipLook, moments: tuple[Moment, ...], genuine: str, *, max_frames: int = 8) -> str:
    """The first frame of each moment behind the score, in order of time."""
    cells = []
    for moment in [moment for moment in moments if moment.behind_score][:max_frames]:
        frame = next(
            frame for frame in look.frames if frame.run == moment.run and frame.seconds >= moment.seconds - 1e-6
        )
        side = "generated" if moment.score > 0 else genuine
        alternative = f"Frame at {moment.seconds:.2f} s, alone {moment.score:+.2f}: {side}"
        image = markup.frame_image(draw_views(frame, genuine), alternative, border=CLASS_COLOURS[side])
        caption = f"{moment.seconds:.2f} s: {moment.score:+.2f} {side}"
        cells.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
    return f'<div class="strip">{"".join(cells)}</div>'


def draw_views(look: FrameLook, genuine: str) -> np.ndarray:
    """The frame with its views' outlines, coloured by what they speak for; uint8 (H, W, 3)."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(look.pixels)
    pen = ImageDraw.Draw(image)
    thickness = max(2, image.width // 150)
    for position, evidence in look.boxes:
        right = min(position.left + position.side, image.width) - 1
        bottom = min(position.top + position.side, image.height) - 1
        colour = CLASS_COLOURS["generated" if evidence > 0 else genuine]
        pen.rectangle((position.left, position.top, right, bottom), outline=colour, width=thickness)
    return np.asarray(image)


def _heat_figures(study: VideoLook, genuine: str) -> list[str]:
    """Each map over its frame, around the mean of all maps; the page's two colours."""
    from matplotlib.colors import LinearSegmentedColormap

    from debug.drawing import new_figure

    colours = LinearSegmentedColormap.from_list(
        "classes", [CLASS_COLOURS[genuine], "white", CLASS_COLOURS["generated"]]
    )
    mean = float(np.mean([np.nanmean(values) for _, values in study.maps]))  # of a large frame not all is scored
    reach = max(0.5, *(float(np.nanmax(np.abs(values - mean))) for _, values in study.maps))  # one scale for the clip
    figures = []
    for frame, values in study.maps:
        height, width = values.shape
        drawing, axes = new_figure(4.4 * min(1.6, height / width) + 0.5)
        axes.imshow(frame.pixels.mean(axis=2), cmap="gray", vmin=0, vmax=255)
        top, left = np.unravel_index(int(np.nanargmax(values)), values.shape)
        low, high = float(np.nanmin(values)) - mean, float(np.nanmax(values)) - mean
        apart = np.nan_to_num(values - mean)
        strength = 0.65 * np.sqrt(np.abs(apart) / reach)  # what is as the mean lets the frame through
        shown = axes.imshow(apart, cmap=colours, vmin=-reach, vmax=reach, alpha=strength)
        axes.set_axis_off()
        bar = drawing.colorbar(shown, ax=axes, orientation="horizontal", fraction=0.06, pad=0.02)
        bar.ax.tick_params(labelsize=8)
        bar.set_label(f"blue: more {genuine} than the clip's mean ({mean:+.1f}), vermilion: more generated", fontsize=8)
        text = (
            f"At {frame.seconds:.2f} s: from {low:+.2f} to {high:+.2f} around the clip's"
            f" mean of {mean:+.2f}, most generated at {left / width:.0%} from the left and {top / height:.0%} from the"
            " top."
        )
        figures.append(markup.figure(drawing, f"Heat map over the frame. {text}", text))
    return figures
