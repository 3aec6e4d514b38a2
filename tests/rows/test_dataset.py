"""model.rows:  every layout gives the same rows; a damaged dataset costs its damaged rows only."""

from __future__ import annotations

import csv
import json
import logging
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.rows.dataset import ClipDataset, DatasetError, open_dataset
from tests.toy_clips import SPECS, render

pytestmark = pytest.mark.usefixtures("either_way")

CLIPS = {f"clip_{number}": render(replace(SPECS["h264"], num_frames=2 + number)) for number in range(7)}
Features = dict[str, dict[str, str]]
HUGGING_FACE: Features = {"id": {"dtype": "string", "_type": "Value"}, "video": {"_type": "Video"}}
VIDEO_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_parquet(
    path: Path,
    ids: Sequence[object],
    *,
    rows_per_group: int = 2,
    features: Features | None = HUGGING_FACE,
    names: tuple[str, str] = ("id", "video"),
) -> Path:
    """One shard. The video of a row is the clip of that id; of other ids, the clips in turn."""
    turns = list(CLIPS.values())
    contents = [CLIPS.get(str(clip_id), turns[k % len(turns)]) for k, clip_id in enumerate(ids)]
    videos = pa.array([{"bytes": content, "path": "name.mp4"} for content in contents], VIDEO_TYPE)
    table = pa.table({names[0]: pa.array(ids), names[1]: videos})
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows_per_group, compression="none")
    return path


def parquet_layout(root: Path) -> None:
    names = list(CLIPS)
    write_parquet(root / "data/test-00000-of-00002.parquet", names[:4], rows_per_group=3)
    write_parquet(root / "data/test-00001-of-00002.parquet", names[4:], rows_per_group=1)


