"""Where files stand: splits, tars, save_to_disk folders, two folders with one file name; for both modalities."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from model.config import LimitsConfig
from model.modality import AUDIO, VIDEO, Modality
from model.rows.dataset import ClipDataset, Row, open_dataset
from tests.rows.reading import (
    content_of,
    read,
    sound,
    structs,
    video,
    write_csv,
    write_files,
    write_table,
    write_tar,
)

pytestmark = pytest.mark.usefixtures("either_way")

TWO: dict[str, bytes | None] = {"a": video(0), "b": video(1)}


def shard(path: Path, *ids: str, first: int = 0) -> None:
    contents = [video(first + k) for k in range(len(ids))]
    write_table(path, {"id": pa.array(ids), "video": structs(contents)})


# What `datasets` takes for the split `test`, and what beside it for another.
SPLITS = [
    ("data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"),
    ("data/test_private-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"),
    ("test/a.parquet", "train/a.parquet"),
    ("data/test/a.parquet", "data/train/a.parquet"),
    ("my-test/a.parquet", "my-train/a.parquet"),
    ("test_1/deep/er/a.parquet", "training/a.parquet"),
    ("testing/a.parquet", "valid/a.parquet"),
    ("evaluation/a.parquet", "train/a.parquet"),
    ("test.parquet", "train.parquet"),
    ("my_test_0.parquet", "my_train_0.parquet"),
    ("final test.parquet", "final dev.parquet"),
    ("eval.parquet", "latest.parquet"),
    ("Test/a.parquet", "Train/a.parquet"),
    ("deep/er/x.test.y.parquet", "deep/er/contest.parquet"),
]


@pytest.mark.parametrize(("test", "other"), SPLITS)
def test_the_split_is_found(test: str, other: str, tmp_path: Path) -> None:
    shard(tmp_path / test, "a", "b")
    shard(tmp_path / other, "c", "d", first=2)
    assert read(tmp_path) == TWO


def test_without_a_test_split_all_are_read(tmp_path: Path) -> None:
    shard(tmp_path / "train/x.parquet", "a", "b")
    shard(tmp_path / "valid/x.parquet", "c", first=2)
    assert read(tmp_path) == {**TWO, "c": video(2)}


@pytest.mark.parametrize("layout", ["parquet", "csv", "tar", "saved", "arrow"])
def test_row_numbers_run_over_the_whole_dataset(layout: str, tmp_path: Path) -> None:
    """The same in every layout without ids; tars have names, which repeat here."""
    expected: dict[str, bytes | None] = {str(k): video(k) for k in range(4)}
    for part in (0, 1):
        contents = [video(2 * part), video(2 * part + 1)]
        if layout == "parquet":
            write_table(tmp_path / f"test-{part}.parquet", {"video": structs(contents)})
        elif layout == "csv":
            write_files(tmp_path / f"test/{part}", contents)
            rows = [("video", "label"), ("0.mp4", "x"), ("1.mp4", "x")]
            write_csv(tmp_path / f"test/{part}/metadata.csv", rows)
        elif layout == "tar":
            write_tar(tmp_path / f"test-{part}.tar", [("0.mp4", contents[0]), ("1.mp4", contents[1])])
            expected = {f"test-{k // 2}/{k % 2}": video(k) for k in range(4)}
        elif layout == "saved":
            save(tmp_path / f"test/{part}", {"video": structs(contents)})
        else:
            save(tmp_path.parent / f"saved-{part}", {"video": structs(contents)})
            (tmp_path / f"test-{part}.arrow").write_bytes(
                (tmp_path.parent / f"saved-{part}/data-00000-of-00001.arrow").read_bytes()
            )
    assert read(tmp_path) == expected


def save(folder: Path, columns: dict[str, Any], modality: Modality = VIDEO, **others: Any) -> None:
    """What `datasets` itself writes."""
    import datasets

    kind = {"Video": datasets.Video, "Audio": datasets.Audio}[modality.column_type]
    data = datasets.Dataset(pa.table({**columns, **others})).cast_column(modality.name, kind(decode=False))
    data.save_to_disk(folder)


@pytest.mark.parametrize("modality", [VIDEO, AUDIO])
@pytest.mark.parametrize("layout", ["csv", "tar", "parquet", "saved", "saved below", "arrow", "plain"])
def test_both_modalities_in_every_layout(layout: str, modality: Modality, tmp_path: Path) -> None:
    make, suffix = (video, ".mp4") if modality is VIDEO else (sound, ".flac")
    contents = [make(0), make(1)]
    columns = {"id": pa.array(["a", "b"]), modality.name: structs(contents, suffix)}
    expected = dict(zip("ab", contents, strict=True))
    if layout == "csv":
        write_files(tmp_path / "test", contents, suffix)
        rows = [("file_name", "id"), (f"0{suffix}", "a"), (f"1{suffix}", "b")]
        write_csv(tmp_path / "test/metadata.csv", rows)
    elif layout == "tar":
        write_tar(tmp_path / "test.tar", [(f"a{suffix}", contents[0]), (f"b{suffix}", contents[1])])
    elif layout == "parquet":
        write_table(tmp_path / "test.parquet", columns, {modality.name: modality.column_type})
    elif layout.startswith("saved"):
        save(tmp_path / ("" if layout == "saved" else "test"), columns, modality)
    elif layout == "arrow":
        save(tmp_path.parent / "saved", columns, modality)
        (tmp_path / "test.arrow").write_bytes((tmp_path.parent / "saved/data-00000-of-00001.arrow").read_bytes())
    else:
        write_files(tmp_path / "sub", contents, suffix)
        (tmp_path / "cover.jpg").write_bytes(b"\xff\xd8\xff")
        expected = {f"sub/{k}{suffix}": content for k, content in enumerate(contents)}
    dataset = open_dataset(tmp_path)
    assert dataset.modality is modality
    assert content_of(dataset) == read(tmp_path, modality) == expected


@pytest.mark.parametrize("other", ["Audio", "Image", "Video"])
@pytest.mark.parametrize("below", ["", "test", "data/test"])
def test_saved_folders_with_other_media(other: str, below: str, tmp_path: Path) -> None:
    """`datasets` would decode the other column too, and lacks the packages for it."""
    import datasets

    data = datasets.Dataset(
        pa.table({"id": ["a", "b"], "other": structs([sound(0)] * 2), "video": structs([video(0), video(1)])})
    )
    data = data.cast_column("video", datasets.Video()).cast_column("other", getattr(datasets, other)())
    data.save_to_disk(tmp_path / below)
    if below:
        data.select([0]).save_to_disk((tmp_path / below).parent / "train")
    assert read(tmp_path) == TWO


def test_of_saved_splits_those_named_for_testing(tmp_path: Path) -> None:
    import datasets

    def part(ids: list[str], first: int) -> datasets.Dataset:
        contents = structs([video(first + k) for k in range(len(ids))])
        return datasets.Dataset(pa.table({"id": ids, "video": contents})).cast_column("video", datasets.Video())

    for splits, expected in (
        ({"train": part(["c"], 2), "test": part(["a", "b"], 0), "test_extra": part(["d"], 3)}, TWO),
        ({"train": part(["c"], 2), "test_1": part(["a"], 0), "test_2": part(["b"], 1)}, TWO),
        ({"train": part(["a"], 0), "latest": part(["b"], 1)}, TWO),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        datasets.DatasetDict(splits).save_to_disk(folder)
        assert read(folder) == expected


def test_a_state_json_below_does_not_hide_the_shards(tmp_path: Path) -> None:
    """A trainer's checkpoint lies beside the data."""
    shard(tmp_path / "data/test-0.parquet", "a", "b")
    (tmp_path / "run/checkpoint").mkdir(parents=True)
    (tmp_path / "run/checkpoint/state.json").write_text('{"step": 3}')
    assert read(tmp_path) == TWO


