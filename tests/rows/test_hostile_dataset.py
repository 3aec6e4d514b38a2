"""Datasets that mean harm: a bad row costs itself, no file outside the dataset is read, nothing runs."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.rows.dataset import DatasetError, Row, open_dataset
from tests.toy_clips import clip

pytestmark = pytest.mark.usefixtures("either_way")

GOOD = {name: clip(name) for name in ("h264", "vp9", "mpeg4")}
VIDEO_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture()
def root(tmp_path: Path) -> Path:
    """An empty dataset folder; a video that is none of its own stands beside it, in `outside`."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.mp4").write_bytes(GOOD["h264"])
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def hostile_names(root: Path) -> dict[str, str]:
    """id -> what a row may say its file is called."""
    outside = str(root.parent / "outside/secret.mp4")
    return {
        "up": "../../outside/secret.mp4", "absolute": outside, "passwd": "/etc/passwd", "url": f"file://{outside}",
        "missing": "nope.mp4", "loop": "loop.mp4", "pipe": "pipe.mp4", "none": "", "dot": ".", "long": "x" * 5000,
        "web": "http://127.0.0.1:9/x.mp4", "nul": "a\0b.mp4",
    }  # fmt: skip


def write_csv(path: Path, names: Mapping[str, str]) -> None:
    with path.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "id"), *((name, clip_id) for clip_id, name in names.items())])


def write_jsonl(path: Path, names: Mapping[str, str]) -> None:
    lines = [json.dumps({"file_name": name, "id": clip_id}) for clip_id, name in names.items()]
    lines[1:1] = ['{"file_name": "h264.mp4", "id": ', "[1, 2]", "null", "[" * 100_000, "\0"]
    path.with_suffix(".jsonl").write_text("\n".join(lines))


def write_metadata_parquet(path: Path, names: Mapping[str, str]) -> None:
    table = pa.table({"file_name": list(names.values()), "id": list(names)})
    pq.write_table(table, path.with_suffix(".parquet"))


def read_good(root: Path) -> dict[str, Row]:
    """The rows of a dataset, after a look whether the good ones hold their videos and no other holds the secret."""
    dataset = open_dataset(root)
    rows = {row.id: row for row in dataset.rows()}
    assert list(rows) == dataset.ids
    for name, content in GOOD.items():
        video = rows[name].media
        assert (video if isinstance(video, bytes) else Path(str(video)).read_bytes()) == content
    outside = os.path.realpath(root.parent / "outside")
    assert not [row for row in rows.values() if isinstance(row.media, str) and row.media.startswith(outside)]
    return rows


@pytest.mark.parametrize("write", [write_csv, write_jsonl, write_metadata_parquet])
@pytest.mark.parametrize("links", [False, True])
def test_metadata_names_no_file_outside_the_dataset(
    write: Callable[[Path, Mapping[str, str]], None], links: bool, root: Path
) -> None:
    """Good rows before, between and after hostile ones; the folder may be a link, and hold links in circles."""
    folder = root / "test"
    folder.mkdir()
    for name, content in GOOD.items():
        (folder / f"{name}.mp4").write_bytes(content)
    (folder / "loop.mp4").symlink_to("loop.mp4")
    os.mkfifo(folder / "pipe.mp4")
    if links:
        (folder / "itself").symlink_to(".")
        (root.parent / "link").symlink_to(root)
        root = root.parent / "link"
    hostile = hostile_names(root)
    ids = ["h264", *list(hostile)[:6], "vp9", *list(hostile)[6:], "mpeg4"]
    write(folder / "metadata", {clip_id: hostile.get(clip_id, f"{clip_id}.mp4") for clip_id in ids})
    rows = read_good(root)
    assert list(rows) == ids
    for clip_id in ("up", "absolute", "passwd"):
        assert rows[clip_id].media is None
        assert rows[clip_id].problem == f"the row names a file outside the dataset: {hostile[clip_id]}"


def test_a_link_to_a_file_elsewhere_is_followed(root: Path) -> None:
    """As in the hub's cache: the machine's owner made it, not who wrote the dataset."""
    (root / "linked.mp4").symlink_to(root.parent / "outside/secret.mp4")
    write_csv(root / "metadata", {"linked": "linked.mp4"})
    assert [Path(str(row.media)).read_bytes() for row in open_dataset(root).rows()] == [GOOD["h264"]]


def write_parquet(path: Path, videos: Mapping[str, object]) -> None:
    path.parent.mkdir(exist_ok=True)
    table = pa.table({"id": list(videos), "video": pa.array(list(videos.values()), VIDEO_TYPE)})
    pq.write_table(table, path, row_group_size=2)


def good_videos() -> dict[str, object]:
    return {name: {"bytes": content, "path": "/etc/passwd"} for name, content in GOOD.items()}