def csv_layout(root: Path) -> None:
    _write_files(root / "test")
    with (root / "test/metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "id"), *((f"{name}.mp4", name) for name in CLIPS)])


def jsonl_layout(root: Path) -> None:
    _write_files(root / "test")
    lines = [json.dumps({"file_name": f"{name}.mp4", "id": name}) for name in CLIPS]
    (root / "test/metadata.jsonl").write_text("\n".join(lines))


def tar_layout(root: Path) -> None:
    for shard in range(2):
        with tarfile.open(root / f"test-{shard}.tar", "w") as archive:
            _write_files(root.parent / "loose")
            for name in list(CLIPS)[4 * shard : 4 * shard + 4]:
                archive.add(root.parent / f"loose/{name}.mp4", f"{name}.mp4")


def saved_layout(root: Path) -> None:
    import datasets

    columns = {"id": list(CLIPS), "video": [{"bytes": content, "path": None} for content in CLIPS.values()]}
    features = datasets.Features({"id": datasets.Value("string"), "video": datasets.Video(decode=False)})
    data = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict({"train": data.select([0]), "test": data}).save_to_disk(root)


def _write_files(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in CLIPS.items():
        (folder / f"{name}.mp4").write_bytes(content)


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "parquet": parquet_layout, "csv": csv_layout, "jsonl": jsonl_layout, "tar": tar_layout, "saved": saved_layout,
}  # fmt: skip


def content_of(dataset: ClipDataset) -> dict[str, bytes]:
    rows = list(dataset.rows())
    assert [row.id for row in rows] == dataset.ids
    return {row.id: row.media if isinstance(row.media, bytes) else Path(str(row.media)).read_bytes() for row in rows}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_rows(layout: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    LAYOUTS[layout](root)
    dataset = open_dataset(root)
    assert content_of(dataset) == CLIPS
    assert content_of(dataset) == CLIPS, "rows() can be asked for again"
    assert f"{len(CLIPS)} rows" in dataset.description


def test_plain_folder_and_single_file(tmp_path: Path) -> None:
    _write_files(tmp_path / "some/where")
    (tmp_path / "notes.txt").write_text("not a video")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache/hidden.mp4").write_bytes(b"x")
    assert content_of(open_dataset(tmp_path)) == {f"some/where/{name}.mp4": content for name, content in CLIPS.items()}
    assert content_of(open_dataset(tmp_path / "some/where/clip_3.mp4")) == {"clip_3.mp4": CLIPS["clip_3"]}


def test_the_test_split_is_preferred(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data/train-00000-of-00001.parquet", ["wrong"])
    write_parquet(tmp_path / "data/test-00000-of-00001.parquet", ["right"])
    assert open_dataset(tmp_path).ids == ["right"]


def test_without_a_test_split_the_other_one_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_parquet(tmp_path / "data/train-00000-of-00001.parquet", ["a", "b"])
    with caplog.at_level(logging.INFO):
        assert open_dataset(tmp_path).ids == ["a", "b"]
    assert "no file named for the split 'test': reading all 1" in caplog.text


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "no dataset at .*--dataset DIR or set DATASET_PATH"),
        (lambda root: root.mkdir(), "is empty: the download failed"),
        (
            lambda root: (root.mkdir(), (root / "readme.txt").write_text("hello")),
            "no dataset and no video or audio file in",
        ),
        (lambda root: write_parquet(root / "test.parquet", []), "no row"),
        (
            lambda root: write_parquet(root / "test.parquet", ["a"], features=None, names=("id", "label")),
            None,  # a struct with bytes counts as a video, whatever its name
        ),
        (
            lambda root: (root.mkdir(), pq.write_table(pa.table({"id": ["a"]}), root / "test.parquet")),
            "no video or audio column",
        ),
        (
            lambda root: (root.mkdir(), (root / "test.parquet").write_bytes(b"PAR1 is not enough")),
            "none of 1 parquet files",
        ),
        (lambda root: (root.mkdir(), (root / "test.tar").write_bytes(b"no tar" * 999)), "no row"),
    ],
)
def test_a_dataset_that_cannot_be_used_says_why(
    prepare: Callable[[Path], object], message: str | None, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    prepare(root)
    if message is None:
        assert open_dataset(root).ids == ["a"]
        return
    with pytest.raises(DatasetError, match=message):
        open_dataset(root)


@pytest.mark.parametrize("column", ["id", "uuid", "video_id", "name"])
def test_the_id_column_may_have_other_names(column: str, tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", [10, 11], features=None, names=(column, "clip"))
    assert list(content_of(open_dataset(tmp_path))) == ["10", "11"]


def test_without_an_id_column_rows_are_numbered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for shard in range(2):
        path = tmp_path / f"data/test-0000{shard}-of-00002.parquet"
        write_parquet(path, [0.5, 0.5, 0.5], features=None, names=("quality", "video"))
    assert list(content_of(open_dataset(tmp_path))) == ["0", "1", "2", "3", "4", "5"]
    assert "no id column" in caplog.text


@pytest.mark.parametrize("layout", ["parquet", "tar"])
def test_of_a_repeated_id_the_first_row_counts(layout: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if layout == "parquet":
        write_parquet(tmp_path / "test.parquet", ["a", "b", "a", "c", "a"])
    else:
        with tarfile.open(tmp_path / "test.tar", "w") as archive:
            for name, clip_id in zip(CLIPS, ["a", "b", "a", "c", "a"], strict=False):
                (tmp_path / "part").write_bytes(CLIPS[name])
                archive.add(tmp_path / "part", f"{clip_id}.mp4")
    content = content_of(open_dataset(tmp_path))
    assert content == {"a": CLIPS["clip_0"], "b": CLIPS["clip_1"], "c": CLIPS["clip_3"]}
    assert "2 rows repeat an id, e.g. 'a'" in caplog.text or "2 files in" in caplog.text


def test_webdataset_examples_may_have_other_members(tmp_path: Path) -> None:
    """Side files, mixed suffixes and an example without a video."""
    members = {
        "a.json": b"{}",
        "a.mp4": CLIPS["clip_0"],
        "sub/b.webm": CLIPS["clip_1"],
        "c.txt": b"none",
        "d.MOV": CLIPS["clip_2"],
    }
    with tarfile.open(tmp_path / "test.tar", "w") as archive:
        for name, content in members.items():
            (tmp_path / "part").write_bytes(content)
            archive.add(tmp_path / "part", name)
    videos = {row.id: row.media for row in open_dataset(tmp_path).rows()}
    assert videos == {"a": CLIPS["clip_0"], "sub/b": CLIPS["clip_1"], "c": None, "d": CLIPS["clip_2"]}


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_shard_without_a_footer_costs_its_own_rows_only(
    broken: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for shard, names in enumerate([["a", "b"], ["c", "d"], ["e", "f"]]):
        path = write_parquet(tmp_path / f"data/test-0000{shard}-of-00003.parquet", names)
        if shard == broken:
            path.write_bytes(path.read_bytes()[:-200])
    expected = [name for shard, names in enumerate(["ab", "cd", "ef"]) for name in names if shard != broken]
    assert list(content_of(open_dataset(tmp_path))) == expected
    assert f"test-0000{broken}-of-00003.parquet cannot be read" in caplog.text


def test_a_damaged_row_group_costs_its_own_rows_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_parquet(tmp_path / "test.parquet", list("abcdef"), rows_per_group=2)
    column = pq.read_metadata(path).row_group(1).column(1)
    assert column.path_in_schema == "video.bytes"
    content = bytearray(path.read_bytes())
    start = min(offset for offset in (column.dictionary_page_offset, column.data_page_offset) if offset)
    content[start : start + 64] = bytes(64)
    path.write_bytes(content)
    dataset = open_dataset(tmp_path)
    assert dataset.ids == list("abcdef"), "the ids stand in another column, which is whole"
    rows = list(dataset.rows())
    assert [row.id for row in rows if row.media] == list("abef")
    assert [row.problem for row in rows[4:]] == ["the row cannot be read from the dataset"] * 2
    assert "row group 1 of" in caplog.text
    assert "2 rows could not be read from the dataset, e.g. ['c', 'd']" in caplog.text


def test_a_cut_off_tar_gives_what_came_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tar_layout(tmp_path)
    path = tmp_path / "test-0.tar"
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"clip_3.mp4") + 700])
    rows = {row.id: row.media for row in open_dataset(tmp_path).rows()}
    expected = {name: content for name, content in CLIPS.items() if name != "clip_3"}
    assert {name: rows[name] for name in expected} == expected
    assert "breaks off" in caplog.text


READ_ALL = """
import sys
from model.rows.dataset import open_dataset
def private_megabytes():
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("RssAnon")).split()[1]) / 1024
data = open_dataset(sys.argv[1], streamed=sys.argv[2] == "streamed")
start, peak, rows = private_megabytes(), 0.0, 0
for row in data.rows():
    rows += len(row.media) == 1_000_000
    peak = max(peak, private_megabytes() - start)
print(rows, peak, "streamed by datasets" in data.description)
"""


@pytest.mark.parametrize(
    ("way", "rows_per_group", "most"),
    [("own", 10, 35), ("own", 40, 95), ("streamed", 10, 140), ("streamed", 40, 200), ("streamed", 120, 255)],
)
def test_memory_follows_the_row_group_not_the_file(
    way: str, rows_per_group: int, most: int, tmp_path: Path, repository: Path, request: pytest.FixtureRequest
) -> None:
    """120 rows of 1 MB: our reader holds two pages, which may be a row group each, and a little more.

    `datasets` holds two groups and 100 MB; groups over 128 MiB are not given to it.
    """
    if "own readers" in request.node.name:
        pytest.skip("tells both ways apart itself")
    schema = pa.schema([("id", pa.string()), ("video", VIDEO_TYPE)])
    with pq.ParquetWriter(tmp_path / "test.parquet", schema, use_dictionary=False) as writer:
        for first in range(0, 120, rows_per_group):
            rows = [{"id": str(first + k), "video": {"bytes": os.urandom(1_000_000)}} for k in range(rows_per_group)]
            writer.write_table(pa.Table.from_pylist(rows, schema))
            del rows
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(tmp_path), way], cwd=repository, capture_output=True, text=True, check=True
    )
    rows, peak, by_datasets = done.stdout.split()
    assert int(rows) == 120
    assert float(peak) < most
    assert (by_datasets == "True") == (way == "streamed")
