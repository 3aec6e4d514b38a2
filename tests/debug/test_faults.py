"""The whole run against damaged and hostile files, kills, and a machine that is short of things.

`python -m debug.faults` is the longer campaign; these are small ones with other seeds.
"""

from __future__ import annotations

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from debug.faults import (
    RUN_CLIPS,
    Outcome,
    damaged_rows,
    kill_pipelines,
    kill_scripts,
    load_material,
    run_mutations,
    whole_rows,
)
from debug.kills import STAGES, read_scores
from debug.mutations import MUTATIONS, mutate
from model.config import LimitsConfig
from model.modality import AUDIO, VIDEO
from model.rows.dataset import open_dataset
from tests.toy_clips import clip

MATERIAL = load_material(VIDEO)
ONE_RUN = [sys.executable, "-m", "debug.faults", "--one-run"]
CAN_UNSHARE = os.geteuid() == 0 and shutil.which("unshare") is not None and shutil.which("mount") is not None


def test_damaged_files_and_killed_workers_cost_no_other_row(tmp_path):
    outcome = Outcome()
    run_mutations(
        outcome,
        tmp_path,
        MATERIAL,
        files=4 * len(MATERIAL.families),
        seed=1,
        workers=2,
        worker_kills=3,
        limits=LimitsConfig(),
    )
    assert outcome.broken_promises == 0, outcome.report()
    assert outcome.files == 128 and outcome.whole_clips == 32
    assert 0 < outcome.scored_damaged < outcome.files, "the damage is neither harmless nor always fatal"
    assert outcome.looks > 0


def test_damaged_sounds_cost_no_other_row(tmp_path):
    outcome, material = Outcome(), load_material(AUDIO)
    files = 2 * len(material.families)
    run_mutations(outcome, tmp_path, material, files=files, seed=1, workers=2, worker_kills=2, limits=LimitsConfig())
    assert outcome.broken_promises == 0, outcome.report()
    assert outcome.whole_clips == len(material.families)
    assert 0 < outcome.scored_damaged < outcome.files, "the damage is neither harmless nor always fatal"


def test_killed_runs_leave_complete_files(tmp_path):
    outcome = kill_pipelines(tmp_path, MATERIAL, kills=len(STAGES), seed=1)
    assert not outcome.broken and not outcome.processes_left
    assert outcome.complete_files + outcome.before_file == len(STAGES)


@pytest.mark.long
def test_killed_scripts_leave_complete_files(tmp_path):
    """The whole of script.py, with its weights; a file that has some scores and not all is what a time-out leaves."""
    outcome = kill_scripts(tmp_path, MATERIAL, kills=2, seed=1, clips=16, stages=("first scores", "write"))
    assert not outcome.broken and not outcome.processes_left
    assert outcome.complete_files == 2 and outcome.with_some_scores + outcome.with_all_scores >= 1


def test_damage_is_the_same_for_the_same_seed():
    def rows(seed: int) -> list:
        return list(damaged_rows(40, seed, MATERIAL))

    assert rows(3) == rows(3) != rows(4)


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_mutation_damages(name):
    """Also a file of one byte; the original stays."""
    content, rng = clip("h264"), random.Random(0)
    results = {bytes(MUTATIONS[name](bytearray(content), clip("vp9"), rng)) for _ in range(5)}
    assert results - {content} and clip("h264") == content
    assert mutate(b"x", b"y", rng) is not None


def one_run(tmp_path: Path, *, before: str) -> dict[str, str]:
    """A run of its own through a shell, after `before`."""
    output = tmp_path / "submission.csv"
    command = f"{before} {' '.join(ONE_RUN)} {output}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return read_scores(output)


SHORTAGES = {
    "few file descriptors": "ulimit -n 24;",
    "one core": "taskset -c 0",
    "no core files, small stacks": "ulimit -c 0; ulimit -s 1024;",
}
MOUNTED_SHORTAGES = {
    "no shared memory": "umount /dev/shm || mount -t tmpfs -o ro,size=4k none /dev/shm;",
    "tiny shared memory": "mount -t tmpfs -o size=4k none /dev/shm;",
    "nowhere for temporary files": "mount -t tmpfs -o ro none /tmp; mount -t tmpfs -o ro none /var/tmp;",
}


@pytest.fixture(scope="module")
def expected_scores(tmp_path_factory) -> dict[str, str]:
    scores = one_run(tmp_path_factory.mktemp("plain"), before="")
    assert set(scores) == {row.id for row in whole_rows(RUN_CLIPS, MATERIAL)} and all(scores.values())
    return scores


@pytest.mark.parametrize("shortage", SHORTAGES)
def test_a_machine_short_of_things(shortage, expected_scores, tmp_path):
    assert one_run(tmp_path, before=SHORTAGES[shortage]) == expected_scores


