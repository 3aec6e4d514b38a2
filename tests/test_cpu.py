"""model.cpu: the same values as plain linear layers, and those where that cannot be had."""

from __future__ import annotations

import copy
import logging
import shutil
import subprocess
from typing import Any

import pytest
import timm
import torch
from torch import nn

from model import cpu
from model.cpu import PackedLinear, choose_dtype, pack_linear_layers


def _images(count: int, size: int) -> torch.Tensor:
    images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return images.contiguous(memory_format=torch.channels_last)


def test_packed_linear_layers_give_the_same_values() -> None:
    torch.manual_seed(0)
    plain: Any = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, depth=2).eval()
    packed = copy.deepcopy(plain)
    pack_linear_layers(packed)
    layers = [module for module in packed.modules() if isinstance(module, PackedLinear)]
    assert len(layers) == 2 * 4, "queries with keys and values, projection and both of the MLP in each block"
    with torch.inference_mode():
        for count in (1, 3):
            torch.testing.assert_close(packed(_images(count, 224)), plain(_images(count, 224)), atol=1e-5, rtol=1e-4)
        no_bias = nn.Sequential(nn.Linear(20, 7, bias=False))
        tokens = torch.rand(2, 5, 20)
        expected = no_bias(tokens)
        pack_linear_layers(no_bias)
        torch.testing.assert_close(no_bias(tokens), expected)


def test_linear_layers_are_left_alone_where_they_cannot_be_packed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = nn.Sequential(nn.Linear(20, 7), nn.ReLU())
    with monkeypatch.context() as patch:
        patch.setattr(PackedLinear, "forward", lambda self, x: x[..., :7])  # other values
        pack_linear_layers(network)
    assert type(network[0]) is nn.Linear
    assert "a linear layer runs as it is, slower: fused it gives other values" in caplog.text
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    pack_linear_layers(network)
    assert type(network[0]) is nn.Linear


@pytest.mark.parametrize(
    ("flags", "precision", "expected"),
    [
        ({"avx2", "avx512f", "avx512_bf16"}, "auto", torch.bfloat16),
        ({"amx_bf16", "amx_tile"}, "auto", torch.bfloat16),
        ({"avx2", "avx512f", "avx512_vnni"}, "auto", torch.float32),  # would emulate it
        (set(), "auto", torch.float32),
        ({"avx512_bf16"}, "float32", torch.float32),
        ({"avx2"}, "bfloat16", torch.bfloat16),
    ],
)
def test_bfloat16_is_taken_where_the_processor_has_units_for_it(
    flags: set[str],
    precision: str,
    expected: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(cpu, "processor_flags", lambda: frozenset(flags))
    with caplog.at_level(logging.INFO):
        assert choose_dtype(precision) is expected
    assert f"networks on the CPU in {str(expected).removeprefix('torch.')}" in caplog.text


def test_an_unknown_precision_is_told() -> None:
    with pytest.raises(ValueError, match="precision 'half' is none of auto, bfloat16, float32"):
        choose_dtype("half")


def test_the_flags_are_those_that_lscpu_tells() -> None:
    lscpu = shutil.which("lscpu")
    if lscpu is None:
        pytest.skip("no lscpu to compare with")
    told = subprocess.run([lscpu], capture_output=True, text=True, env={"LC_ALL": "C"}).stdout
    line = next((line for line in told.splitlines() if line.startswith("Flags:")), "")
    assert cpu.processor_flags() == frozenset(line.removeprefix("Flags:").split())


def test_a_transformer_in_bfloat16_keeps_its_tokens_in_float32() -> None:
    torch.manual_seed(0)
    plain: Any = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, depth=4).eval()
    packed = copy.deepcopy(plain)
    pack_linear_layers(packed, torch.bfloat16)
    for block in packed.blocks:
        block.register_forward_hook(lambda module, given, tokens: seen.append(tokens.dtype))
    seen: list[torch.dtype] = []
    layer = packed.blocks[0].mlp.fc1
    with torch.inference_mode():
        given, expected = packed(_images(2, 224)), plain(_images(2, 224))
        assert layer(torch.rand(2, 192)).dtype is torch.bfloat16
    assert seen == [torch.float32] * 4
    error = (given - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt()
    assert 1e-5 < error < 1e-2, "bfloat16 has 8 bits, and errors of many products cancel"


def test_the_class_token_is_rounded_less_than_others() -> None:
    """It is read alone; errors of the others cancel over the frame."""
    torch.manual_seed(0)
    plain = nn.Linear(256, 64)
    plain.weight.data = torch.randint(-50, 51, (64, 256)).float()
    plain.weight.data[:, 0] = 1
    packed, tokens = PackedLinear(plain, torch.bfloat16, exact_first=True), torch.randn(2, 30, 256)
    with torch.inference_mode():
        moved = (packed(tokens) - plain(tokens)).pow(2).mean((0, 2)).sqrt()
    assert moved[0] < 0.9 * moved[1:].mean()


def test_rows_of_whole_numbers_lose_nothing_in_bfloat16() -> None:
    """Seven significant bits of a row's step are not enough: with a rounded matrix the mean of outputs is off."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(-100, 101, (40, 64), generator=generator).float()
    numbers[:, 0] = 1  # hundreds of weights always have a one among them
    steps = torch.rand(40, generator=generator) * 0.01 + 0.001
    plain = nn.Linear(64, 40)
    plain.weight.data = numbers * steps[:, None]
    plain.weight.data[7] = torch.randn(64, generator=generator)  # stands on no step
    plain.weight.data[8] = 0
    factors, found = cpu.whole_numbers(plain.weight.data)
    own = [row for row in range(40) if row not in (7, 8)]
    torch.testing.assert_close(factors[own], numbers[own], rtol=0, atol=0)
    torch.testing.assert_close(found[own], steps[own])
    torch.testing.assert_close(factors[[7, 8]], plain.weight.data[[7, 8]], rtol=0, atol=0)
    x = torch.randint(-8, 9, (5, 64), generator=generator).float()  # bfloat16 holds these
    with torch.inference_mode():
        layer = PackedLinear(plain, torch.bfloat16)
        sums = (x.double() @ factors.double().T).to(torch.bfloat16).double()  # rounded once, at the end
        expected = sums * found.double() + plain.bias.double()
        torch.testing.assert_close(layer(x)[:, own].double(), expected[:, own], rtol=1e-5, atol=1e-6)


def test_other_matrices_in_bfloat16_are_rounded_and_their_bias_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    plain = nn.Linear(64, 40)
    plain.weight.data = torch.randn(40, 64, generator=generator)
    plain.bias.data = 1 + torch.rand(40, generator=generator) / 100  # of which bfloat16 has three values
    with torch.inference_mode():
        layer = PackedLinear(plain, torch.bfloat16)
        given = layer(torch.zeros(1, 64))
        rounded = plain.weight.data.to(torch.bfloat16).double()
        x = torch.randint(-8, 9, (500, 64), generator=generator).float()
        error = layer(x).double() - (x.double() @ rounded.T + plain.bias.double())
    torch.testing.assert_close(given[0], plain.bias.data, rtol=2**-8, atol=0)
    assert error.mean(dim=0).abs().max() < 0.01, "a bias of 8 bits would be off in all rows alike"
