"""Which column holds the media, which the ids: tables as pandas, polars, Spark and `datasets` write them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from model.modality import AUDIO, VIDEO
from model.rows.columns import find_media, id_text
from model.rows.dataset import DatasetError, open_dataset
from tests.rows.reading import STRUCT, cell, content_of, read, sound, structs, video, write_table

pytestmark = pytest.mark.usefixtures("either_way")

JPEG = b"\xff\xd8\xff\xe0" + bytes(100)
THUMB = structs([JPEG, JPEG], ".jpg")
VIDEOS = structs([video(0), video(1)])
WAVES = structs([sound(0), sound(1)], ".wav")
PLAIN = pa.array([video(0), video(1)])

# name -> (columns, types noted by `datasets`); every one holds video(0) and video(1) as rows a and b
VIDEO_TABLES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "a thumbnail before the video": ({"thumbnail": THUMB, "video": VIDEOS}, {}),
    "an image noted as one": ({"preview": THUMB, "content": VIDEOS}, {"preview": "Image"}),
    "sound before the video": ({"audio": WAVES, "video": PLAIN}, {}),
    "sound and video noted": ({"audio": WAVES, "video": VIDEOS}, {"audio": "Audio", "video": "Video"}),
    "two videos noted": ({"reference": THUMB, "video": VIDEOS}, {"reference": "Video", "video": "Video"}),
    "video_bytes": ({"video_bytes": PLAIN, "video_id": pa.array(["p", "p"])}, {}),
    "clip beside other bytes": ({"digest": pa.array([b"x" * 16] * 2), "clip": PLAIN}, {}),
    "large binary": ({"embedding": pa.array([b"1", b"2"]), "video": PLAIN.cast(pa.large_binary())}, {}),
    "a word of the name": ({"poster_image": THUMB, "input_video": VIDEOS}, {}),
    "capitals": ({"Thumbnail": THUMB, "Video": VIDEOS}, {}),
    "camel case": ({"thumbImage": THUMB, "sourceVideo": PLAIN}, {}),
    "no name at all, told by the content": ({"x": pa.array([JPEG, JPEG]), "y": PLAIN}, {}),
    "no name at all, told by the paths": ({"x": THUMB, "y": VIDEOS}, {}),
    "a list of one": ({"videos": pa.array([[cell(video(0))], [cell(video(1))]], pa.list_(STRUCT))}, {}),
    "a list of bytes": ({"video": pa.array([[video(0)], [video(1)]])}, {}),
    "a list whose first is empty": (
        {"video": pa.array([[cell(None, None), cell(video(0))], [cell(video(1))]], pa.list_(STRUCT))}, {},
    ),
    "nested": ({"sample": pa.array([{"fps": 25, "video": cell(video(k)), "image": JPEG} for k in (0, 1)])}, {}),
    "nested twice": ({"row": pa.array([{"media": {"mp4": video(k), "txt": "x"}} for k in (0, 1)])}, {}),
    "flattened": ({"video.path": pa.array(["0.mp4", "1.mp4"]), "video.bytes": PLAIN}, {}),
    "dictionary": ({"video": PLAIN.dictionary_encode()}, {}),
    "fixed width": ({"video": PLAIN.cast(pa.binary(len(video(0))))}, {}),
    "fields of other names": ({"video": pa.array([{"name": "0.mp4", "data": video(k)} for k in (0, 1)])}, {}),
    "text called clip": ({"clip": pa.array(["a cat", "a dog"]), "video": VIDEOS}, {}),
    "content beside a name": ({"video": pa.array(["0.mp4", "1.mp4"]), "bytes": PLAIN}, {}),
    "captions and sizes": (
        {"video_caption": pa.array(["x", "y"]), "video_width": pa.array([1, 2]), "mp4": PLAIN}, {},
    ),
    "noted as something else": ({"preview": THUMB, "video": VIDEOS}, {"preview": "Image", "video": "Image"}),
    "another row's class": ({"label": pa.array([0, 1]), "media": VIDEOS}, {"label": "ClassLabel"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", VIDEO_TABLES)
def test_the_video_is_found(kind: str, tmp_path: Path) -> None:
    columns, types = VIDEO_TABLES[kind]
    write_table(tmp_path / "test-0.parquet", {"id": pa.array(["a", "b"]), **columns}, types)
    dataset = open_dataset(tmp_path)
    assert content_of(dataset) == {"a": video(0), "b": video(1)}
    assert dataset.modality is VIDEO


@pytest.mark.parametrize(
    ("columns", "types"),
    [
        ({"audio": WAVES}, {"audio": "Audio"}),
        ({"audio": WAVES}, {}),
        ({"thumbnail": THUMB, "speech": WAVES}, {}),
        ({"x": THUMB, "y": WAVES}, {}),
        ({"wav": pa.array([sound(0), sound(1)])}, {}),
        ({"transcript": pa.array(["a", "b"]), "audio_bytes": pa.array([sound(0), sound(1)])}, {}),
        ({"content": pa.array([sound(0), sound(1)])}, {}),
    ],
)
def test_the_sound_is_found_and_its_challenge(columns: dict[str, Any], types: dict[str, str], tmp_path: Path) -> None:
    write_table(tmp_path / "test-0.parquet", {"id": pa.array(["a", "b"]), **columns}, types)
    dataset = open_dataset(tmp_path)
    assert content_of(dataset) == {"a": sound(0), "b": sound(1)}
    assert dataset.modality is AUDIO
    assert read(tmp_path, AUDIO) == content_of(dataset)


def test_who_says_what_to_look_for_gets_it(tmp_path: Path) -> None:
    write_table(tmp_path / "test-0.parquet", {"id": pa.array(["a", "b"]), "audio": WAVES, "video": VIDEOS})
    assert read(tmp_path) == read(tmp_path, VIDEO) == {"a": video(0), "b": video(1)}
    assert read(tmp_path, AUDIO) == {"a": sound(0), "b": sound(1)}


def test_other_columns_are_not_touched(tmp_path: Path) -> None:
    """Their pages are overwritten: reading any of them would fail."""
    import pyarrow.parquet as pq

    columns = {"id": pa.array(["a", "b"]), "other": pa.array(["x" * 90, "y" * 90]), "video": VIDEOS}
    path = write_table(tmp_path / "test-0.parquet", columns, use_dictionary=False, compression="none")
    chunk = pq.read_metadata(path).row_group(0).column(1)
    assert chunk.path_in_schema == "other"
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset : chunk.data_page_offset + 40] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(OSError):
        pq.read_table(path)
    assert read(tmp_path) == {"a": video(0), "b": video(1)}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([b"a", b"b"]), ["a", "b"]),
        (pa.array([b"a", b"b"], pa.large_binary()), ["a", "b"]),
        (pa.array([b"a", b"b"], pa.binary(1)), ["a", "b"]),
        (pa.array([b"a\0\0", b"bcd"], pa.binary(3)), ["a", "bcd"]),
        (pa.array([b"a", b"b"]).dictionary_encode(), ["a", "b"]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array([7, 10**15]), ["7", "1000000000000000"]),
        (pa.array(["007", "1e5"]), ["007", "1e5"]),
        (pa.array(["NA", "null"]), ["NA", "null"]),
        (pa.array(["視", "\U0001f600"], pa.large_string()), ["視", "\U0001f600"]),
        (pa.array([uuid.UUID(int=k).bytes for k in (1 << 127, 255 << 120)], pa.binary(16)),
         [str(uuid.UUID(int=k)) for k in (1 << 127, 255 << 120)]),
        (pa.array([b"\xff\xfe", b"\xff\xfd"]), ["fffe", "fffd"]),
        (pa.array([["a"], ["b"]]), ["a", "b"]),
        (pa.array([None, "b"]), ["0", "b"]),
        (pa.array(["", "b"]), ["0", "b"]),
        (pa.array([None, "0"]), ["row-0", "0"]),
    ],
)  # fmt: skip
def test_ids_of_any_type_become_their_text(values: pa.Array, expected: list[str], tmp_path: Path) -> None:
    write_table(tmp_path / "test-0.parquet", {"id": values, "video": VIDEOS})
    assert read(tmp_path) == dict(zip(expected, [video(0), video(1)], strict=True))


def test_an_id_that_is_no_utf_8_costs_nothing(tmp_path: Path) -> None:
    """Spark and Go write bytes into columns of type text without a look."""
    offsets, data = pa.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0])), pa.py_buffer(b"a\xffb")
    broken = pa.StringArray.from_buffers(2, offsets, data)
    write_table(tmp_path / "test-0.parquet", {"id": broken, "video": VIDEOS})
    assert read(tmp_path) == {"a": video(0), "\\xffb": video(1)}


@pytest.mark.parametrize(
    "column",
    ["id", "__key__", "uuid", "ID", "Id", " id ", "clip_id", "clipId", "Video ID", "video-id", "key", "filename",
     "File_Name", "file", "name", "sample_id", "utt_id", "GUID"],
)  # fmt: skip
def test_near_names_are_ids(column: str, tmp_path: Path) -> None:
    write_table(tmp_path / "test-0.parquet", {"label": pa.array([0, 1]), column: pa.array(["x", "y"]), "video": VIDEOS})
    assert list(read(tmp_path)) == ["x", "y"]


@pytest.mark.parametrize("column", ["label", "source_id", "speaker", "generator", "video_url"])
def test_other_names_are_no_ids(column: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_table(tmp_path / "test-0.parquet", {column: pa.array(["x", "y"]), "video": VIDEOS})
    assert list(read(tmp_path)) == ["0", "1"]
    assert "ids are row numbers" in caplog.text


def test_a_near_name_that_repeats_is_no_id(tmp_path: Path) -> None:
    """`name` may be a speaker's: taken for an id, all but one of her clips would be lost."""
    columns = {"name": pa.array(["ann", "ann"]), "clip_id": pa.array(["c", "c"]), "video": VIDEOS}
    write_table(tmp_path / "test-0.parquet", columns)
    assert read(tmp_path) == {"0": video(0), "1": video(1)}
    write_table(tmp_path / "test-0.parquet", {**columns, "file": pa.array(["p", "q"])})
    assert list(read(tmp_path)) == ["p", "q"]


