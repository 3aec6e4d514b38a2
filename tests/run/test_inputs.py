"""What is checked before a run: one plain line each, naming the thing and the remedy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from model.modality import AUDIO, VIDEO
from model.run.inputs import InputError, OutputError, check_folder, check_output, describe, find_files
from model.run.parts import DeviceError, check_device


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    media = "b.mp4", "a.MKV", "c.wav", "sub/d.webm", ".cache/e.mp4", "._f.mp4"
    for name in (*media, "notes.txt", "p.png", "q.png", "README"):
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_bytes(b"x")
    return tmp_path / "own"


def test_files_of_a_folder_and_what_is_left_out(folder: Path) -> None:
    found = find_files([str(folder)], VIDEO)
    assert [file.relative_to(folder).as_posix() for file in found.files] == ["a.MKV", "b.mp4", "sub/d.webm"]
    assert dict(found.left_out) == {".txt": 1, ".png": 2, ".wav": 1, "no suffix": 1}
    assert describe(found.left_out).startswith("5 files (2 .png, 1 ")
    assert describe({f".{number}": 1 for number in range(9)}).endswith("1 .7, ...)")
    assert [file.name for file in find_files([str(folder)], AUDIO).files] == ["c.wav"]
    assert len(find_files([str(folder)]).files) == 4
    assert find_files([str(folder / "notes.txt")]).files == [folder / "notes.txt"], "asked for by name"


def test_what_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    for name, message in (
        ("https://example.org/clip.mp4", "is a URL, and nothing here uses the network: download the file first"),
        (str(tmp_path / "absent"), "absent does not exist"),
        (str(tmp_path / "empty"), r"no video file in .*empty: looked for names ending in .*\.mp4 .*; it is empty"),
        (str(tmp_path / "texts"), r"no video file in .*; what it holds: 1 file \(1 .txt\)"),
    ):
        with pytest.raises(InputError, match=message):
            find_files([name], VIDEO)


def test_a_folder_that_may_not_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root every folder may be, so the system's answer is given here."""

    def scandir(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    for check in (lambda: find_files([str(folder)]), lambda: check_folder(str(folder))):
        with pytest.raises(InputError, match=r"cannot read the folder .*own: Permission denied; change its"):
            check()
    with pytest.raises(InputError, match="is a URL"):
        check_folder("hf://datasets/a/b")


def test_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there.csv").write_text("x")
    check_output(tmp_path / "there.csv")
    check_output(tmp_path / "new.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["there.csv"], "nothing is left behind"
    with pytest.raises(OutputError, match=r"absent/new.csv: its folder does not exist; make it possible, or name"):
        check_output(tmp_path / "absent" / "new.csv")
    with pytest.raises(OutputError, match="it is a folder; name a file"):
        check_output(tmp_path)
    with pytest.raises(OutputError, match="Not a directory"):
        check_output(tmp_path / "there.csv" / "new.csv")


@pytest.mark.parametrize(
    ("name", "message"),
    [("banana", "no device is called 'banana'; give cpu, cuda or cuda:N"), ("cuda:x", "no device is called"),
     ("cuda:99", "device cuda:99 is not here: .* can be used; leave it out or give cpu")],
)  # fmt: skip
def test_devices(name: str, message: str) -> None:
    check_device(None)
    check_device("cpu")
    with pytest.raises(DeviceError, match=message):
        check_device(name)
