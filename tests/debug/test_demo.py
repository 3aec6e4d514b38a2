"""The page to drop a file on, served as its command serves it, in a real browser."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

for _package, _remedy in (
    ("gradio", "-r debug/demo/requirements.txt"),
    ("playwright", "playwright"),
    ("axe_playwright_python", "axe-playwright-python"),
):
    pytest.importorskip(_package, reason=f"no {_package} here: pip install {_remedy}")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

from debug.kills import process_tree
from debug.toy_sounds import clip as sound
from model import load_detector
from model.config import available_cores
from model.video.copies import encode
from tests.clip_folder import render_frames

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"),
    pytest.mark.timeout(1200),
]
_PATIENCE = 300_000  # ms


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name, generated in (("camera", False), ("drawn", True)):
        frames = render_frames(3, generated=generated, num_frames=12, height=240, width=320)
        (folder / f"{name}.mp4").write_bytes(encode(frames, "h264", 20, fps=12.0))
    (folder / "voice.wav").write_bytes(sound("pcm_u8"))
    (folder / "notes.txt").write_text("no video\n" * 50)
    (folder / "empty.mp4").touch()
    return folder


@dataclass(frozen=True)
class Served:
    """folder: of its temporary files."""

    address: str
    folder: Path
    process: subprocess.Popen[str]

    def signal_decoders(self, number: int) -> None:
        for pid in process_tree(self.process.pid):
            if b"model.run.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, number)

    def still_there(self, content: bytes) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file() and path.read_bytes() == content]


@contextlib.contextmanager
def serve(repository: Path, folder: Path, *arguments: str) -> Iterator[Served]:
    command = [sys.executable, "-m", "debug.demo", "--port", "0", "--device", "cpu", *arguments]
    environment = os.environ | {"TMPDIR": str(folder)}
    process = subprocess.Popen(command, cwd=repository, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if found := re.search(r"running on (http://127\.0\.0\.1:\d+)", line):
            break
    else:
        pytest.fail("".join(lines))
    yield Served(found[1], folder, process)
    process.terminate()
    process.communicate(timeout=60)
    assert not list(folder.glob("demo-*")), "nothing is left behind"


@pytest.fixture(scope="module")
def served(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(repository, tmp_path_factory.mktemp("served"), "--max-megabytes", "1") as one:
        yield one


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as play:
        media = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]  # a camera and a microphone
        yield play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *media])


@pytest.fixture(params=[1300, 420])
def page(request: pytest.FixtureRequest, browser: Any, served: Served) -> Iterator[Page]:
    """The app opened, at a desk's width and a phone's."""
    with opened(browser, served, width=request.param) as page:
        yield page


@contextlib.contextmanager
def opened(browser: Any, served: Served, *, width: int = 1300) -> Iterator[Page]:
    """Nothing was asked of another machine, and nothing failed in the page."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    asked: list[str] = []
    failures: list[str] = []
    page.on("request", lambda one: asked.append(one.url))
    page.on("pageerror", lambda one: failures.append(str(one)))
    page.goto(served.address)
    page.wait_for_selector("#file input[type=file]", state="attached", timeout=_PATIENCE)
    yield page
    hosts = {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))}
    page.close()
    assert hosts == {urlsplit(served.address).netloc}
    assert failures == [], "nothing that the page does is forbidden by its own policy"


def _drop(page: Page, file: Path) -> str:
    """Returns the verdict's text, once it is about this file."""
    page.set_input_files("#file input[type=file]", file)
    return _verdict_on(page, file)


def _verdict_on(page: Page, file: Path) -> str:
    page.wait_for_selector(f"#verdict section:has-text('{file.name}')", timeout=_PATIENCE)
    return page.inner_text("#verdict section")


def _download(page: Page, button: str) -> str:
    page.wait_for_selector(f"#{button}", timeout=_PATIENCE)
    with page.expect_download(timeout=_PATIENCE) as waiting:
        page.click(f"#{button}")
    return Path(waiting.value.path()).read_text(encoding="utf-8")


