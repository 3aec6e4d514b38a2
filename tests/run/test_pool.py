"""The decode pool against decoders that crash, hang and balloon, and against a machine that is short of things."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from model.config import LimitsConfig, PipelineConfig, SamplingConfig
from model.rows.dataset import Row
from model.run import pool as pool_module
from model.run import process
from model.run.pool import DecodedClip, DecodePool
from model.run.worker import Reply
from model.video.prepare import VideoPreparation
from model.video.reading import READERS
from model.video.views import ViewConfig
from tests.run.bad_readers import BOTH_BAD, FIRST_BAD, AsItIs
from tests.toy_clips import clip

LIMITS = LimitsConfig(worker_memory_bytes=1 << 30)
HANG_SECONDS = 6.0  # the limit where a hang is tested; the others keep theirs, for slow machines
CONFIG = VideoPreparation(SamplingConfig(), LIMITS, ViewConfig(size=32), readers=BOTH_BAD)


def decode(
    rows: Iterable[Row],
    config: VideoPreparation = CONFIG,
    *,
    num_workers: int = 2,
    pipeline: PipelineConfig | None = None,
) -> dict[str, DecodedClip]:
    with DecodePool(rows, config, num_workers=num_workers, pipeline=pipeline) as pool:
        results = [decoded for decoded in pool.results() if decoded is not None]
    by_id = {decoded.id: decoded for decoded in results}
    assert len(by_id) == len(results), "a clip came twice"
    return by_id


def content(decoded: DecodedClip) -> np.ndarray:
    assert decoded.prepared is not None, decoded.reason
    return decoded.prepared.content


def note(decoded: DecodedClip) -> str:
    return decoded.prepared.note if decoded.prepared else decoded.reason


def limits_for(name: str) -> LimitsConfig:
    return replace(LIMITS, soft_seconds=5.0, hard_seconds=HANG_SECONDS) if "for_ever" in name else LIMITS


def fault(name: str, rest: bytes = b"") -> bytes:
    return b"FAULT:" + name.encode() + b"\n" + rest


@pytest.fixture(scope="module")
def good_views() -> np.ndarray:
    return content(decode([Row("good", clip("h264"))])["good"])


FATAL = {
    "segfault": "crashed",
    "abort": "crashed",
    "leave": "crashed",
    "exit": "failed",
    "sleep_for_ever": "more than 6 s",
    "raise_the_unforeseen": r"nobody thought of this \(bad_readers.py:[0-9]+\)",
    "recurse": "RecursionError",
    "allocate_without_end": "needs more than 1024 MiB",
    "write_a_file": "File too large",
}


@pytest.mark.parametrize("name", FATAL)
def test_a_bad_decoder_costs_its_clip_alone(name, good_views):
    rows = [Row(f"good-{number}", clip("h264")) for number in range(6)]
    rows.insert(2, Row("bad", fault(name)))
    decoded = decode(rows, replace(CONFIG, limits=limits_for(name)))
    assert set(decoded) == {row.id for row in rows}
    assert decoded["bad"].prepared is None
    assert re.search(FATAL[name], decoded["bad"].reason), decoded["bad"].reason
    for number in range(6):
        np.testing.assert_array_equal(content(decoded[f"good-{number}"]), good_views)


@pytest.mark.parametrize("name", ["segfault", "sleep_for_ever", "raise_the_unforeseen", "allocate_without_end"])
def test_the_other_decoder_rescues_a_clip(name, good_views):
    config = replace(CONFIG, readers=FIRST_BAD, limits=limits_for(name))
    decoded = decode([Row("bad", fault(name, clip("h264")))], config, num_workers=1)["bad"]
    np.testing.assert_array_equal(content(decoded), good_views)
    assert decoded.prepared is not None and decoded.prepared.reader == "decord" and decoded.prepared.note


def test_a_reason_that_both_decoders_give_is_told_once(tmp_path):
    (tmp_path / "empty.mp4").touch()
    decoded = decode([Row("empty", str(tmp_path / "empty.mp4"))])["empty"]
    assert decoded.prepared is None and decoded.reason == "the file is empty"


def test_an_externally_killed_worker_costs_nothing(good_views, tmp_path, monkeypatch):
    """The clip at hand is read again by the same decoder, so that its score stays."""
    monkeypatch.setenv("KILL_ONCE_MARKER", str(tmp_path / "killed"))
    decoded = decode([Row("unlucky", fault("kill_once", clip("h264")))])["unlucky"]
    np.testing.assert_array_equal(content(decoded), good_views)
    assert decoded.prepared is not None and (decoded.prepared.reader, decoded.prepared.note) == ("pyav", "")
    assert (tmp_path / "killed").exists()


def test_a_worker_killed_between_two_clips_is_replaced(good_views):
    worker = process.WorkerProcess(CONFIG)
    try:
        worker.start()
        assert worker._process is not None
        os.kill(worker._process.pid or 0, signal.SIGKILL)
        worker._process.wait()
        worker.start()
        _, views = worker.run(clip("h264"), 0)
        np.testing.assert_array_equal(views, good_views)
    finally:
        worker.stop()


def test_a_leaking_worker_makes_room(good_views):
    """What a decoder keeps for itself must not add up to a memory error on somebody else's clip."""
    rows = [Row(f"{number}", fault("leak", clip("h264"))) for number in range(8)]
    decoded = decode(rows, num_workers=1)
    assert [note(one) for one in decoded.values()] == [""] * 8
    for one in decoded.values():
        np.testing.assert_array_equal(content(one), good_views)


