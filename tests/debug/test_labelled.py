"""Labelled clips become a dataset in the challenge's shape."""

from __future__ import annotations

import csv
import uuid
from pathlib import Path

import pandas as pd
import pytest
from datasets import Video, load_dataset

from debug import labelled, metric
from model.training.clips import LabelledDataError
from tests.clip_folder import SOURCES, make_clip_folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip_folder(tmp_path_factory.mktemp("clips"), clips_per_source=3)


def build(clips: Path, out: Path, **options: object) -> tuple[pd.DataFrame, pd.DataFrame]:
    labelled.build_dataset(clips, out, **options)  # type: ignore[arg-type]
    return metric.load_csv(out / "solution.csv"), pd.read_csv(out / "key.csv")


def test_the_dataset_loads_as_the_challenge_does(clips: Path, tmp_path: Path) -> None:
    solution, key = build(clips, tmp_path / "out", shard_bytes=1)
    files = dict(zip(key["id"], key["file"], strict=True))
    stream = load_dataset(str(tmp_path / "out" / "dataset"), streaming=True)
    assert list(stream) == ["test"]
    assert isinstance(stream["test"].features["video"], Video)
    rows = list(stream["test"].cast_column("video", Video(decode=False)))
    assert [row["id"] for row in rows] == solution["id"].tolist()
    for row in rows:
        assert row["video"]["bytes"] == (clips / files[row["id"]]).read_bytes()
        assert row["video"]["path"] == f"{row['id']}.mkv"  # no name leaks


def test_solution_and_key(clips: Path, tmp_path: Path) -> None:
    solution, key = build(clips, tmp_path / "out")
    assert list(solution.columns) == ["id", "pred", "source", "split"]
    assert len(solution) == 3 * sum(map(len, SOURCES.values()))
    assert all(uuid.UUID(name).version == 4 for name in solution["id"])
    named = {name for sources in SOURCES.values() for name in sources}
    assert not named & set(solution["source"])
    merged = solution.merge(key, on="id", suffixes=("", "_key"))
    assert (merged["source"] == merged["anonymous"]).all()
    assert (merged["pred"] == merged["label"]).all()
    assert merged.groupby("source")["source_key"].nunique().eq(1).all()
    # a source is public or private, and each class has both
    assert merged.groupby("source")["split"].nunique().eq(1).all()
    assert merged.groupby("pred")["split"].nunique().eq(2).all()
    # what the container says
    assert (key["width"] == 128).all() and (key["height"] == 96).all()
    assert key["fps"].tolist() == pytest.approx([12.0] * len(key))
    assert key["duration_seconds"].tolist() == pytest.approx([0.5] * len(key), abs=0.1)
    assert key["num_bytes"].tolist() == [(clips / file).stat().st_size for file in key["file"]]


def test_seed_decides_and_only_the_seed(clips: Path, tmp_path: Path) -> None:
    first, _ = build(clips, tmp_path / "a", seed=3)
    again, _ = build(clips, tmp_path / "b", seed=3)
    other, _ = build(clips, tmp_path / "c", seed=4)
    pd.testing.assert_frame_equal(first, again)
    assert not set(first["id"]) & set(other["id"])


def test_order_tells_nothing_of_the_label(clips: Path, tmp_path: Path) -> None:
    solution, _ = build(clips, tmp_path / "out")
    labels = solution["pred"].tolist()
    assert labels not in (sorted(labels), sorted(labels, reverse=True))


@pytest.mark.parametrize("limit", [1, 4, 5, 9, 15, 99])
def test_limit_takes_from_every_source_in_turn(clips: Path, tmp_path: Path, limit: int) -> None:
    solution, _ = build(clips, tmp_path / "out", limit=limit)
    assert len(solution) == min(limit, 15)
    if limit >= 5:
        assert solution["source"].nunique() >= 4
    if limit >= 4:
        counts = solution["pred"].value_counts()
        assert abs(counts["real"] - counts["generated"]) <= 3


def test_sources_and_errors(clips: Path, tmp_path: Path) -> None:
    _, key = build(clips, tmp_path / "out", sources=["sora", "phone"])
    assert set(key["source"]) == {"sora", "phone"}
    with pytest.raises(LabelledDataError, match="no clip has the source 'vidu'"):
        labelled.build_dataset(clips, tmp_path / "x", sources=["vidu"])
    with pytest.raises(LabelledDataError, match="exists; pass --force"):
        labelled.build_dataset(clips, tmp_path / "out")
    labelled.build_dataset(clips, tmp_path / "out", force=True, limit=2)
    assert len(metric.load_csv(tmp_path / "out" / "solution.csv")) == 2
    with pytest.raises(LabelledDataError, match="public share is 2"):
        labelled.build_dataset(clips, tmp_path / "y", public_share=2)


def test_manifest_with_operations_reaches_the_key(clips: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_clip_folder(data, clips_per_source=1)
    with (data / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "source", "family", "operation", "severity", "original"])
        writer.writerow(["real/canon/0.mkv", "real", "canon", "cameras", "blur", "2", "a.mp4"])
        writer.writerow(["generated/sora/0.mkv", "generated", "sora", "openai", "vp9", "3", "b.mp4"])
    _, key = build(data, tmp_path / "out")
    row = key.set_index("source").loc["sora"]
    assert (row["operation"], row["severity"], row["original"], row["family"]) == (
        "vp9",
        3,
        "b.mp4",
        "openai",
    )


def test_a_broken_clip_is_a_row_like_any_other(tmp_path: Path) -> None:
    data = make_clip_folder(tmp_path / "data", clips_per_source=1)
    (data / "real" / "phone" / "broken.mp4").write_bytes(b"not a video")
    solution, key = build(data, tmp_path / "out")
    assert len(solution) == 6
    assert key.set_index("file").loc["real/phone/broken.mp4", ["width", "fps"]].isna().all()


def test_command_line(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert labelled.main([str(clips), str(tmp_path / "out"), "--limit", "6"]) == 0
    assert "6 clips of" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        labelled.main([str(tmp_path / "absent"), str(tmp_path / "out2")])
    assert stop.value.code == 2
    assert "is not a folder" in capsys.readouterr().err