def test_parquet_rows_without_bytes_name_no_file_outside(root: Path) -> None:
    """A path is only looked at where there are no bytes."""
    (root / "beside.mp4").write_bytes(GOOD["vp9"])
    hostile = {clip_id: {"bytes": None, "path": name} for clip_id, name in hostile_names(root).items()}
    others = {"null": None, "empty": {"bytes": b"", "path": None}, "beside": {"bytes": None, "path": "beside.mp4"}}
    write_parquet(root / "data/test-0.parquet", {**hostile, **good_videos(), **others})
    rows = read_good(root)
    assert rows["beside"].media == str(root / "beside.mp4")
    assert [rows[name].media for name in ("null", "empty", "none", "up", "absolute", "passwd")] == [None] * 6


SETTINGS = {
    "files elsewhere": "configs:\n- config_name: a\n  data_files:\n  - split: test\n    path: ../outside/*.parquet\n",
    "two configurations": "configs:\n- config_name: a\n  data_files: a.parquet\n- config_name: b\n  data_files: b\n",
    "code": 'configs: !!python/object/apply:os.system ["touch EXECUTED"]\n',
    "nonsense": "configs: 7\ndataset_info: [[[\n",
}


@pytest.mark.parametrize("settings", SETTINGS)
def test_settings_and_scripts_beside_shards_change_nothing(
    settings: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`datasets` refuses all of these datasets, and reads the other folder's file for the first."""
    monkeypatch.chdir(root.parent)
    write_parquet(root.parent / "outside/test.parquet", {"secret": {"bytes": GOOD["h264"], "path": None}})
    write_parquet(root / "data/test-0.parquet", good_videos())
    (root / "README.md").write_text(f"---\n{SETTINGS[settings]}---\n")
    (root / f"{root.name}.py").write_text("open('EXECUTED', 'w')\n")
    assert list(read_good(root)) == list(GOOD)
    assert not (root.parent / "EXECUTED").exists() and not (root / "EXECUTED").exists()


def test_pipes_and_devices_among_the_shards_are_not_opened(root: Path) -> None:
    """Opening a pipe waits until somebody writes to it, before there is a result file."""
    write_parquet(root / "data/test-0.parquet", good_videos())
    for name in ("README.md", "metadata.csv", "data/test-1.parquet", "data/test-1.tar", "dataset_infos.json"):
        os.mkfifo(root / name)
    (root / "data/test-2.parquet").symlink_to("/dev/zero")
    assert list(read_good(root)) == list(GOOD)


def test_a_saved_dataset_that_is_a_pipe(root: Path) -> None:
    os.mkfifo(root / "data.arrow")
    (root / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    with pytest.raises(DatasetError, match="not a plain file"):
        open_dataset(root)


def add_member(archive: tarfile.TarFile, name: str, content: bytes = b"", **fields: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(content))


def test_members_of_tars_are_neither_written_nor_followed(root: Path) -> None:
    before = sorted(root.parent.rglob("*"))
    with tarfile.open(root / "test.tar", "w") as archive:
        add_member(archive, "h264.mp4", GOOD["h264"])
        add_member(archive, "../../escaped.mp4", GOOD["vp9"])
        add_member(archive, "/tmp/escaped.mp4", GOOD["vp9"])
        add_member(archive, "link.mp4", type=tarfile.SYMTYPE, linkname=str(root.parent / "outside/secret.mp4"))
        add_member(archive, "hard.mp4", type=tarfile.LNKTYPE, linkname="/etc/passwd")
        add_member(archive, "pipe.mp4", type=tarfile.FIFOTYPE)
        for name in ("vp9", "mpeg4"):
            add_member(archive, f"{name}.mp4", GOOD[name])
    assert list(read_good(root)) == ["h264", "../../escaped", "/tmp/escaped", "vp9", "mpeg4"]
    assert sorted(root.parent.rglob("*")) == sorted([*before, root / "test.tar"])


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
@pytest.mark.parametrize("size", [6 << 30, 1 << 60])
def test_a_name_of_gigabytes_is_not_read(kind: bytes, size: int, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Written as a hole, it costs the disk nothing; Python's tarfile would hold it in memory."""
    for number, names in enumerate([["h264"], ["vp9", "mpeg4"]]):
        with tarfile.open(root / f"test-{number}.tar", "w") as archive:
            for name in names:
                add_member(archive, f"{name}.mp4", GOOD[name])
    header = tarfile.TarInfo("long")
    header.type, header.size = kind, size
    with open(root / "test-0.tar", "r+b") as file:
        file.seek(512 + -(-len(GOOD["h264"]) // 512) * 512)
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        file.truncate(8 << 30)
    assert list(read_good(root)) == list(GOOD)
    assert f"a header of {size} bytes" in caplog.text


def test_a_compressed_tar_is_not_unpacked(root: Path) -> None:
    with gzip.open(root / "test-0.tar", "wb", compresslevel=1) as file:
        file.write(bytes(1 << 20))
    with tarfile.open(root / "test-1.tar", "w") as archive:
        for name, content in GOOD.items():
            add_member(archive, f"{name}.mp4", content)
    assert list(read_good(root)) == list(GOOD)