def test_limits_on_bytes_in_memory():
    """At most `queued_bytes` of files wait; one larger than that passes alone."""
    sizes: list[int] = []
    clips = [clip("h264"), clip("h264_709"), clip("hevc")] * 4

    def rows():
        for number, content in enumerate(clips):
            sizes.append(len(content))
            yield Row(str(number), content)

    pool = DecodePool(rows(), CONFIG, num_workers=2, pipeline=PipelineConfig(queued_bytes=200_000, jobs_ahead=8))
    most = 0
    with pool:
        for decoded in pool.results(wait_seconds=0.01):
            most = max(most, pool._bytes._taken)
            assert decoded is None or decoded.prepared is not None
    assert max(sizes) <= most <= max(max(sizes), 200_000)
    assert pool._bytes._taken == 0


def test_a_file_over_the_limit_is_not_sent():
    config = replace(CONFIG, limits=replace(LIMITS, max_file_bytes=50_000))
    decoded = decode([Row("large", clip("h264")), Row("small", clip("hevc")), Row("none", None)], config)
    assert decoded["large"].reason == f"the file has {len(clip('h264'))} bytes; the limit is 50000"
    assert decoded["large"].refused and not decoded["none"].refused
    assert decoded["small"].prepared is not None
    assert decoded["none"].reason == "the row holds no file"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dataset_that_breaks_off_keeps_what_was_read(good_views):
    def rows():
        yield Row("first", clip("h264"))
        raise OSError("the disk is gone")

    assert set(decode(rows())) == {"first"}


def test_a_dataset_that_stands_still_ends_the_run(good_views, tmp_path, caplog):
    """A pipe that nobody writes to. What was read before is kept, and what still comes slowly is waited for."""
    os.mkfifo(tmp_path / "pipe")
    ends = os.open(tmp_path / "pipe", os.O_RDWR)

    def trickle():
        for _ in range(8):
            time.sleep(0.5)
            os.write(ends, b"x")

    def rows():
        yield Row("first", clip("h264"))
        with open(tmp_path / "pipe", "rb", buffering=0) as pipe:
            for _ in range(8):  # four seconds for one row, a byte at a time
                pipe.read(1)
            yield Row("slow", clip("h264"))
            pipe.read(1)

    writer = threading.Thread(target=trickle)
    try:
        with DecodePool(rows(), CONFIG, num_workers=1, pipeline=PipelineConfig(stall_seconds=3.0)) as pool:
            clips = []
            for decoded in pool.results():
                if decoded is not None:
                    clips.append(decoded)
                    if decoded.id == "first":
                        writer.start()
        assert [one.id for one in clips] == ["first", "slow"]
        np.testing.assert_array_equal(content(clips[1]), good_views)
        assert "nothing came from the dataset for 3 s" in caplog.text
    finally:
        os.write(ends, b"x")  # lets the reading thread end
        writer.join()
        os.close(ends)


def test_leaving_in_the_middle_stops_everything():
    """Ctrl-C or SIGTERM in the main thread: the pool is left with jobs queued and a decoder that hangs for an hour."""
    rows = [Row("bad", fault("sleep_for_ever")), *(Row(str(number), clip("h264")) for number in range(20))]
    config = replace(CONFIG, limits=replace(LIMITS, hard_seconds=3600.0))
    with DecodePool(rows, config, num_workers=2) as pool:
        next(decoded for decoded in pool.results() if decoded is not None)
        processes = [worker._process for worker in pool._workers if worker._process is not None]
    assert processes
    assert not any(thread.name.startswith(("worker-", "watch")) for thread in threading.enumerate())


