"""`datasets` in front: where both read a dataset, it and our readers give the same; where it gives up, ours go on."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from debug.sandbox import run_sandboxed
from model.modality import AUDIO, MODALITIES, VIDEO, Modality
from model.rows.dataset import ClipDataset, open_dataset
from tests.rows.reading import content_of, sound, structs, video, write_csv, write_files, write_table, write_tar
from tests.rows.test_layouts import save

IDS = ["a7", "b", "z z", "007x", "é"]


def make(modality: Modality, number: int) -> bytes:
    return video(number) if modality is VIDEO else sound(number)


def columns_of(modality: Modality, suffix: str, start: int = 0, stop: int = 5) -> dict[str, pa.Array]:
    contents = [make(modality, k) for k in range(start, stop)]
    return {"id": pa.array(IDS[start:stop]), modality.name: structs(contents, suffix)}


def parquet(root: Path, modality: Modality, suffix: str) -> None:
    types = {modality.name: modality.column_type}
    write_table(root / "data/test-00000-of-00002.parquet", columns_of(modality, suffix, 0, 3), types, row_group_size=2)
    write_table(root / "data/test-00001-of-00002.parquet", columns_of(modality, suffix, 3, 5), types)
    write_table(root / "data/train-00000-of-00001.parquet", {"id": pa.array(["no"])})


def untyped(root: Path, modality: Modality, suffix: str) -> None:
    contents = pa.array([make(modality, k) for k in range(5)])
    columns = {"note": pa.array([[1], None, [2, 3], [], [4]]), f"{modality.name}_bytes": contents}
    write_table(root / "test.parquet", {"id": pa.array([name.encode() for name in IDS]), **columns})


def numbered(root: Path, modality: Modality, suffix: str) -> None:
    for part in range(2):
        columns = columns_of(modality, suffix, 2 * part, 2 * part + 2)
        write_table(root / f"test/{part}.parquet", {modality.name: columns[modality.name]})


def settings(root: Path, modality: Modality, suffix: str) -> None:
    """README.md says where the split is; other shards lie about."""
    write_table(root / "final/x.parquet", columns_of(modality, suffix), {modality.name: modality.column_type})
    write_table(root / "old/x-test-1.parquet", {"id": pa.array(["no"]), modality.name: structs([b"no"])})
    text = "configs:\n- config_name: default\n  data_files:\n  - split: test\n    path: final/*.parquet\n"
    (root / "README.md").write_text(f"---\nlicense: mit\n{text}---\n# A dataset\n")


def tars(root: Path, modality: Modality, suffix: str) -> None:
    for part in range(2):
        members = [(f"{IDS[k]}{suffix}", make(modality, k)) for k in range(3 * part, min(5, 3 * part + 3))]
        write_tar(root / f"test-{part:05d}.tar", members)


def folder(kind: str, root: Path, modality: Modality, suffix: str) -> None:
    write_files(root / "test", [make(modality, k) for k in range(5)], suffix)
    rows = [("file_name", "id", "label"), *((f"{k}{suffix}", name, "x") for k, name in enumerate(IDS))]
    if kind == "csv":
        write_csv(root / "test/metadata.csv", rows)
        return
    table = pa.table({name: [row[k] for row in rows[1:]] for k, name in enumerate(rows[0])})
    if kind == "parquet":
        pq.write_table(table, root / "test/metadata.parquet")
    else:
        import json

        (root / "test/metadata.jsonl").write_text("\n".join(map(json.dumps, table.to_pylist())))


def saved(root: Path, modality: Modality, suffix: str) -> None:
    save(root, columns_of(modality, suffix), modality)


def arrow(root: Path, modality: Modality, suffix: str) -> None:
    save(root.parent / "saved", columns_of(modality, suffix), modality)
    (root.parent / "saved/data-00000-of-00001.arrow").rename(root / "test.arrow")


LAYOUTS: dict[str, Callable[[Path, Modality, str], None]] = {
    "parquet": parquet, "untyped": untyped, "numbered": numbered, "settings": settings, "tars": tars,
    "csv": partial(folder, "csv"), "jsonl": partial(folder, "jsonl"),
    "metadata.parquet": partial(folder, "parquet"), "saved": saved, "arrow": arrow,
}  # fmt: skip


@pytest.mark.parametrize("modality", MODALITIES.values(), ids=MODALITIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_ways_give_the_same_rows(
    layout: str, modality: Modality, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    LAYOUTS[layout](root, modality, ".mp4" if modality is VIDEO else ".wav")
    front, own = open_dataset(root), open_dataset(root, streamed=False)
    assert "streamed by datasets" in front.description and "streamed" not in own.description
    assert front.modality is own.modality is modality
    expected = {str(k) if layout == "numbered" else name: make(modality, k) for k, name in enumerate(IDS)}
    if layout == "numbered":
        del expected["4"]
    if layout == "settings":  # our own readers go by names alone
        assert own.ids == ["no"]
        own = front
    assert front.ids == own.ids == list(expected)
    assert [row.id for row in front.rows()] == [row.id for row in own.rows()]
    assert content_of(front) == content_of(own) == expected
    assert content_of(front) == expected, "rows() can be asked for again"
    assert "gives up" not in caplog.text, "`datasets` read all of it"


def given_up(dataset: ClipDataset, caplog: pytest.LogCaptureFixture) -> dict[str, bytes | None]:
    """What it holds, after a look whether `datasets` gave up on the way."""
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        content = content_of(dataset)
    assert "`datasets` gives up" in caplog.text and "reading on without it" in caplog.text
    return content


def test_where_datasets_stops_at_a_bad_row_the_rest_is_still_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    columns = {"id": pa.array(list("abcdef")), "video": structs([video(k) for k in range(6)])}
    path = write_table(tmp_path / "test.parquet", columns, row_group_size=2, compression="none", use_dictionary=False)
    chunk = pq.read_metadata(path).row_group(1).column(1)
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset : chunk.data_page_offset + 64] = bytes(64)
    path.write_bytes(content)
    dataset = open_dataset(tmp_path)
    assert "streamed by datasets" in dataset.description
    rows = given_up(dataset, caplog)
    assert rows == {name: video(k) if k not in (2, 3) else None for k, name in enumerate("abcdef")}


@pytest.mark.parametrize(
    "ids", [["NA", "b"], ["7", "007"], ["1e5", "100000.0"], ["", "x"], ["null", "None"], ["true", "false"]]
)
def test_ids_that_datasets_takes_for_something_else_stay_text(
    ids: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_files(tmp_path, [video(0), video(1)])
    write_csv(tmp_path / "metadata.csv", [("file_name", "id"), ("0.mp4", ids[0]), ("1.mp4", ids[1])])
    dataset = open_dataset(tmp_path)
    assert "streamed by datasets" in dataset.description
    expected = {clip_id or str(k): video(k) for k, clip_id in enumerate(ids)}
    assert (content_of(dataset) if ids[0] == "" else given_up(dataset, caplog)) == expected


def test_a_path_that_leads_out_ends_datasets_and_not_the_table(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "data"
    write_files(root, [video(0), video(1)])
    (tmp_path / "secret.mp4").write_bytes(video(5))
    names = [("0.mp4", "a"), ("../secret.mp4", "up"), ("1.mp4", "b")]
    write_csv(root / "metadata.csv", [("file_name", "id"), *names])
    assert given_up(open_dataset(root), caplog) == {"a": video(0), "up": None, "b": video(1)}


LEFT_ALONE: dict[str, Callable[[Path], object]] = {
    "a pipe": lambda root: os.mkfifo(root / "notes.txt"),
    "a hidden pipe": lambda root: os.mkfifo(root / ".huggingface.yaml"),
    "a link to a folder": lambda root: (root / "again").symlink_to("."),
    "a device": lambda root: (root / "zero.txt").symlink_to("/dev/zero"),
    "settings that lead out": lambda root: (root / "README.md").write_text(
        "---\nconfigs:\n- config_name: a\n  data_files:\n  - split: test\n    path: ../outside/*.parquet\n---\n"
    ),
    "settings that lead to the network": lambda root: (root / "README.md").write_text(
        "---\nconfigs:\n- config_name: a\n  data_files: https://127.0.0.1:9/x.parquet\n---\n"
    ),
    "settings that lead to the root": lambda root: (root / "README.md").write_text(
        "---\nconfigs:\n- config_name: a\n  data_files: [/etc/passwd]\n---\n"
    ),
    "settings of anchors": lambda root: (root / "README.md").write_text(
        "---\na: &a [x, x]\nb: &b [*a, *a]\nconfigs: *b\n---\n"
    ),
    "long settings": lambda root: (root / "README.md").write_text("---\n" + "# x\n" * 50_000),
}


@pytest.mark.parametrize("kind", LEFT_ALONE)
def test_a_folder_that_datasets_is_not_asked_about(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "data"
    write_table(root / "data/test-0.parquet", {"id": pa.array(["a"]), "video": structs([video(0)])})
    write_table(tmp_path / "outside/test.parquet", {"id": pa.array(["secret"]), "video": structs([video(5)])})
    LEFT_ALONE[kind](root)
    assert content_of(open_dataset(root)) == {"a": video(0)}
    assert "`datasets` is not asked for the split" in caplog.text


REFUSED = {
    "two configurations": "configs:\n- config_name: a\n  data_files: a.parquet\n- config_name: b\n  data_files: b\n",
    "code": 'configs: !!python/object/apply:os.system ["touch EXECUTED"]\n',
    "nonsense": "configs: 7\ndataset_info: [[[\n",
    "files that are not there": "configs:\n- config_name: a\n  data_files: gone/*.parquet\n",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_settings_that_datasets_refuses(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "data/test-0.parquet", {"id": pa.array(["a"]), "video": structs([video(0)])})
    (tmp_path / "README.md").write_text(f"---\n{REFUSED[kind]}---\n")
    assert content_of(open_dataset(tmp_path)) == {"a": video(0)}
    assert "`datasets` cannot find the split" in caplog.text
    assert not (tmp_path / "EXECUTED").exists()


def first_name(path: Path, name: bytes) -> None:
    """Gives the tar's first member another name, with a right checksum."""
    content = bytearray(path.read_bytes())
    content[:100] = name.ljust(100, b"\0")
    content[148:156] = b" " * 8
    content[148:156] = f"{sum(content[:512]):06o}\0 ".encode()
    path.write_bytes(content)


