"""Views: positions stay inside the frames, pixels come through unchanged, small and short clips still give views."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from model.video import views
from model.video.copies import decode, encode
from model.video.views import RESIZED, ViewConfig, cut_views, split_views, trim_bars, view_positions

CONFIG = ViewConfig(num_resized=2, resized_size=200)


def _gradient(length: int, height: int, width: int) -> np.ndarray:
    """Frames whose pixels tell their own place: red the row, green the column, blue the frame."""
    frames = np.zeros((length, height, width, 3), np.uint8)
    frames[..., 0] = np.arange(height)[None, :, None] % 256
    frames[..., 1] = np.arange(width)[None, None, :] % 256
    frames[..., 2] = np.arange(length)[:, None, None]
    return frames


@pytest.mark.parametrize("shape", [(12, 480, 832), (12, 224, 224), (5, 1080, 1920), (2, 226, 3000), (12, 854, 480)])
def test_patches_are_the_frames_own_pixels(shape: tuple[int, int, int]) -> None:
    run = _gradient(*shape)
    patches, resized = split_views(cut_views([run], CONFIG), CONFIG).values()
    assert patches.shape == (4, 2, 224, 224, 3) and resized.shape == (2, 1, 200, 200, 3)
    assert patches.dtype == resized.dtype == np.uint8
    for view, at in zip(patches, view_positions([shape], CONFIG), strict=False):
        for offset in range(2):
            expected = run[at.frame + offset, at.top : at.top + 224, at.left : at.left + 224]
            np.testing.assert_array_equal(view[offset], expected)


def test_views_are_spread_over_all_runs() -> None:
    positions = view_positions([(4, 480, 640)] * 3, CONFIG)
    assert {at.run for at in positions[: CONFIG.num_patches]} == {0, 1, 2}
    assert len({(at.top, at.left) for at in positions[: CONFIG.num_patches]}) == CONFIG.num_patches
    assert [at.resized for at in positions] == [False] * 4 + [True] * 2


def test_one_run_of_twelve_frames_gives_the_documented_times() -> None:
    assert [at.frame for at in view_positions([(12, 480, 640)], CONFIG)] == [0, 2, 5, 8, 2, 8]
    assert [at.frame for at in view_positions([(12, 480, 640)], ViewConfig())] == [0, 2, 5, 8, 5]


@pytest.mark.parametrize("shape", [(12, 100, 90), (12, 720, 48), (12, 1, 1), (1, 480, 640)])
def test_small_or_single_frames_still_give_whole_views(shape: tuple[int, int, int]) -> None:
    run = _gradient(*shape)
    patches, resized = split_views(cut_views([run], CONFIG), CONFIG).values()
    assert patches.shape == (4, 2, 224, 224, 3) and resized.shape == (2, 1, 200, 200, 3)
    rows, columns = min(shape[1], 224), min(shape[2], 224)
    at = view_positions([shape], CONFIG)[0]
    np.testing.assert_array_equal(
        patches[0, 0, :rows, :columns], run[at.frame, at.top : at.top + rows, at.left : at.left + columns]
    )


def test_small_frames_are_mirrored_not_blackened() -> None:
    patches, _ = split_views(cut_views([_gradient(3, 150, 150)], CONFIG), CONFIG).values()
    np.testing.assert_array_equal(patches[0, 0, 150:], patches[0, 0, 149 : 149 - 74 : -1])


def test_a_single_frame_repeats_so_that_the_difference_is_zero() -> None:
    patches, _ = split_views(cut_views([_gradient(1, 300, 300)], CONFIG), CONFIG).values()
    np.testing.assert_array_equal(patches[:, 0], patches[:, 1])


@pytest.mark.parametrize("side", [200, 300, 480, 1080])
def test_resized_views_are_near_pillows(side: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC))
    ours = split_views(cut_views([smooth[None]], CONFIG), CONFIG)[RESIZED][-1, 0].astype(int)
    pillows = np.asarray(Image.fromarray(smooth).resize((200, 200), Image.Resampling.BOX)).astype(int)
    assert np.abs(ours - pillows).mean() < 4.0


def test_views_do_not_depend_on_anything_but_the_frames() -> None:
    run = np.random.default_rng(1).integers(0, 256, (12, 360, 640, 3), dtype=np.uint8)
    np.testing.assert_array_equal(cut_views([run], CONFIG), cut_views([run.copy()], CONFIG))


def test_no_runs_and_bad_configuration_are_refused() -> None:
    with pytest.raises(ValueError, match="no runs"):
        view_positions([], CONFIG)
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        ViewConfig(size=0)
    with pytest.raises(ValueError, match="num_resized must be 0 or more"):
        ViewConfig(num_resized=-1)


@pytest.mark.parametrize(("side", "factor"), [(480, 2), (721, 3), (1080, 4), (2160, 9)])
def test_the_box_mean_is_numpys_mean_of_the_blocks(side: int, factor: int) -> None:
    square = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    whole = side // factor
    blocks = square[: whole * factor, : whole * factor].reshape(whole, factor, whole, factor, 3)
    np.testing.assert_array_equal(views._box_mean(square, factor), blocks.mean(axis=(1, 3), dtype=np.float32))


def _picture(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.integers(60, 256, (4, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("above", "below", "left", "right"),
    [(60, 60, 0, 0), (0, 0, 80, 80), (40, 44, 30, 28), (12, 12, 0, 0)],
)
def test_black_bars_in_pairs_are_cut_off(above: int, below: int, left: int, right: int) -> None:
    picture = _picture(240, 400)
    framed = np.pad(picture, ((0, 0), (above, below), (left, right), (0, 0)), constant_values=3)
    (trimmed,) = trim_bars([framed])
    rows = slice(2, -2) if above else slice(None)
    columns = slice(2, -2) if left else slice(None)
    np.testing.assert_array_equal(trimmed, picture[:, rows, columns])
    np.testing.assert_array_equal(trim_bars([trimmed])[0], trimmed)


def test_bars_are_found_after_compression() -> None:
    picture = _picture(30, 45).repeat(8, axis=1).repeat(8, axis=2)  # 240 x 360
    framed = np.pad(picture, ((0, 0), (60, 60), (0, 0), (0, 0)), constant_values=0)
    for crf in (23, 38):
        (trimmed,) = trim_bars([decode(encode(framed, "h264", crf))])
        assert 236 <= trimmed.shape[1] <= 240 and trimmed.shape[2] == 360  # ringing may light a line of a bar


@pytest.mark.parametrize(
    ("above", "below"),
    [
        (60, 0),  # a dark sky
        (80, 20),  # uneven
        (4, 4),  # thinner than bars are
        (360, 360),  # a spot of light in the dark
    ],
)
def test_dark_parts_that_are_no_bars_stay(above: int, below: int) -> None:
    framed = np.pad(_picture(200, 300), ((0, 0), (above, below), (0, 0), (0, 0)), constant_values=3)
    assert trim_bars([framed])[0].shape == framed.shape


def test_black_frames_stay_whole_and_each_run_is_looked_at_alone() -> None:
    black = np.zeros((2, 120, 160, 3), np.uint8)
    framed = np.pad(_picture(100, 160), ((0, 0), (20, 20), (0, 0), (0, 0)))
    assert [run.shape for run in trim_bars([black, framed, black[:1]])] == [
        black.shape,
        (4, 96, 160, 3),
        (1, 120, 160, 3),
    ]
