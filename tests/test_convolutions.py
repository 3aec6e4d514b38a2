"""What convolutions in bfloat16 lose is known from the batch normalisation before them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from model.convolutions import FusedConv, expected_output
from model.cpu import UnknownPartError


def test_rounded_kernels_leave_the_mean_of_outputs_where_it_was() -> None:
    """Inputs as in training: what rounding adds to a channel's mean is known from the normalisation before it."""
    generator = torch.Generator().manual_seed(0)
    norm = nn.BatchNorm2d(64)
    norm.weight.data.uniform_(0.5, 2.0, generator=generator)
    norm.bias.data.normal_(1.0, 1.0, generator=generator)
    expected = expected_output(norm, nn.ReLU6())
    normalised = torch.randn(8, 64, 32, 32, generator=generator)
    maps = (normalised * norm.weight.data.view(-1, 1, 1) + norm.bias.data.view(-1, 1, 1)).clamp(0, 6)
    assert expected is not None
    torch.testing.assert_close(maps.mean((0, 2, 3)), expected, atol=0.05, rtol=0)
    maps = maps.bfloat16().float().contiguous(memory_format=torch.channels_last)
    for conv in (nn.Conv2d(64, 48, 1), nn.Conv2d(64, 64, 3, padding=1, groups=64)):
        errors = []
        for mean in (expected, torch.zeros(64)):
            rounded = FusedConv(conv, nn.Identity(), torch.bfloat16, mean)
            with torch.inference_mode():
                inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
                shift = (rounded(maps).float() - conv(maps))[inside].mean((0, 2, 3))
            errors.append(float(shift.pow(2).mean().sqrt()))
        assert errors[0] < 0.35 * errors[1], errors


def test_an_activation_whose_mean_is_not_known_here() -> None:
    assert expected_output(nn.BatchNorm2d(4), nn.SiLU()) is None
    with pytest.raises(UnknownPartError, match="without a batch normalisation"):
        FusedConv(nn.Conv2d(4, 4, 1), nn.Identity(), torch.bfloat16)
