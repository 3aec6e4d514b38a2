"""Metadata tables as people's programs write them: what is meant is read, and no row is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from model.modality import AUDIO, VIDEO
from model.rows.dataset import DatasetError, open_dataset
from tests.rows.reading import content_of, read, sound, video, write_csv, write_files, write_tar

pytestmark = pytest.mark.usefixtures("either_way")

IDS = ["007", "NA", "1e5", "x y"]
EXPECTED = {clip_id: video(number) for number, clip_id in enumerate(IDS)}
ROWS = [("id", "file_name", "label"), *((clip_id, f"{number}.mp4", "a,b;c") for number, clip_id in enumerate(IDS))]


def text(delimiter: str = ",", end: str = "\n") -> str:
    """The rows as csv.writer has them."""
    import csv
    import io

    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, lineterminator=end).writerows(ROWS)
    return file.getvalue()


DIALECTS: dict[str, bytes] = {
    "commas": text().encode(),
    "semicolons": text(";").encode(),
    "tabs": text("\t").encode(),
    "bars": text("|").encode(),
    "Windows line ends": text(end="\r\n").encode(),
    "old Macintosh line ends": text(end="\r").encode(),
    "no end of the last line": text().rstrip("\n").encode(),
    "Excel's sep=": b"sep=;\r\n" + text(";", "\r\n").encode(),
    "Excel's sep= in quotes": b'"sep=;"\r\n' + text(";", "\r\n").encode(),
    "UTF-8 with a mark": text().encode("utf-8-sig"),
    "UTF-16": text("\t", "\r\n").encode("utf-16"),
    "UTF-16, big end first": b"\xfe\xff" + text().encode("utf-16-be"),
    "UTF-16 without a mark": text().encode("utf-16-le"),
    "empty lines": b"\n\n" + text().replace("\n", "\n\n").encode() + b"\n,,\n",
    "empty lines of semicolons": text(";").replace("\n", "\n;;\n").encode(),
    "spaces and capitals in the header": text().replace("id,file_name", " ID , File Name", 1).encode(),
    "a header in quotes": text().replace("id,file_name", '"id","file_name"', 1).encode(),
    "filename": text().replace("file_name", "filename", 1).encode(),
    "paths": text().replace(".mp4", ".mp4 ").replace(",0.", ",./0.").encode(),
    "NULs": text().replace("id,", "id\0,", 1).encode(),
    "a quote that is never closed": text().replace("a,b;c", "").replace("x y,", 'x y,3.mp4,"oh\n').encode(),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_csv_of_any_dialect(dialect: str, tmp_path: Path) -> None:
    write_files(tmp_path, [video(number) for number in range(4)])
    (tmp_path / "metadata.csv").write_bytes(DIALECTS[dialect])
    assert read(tmp_path) == EXPECTED


def objects() -> list[dict[str, object]]:
    return [{"id": clip_id, "file_name": f"{number}.mp4", "n": 1.5} for number, clip_id in enumerate(IDS)]


JSON: dict[str, bytes] = {
    "lines": "\n".join(map(json.dumps, objects())).encode(),
    "lines with a mark": "\n".join(map(json.dumps, objects())).encode("utf-8-sig"),
    "lines in UTF-16": "\n".join(map(json.dumps, objects())).encode("utf-16"),
    "an array": json.dumps(objects()).encode(),
    "an array over many lines": json.dumps(objects(), indent=2).encode(),
    "an array, a line each": ("[" + ",\n".join(map(json.dumps, objects())) + "]").encode(),
    "an array that was cut off": ("[\n" + ",\n".join(map(json.dumps, objects())) + ',\n{"id": "z", "fi').encode(),
    "a list in an object": json.dumps({"version": 1, "data": objects()}).encode(),
    "empty lines and commas": ("\n\n" + ",\n\n".join(map(json.dumps, objects())) + "\n").encode(),
    "spaces in names": "\n".join(json.dumps({f" {k} ": v for k, v in one.items()}) for one in objects()).encode(),
}


@pytest.mark.parametrize("kind", JSON)
@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.json"])
def test_json_of_any_shape(kind: str, name: str, tmp_path: Path) -> None:
    if name == "metadata.jsonl" and kind == "a list in an object":
        name = "Metadata.JSON"
    write_files(tmp_path, [video(number) for number in range(4)])
    (tmp_path / name).write_bytes(JSON[kind])
    assert read(tmp_path) == EXPECTED


@pytest.mark.parametrize(
    ("written", "clip_id"), [("7", "7"), ("1e5", "1e5"), ("1.50", "1.50"), ("12345678901234567890", None)]
)
def test_numbers_of_json_stay_as_they_were_written(written: str, clip_id: str | None, tmp_path: Path) -> None:
    write_files(tmp_path, [video(0)])
    (tmp_path / "metadata.jsonl").write_text(f'{{"id": {written}, "file_name": "0.mp4"}}\n')
    assert list(read(tmp_path)) == [clip_id or written]


def test_windows_1252(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Excel on Windows: names are read in its encoding, and found under their names in UTF-8."""
    (tmp_path / "café.mp4").write_bytes(video(0))
    (tmp_path / "metadata.csv").write_bytes("id;file_name\nüé;café.mp4\n".encode("cp1252"))
    assert read(tmp_path) == {"üé": video(0)}
    assert "is not UTF-8: read as Windows-1252" in caplog.text