TARS: dict[str, Callable[[Path], object]] = {
    "another file beside": lambda path: write_tar(path, [("a.json", b"{"), ("a.mp4", video(0)), ("b.mp4", video(1))]),
    "code beside": lambda path: write_tar(path, [("a.mp4", video(0)), ("b.mp4", video(1)), ("b.pth", b"\x80\x04.")]),
    "packed": lambda path: write_tar(path, [("a.mp4", video(0)), ("b.mp4", video(1)), ("c.mp4.gz", b"\x1f\x8b")]),
    "other suffixes": lambda path: write_tar(path, [("a.mp4", video(0)), ("b.webm", video(1))]),
    "apart": lambda path: write_tar(path, [("a.mp4", video(0)), ("b.mp4", video(1)), ("a.mp4", video(5))]),
}


@pytest.mark.parametrize("kind", TARS)
def test_tars_that_datasets_would_unpack_or_decode_are_read_without_it(kind: str, tmp_path: Path) -> None:
    TARS[kind](tmp_path / "test-0.tar")
    dataset = open_dataset(tmp_path)
    assert "streamed" not in dataset.description
    content = content_of(dataset)
    assert (content["a"], content["b"]) == (video(0), video(1))


@pytest.mark.parametrize("name", [b"\x1f\x8b\x08.mp4", b"BZh91AY&SY.mp4", b"]\0\0\x80.mp4", b"\xfd7zXZ.mp4"])
def test_a_tar_that_looks_packed_is_not_unpacked(name: bytes, tmp_path: Path) -> None:
    """`datasets` looks at the first bytes, which are the first file's name."""
    path = tmp_path / "test-0.tar"
    write_tar(path, [("a.mp4", video(0)), ("b.mp4", video(1))])
    first_name(path, name)
    with tarfile.open(path, "r:") as archive:
        assert len(archive.getmembers()) == 2
    dataset = open_dataset(tmp_path, VIDEO)
    assert "streamed" not in dataset.description
    assert content_of(dataset)["b"] == video(1)