@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json"])
@pytest.mark.parametrize(
    "content", ['{"step": 3}', "[", "7", '{"splits": 7, "_data_files": 7}', '{"splits": ["gone"]}']
)
def test_a_saved_folder_that_is_none_is_read_otherwise(
    name: str, content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shard(tmp_path / "data/test-0.parquet", "a", "b")
    (tmp_path / name).write_text(content)
    assert read(tmp_path) == TWO
    assert "cannot open the save_to_disk folder" in caplog.text and "reading it as parquet files" in caplog.text


@pytest.mark.parametrize("what", ["dataset_dict.json", "state.json"])
@pytest.mark.parametrize("how", ["up", "absolute"])
def test_a_saved_folder_names_nothing_outside(what: str, how: str, tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "data"
    save(outside, {"id": ["secret"], "video": structs([video(5)])})
    save(root / "test", {"id": ["a", "b"], "video": structs([video(0), video(1)])})
    if what == "dataset_dict.json":
        names = ["../outside" if how == "up" else str(outside)]
        (root / what).write_text(json.dumps({"splits": names}))
    else:
        name = ("../" * 2 if how == "up" else f"{tmp_path}/") + "outside/data-00000-of-00001.arrow"
        (root / "test/state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    assert read(root) == TWO, "read as arrow files"


def test_two_folders_that_use_one_file_name_give_two_ids(tmp_path: Path) -> None:
    for k, folder in enumerate(("x", "y")):
        write_files(tmp_path / folder, [video(k)])
        write_csv(tmp_path / folder / "metadata.csv", [("file_name", "label"), ("0.mp4", "l")])
    assert read(tmp_path) == {"x/0.mp4": video(0), "y/0.mp4": video(1)}


def test_names_that_do_not_repeat_are_ids_as_they_stand(tmp_path: Path) -> None:
    write_files(tmp_path / "test", [video(0), video(1)])
    write_csv(tmp_path / "test/metadata.csv", [("file_name",), ("0.mp4",), ("1.mp4",)])
    assert list(read(tmp_path)) == ["0.mp4", "1.mp4"]


A0, B1, J = ("a.mp4", video(0)), ("b.mp4", video(1)), b"{}"
TARS: dict[str, tuple[list[list[tuple[str, bytes]]], dict[str, bytes | None]]] = {
    "apart": ([[A0, B1, ("a.json", J), ("b.json", J)]], TWO),
    "the other members first": ([[("a.txt", b"x"), ("b.txt", b"y"), A0, B1]], TWO),
    "the first video counts": ([[A0, ("a.webm", video(5)), ("b.mov", video(1))]], TWO),
    "a picture before the video": ([[("a.gif", b"GIF89a"), A0, ("b.jpg", b"j"), ("b.mkv", video(1))]], TWO),
    "a picture that moves alone": ([[A0, ("b.gif", video(1))]], TWO),
    "an empty first video": ([[("a.mp4", b""), ("a.webm", video(0)), B1]], TWO),
    "sound before the video": ([[("a.wav", sound(0)), A0, ("b.wav", sound(1)), B1]], TWO),
    "capitals": ([[("a.MP4", video(0)), ("b.Mov", video(1))]], TWO),
    "more dots": ([[("a.left.mp4", video(0)), ("b.v1.webm", video(1))]], TWO),
    "one without a video": ([[A0, B1, ("c.json", J)]], {**TWO, "c": None}),
    "no examples": ([[("README", b"x"), ("._a.mp4", b"x"), ("__MACOSX.mp4", b"x"), A0, B1]], TWO),
    "an example over two tars": ([[("a.json", J), B1], [A0]], {"b": video(1), "a": video(0)}),
    "names begin again in every tar": (
        [[("0.mp4", video(0))], [("0.mp4", video(1))]], {"test-0/0": video(0), "test-1/0": video(1)},
    ),
    "folders": ([[("x/0.mp4", video(0)), ("y/0.mp4", video(1))]], {"x/0": video(0), "y/0": video(1)}),
    "hidden files of every kind": ([[(".x.mp4", b"x"), A0, ("d/.y.mp4", b"x"), B1]], TWO),
}  # fmt: skip


@pytest.mark.parametrize("kind", TARS)
def test_members_of_an_example(kind: str, tmp_path: Path) -> None:
    tars, expected = TARS[kind]
    for number, members in enumerate(tars):
        write_tar(tmp_path / f"test-{number}.tar", members)
    assert read(tmp_path, VIDEO) == expected


def test_an_example_without_media_says_so(tmp_path: Path) -> None:
    write_tar(tmp_path / "test-0.tar", [A0, ("c.json", J)])
    problems = {row.id: row.problem for row in open_dataset(tmp_path).rows()}
    assert problems == {"a": "", "c": "the example holds no video file"}


def test_a_tar_of_sound(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "test-0.tar", [("a.txt", b"hello"), ("a.wav", sound(0)), ("b.opus", sound(1)), ("b.txt", b"you")]
    )
    dataset = open_dataset(tmp_path)
    assert dataset.modality is AUDIO
    assert content_of(dataset) == {"a": sound(0), "b": sound(1)}


def test_limits_of_members_are_handed_in(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They were bound when the module was imported."""
    write_tar(tmp_path / "test-0.tar", [("a.mp4", video(0) * 9), ("b.mp4", video(1))])
    limits = LimitsConfig(max_file_bytes=len(video(0)) + 1)
    rows = list(open_dataset(tmp_path, limits=limits).rows())
    assert {row.id: row.media for row in rows} == {"a": None, "b": video(1)}
    problem = f"a.mp4 has {len(video(0)) * 9} bytes, or holes; the limit is {limits.max_file_bytes}"
    assert rows[0].problem == problem and problem in caplog.text
    assert read(tmp_path) == {"a": video(0) * 9, "b": video(1)}


def test_a_member_that_the_end_cuts_off_is_given_as_far_as_it_goes(tmp_path: Path) -> None:
    write_tar(tmp_path / "test-0.tar", [("a.mp4", video(0)), ("b.mp4", video(1) * 50)])
    path = tmp_path / "test-0.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(video(1)) + 1000])
    assert read(tmp_path) == {"a": video(0), "b": (video(1) * 50)[:1000]}


def test_a_sparse_member_is_passed_over(tmp_path: Path) -> None:
    """Its size is another than what stands in the tar."""
    write_tar(tmp_path / "test-0.tar", [("a.mp4", video(0)), ("b.mp4", video(1))])
    path = tmp_path / "test-0.tar"
    content = bytearray(path.read_bytes())
    header = tarfile.TarInfo.frombuf(bytes(content[:512]), tarfile.ENCODING, "strict")
    header.type = tarfile.GNUTYPE_SPARSE
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[386:398], block[398:410] = b"00000000000\0", b"00000000010\0"
    block[483:495] = b"00777777777\0"
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    path.write_bytes(bytes(block) + bytes(content[512:]))
    assert read(tmp_path)["b"] == video(1)
    assert read(tmp_path)["a"] is None


@pytest.mark.parametrize("suffix", [".parquet", ".tar", ".arrow", ".mp4", ".xyz"])
def test_a_single_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"one{suffix}"
    if suffix == ".parquet":
        shard(path, "a")
    elif suffix == ".tar":
        write_tar(path, [("a.mp4", video(0))])
    elif suffix == ".arrow":
        save(tmp_path / "saved", {"id": ["a"], "video": structs([video(0)])})
        (tmp_path / "saved/data-00000-of-00001.arrow").rename(path)
    else:
        path.write_bytes(video(0))
    (tmp_path / "other.mp4").write_bytes(video(5))
    assert read(path) == {"a" if suffix in {".parquet", ".tar", ".arrow"} else path.name: video(0)}


def test_a_plain_folder_of_both_is_read_as_what_most_of_it_is(tmp_path: Path) -> None:
    write_files(tmp_path, [video(0)])
    write_files(tmp_path, [sound(k) for k in range(3)], ".wav")
    assert open_dataset(tmp_path).modality is AUDIO
    assert read(tmp_path, VIDEO) == {"0.mp4": video(0)}
    write_files(tmp_path, [video(k) for k in range(3)])
    assert open_dataset(tmp_path).modality is VIDEO


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["train", "test"], ["test/0.mp4"]), (["my_test", "my_train", "other"], ["my_test/0.mp4"]),
        (["test", "holiday"], ["holiday/0.mp4", "test/0.mp4"]), (["train", "latest"], ["latest/0.mp4", "train/0.mp4"]),
    ],
)  # fmt: skip
def test_a_plain_folder_may_have_splits(folders: list[str], expected: list[str], tmp_path: Path) -> None:
    """As `datasets` finds them; a folder that merely has one of that name is read whole."""
    for name in folders:
        write_files(tmp_path / name, [video(0)])
    assert list(read(tmp_path)) == expected


def test_rows_that_are_done_can_be_left_out(tmp_path: Path) -> None:
    shard(tmp_path / "test-0.parquet", "a", "b", "c")
    dataset = open_dataset(tmp_path)
    assert content_of(dataset.without({"b", "other"})) == {"a": video(0), "c": video(2)}


def test_rows_that_never_come_are_told(caplog: pytest.LogCaptureFixture) -> None:
    dataset = ClipDataset(["a", "b", "c"], "", lambda: iter([Row("b", b"x"), Row("z", b"y")]))
    assert [(row.id, row.media, row.problem) for row in dataset.rows()] == [
        ("b", b"x", ""),
        ("a", None, "the row cannot be read from the dataset"),
        ("c", None, "the row cannot be read from the dataset"),
    ]
    assert "2 rows could not be read from the dataset, e.g. ['a', 'c']" in caplog.text


@pytest.mark.parametrize("damage", [lambda content: content[:-900], lambda content: content[:1200] + bytes(600)])
def test_a_damaged_arrow_file_costs_its_own_rows(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """In batches of one row, written as a stream, as `save_to_disk` writes them."""
    for number in range(2):
        sink = io.BytesIO()
        table = pa.table(
            {"id": pa.array([f"x{number}{k}" for k in range(4)]), "video": structs([video(k) for k in range(4)])}
        )
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=1)
        content = sink.getvalue()
        (tmp_path / f"test-{number}.arrow").write_bytes(damage(content) if number == 0 else content)
    rows = read(tmp_path)
    assert {clip_id: rows[clip_id] for clip_id in rows if clip_id.startswith("x1")} == {
        f"x1{k}": video(k) for k in range(4)
    }
    assert all(media in (None, video(int(clip_id[-1]))) for clip_id, media in rows.items())
