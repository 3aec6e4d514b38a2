"""A folder of weights -> the bytes of an ONNX file."""

from __future__ import annotations

import io
import json
import warnings
from typing import Any

import onnx
import torch

from ..audio.detector import load_network as load_audio
from ..audio.views import ViewConfig as AudioViews
from ..modality import AUDIO
from ..video.detector import load_network as load_video
from ..video.views import ViewConfig as VideoViews
from ..weights import Manifest
from . import front_ends
from .graphs import AudioGraph, VideoGraph

_SCORE = "log-likelihood ratio, natural logarithm, > 0: generated"


def build_onnx(manifest: Manifest) -> bytes:
    """The graph from views of clips, as `Detector.split` gives them with an axis for the clips before, to `score`.

    Raises: WeightsError.
    """
    graph: VideoGraph | AudioGraph
    if manifest.modality == AUDIO.name:
        views = manifest.configured("views", AudioViews)
        graph, shapes, dtype = AudioGraph(*load_audio(manifest)), [(2, views.window_samples)], torch.int16
    else:
        kinds = manifest.configured("views", VideoViews)
        graph, shapes, dtype = VideoGraph(*load_video(manifest)), [kinds.patch_shape, kinds.resized_shape], torch.uint8
    clips = tuple(torch.zeros(2, *shape, dtype=dtype) for shape in shapes)
    free = {name: {0: "clips"} | ({1: name} if manifest.modality == AUDIO.name else {}) for name in graph.inputs}
    front_ends.register()
    buffer: Any = io.BytesIO()  # which the stubs do not know of
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shapes that are fixed: those of the views are
        torch.onnx.export(
            graph.eval(), clips, buffer, dynamo=False, opset_version=front_ends.OPSET,
            input_names=list(graph.inputs), output_names=["score"], dynamic_axes={**free, "score": {0: "clips"}},
        )  # fmt: skip
    model = onnx.load_model_from_string(buffer.getvalue())
    told = {"modality": manifest.modality, "score": _SCORE, "weights_sha256": manifest.sha256}
    onnx.helper.set_model_props(model, {**told, "input": json.dumps(manifest.input)})
    onnx.checker.check_model(model)
    return model.SerializeToString()