def _serious(page: Page) -> list[str]:
    """Findings of axe-core on what is ours: the whole but Gradio's own widgets."""
    found = Axe().run(page, context={"include": [["#verdict"], ["#evidence"]]}).response["violations"]
    return [f"{one['id']}: {one['nodes']}" for one in found if one["impact"] in ("serious", "critical")]


@pytest.mark.parametrize("name", ["camera", "drawn"])
def test_a_video_gets_script_py_s_verdict_and_page(name: str, page: Page, files: Path, served: Served) -> None:
    file = files / f"{name}.mp4"
    shown = _drop(page, file)
    told = json.loads(_download(page, "json"))
    with load_detector("video", device="cpu") as detector:
        expected = detector.score(file)
    assert expected.score is not None and told["score"] == pytest.approx(expected.score, abs=0.01)
    assert told["file"] == file.name and "no sound track" in told["sound"]["reason"]
    assert shown.startswith(expected.in_words) and f"score {told['score']:+.2f}" in shown
    page.wait_for_selector("#evidence iframe", timeout=_PATIENCE)
    inside = page.frame_locator("#evidence iframe")
    inside.get_by_role("heading", name="Frames behind the score").wait_for(timeout=_PATIENCE)
    assert inside.locator("figure img").count() >= 2
    assert "do not decide about people by it alone" in inside.locator("body").inner_text()
    assert inside.locator("h3", has_text="Where in the frame").is_visible()
    whole = _download(page, "page")
    assert whole.startswith("<!DOCTYPE html>") and file.name in whole
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing scrolls sideways"
    height = page.evaluate("document.querySelector('#evidence iframe').contentDocument.documentElement.scrollHeight")
    assert page.locator("#evidence iframe").bounding_box()["height"] >= height
    assert _serious(page) == []
    assert not served.still_there(file.read_bytes()), "the upload is deleted once it was looked at"


@pytest.mark.parametrize(
    ("name", "reason"), [("notes.txt", "not a readable video"), ("empty.mp4", "the file is empty")]
)
def test_what_is_no_video_is_told_so(name: str, reason: str, page: Page, files: Path) -> None:
    shown = _drop(page, files / name)
    assert shown.startswith("no score") and reason in shown
    assert json.loads(_download(page, "json"))["score"] is None
    assert page.locator("#evidence iframe").count() == 0
    assert _serious(page) == []


def test_a_sound_of_speech(page: Page, files: Path) -> None:
    shown = _drop(page, files / "voice.wav")
    assert "pristine" in shown
    assert json.loads(_download(page, "json"))["modality"] == "audio"
    page.frame_locator("#evidence iframe").locator("figure img").first.wait_for(timeout=_PATIENCE)
    assert _serious(page) == []


@pytest.mark.skipif(available_cores() < 2, reason="one file a core, and there is one core")
def test_a_file_that_hangs(repository: Path, browser: Any, files: Path, tmp_path: Path) -> None:
    """Another page's gets its verdict meanwhile; its own page is told the limit, and what to do."""
    with (
        serve(repository, tmp_path, "--max-seconds", "30") as served,
        opened(browser, served) as first,
        opened(browser, served) as second,
    ):
        served.signal_decoders(signal.SIGSTOP)
        first.set_input_files("#file input[type=file]", files / "camera.mp4")
        first.get_by_text("reading and scoring").first.wait_for(timeout=_PATIENCE)
        assert "score" in _drop(second, files / "drawn.mp4")
        assert first.locator("#verdict section").count() == 0
        shown = _verdict_on(first, files / "camera.mp4")
        assert shown.startswith("no score") and "more than 30 s, the limit for one file" in shown
        assert "--max-seconds" in shown and json.loads(_download(first, "json"))["status"] == "refused"


