"""model.video.fused: the same values as timm's modules, and timm's modules where that cannot be had."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import timm
import torch
from torch import nn

from model.convolutions import FusedBlock
from model.video.detector import fold_batch_norms
from model.video.fused import fuse_backbone


@pytest.fixture(scope="module")
def backbone() -> Any:
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    return fold_batch_norms(network.eval()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _images(count: int, size: int) -> torch.Tensor:
    images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return images.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("count", "size"), [(1, 64), (3, 96), (2, 224)])
def test_every_stage_gives_the_same_maps(backbone: Any, count: int, size: int) -> None:
    fused: Any = fuse_backbone(backbone, _images(1, size))
    assert isinstance(fused.blocks[0][0], FusedBlock)
    assert not isinstance(backbone.blocks[0][0], FusedBlock), "the network that was given is left as it was"
    plain = given = _images(count, size)
    with torch.inference_mode():
        torch.testing.assert_close(fused(given), backbone(plain), atol=1e-5, rtol=1e-4)
        plain, given = backbone.bn1(backbone.conv_stem(plain)), fused.bn1(fused.conv_stem(given))
        for stage, expected in zip(fused.blocks, backbone.blocks, strict=True):
            plain, given = expected(plain), stage(given)
            torch.testing.assert_close(given, plain, atol=1e-4 * float(plain.abs().max()), rtol=0)


@pytest.mark.parametrize("size", [63, 72])
def test_sizes_at_which_the_padding_differs_are_left_alone(
    backbone: Any, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    """72 halves to 9: TensorFlow then pads both sides, which a kernel made for even sizes does not."""
    assert fuse_backbone(backbone, _images(1, size)) is backbone
    assert "the network runs unfused" in caplog.text


def test_other_networks_and_builds_are_left_alone(
    backbone: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = timm.create_model("tf_efficientnet_b0", pretrained=False, num_classes=1).eval()  # SiLU, squeeze-excite
    with caplog.at_level(logging.WARNING):
        assert fuse_backbone(other, _images(1, 64)) is other
    assert "the network runs unfused" in caplog.text
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert fuse_backbone(backbone, _images(1, 64)) is backbone


def test_convolutions_in_bfloat16_keep_their_shortcuts_in_float32(backbone: Any) -> None:
    fused: Any = fuse_backbone(backbone, _images(1, 64), torch.bfloat16)
    block = fused.blocks[1][1]
    assert isinstance(block, FusedBlock)
    with torch.inference_mode():
        maps = torch.randn(2, 24, 16, 16).contiguous(memory_format=torch.channels_last)
        given, expected = block(maps), backbone.blocks[1][1](maps)
        assert given.dtype is torch.float32
        torch.testing.assert_close(given, expected, atol=0.02 * float(expected.abs().max()), rtol=0)
        assert not torch.equal(given, expected), "bfloat16 was not used"