def test_a_name_whose_bytes_are_no_text(tmp_path: Path) -> None:
    """Linux names are bytes; the table has the same ones."""
    (tmp_path / "clip_\udcff\udce9.mp4").write_bytes(video(0))
    (tmp_path / "metadata.csv").write_bytes(b"id,file_name\na,clip_\xff\xe9.mp4\n")
    assert read(tmp_path) == {"a": video(0)}


def test_backslashes_are_folders(tmp_path: Path) -> None:
    write_files(tmp_path / "clips/deep", [video(0), video(1)])
    write_csv(
        tmp_path / "metadata.csv", [("id", "file_name"), ("a", "clips\\deep\\0.mp4"), ("b", ".\\clips/deep\\1.mp4")]
    )
    assert read(tmp_path) == {"a": video(0), "b": video(1)}


def test_backslashes_lead_out_of_no_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_bytes(video(5))
    write_files(tmp_path / "data", [video(0)])
    write_csv(tmp_path / "data/metadata.csv", [("id", "file_name"), ("a", "..\\secret.mp4"), ("b", "0.mp4")])
    rows = {row.id: row for row in open_dataset(tmp_path / "data").rows()}
    assert rows["b"].media == str(tmp_path / "data/0.mp4")
    assert rows["a"].media is None or not Path(str(rows["a"].media)).exists()


@pytest.mark.parametrize("size", [2 << 20, 12 << 20])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
def test_a_line_of_megabytes(kind: str, size: int, tmp_path: Path) -> None:
    write_files(tmp_path, [video(0), video(1)])
    long = "0.123456," * (size // 9)
    if kind == "csv":
        write_csv(tmp_path / "metadata.csv", [("id", "e", "file_name"), ("a", long, "0.mp4"), ("b", "x", "1.mp4")])
    else:
        rows = [{"id": "a", "e": long, "file_name": "0.mp4"}, {"id": "b", "file_name": "1.mp4"}]
        content = json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows))
        (tmp_path / f"metadata.{kind}").write_text(content)
    assert read(tmp_path) == {"a": video(0), "b": video(1)}


def test_a_line_too_long_to_hold_costs_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("model.rows.tables._MAX_LINE", 1000)
    write_files(tmp_path, [video(0), video(1)])
    write_csv(tmp_path / "metadata.csv", [("id", "file_name", "e"), ("a", "0.mp4", "x" * 5000), ("b", "1.mp4", "x")])
    assert read(tmp_path) == {"b": video(1)}
    assert "is longer than 1000 characters: passed over" in caplog.text


def labels_parquet(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"file": ["0.mp4"], "label": [0]}), folder / "labels.parquet")