def test_no_decode_process_can_be_started(monkeypatch):
    """Every row gets its reason, and soon."""
    monkeypatch.setattr(pool_module, "_START_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(process, "_CODE", "raise SystemExit(5)")
    decoded = decode([Row(str(number), clip("h264")) for number in range(9)])
    assert len(decoded) == 9
    assert all("no decode process can be started" in one.reason for one in decoded.values())


_SAYS_SOMETHING_ELSE = """
import sys
from multiprocessing.connection import Connection
Connection(int(sys.argv[2])).send_bytes(b"hello")
"""


def test_a_worker_that_begins_with_something_else_is_a_worker_not_had(monkeypatch):
    """The bug: an `assert` there ended the supervising thread, and with it every row."""
    monkeypatch.setattr(pool_module, "_START_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(process, "_CODE", _SAYS_SOMETHING_ELSE)
    worker = process.WorkerProcess(CONFIG)
    with pytest.raises(process.WorkerStartError, match="began with b'hello'"):
        worker.start()
    assert len(decode([Row(str(number), clip("h264")) for number in range(3)])) == 3


def test_a_pool_without_workers_tries_again_before_every_row(monkeypatch, good_views):
    """The bug: after a minute without memory for a worker every row to come was left unscored, memory or not."""
    monkeypatch.setattr(pool_module, "_START_PAUSE_SECONDS", 0.001)
    start, memory_is_back, early_is_out = process.WorkerProcess.start, threading.Event(), threading.Event()

    def start_or_not(self: process.WorkerProcess) -> None:
        if not memory_is_back.is_set():
            raise process.WorkerStartError("no decode process can be started: Cannot allocate memory")
        start(self)

    def rows() -> Iterator[Row]:
        yield Row("early", clip("h264"))
        assert early_is_out.wait(60)
        memory_is_back.set()
        yield from (Row(f"late-{number}", clip("h264")) for number in range(3))

    monkeypatch.setattr(process.WorkerProcess, "start", start_or_not)
    decoded = {}
    with DecodePool(rows(), CONFIG, num_workers=2) as pool:
        for one in pool.results():
            if one is not None:
                decoded[one.id] = one
                early_is_out.set()
    assert decoded["early"].reason.endswith("Cannot allocate memory")
    for number in range(3):
        np.testing.assert_array_equal(content(decoded[f"late-{number}"]), good_views)


def test_a_worker_that_could_not_be_had_comes_back_while_others_work(monkeypatch):
    monkeypatch.setattr(pool_module, "_START_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(pool_module, "_RETRY_SECONDS", 0.05)
    start, memory_is_back = process.WorkerProcess.start, threading.Event()
    first: list[process.WorkerProcess] = []

    def start_or_not(self: process.WorkerProcess) -> None:
        first.append(self)
        if self is not first[0] and not memory_is_back.is_set():
            raise process.WorkerStartError("no decode process can be started: Cannot allocate memory")
        start(self)

    monkeypatch.setattr(process.WorkerProcess, "start", start_or_not)
    with DecodePool((Row(str(number), clip("h264")) for number in range(1000)), CONFIG, num_workers=2) as pool:
        able = set()
        for done, _ in enumerate(pool.results(wait_seconds=0.01)):
            able.add(len(pool._able))
            if done > 5 and 1 in able:
                memory_is_back.set()
                if len(pool._able) == 2:
                    break
        assert memory_is_back.is_set() and len(pool._able) == 2, able


@pytest.mark.parametrize("workers", [1, 2])
def test_the_run_knows_no_video(workers):
    """Content of any length up to the preparation's limit, from a preparation that is none of a video."""
    rows = [Row(str(size), bytes([size % 256]) * size) for size in (1, 1000, 7, 0, 65536, 65537)]
    with DecodePool(rows, AsItIs(), num_workers=workers) as pool:
        decoded = {one.id: one for one in pool.results() if one is not None}
    for size in (1, 1000, 7, 65536):
        prepared = decoded[str(size)].prepared
        assert prepared is not None and prepared.content.tobytes() == bytes([size % 256]) * size
        assert prepared.duration_seconds == size / 1000
    assert decoded["0"].reason == "the row holds no file"
    assert "disorder" in decoded["65537"].reason, "the parent takes no more than the preparation's limit"


def test_few_file_descriptors_mean_fewer_workers(monkeypatch):
    monkeypatch.setattr(pool_module, "_START_PAUSE_SECONDS", 0.001)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    rows = [Row(str(number), clip("h264")) for number in range(6)]
    decode(rows[:1])  # what the machinery itself keeps open is open now
    used = len(os.listdir("/proc/self/fd"))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 8, hard))
        decoded = decode(rows, num_workers=6)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(decoded) == 6 and all(one.prepared is not None for one in decoded.values())


def test_a_process_in_disorder_is_replaced(monkeypatch, good_views):
    """A decoder that wrote over its process's memory can send anything."""
    replies, read = [b'{"prepared": [99999, 99, 999, 999, 3]}', b"\x80\x04garbage"], Reply.from_bytes
    monkeypatch.setattr(Reply, "from_bytes", lambda message: read(replies.pop() if replies else message))
    decoded = decode([Row("clip", clip("h264")), Row("next", clip("h264"))], num_workers=1)
    assert decoded["clip"].prepared is None and decoded["clip"].reason.count("disorder") == 2
    assert note(decoded["next"]) == ""
    np.testing.assert_array_equal(content(decoded["next"]), good_views)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x80\x04garbage",
        b"[]",
        b"7",
        b'{"surprise": 1}',
        b'{"prepared": "x"}',
        b'{"num_bytes": 1.5}',
        b'{"note": ["x"]}',
        b'{"num_frames": true}',
        b'{"read_seconds": null}',
    ],
)
def test_what_is_not_a_reply(message):
    with pytest.raises(process.NOT_A_REPLY):
        Reply.from_bytes(message)


