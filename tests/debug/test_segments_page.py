"""Windows on a page: those of the picture and those of its sound, each as script.py tells them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from debug.inspect_files import inspect
from debug.voices import VOICES, speak
from model.audio.reading import SAMPLE_RATE
from model.config import SegmentConfig
from model.modality import VIDEO
from model.run.files import FileDetector
from model.run.parts import default_weights, load_detector
from tests.clip_folder import render_frames

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FRAMES_PER_SECOND, SECONDS, WINDOW = 12, 8, 2.0


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texture, then gradients; silence for three seconds, then a voice."""
    half = SECONDS * FRAMES_PER_SECOND // 2
    kinds = [render_frames(3, generated=kind, num_frames=half, height=120, width=160) for kind in (False, True)]
    voice = np.concatenate([np.zeros(3 * SAMPLE_RATE, np.float32), speak(VOICES[0], SECONDS - 3, SAMPLE_RATE, 0)])
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"g": str(FRAMES_PER_SECOND)})
        picture.height, picture.width, picture.pix_fmt = 120, 160, "yuv420p"
        sound = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for pixels in np.concatenate(kinds):
            container.mux(picture.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(picture.encode(None))
        for start in range(0, len(voice), 1024):
            frame = av.AudioFrame.from_ndarray(voice[None, start : start + 1024], "fltp", "mono")
            frame.sample_rate, frame.time_base, frame.pts = SAMPLE_RATE, Fraction(1, SAMPLE_RATE), start
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


@pytest.fixture(scope="module")
def page(film: Path) -> Path:
    pytest.importorskip("matplotlib")
    networks = load_detector(VIDEO, default_weights(VIDEO), torch.device("cpu"), "float32")
    path = film.with_name("page.html")
    inspect([film], networks, page=path, segments=SegmentConfig(WINDOW), sound=True)
    return path


def test_the_windows_are_those_of_script_py(film: Path, page: Path) -> None:
    """Before, the sound had a verdict on its first minute alone, and no windows."""
    with FileDetector(device="cpu", precision="float32", segments=WINDOW, sound=True) as files:
        picture = files.score(film)
    assert picture.sound is not None and picture.sound.score is not None
    text = page.read_text(encoding="utf-8")
    parts = [
        text[text.index(f"<h3>{title}</h3>") :] for title in ("Along the whole file", "Along the whole sound track")
    ]
    for verdict, part in zip((picture, picture.sound), parts, strict=True):
        first = part[: part.index("</table>")]
        rows = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td><td class=\"n\">(.*?)</td><td>(.*?)</td></tr>", first)
        assert len(rows) == len(verdict.segments) == SECONDS / WINDOW
        for row, segment in zip(rows, verdict.segments, strict=True):
            assert row[2] == "" if segment.score is None else float(row[2]) == pytest.approx(segment.score, abs=0.01)
            assert row[3] == segment.note
        assert "Every window" in first and "<figure><img" in first and "Grey: inconclusive" in first
        assert f"({verdict.score:+.2f})" in first
    assert picture.sound.segments[0].score is None and "silent" in picture.sound.segments[0].note
    assert text.index("<h3>Sound track</h3>") < text.index("<h3>Along the whole sound track</h3>")


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    pytest.importorskip("axe_playwright_python", reason="pip install playwright axe-playwright-python")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        yield play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.mark.parametrize("width", [1300, 420])
def test_it_fits_a_screen_and_can_be_read_aloud(width: int, browser: object, page: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe

    opened = browser.new_page(viewport={"width": width, "height": 900})  # type: ignore[attr-defined]
    opened.goto(page.as_uri())
    for details in opened.locator("summary").all():
        details.click()
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing scrolls sideways"
    found = Axe().run(opened).response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
    opened.close()
