"""A look at single videos: verdicts, frames, heat maps. The detector is a plain stand-in whose answer is known."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from debug import explain, inspect_files
from debug.video_page import VideoLook, frame_strip, more_frames, study_clip, video_section
from debug.words import explain_score
from model.config import LimitsConfig, SamplingConfig
from model.modality import VIDEO
from model.run.inputs import find_files
from model.video.clip import Clip
from model.video.copies import encode
from model.video.prepare import VideoPreparation
from model.video.reading import read_clip
from model.video.views import ViewConfig, split_views
from tests.clip_folder import render_frames

SIZE = 32


class Brightness:
    """Stands in for the detector: bright is generated. Its score is linear, so every figure can be worked out."""

    view_config = ViewConfig(num_patches=4, num_resized=2, num_frames=2, size=SIZE, resized_size=SIZE)

    def features(self, views: torch.Tensor, kind: str) -> torch.Tensor:
        return views.float().mean(dim=(1, 2, 3, 4))[:, None] / 128 - 1

    def clip_features(self, views: np.ndarray) -> dict[str, np.ndarray]:
        kinds = split_views(views, self.view_config)
        return {kind: self.features(torch.from_numpy(part), kind).numpy() for kind, part in kinds.items()}

    def score(self, features: Mapping[str, np.ndarray]) -> float:
        """The mean over kinds, of each kind's mean over views."""
        return float(np.mean([values.mean() for values in features.values()]))

    def view_scores(self, features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {kind: values[:, 0] for kind, values in features.items()}


def make_clip(*, num_frames: int = 8, height: int = 64, width: int = 96) -> Clip:
    """Dark on the left, bright on the right."""
    frames = np.zeros((num_frames, height, width, 3), np.uint8)
    frames[:, :, width // 2 :] = 255
    return Clip((frames,), (np.arange(num_frames) / 10,), "test")


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name, level in (("bright.mkv", 230), ("dark.mkv", 20)):
        frames = np.full((10, 48, 64, 3), level, np.uint8)
        frames[:, ::7] = render_frames(0, generated=False, num_frames=10, height=48, width=64)[:, ::7]
        (folder / name).write_bytes(encode(frames, "h264", 20, fps=10.0))
    (folder / "broken.mp4").write_bytes(b"not a video")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def test_the_score_is_the_detectors_and_frames_add_up() -> None:
    detector, clip = Brightness(), make_clip()
    seen = explain.look_at_clip(clip, detector)  # type: ignore[arg-type]
    assert seen.score == pytest.approx(detector.score(seen.features))
    boxes = {box for frame in seen.frames for box in frame.boxes}
    assert len(boxes) == detector.view_config.num_views
    for frame in seen.frames:
        assert frame.seconds == pytest.approx(frame.frame / 10)
        np.testing.assert_array_equal(frame.pixels, clip.runs[0][frame.frame])


@pytest.mark.parametrize(("height", "width"), [(64, 96), (32, 32), (20, 200), (500, 700)])
def test_grid_stays_within_its_budget_and_covers_what_that_pays_for(height: int, width: int) -> None:
    """Before, a large frame took more views than were allowed."""
    corners = explain.grid_positions(height, width, SIZE, max_views=60)
    assert len(corners) <= 60
    covered = np.zeros((height, width), bool)
    for top, left in corners:
        assert 0 <= top <= max(0, height - SIZE)
        assert 0 <= left <= max(0, width - SIZE)
        covered[top : top + SIZE, left : left + SIZE] = True
    assert covered[0, 0] and covered[-1, -1]
    assert covered.all() == (height * width <= 60 * SIZE * SIZE)


def test_heat_map_shows_the_side_that_drives_the_score() -> None:
    detector = Brightness()
    seen = explain.look_at_clip(make_clip(), detector)  # type: ignore[arg-type]
    heat = explain.heat_map(seen, seen.frames[0], detector)  # type: ignore[arg-type]
    assert heat.shape == (64, 96)
    assert heat[:, :16].max() < heat[:, -16:].min()
    # a corner lies in one patch of the grid only: all patches like it, resized views as they were
    resized = seen.features["resized"].mean()
    assert heat[0, 0] == pytest.approx((-1 + resized) / 2, abs=0.01)
    assert heat[-1, -1] == pytest.approx((255 / 128 - 1 + resized) / 2, abs=0.01)


def test_the_map_of_a_frame_too_large_to_be_scored_everywhere() -> None:
    """Before, its mean was no number, and the map showed nothing: seen with a camera's frames of 2880 x 2160."""
    detector = Brightness()
    look = explain.look_at_clip(make_clip(height=500, width=700), detector)  # type: ignore[arg-type]
    heat = explain.heat_map(look, look.frames[0], detector, max_views=20)  # type: ignore[arg-type]
    assert np.isnan(heat).any()
    moments = (explain.Moment(0, 0.0, 0.5, True),)
    parts = "".join(video_section(VideoLook(look, moments, ((look.frames[0], heat),)), "real", "generated"))
    told = re.search(r"At 0.00 s: from (\S+) to (\S+) around the clip's mean of (\S+),", html.unescape(parts))
    assert told is not None
    low, high, mean = map(float, told.groups())
    assert low < -0.3 and high > 0.3 and mean == pytest.approx(np.nanmean(heat), abs=0.01)


def test_a_frame_smaller_than_a_view_has_one_value() -> None:
    detector = Brightness()
    seen = explain.look_at_clip(make_clip(height=20, width=30), detector)  # type: ignore[arg-type]
    assert np.ptp(explain.heat_map(seen, seen.frames[0], detector)) < 1e-5  # type: ignore[arg-type]


def test_moments_are_scored_alone_and_in_order() -> None:
    frames = np.concatenate([np.full((2, 40, 40, 3), level, np.uint8) for level in (0, 128, 255)])
    clip = Clip((frames,), (np.arange(6) / 2,), "test")
    moments = explain.score_moments(clip, Brightness(), max_moments=9)  # type: ignore[arg-type]
    assert [(m.run, m.seconds, m.score) for m in moments] == [
        (0, 0.0, -1.0),
        (0, 1.0, 0.0),
        (0, 2.0, pytest.approx(255 / 128 - 1)),
    ]
    assert len(explain.score_moments(clip, Brightness(), max_moments=2)) == 2  # type: ignore[arg-type]


def test_work_for_a_page_stays_within_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, six short clips took 22 minutes on a busy machine. The clock here runs by the detector's work alone."""
    clock = [0.0]
    monkeypatch.setattr(explain.time, "thread_time", lambda: clock[0])

    class Slow(Brightness):
        def features(self, views: torch.Tensor, kind: str) -> torch.Tensor:
            clock[0] += 0.05 * len(views)
            return super().features(views, kind)

    detector, budget = Slow(), explain.Budget(3.0)
    clip = make_clip(num_frames=40, height=200, width=300)
    with budget.spend(detector.view_config.num_views, free=True):
        look = explain.look_at_clip(clip, detector)  # type: ignore[arg-type]
    moments = explain.score_moments(clip, detector, budget, max_moments=16)  # type: ignore[arg-type]
    maps = explain.heat_maps(look, detector, budget, count=3)  # type: ignore[arg-type]
    assert 1 < len(moments) < 16 and len(maps) == 1, "a run has one map"
    assert clock[0] <= 0.3 + 3.0, "the score itself is free"
    assert explain.heat_maps(look, detector, explain.Budget(0.0), count=3) == []  # type: ignore[arg-type]


def test_the_curve_and_the_strip_tell_the_same(videos: Path) -> None:
    """Before, the curve was cut from frames with black bars and the strip from frames without."""
    frames = np.zeros((8, 96, 64, 3), np.uint8)
    frames[:, 32:64] = render_frames(1, generated=False, num_frames=8, height=32, width=64)
    barred = videos / "barred.mkv"
    barred.write_bytes(encode(frames, "h264", 20, fps=10.0))
    detector = Brightness()
    preparation = VideoPreparation(SamplingConfig(), LimitsConfig(), detector.view_config)
    clip, more = (part.read(str(barred)) for part in (preparation, more_frames(preparation)))
    study = study_clip(clip, more, detector, seconds=math.inf)  # type: ignore[arg-type]
    assert study.look.clip.runs[0].shape[1] <= 32, "without its bars"
    scores = [moment.score for moment in study.moments]
    assert max(scores) - min(scores) < 0.2, "the same picture all the time"
    assert study.look.score == pytest.approx(np.mean(scores), abs=0.1)
    strip = frame_strip(study.look, study.moments, "real")
    assert [f"{m.seconds:.2f} s: {m.score:+.2f}" in strip for m in study.moments if m.behind_score] == [True]


def test_inspect_prints_verdicts_and_writes_the_page(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = videos.parent / "page.html"
    files = find_files([str(videos)], VIDEO).files
    verdicts = inspect_files.inspect(files, Brightness(), page=page)  # type: ignore[arg-type]
    assert [verdict.label for verdict in verdicts] == ["generated", "", "real"]
    assert verdicts[1].score is None
    assert "not a readable video" in verdicts[1].note
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("inconclusive  +0.") and "bright.mkv: looked at 1 place of 1.0 s" in lines[0]
    assert lines[1].startswith("no score ") and "broken.mp4: not a readable video" in lines[1]
    assert lines[-1] == f"wrote {page}"
    text = page.read_text(encoding="utf-8")
    assert text.index("<table>") < text.index("<h2>bright.mkv</h2>"), "the table comes first"
    assert "inconclusive, rather generated" in text
    assert text.count("Heat map over the frame.") == 2
    assert "do not decide about people by it alone" in text
    assert "<script" not in text


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/x/a/1.mp4"], ["1.mp4"]),
        (["/x/a/1.mp4", "/x/b/1.mp4", "/x/b/2.mp4"], ["a/1.mp4", "b/1.mp4", "2.mp4"]),
        (["1.mp4", "b/1.mp4"], ["1.mp4", "b/1.mp4"]),
    ],
)
def test_names_have_enough_of_their_path(paths: list[str], names: list[str]) -> None:
    assert inspect_files.short_names([Path(path) for path in paths]) == names


def test_the_score_is_the_one_that_the_submission_gets(videos: Path) -> None:
    """Same frames, same views: scoring the file's bytes as script.py does gives the verdict's score."""
    from model.video.views import cut_views, trim_bars

    detector = Brightness()
    (verdict,) = inspect_files.inspect([videos / "bright.mkv"], detector)  # type: ignore[arg-type]
    clip = read_clip((videos / "bright.mkv").read_bytes(), SamplingConfig(), LimitsConfig())
    views = cut_views(trim_bars(clip.runs), detector.view_config)
    assert verdict.score == pytest.approx(detector.score(detector.clip_features(views)))


def test_score_in_words() -> None:
    assert "7.4 times likelier in a generated file than in a real one" in explain_score(2.0)
    assert "1,097 times likelier in a pristine file" in explain_score(-7.0, "pristine")