@pytest.mark.parametrize("sent", [0, 1, 99, 101, 100_000])
def test_content_of_another_size_is_refused(sent):
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs, pytest.raises(process.NOT_A_REPLY):
        theirs.send_bytes(bytes(sent))
        process.receive_content(ours, Reply(True, 100), 1000)


@pytest.mark.parametrize("told", [-1, 0, 1001, 1 << 60])
def test_content_over_the_limit_is_refused_before_room_is_made_for_it(told):
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs, pytest.raises(process.NOT_A_REPLY, match="at most 1000"):
        theirs.send_bytes(bytes(10))
        process.receive_content(ours, Reply(True, told), 1000)


def test_a_busy_machine_does_not_make_a_decoder_late(monkeypatch):
    """Found on a machine with ten jobs a core: clips of milliseconds were killed after 10 s without a processor."""
    killed = []

    class Process:
        pid = 1

        def kill(self) -> None:
            killed.append(True)

    worker = process.WorkerProcess(CONFIG)
    worker._process = Process()  # type: ignore[assignment]
    queued = 3.0
    monkeypatch.setattr(process, "queued_seconds", lambda pid: queued)
    worker._set_deadline(-5.0)  # five seconds late
    queued = 9.0  # six of them in the queue
    worker.kill_if_late()
    assert not killed
    queued = 7.0
    worker.kill_if_late()
    assert killed


def test_time_in_the_processors_queue():
    assert 0.0 <= process.queued_seconds(os.getpid()) < 3600 * 24
    assert process.queued_seconds(None) == 0.0 == process.queued_seconds(-7)


def test_replies_survive_the_pipe():
    reply = Reply(True, 7, "pyav", "ünï", 0.5, 0.25, 3.0, 8, 4, 2.0, 4.0, more=True, leaving=True)
    assert Reply.from_bytes(reply.to_bytes()) == reply
    assert Reply.from_bytes(Reply(note="x").to_bytes()).prepared is False


def test_workers_die_with_their_parent(tmp_path):
    """SIGKILL leaves no time to stop them, and a hung one would never see the closed pipe."""
    script = tmp_path / "parent.py"
    script.write_text(_PARENT_OF_SPINNING_WORKERS)
    at_work = tmp_path / "at work"
    at_work.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "SPIN_MARKERS": str(at_work)}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment)
    try:
        while len(os.listdir(at_work)) < 2 and parent.poll() is None:
            time.sleep(0.05)
    finally:
        parent.kill()
        parent.wait()
    pids = [int(name) for name in os.listdir(at_work)]
    assert len(pids) == 2
    while any(_is_running(pid) for pid in pids):
        time.sleep(0.05)


_PARENT_OF_SPINNING_WORKERS = """
from model.config import LimitsConfig, SamplingConfig
from model.rows.dataset import Row
from model.video.prepare import VideoPreparation
from model.video.views import ViewConfig
from model.run.pool import DecodePool
from tests.run.bad_readers import BOTH_BAD

if __name__ == "__main__":
    limits = LimitsConfig(soft_seconds=300, hard_seconds=600)
    config = VideoPreparation(SamplingConfig(), limits, ViewConfig(size=32), readers=BOTH_BAD)
    rows = [Row(str(number), b"FAULT:spin_for_ever\\n") for number in range(2)]
    with DecodePool(rows, config, num_workers=2) as pool:
        for _ in pool.results():
            pass
"""


def test_a_worker_is_not_in_real_time():
    """Should the parent be: SVT-AV1 puts root's processes there, and a decoder that spins would starve the machine."""
    worker = process.WorkerProcess(CONFIG)
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)) if os.geteuid() == 0 else None
    try:
        worker.start()
        assert worker._process is not None and worker._process.pid
        assert os.sched_getscheduler(worker._process.pid) == os.SCHED_OTHER
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        worker.stop()


def _is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_the_default_readers_are_the_decoders():
    assert dict(VideoPreparation(SamplingConfig(), LimitsConfig(), ViewConfig()).readers) == dict(READERS)