def test_row_groups_too_large_for_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.rows.streamed.MAX_GROUP_BYTES", 1000)
    large = {"id": pa.array(["a", "b"]), "video": structs([video(0) * 9, video(1)])}
    write_table(tmp_path / "test-0.parquet", large)
    write_table(tmp_path / "test-1.parquet", {"id": pa.array(["c"]), "video": structs([video(2)])})
    dataset = open_dataset(tmp_path)
    assert "2 parquet files" in dataset.description and "1 streamed by datasets" in dataset.description
    assert content_of(dataset) == {"a": video(0) * 9, "b": video(1), "c": video(2)}


def test_folders_too_large_for_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.rows.streamed._MAX_FILES", 3)
    write_files(tmp_path / "test", [video(k) for k in range(4)])
    write_csv(tmp_path / "test/metadata.csv", [("file_name", "id"), *((f"{k}.mp4", f"x{k}") for k in range(4))])
    dataset = open_dataset(tmp_path)
    assert content_of(dataset) == {f"x{k}": video(k) for k in range(4)}


@pytest.mark.parametrize("layout", ["parquet", "tars", "csv", "saved", "arrow"])
def test_without_datasets_everything_is_still_read(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The audio challenge's machine: its list of packages does not name it."""
    (tmp_path / "data").mkdir()
    LAYOUTS[layout](tmp_path / "data", AUDIO, ".wav")
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert content_of(open_dataset(tmp_path / "data")) == {name: sound(k) for k, name in enumerate(IDS)}
    assert "`datasets` gives up" in caplog.text and "import of datasets halted" in caplog.text


@pytest.mark.parametrize("layout", ["parquet", "tars", "csv", "saved", "arrow"])
def test_a_relative_path(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    LAYOUTS[layout](tmp_path / "data", VIDEO, ".mp4")
    monkeypatch.chdir(tmp_path)
    for root in ("data", "./data/", "data/../data"):
        dataset = open_dataset(root)
        assert "streamed by datasets" in dataset.description
        assert content_of(dataset) == {name: video(k) for k, name in enumerate(IDS)}


ON_A_THREAD = """
import sys, threading, os
from pathlib import Path
from model.rows.dataset import open_dataset
for root in sys.argv[1:]:
    data, rows = open_dataset(root), []
    thread = threading.Thread(target=lambda: rows.extend(data.rows()))
    thread.start(), thread.join()
    assert "streamed by datasets" in data.description, data.description
    assert [row.id for row in rows] == data.ids and len(rows) == 5 and all(row.media for row in rows)
assert "torch" not in sys.modules, "imported before there is a result file"
print("fine")
"""


def test_under_the_filter_on_a_thread(tmp_path: Path, repository: Path) -> None:
    """The network is off, and nothing that `datasets` does needs it; torch is not imported for it."""
    for layout in LAYOUTS.keys() - {"numbered"}:
        (tmp_path / layout / "data").mkdir(parents=True)
        LAYOUTS[layout](tmp_path / layout / "data", AUDIO, ".wav")
    roots = [str(path / "data") for path in sorted(tmp_path.iterdir())]
    environment = {**os.environ, "PYTHONPATH": str(repository), "HF_HOME": str(tmp_path / "home")}
    environment.pop("HF_HUB_OFFLINE", None)
    done = run_sandboxed([sys.executable, "-c", ON_A_THREAD, *roots], timeout=200, cwd=repository, env=environment)
    assert done.returncode == 0 and done.stdout.strip() == "fine", done.stderr


def test_datasets_is_not_loaded_for_a_plain_folder(tmp_path: Path, repository: Path) -> None:
    write_files(tmp_path, [video(0)])
    code = (
        "import sys; from model.rows.dataset import open_dataset as o; o(sys.argv[1]); print('datasets' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=repository, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