@pytest.mark.skipif(not CAN_UNSHARE, reason="needs root for a mount namespace")
@pytest.mark.parametrize("shortage", MOUNTED_SHORTAGES)
def test_a_machine_short_of_folders(shortage, expected_scores, repository):
    if "/tmp" in MOUNTED_SHORTAGES[shortage] and Path("/tmp") in (repository, *repository.parents):
        pytest.skip("the repository is below /tmp, which this shortage hides")
    folder = repository / ".cache" / "test-faults"  # not below /tmp, which one of them hides
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "submission.csv"
    inner = f"{MOUNTED_SHORTAGES[shortage]} exec {' '.join(ONE_RUN)} {output}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", inner], capture_output=True, text=True)
    if "unshare failed" in done.stderr or "permission denied" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    assert read_scores(output) == expected_scores
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def hostile_folder(tmp_path_factory) -> Path:
    """A plain folder of videos with everything in it that is none, and three good clips."""
    folder = tmp_path_factory.mktemp("hostile")
    for name in ("h264", "hevc", "vp9"):
        (folder / f"good_{name}.mp4").write_bytes(clip(name))
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video" * 1000)
    os.mkfifo(folder / "pipe.mp4")
    (folder / "folder.mp4").mkdir()
    (folder / "dangling.mp4").symlink_to("nowhere")
    (folder / "endless.mp4").symlink_to("/dev/zero")
    (folder / "itself.mp4").symlink_to("itself.mp4")
    (folder / "playlist.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/passwd\n#EXT-X-ENDLIST\n")
    (folder / "list.mp4").write_text(f"ffconcat version 1.0\nfile {folder}/good_h264.mp4\n")
    (folder / 'new\nline, "quote".mp4').write_bytes(clip("h264"))
    (folder / "frame%03d.mp4").write_bytes(clip("h264"))
    with open(os.fsencode(folder) + b"/byte_\xff.mp4", "wb") as file:
        file.write(clip("h264"))
    return folder


def _scoring(repository: Path, folder: Path) -> list[str]:
    options = ["--dataset", str(folder), "--device", "cpu", "--columns", "challenge"]
    return [sys.executable, str(repository / "script.py"), *options]


def test_hostile_files_in_a_folder(hostile_folder, repository, tmp_path):
    """Under few descriptors as well. The good ones are scored; nothing is written but the result file."""
    before = sorted(os.listdir(hostile_folder))
    command = _scoring(repository, hostile_folder)
    shell = ["sh", "-c", 'ulimit -n 128; exec "$@"', "sh", *command, "--workers", "2"]
    done = subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stderr
    scores = read_scores(tmp_path / "submission.csv")
    scored = {clip_id for clip_id, score in scores.items() if score}
    assert scored == {
        "good_h264.mp4", "good_hevc.mp4", "good_vp9.mp4", 'new\nline, "quote".mp4', "frame%03d.mp4", "byte_\\udcff.mp4",
    }  # fmt: skip
    unscored = {
        "empty.mp4",
        "text.mp4",
        "pipe.mp4",
        "dangling.mp4",
        "endless.mp4",
        "itself.mp4",
        "playlist.mp4",
        "list.mp4",
    }
    assert set(scores) - scored == unscored
    assert "not a plain file" in done.stderr
    assert sorted(os.listdir(hostile_folder)) == before and os.listdir(tmp_path) == ["submission.csv"]


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGTERM, signal.SIGTERM], [signal.SIGINT]])
def test_a_signal_ends_the_run_with_a_complete_file(signals, hostile_folder, repository, tmp_path):
    command = _scoring(repository, hostile_folder)
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True)
    while not (tmp_path / "submission.csv").exists():
        assert process.poll() is None
        time.sleep(0.01)
    for number in signals:
        process.send_signal(number)
    assert process.wait() != 0
    assert len(read_scores(tmp_path / "submission.csv")) == 14
    assert os.listdir(tmp_path) == ["submission.csv"]


def test_a_signal_while_the_network_is_loaded_waits_for_the_end_of_it(repository, tmp_path):
    """Found by this file's own tests: an exit raised while torch is imported is lost, or aborts the process."""
    for number in range(6):
        (tmp_path / f"{number}.mp4").write_bytes(clip("h264"))
    main = tmp_path / "main.py"
    main.write_text(f"""
import os, signal, sys
sys.path.insert(0, {str(repository)!r})
import script

class Signalling:
    def find_spec(self, name, path=None, target=None):
        if name == "model.video.detector":
            os.kill(os.getpid(), signal.SIGTERM)
            print("nothing raised")

if __name__ == "__main__":
    sys.meta_path.insert(0, Signalling())
    arguments = ["--dataset", {str(tmp_path)!r}, "--device", "cpu", "--columns", "challenge"]
    sys.exit(script.main([*arguments, "--output", {str(tmp_path / "s.csv")!r}]))
""")
    done = subprocess.run([sys.executable, str(main)], cwd=repository, capture_output=True, text=True)
    assert done.stdout == "nothing raised\n" and done.returncode == 128 + signal.SIGTERM, done.stderr
    assert len(read_scores(tmp_path / "s.csv")) == 6


def test_a_tar_member_of_terabytes_is_not_read(tmp_path):
    """A header costs 512 bytes, whatever size it tells."""
    path = tmp_path / "test.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in {"a.mp4": clip("hevc"), "b.mp4": b""}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    data = bytearray(path.read_bytes())
    at = data.find(b"b.mp4")
    header = tarfile.TarInfo("b.mp4")
    header.size = 1 << 42
    data[at : at + 512] = header.tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(bytes(data))
    assert [(row.id, row.media) for row in open_dataset(path).rows()] == [("a", clip("hevc")), ("b", None)]
