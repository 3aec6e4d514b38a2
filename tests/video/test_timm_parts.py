"""model.video.timm_parts: the import costs less, and timm is what it always is to whoever asks for more."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from model.video.timm_parts import NoRandomValues, create_model
from tests.conftest import ROOT


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_neither_torchs_compiler_nor_the_other_networks_are_imported() -> None:
    names = "torch._dynamo", "sympy", "torchvision.datasets", "timm.models.resnet"
    assert _run(f"import sys, model.video.detector; print([n for n in {names} if n in sys.modules])") == "[]\n"


def test_timm_is_whole_for_whoever_asks() -> None:
    code = (
        "from model.video.timm_parts import Block, create_model\n"
        "import timm, timm.data, torchvision.ops\n"
        "from timm.models.vision_transformer import Block as theirs\n"
        "assert Block is theirs\n"
        "print(type(timm.create_model('resnet18')).__name__, callable(timm.data.create_transform),\n"
        "      callable(torchvision.ops.nms), type(create_model('resnet18')).__name__)\n"
    )
    assert _run(code) == "ResNet True True ResNet\n"


def test_an_import_before_it_stays() -> None:
    assert _run("import timm; before = timm; import model.video.timm_parts, timm; print(timm is before)") == "True\n"


@pytest.mark.parametrize("broken", ["timm", "timm.models", "torchvision.ops", "timm.models.vision_transformer"])
def test_where_the_parts_do_not_fit_timm_is_imported_whole(broken: str) -> None:
    """As with a version of timm or torchvision that nobody tried: each name fails the first time it is found."""
    code = (
        "import importlib.util\n"
        "find, failed = importlib.util.find_spec, []\n"
        "def find_once(name, *package):\n"
        f"    if name == {broken!r} and not failed:\n"
        "        failed.append(name)\n"
        "        raise RuntimeError('not as expected')\n"
        "    return find(name, *package)\n"
        "importlib.util.find_spec = find_once\n"
        "load = importlib.import_module\n"
        "def load_once(name, package=None):\n"
        f"    return load(name, package) if failed or name != {broken!r} else find_once(name)\n"
        "importlib.import_module = load_once\n"
        "import model.video.detector, timm, torchvision.ops\n"
        "from model.video.timm_parts import create_model\n"
        "print(failed, type(timm.create_model('resnet18')).__name__, callable(torchvision.ops.nms),\n"
        "      type(create_model('tf_efficientnet_lite0')).__name__)\n"
    )
    assert _run(code) == f"[{broken!r}] ResNet True EfficientNet\n"


def test_new_networks_draw_nothing() -> None:
    state = torch.get_rng_state()
    with NoRandomValues():
        network = create_model("vit_tiny_patch16_224", num_classes=0, depth=1)
        assert float(torch.full((3,), 2.0).sum()) == 6
    assert torch.equal(torch.get_rng_state(), state)
    assert network.blocks[0].mlp.fc1.weight.shape == (768, 192)
