"""The two-line entry: `from model import load_detector; load_detector().score("clip.mp4")`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
import torch

from debug.kills import process_tree
from model import Verdict, load_detector
from model.modality import VIDEO
from model.run import files
from model.run.files import FileDetector
from model.run.isolated import TOO_LONG, IsolatedPreparation
from model.run.parts import default_weights, load_preparation
from model.run.parts import load_detector as load_networks
from model.run.scoring import score_clip
from tests.run.bad_readers import AsItIs
from tests.toy_clips import clip

NAMES = ("h264", "vp9", "mpeg4")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    for name in NAMES:
        (folder / f"{name}.mp4").write_bytes(clip(name))
    return {name: folder / f"{name}.mp4" for name in NAMES}


@pytest.fixture(scope="module")
def detector() -> Iterator[FileDetector]:
    with load_detector("video", device="cpu") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def expected() -> dict[str, float]:
    """The plain way, in this process."""
    weights = default_weights(VIDEO)
    prepare, networks = load_preparation(VIDEO, weights), load_networks(VIDEO, weights, torch.device("cpu"))
    return {name: score_clip(networks, prepare(clip(name)).content) for name in NAMES}


def test_importing_the_package_imports_nothing_else(repository: Path) -> None:
    code = "import sys; before = set(sys.modules); import model; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert "'model'" in done.stdout
    assert not [name for name in ("numpy", "torch", "model.") if name in done.stdout]


def test_paths_and_bytes_score_as_in_a_run(
    detector: FileDetector, clips: dict[str, Path], expected: dict[str, float]
) -> None:
    for name, path in clips.items():
        for source in (path, str(path), path.read_bytes()):
            verdict = detector.score(source)
            assert isinstance(verdict, Verdict) and verdict.status == "scored"
            assert verdict.score == pytest.approx(expected[name], abs=2e-3)
            assert verdict.label == ("generated" if expected[name] > 0 else "real")
            assert verdict.num_frames > 0 and verdict.seconds > 0


def test_a_loop_goes_on_past_what_cannot_be_used(
    detector: FileDetector, clips: dict[str, Path], expected: dict[str, float], tmp_path: Path
) -> None:
    (tmp_path / "notes.mp4").write_text("no video")
    notes = [detector.score(source) for source in (tmp_path / "absent.mp4", tmp_path / "notes.mp4", b"", tmp_path)]
    assert [verdict.score for verdict in notes] == [None] * 4
    assert "No such file" in notes[0].note and notes[0].status == "unreadable"
    assert "not a readable video" in notes[1].note and notes[1].status == "refused"
    assert detector.score(clips["h264"]).score == pytest.approx(expected["h264"], abs=2e-3)
    with pytest.raises(TypeError):
        detector.score(7)  # type: ignore[arg-type]


def test_threads_get_their_own_verdicts(
    detector: FileDetector, clips: dict[str, Path], expected: dict[str, float]
) -> None:
    """From short-lived threads too: a worker dies with the thread that started it, which must not be one of them."""
    names = [NAMES[number % len(NAMES)] for number in range(9)]
    for _ in range(2):
        with ThreadPoolExecutor(4) as threads:
            verdicts = list(threads.map(lambda name: detector.score(clips[name]), names))
        for name, verdict in zip(names, verdicts, strict=True):
            assert verdict.score == pytest.approx(expected[name], abs=2e-3) and not verdict.note


def worker_processes() -> set[int]:
    """Of this process; other tests may have left children of their own."""
    children = process_tree(os.getpid())[1:]
    return {pid for pid in children if b"model.run.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def test_a_killed_worker_costs_nothing(
    detector: FileDetector, clips: dict[str, Path], expected: dict[str, float]
) -> None:
    workers = worker_processes()
    assert workers
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    assert detector.score(clips["h264"]).score == pytest.approx(expected["h264"], abs=2e-3)


def test_a_file_that_hangs(clips: dict[str, Path], expected: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds up no other thread's file, and past its deadline nobody at all."""
    monkeypatch.setattr(files, "available_cores", lambda: 2)
    before = worker_processes()
    with load_detector("video", device="cpu") as detector, ThreadPoolExecutor(2) as threads:
        detector.score(clips["h264"])
        (worker,) = worker_processes() - before
        os.kill(worker, signal.SIGSTOP)
        verdicts = {name: threads.submit(detector.score, clips[name]) for name in ("h264", "vp9")}
        done, waiting = wait(verdicts.values(), return_when=FIRST_COMPLETED)
        assert len(done) == len(waiting) == 1
        os.kill(worker, signal.SIGCONT)
        for name, verdict in verdicts.items():
            assert verdict.result().score == pytest.approx(expected[name], abs=2e-3)

        for worker in worker_processes() - before:
            os.kill(worker, signal.SIGSTOP)
        late = detector.score(clips["vp9"], deadline=time.monotonic() + 1)
        assert (late.score, late.note, late.status) == (None, TOO_LONG, "refused")
        for worker in worker_processes() - before:
            os.kill(worker, signal.SIGCONT)
        assert detector.score(clips["h264"]).score == pytest.approx(expected["h264"], abs=2e-3)
    assert worker_processes() == before


def test_a_closed_detector_says_so_and_its_worker_is_gone() -> None:
    before = process_tree(os.getpid())
    preparation = IsolatedPreparation(AsItIs())  # type: ignore[arg-type]
    done = preparation(b"abc")
    assert done.prepared is not None and done.prepared.content.tobytes() == b"abc"
    preparation.close()
    preparation.close()
    assert process_tree(os.getpid()) == before
    with pytest.raises(RuntimeError, match="was closed"):
        preparation(b"abc")


def test_wrong_names() -> None:
    with pytest.raises(ValueError, match="modality is 'smell'; it must be one of video, audio"):
        load_detector("smell")
    with pytest.raises(ValueError, match="no device is called 'banana'"):
        load_detector("video", device="banana")
    with pytest.raises(ValueError, match="name it too"):
        load_detector(weights="somewhere")


def test_two_lines_without_a_main_guard(repository: Path, clips: dict[str, Path], tmp_path: Path) -> None:
    """The bug: a spawned worker would run the caller's script again, and so on. It ends with its caller."""
    script = tmp_path / "two_lines.py"
    script.write_text(
        "from model import load_detector\n"
        "detector = load_detector()\n"
        f"print(detector.score({str(clips['h264'])!r}))\n"
        "from debug.kills import process_tree; import os; print(*process_tree(os.getpid())[1:])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True)
    verdict, workers = done.stdout.splitlines()
    assert verdict.startswith("Verdict(label='") and "status='scored'" in verdict
    [worker] = workers.split()
    while os.path.exists(f"/proc/{worker}"):  # killed with its parent, but not waited for
        if Path(f"/proc/{worker}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