def test_two_pages_with_the_same_file(browser: Any, served: Served, files: Path) -> None:
    """Before, Gradio gave both one place, and the first to be done deleted it."""
    file = files / "camera.mp4"
    with opened(browser, served) as first, opened(browser, served) as second:
        for page in (first, second):
            page.set_input_files("#file input[type=file]", file)
        for page in (first, second):
            assert not _verdict_on(page, file).startswith("no score")
            page.wait_for_selector("#evidence iframe", timeout=_PATIENCE)
            page.wait_for_selector("#file input[type=file]", state="attached", timeout=_PATIENCE)
        assert not served.still_there(file.read_bytes())


def test_a_recorded_video(page: Page, served: Served) -> None:
    page.get_by_role("tab", name="Record a video").first.click()
    page.get_by_text("Click to Access Webcam").click()
    camera = page.locator("#camera")
    camera.get_by_role("button").filter(has_text="Record").click(timeout=_PATIENCE)
    camera.get_by_role("button").filter(has_text="Stop").wait_for(timeout=_PATIENCE)
    shown = "document.querySelector('#camera video').currentTime"
    page.wait_for_function(f"{shown} > {page.evaluate(shown)} + 3", timeout=_PATIENCE)
    camera.get_by_role("button").filter(has_text="Stop").click()
    page.wait_for_selector("#verdict section:has-text('.webm')", timeout=_PATIENCE)
    told = json.loads(_download(page, "json"))
    assert told["modality"] == "video" and told["score"] is not None and told["frames"] >= 2
    assert str(served.folder) not in told["reason"], "where the file lay is nobody's business"
    assert told["sound"]["score"] is not None and "sound: " in page.inner_text("#verdict section")
    _wait_for_the_next(page, "#camera video[src]", served.folder, "*.webm")


def test_a_recorded_voice(page: Page, served: Served) -> None:
    page.get_by_role("tab", name="Record a voice").first.click()
    microphone = page.locator("#microphone")
    microphone.get_by_role("button", name="Record").click()
    page.wait_for_function(
        "document.querySelector('#microphone time.duration')?.innerText >= '0:03'", timeout=_PATIENCE
    )
    microphone.locator(".stop-button").click()
    page.wait_for_selector("#verdict section:has-text('.wav')", timeout=_PATIENCE)
    told = json.loads(_download(page, "json"))
    assert told["modality"] == "audio" and told["score"] is not None and told["duration"] > 2
    _wait_for_the_next(page, "#microphone audio[src]", served.folder, "*.wav")


def _wait_for_the_next(page: Page, recording: str, folder: Path, kind: str) -> None:
    """The evidence is there, the widget is empty again, the recording deleted; what was found stays on the page."""
    page.wait_for_selector("#evidence iframe", timeout=_PATIENCE)
    page.wait_for_selector(recording, state="detached", timeout=_PATIENCE)
    assert not list(folder.rglob(kind))
    page.wait_for_timeout(1000)  # a second in which nothing is to happen: once an emptied widget wiped the verdict
    assert page.locator("#verdict section").count() == 1 and page.locator("#evidence iframe").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing scrolls sideways"


@pytest.mark.parametrize("page", [1300], indirect=True)
def test_a_file_over_the_limit_is_turned_away(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "large.mp4"
    file.write_bytes(bytes(1 << 21))
    page.set_input_files("#file input[type=file]", file)
    page.get_by_text("exceed the maximum allowed size of 1.0 Mb").first.wait_for(timeout=_PATIENCE)
    assert page.locator("#verdict section").count() == 0


def test_other_names_are_not_answered(served: Served) -> None:
    """A web page elsewhere cannot reach the app through a name of its own (DNS rebinding)."""
    with pytest.raises(OSError, match="400"):
        urlopen(Request(served.address, headers={"Host": "evil.example"}))
    with urlopen(served.address) as answer:
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