OTHER_TABLES: dict[str, Callable[[Path], object]] = {
    "labels.parquet": labels_parquet,
    "labels.csv": lambda folder: write_csv(folder / "labels.csv", [("file_name", "label"), ("0.mp4", 1)]),
    "no header": lambda folder: write_csv(folder / "metadata.csv", [("0.mp4", "a"), ("1.mp4", "b")]),
    "other columns": lambda folder: write_csv(folder / "metadata.csv", [("who", "label"), ("ann", 1)]),
    "empty": lambda folder: (folder / "metadata.csv").write_bytes(b""),
    "a header alone": lambda folder: write_csv(folder / "metadata.csv", [("id", "file_name")]),
    "prose": lambda folder: (folder / "metadata.jsonl").write_text("These are my clips.\nEnjoy!\n"),
    "files that are not there": lambda folder: write_csv(
        folder / "metadata.csv", [("id", "file_name"), ("a", "9.mp4")]
    ),
    "binary": lambda folder: (folder / "metadata.csv").write_bytes(bytes(range(256)) * 40),
    "no parquet": lambda folder: (folder / "metadata.parquet").write_bytes(b"PAR1 and no more"),
    "an array of numbers": lambda folder: (folder / "metadata.json").write_text("[1, 2]"),
    "state.json": lambda folder: (folder / "state.json").write_text('{"step": 7}'),
    "a tar of other things": lambda folder: write_tar(folder / "backup.tar", [("notes.txt", b"x")]),
    "no tar": lambda folder: (folder / "old.tar").write_bytes(b"no tar" * 500),
    "no arrow": lambda folder: (folder / "cache.arrow").write_bytes(b"no arrow" * 500),
}


@pytest.mark.parametrize("kind", OTHER_TABLES)
def test_a_table_that_is_no_metadata_leaves_a_plain_folder(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_files(tmp_path, [video(0), video(1)])
    OTHER_TABLES[kind](tmp_path)
    assert read(tmp_path) == {"0.mp4": video(0), "1.mp4": video(1)}
    assert kind == "labels.csv" or "reading it as a plain folder instead" in caplog.text


def test_rows_whose_files_are_all_missing_are_kept_where_nothing_else_is(tmp_path: Path) -> None:
    """The download of the videos failed: the result still has every id."""
    write_csv(tmp_path / "metadata.csv", [("id", "file_name"), ("a", "0.mp4"), ("b", "1.mp4")])
    assert open_dataset(tmp_path).ids == ["a", "b"]


@pytest.mark.parametrize(
    ("header", "file_at"),
    [
        (("thumbnail_file_name", "video_file_name", "id"), 1), (("audio_file_name", "video_file_name", "id"), 1),
        (("id", "video"), 1), (("id", "path"), 1), (("id", "clip_path"), 1), (("Video File", "id"), 0),
    ],
)  # fmt: skip
def test_the_column_of_the_files(header: Sequence[str], file_at: int, tmp_path: Path) -> None:
    write_files(tmp_path, [video(0)])
    row = ["a" if name == "id" else "0.mp4" if k == file_at else "thumb.jpg" for k, name in enumerate(header)]
    write_csv(tmp_path / "metadata.csv", [header, row])
    assert read(tmp_path, VIDEO) == {"a": video(0)}


def test_a_row_without_a_file_is_kept(tmp_path: Path) -> None:
    write_files(tmp_path, [video(0)])
    write_csv(tmp_path / "metadata.csv", [("id", "file_name"), ("a", ""), ("", "0.mp4"), ("b",), ("c", "0.mp4")])
    rows = {row.id: row for row in open_dataset(tmp_path).rows()}
    assert list(rows) == ["a", "1", "b", "c"]
    assert rows["a"].problem == rows["b"].problem == "the row names no file"


def test_a_folder_of_sound_with_metadata(tmp_path: Path) -> None:
    write_files(tmp_path / "test", [sound(0), sound(1)], ".wav")
    write_csv(tmp_path / "test/metadata.csv", [("file_name", "id"), ("0.wav", "a"), ("1.wav", "b")])
    dataset = open_dataset(tmp_path)
    assert dataset.modality is AUDIO
    assert content_of(dataset) == read(tmp_path, AUDIO) == {"a": sound(0), "b": sound(1)}


def test_an_empty_folder_and_one_of_text(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is empty"):
        open_dataset(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DatasetError, match=r"no dataset and no audio file in .*files ending in .*\.wav.*notes\.txt"):
        open_dataset(tmp_path, AUDIO)
