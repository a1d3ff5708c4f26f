"""Which layers of a graph differ most from the same graph in float32: where to look when a precision costs too much."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper

from edge.engines import IMAGE_INPUT
from edge.engines.ort import PROVIDERS, session_options
from edge.records import Image
from export.arithmetic import element_types

COMPARED: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Relu", "Clip"})


@dataclass(frozen=True, slots=True)
class LayerDifference:
    """Root mean square of a layer's error, relative to that of its values in float32, over all scans."""

    layer: str
    relative_error: float

    def __str__(self) -> str:
        return f"{self.layer} {self.relative_error:.1%}"


def worst_layers(
    observed: onnx.ModelProto, expected: onnx.ModelProto, images: Sequence[Image], count: int = 8
) -> list[LayerDifference]:
    """The layers of `observed` that differ most, worst first; both graphs run in onnxruntime on these images.

    Layers are matched by the name of their output, which precision and storage leave as it was.
    """
    names = [output for node in expected.graph.node if node.op_type in COMPARED for output in node.output]
    produced = {output for node in observed.graph.node for output in node.output}
    names = [name for name in names if name in produced]
    if not names:
        return []
    errors, values = np.zeros(len(names)), np.zeros(len(names))
    sessions = [_with_outputs(model, names) for model in (observed, expected)]
    for image in images:
        results = [session.run(names, {IMAGE_INPUT: image[np.newaxis]}) for session in sessions]
        for index, (one, other) in enumerate(zip(*results, strict=True)):
            errors[index] += _square_sum(one.astype(np.float32) - other)
            values[index] += _square_sum(other)
    relative = np.sqrt(errors / np.maximum(values, np.finfo(np.float64).tiny))
    order = np.argsort(relative)[::-1][:count]
    return [LayerDifference(names[index], float(relative[index])) for index in order]


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnxruntime.InferenceSession:
    opened = copy.deepcopy(model)
    types = element_types(model)
    del opened.graph.output[:]
    opened.graph.output.extend(helper.make_tensor_value_info(name, types[name], None) for name in names)
    options = session_options("int8", 0)
    # As written: an optimised graph has other layers.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(opened.SerializeToString(), options, providers=PROVIDERS)


def _square_sum(values: npt.NDArray[np.float32]) -> float:
    return float(np.square(values, dtype=np.float64).sum())