SHARDS: dict[str, Callable[[], dict[str, Any]]] = {
    "statistics": lambda: {"source": pa.array(["x"]), "n": pa.array([1])},
    "labels of the same ids": lambda: {"id": pa.array(["a", "b"]), "label": pa.array([0, 1])},
    "another struct": lambda: {"id": pa.array(["z"]), "stats": pa.array([{"mean": 1.0}])},
    "no columns": lambda: {},
    "thumbnails": lambda: {"id": pa.array(["a", "b"]), "thumbnail": THUMB},
}


@pytest.mark.parametrize("kind", SHARDS)
@pytest.mark.parametrize("name", ["a-test-x.parquet", "test-x.parquet"])
def test_a_shard_of_another_schema_costs_its_own_rows(
    kind: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_table(tmp_path / "data/test-0.parquet", {"id": pa.array(["a", "b"]), "video": VIDEOS})
    write_table(tmp_path / "data" / name, SHARDS[kind]())
    write_table(tmp_path / "data/test-z.parquet", {"id": pa.array(["c"]), "video": structs([video(2)])})
    assert read(tmp_path) == {"a": video(0), "b": video(1), "c": video(2)}
    assert f"{name} has no video column" in caplog.text


def test_a_shard_may_have_its_columns_in_another_order_or_type(tmp_path: Path) -> None:
    write_table(tmp_path / "test-0.parquet", {"id": pa.array(["a"]), "video": structs([video(0)])})
    write_table(
        tmp_path / "test-1.parquet", {"video": pa.array([video(1)]), "n": pa.array([1]), "ID": pa.array([b"b"])}
    )
    write_table(tmp_path / "test-2.parquet", {"video": structs([video(2)])})
    assert read(tmp_path) == {"a": video(0), "b": video(1), "2": video(2)}


def test_no_column_of_any_kind_says_what_was_looked_for(tmp_path: Path) -> None:
    write_table(tmp_path / "test-0.parquet", {"id": pa.array(["a"]), "text": pa.array(["x"])})
    with pytest.raises(DatasetError, match="no video or audio column in .*'id', 'text'.*type Video or Audio"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="no audio column in"):
        open_dataset(tmp_path, AUDIO)


def test_find_media_tells_how_sure_it_is() -> None:
    schema = pa.schema([("id", pa.string()), ("a", STRUCT), ("my_clip", pa.binary()), ("video", pa.binary())])
    ranks = []
    while found := find_media(schema, VIDEO):
        ranks.append((found.path, found.rank))
        schema = schema.remove(schema.get_field_index(found.path[0]))
    assert ranks == [(("video",), 2), (("my_clip",), 3), (("a",), 6)]


@pytest.mark.parametrize("value", [None, "", "  ", b"", float("nan")])
def test_what_is_no_id(value: Any) -> None:
    assert id_text(value) is None
