"""The detectors as ONNX files give the project's scores under onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

for _package in ("onnx", "onnxruntime"):
    pytest.importorskip(_package, reason=f"no {_package} here: pip install -r model/export/requirements.txt")

import onnx

from model.export import __main__ as command
from model.export import check
from model.export.build import build_onnx
from model.modality import AUDIO, MODALITIES, VIDEO
from model.run.parts import default_weights
from model.video.prepare import load_preparation
from model.video.views import ViewConfig, split_views
from model.weights import load_manifest
from tests.toy_clips import clip as toy_clip


@pytest.fixture(scope="module")
def video_onnx() -> bytes:
    return build_onnx(load_manifest(default_weights(VIDEO)))


@pytest.fixture(scope="module")
def audio_onnx() -> bytes:
    return build_onnx(load_manifest(default_weights(AUDIO)))


def test_real_files_get_the_project_s_scores(video_onnx: bytes) -> None:
    prepare = load_preparation(default_weights(VIDEO))
    clips = [prepare(toy_clip(name)).content for name in ("h264_709", "vp9", "mpeg4_avi")]
    assert check.largest_difference(video_onnx, VIDEO, default_weights(VIDEO), clips) < 1e-4


def test_made_up_sounds_get_the_project_s_scores(audio_onnx: bytes) -> None:
    clips = check.draw_clips(AUDIO, default_weights(AUDIO), 12)
    assert len({len(clip) for clip in clips}) > 2, "clips of several numbers of windows"
    assert check.largest_difference(audio_onnx, AUDIO, default_weights(AUDIO), clips) < 1e-3


def test_a_batch_of_clips_scores_as_each_alone(video_onnx: bytes) -> None:
    manifest = load_manifest(default_weights(VIDEO))
    clips = np.stack(check.draw_clips(VIDEO, default_weights(VIDEO), 3))
    views = split_views(clips, manifest.configured("views", ViewConfig))
    session = check.start_session(video_onnx)
    (scores,) = session.run(["score"], views)
    assert scores.shape == (3,) and np.ptp(scores) > 1e-3, "the clips are told apart"
    alone = [check.score_views(session, {kind: part[i] for kind, part in views.items()}) for i in range(3)]
    np.testing.assert_allclose(scores, alone, atol=1e-4)


@pytest.mark.parametrize("name", MODALITIES)
def test_the_graph_is_of_standard_operators_and_tells_where_it_is_from(
    name: str, request: pytest.FixtureRequest
) -> None:
    """None that are fused or packed for this project's own CPU path."""
    model = onnx.load_model_from_string(request.getfixturevalue(f"{name}_onnx"))
    assert {opset.domain for opset in model.opset_import} == {""}
    assert {node.domain for node in model.graph.node} == {""}
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert told["weights_sha256"] == load_manifest(default_weights(MODALITIES[name])).sha256
    assert told["modality"] == name


def test_the_command_writes_only_what_scores_the_same(
    tmp_path: Path, audio_onnx: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(command.logging, "basicConfig", lambda **_: None)
    monkeypatch.setattr(command, "CLIPS", 2)
    output = tmp_path / "audio.onnx"
    caplog.set_level("INFO")
    assert command.main([str(output), "--modality", "audio"]) == 0
    assert "scores of 2 made-up clips differ by" in caplog.text
    assert list(tmp_path.iterdir()) == [output]
    output.unlink()
    monkeypatch.setattr(command, "LARGEST_DIFFERENCE", 0.0)
    assert command.main([str(output), "--modality", "audio"]) == 1
    assert "nothing is written" in caplog.text
    assert not list(tmp_path.iterdir())


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", MODALITIES)
def test_forty_labelled_clips(name: str, shared_clips: Path, request: pytest.FixtureRequest) -> None:
    modality = MODALITIES[name]
    folder, weights = (
        {VIDEO: shared_clips / "clips", AUDIO: shared_clips / "audio"}[modality],
        default_weights(modality),
    )
    clips = check.prepare_files([str(folder)], modality, weights, 40)
    assert len(clips) == 40
    assert check.largest_difference(request.getfixturevalue(f"{name}_onnx"), modality, weights, clips) < 1e-3
