"""What is used of timm, in less than half of its import's time.

timm imports all its networks, its data loaders, with these all of torchvision, and so torch's compiler: half of what
passes before the first score. Here such packages are found without being run. Who asks them for more runs them then,
so that `import timm` elsewhere means what it always does.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_LAZY = ("torch.utils.checkpoint", "torchvision", "torchvision.ops", "torchvision.models", "timm", "timm.data",
         "timm.models")  # fmt: skip  # parents before children
_NETWORKS = ("timm.models.efficientnet", "timm.models.vision_transformer")

log = logging.getLogger(__name__)


def _import_lazily(name: str) -> None:
    """Make the module `name` known; it is run when an attribute is asked for that it lacks (PEP 562)."""
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__getattr__"] = _completion(module)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def _completion(module: ModuleType) -> Callable[[str], Any]:
    def complete(attribute: str) -> Any:
        if attribute.startswith("__") or module.__dict__.pop("__getattr__", None) is None:
            raise AttributeError(f"module {module.__name__!r} has no attribute {attribute!r}")
        assert module.__spec__ is not None and module.__spec__.loader is not None
        module.__spec__.loader.exec_module(module)
        return getattr(module, attribute)

    return complete


def _import_in_parts() -> None:
    for name in _LAZY:
        _import_lazily(name)
    # What the networks' modules take from these packages; asking the packages would run them.
    for name, part in (("timm", "timm.version"), ("timm.data", "timm.data.constants")):
        values = vars(importlib.import_module(part)).items()
        vars(sys.modules[name]).update({key: value for key, value in values if key.isupper() or key == "__version__"})
    for name in _NETWORKS:
        importlib.import_module(name)


_before = set(sys.modules)
try:
    _import_in_parts()
except Exception as _error:  # noqa: BLE001  (versions that nobody tried: a slow start, not a lost run)
    log.warning("timm is imported whole: %s", _error)
    for _name in set(sys.modules) - _before:  # what was run stays: some register operators, which goes once
        if _name.partition(".")[0] == "timm" or (_name in _LAZY and "__getattr__" in vars(sys.modules[_name])):
            del sys.modules[_name]
    for _name in _NETWORKS:
        importlib.import_module(_name)

from timm.layers.activations import QuickGELU  # noqa: E402
from timm.layers.conv2d_same import Conv2dSame  # noqa: E402
from timm.layers.norm_act import BatchNormAct2d  # noqa: E402
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual  # noqa: E402
from timm.models._factory import create_model as _create  # noqa: E402
from timm.models._registry import is_model  # noqa: E402
from timm.models.vision_transformer import Block  # noqa: E402

__all__ = [
    "BatchNormAct2d",
    "Block",
    "Conv2dSame",
    "DepthwiseSeparableConv",
    "InvertedResidual",
    "NoRandomValues",
    "QuickGELU",
    "create_model",
]

_RANDOM = frozenset({
    nn.init.kaiming_uniform_, nn.init.normal_, nn.init.uniform_,
    torch.Tensor.erfinv_, torch.Tensor.normal_, torch.Tensor.uniform_,
})  # fmt: skip


class NoRandomValues(TorchFunctionMode):
    """Within it new networks have whatever lies in memory as weights: to draw 71 million of them takes a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return func(*args, **kwargs) if func not in _RANDOM else args[0] if args else kwargs["tensor"]


def create_model(name: str, **options: Any) -> Any:
    """A network of timm by its name, without weights. Raises: RuntimeError: timm knows none of that name."""
    if not is_model(name):
        import timm

        return timm.create_model(name, pretrained=False, **options)
    return _create(name, pretrained=False, **options)
