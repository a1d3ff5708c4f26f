"""What a graph computes in, read from the graph itself: a manifest may say anything, and the engines believe it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, numpy_helper

from edge.errors import ModelError
from edge.model.manifest import CLASSIFIER_FILE, GATE_FILE, QuickPass
from edge.model.signed_model import SignedModel

WEIGHTED: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
QUANTISING: Final = frozenset(
    {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}
)
"""Operators that round activations. DequantizeLinear is not one: it expands weights that are merely stored as int8."""
HALF: Final = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
_EXPORT_AGAIN: Final = "export the model again with `edge-export model --precision`: it judges what it signs"
DOUBT: Final = "doubt."
"""How the names of what finds doubtful scans begin, in a graph with a quick pass."""
Doubts = Mapping[str, Sequence[tuple[float, float]]]
"""By name of an output: the scores that are doubtful, from and to, ends included."""


@dataclass(frozen=True, slots=True)
class _Scope:
    """A graph, or one within it: the branch of an If, the body of a Loop or Scan."""

    nodes: Sequence[onnx.NodeProto]
    types: Mapping[str, int]
    """Element types of its tensors and of those around it, by name."""


def computes_in(model: onnx.ModelProto) -> str:
    """`int8` where activations are rounded, `fp16` where a weighted layer takes half precision, else `fp32`.

    Anywhere: in the graph, in a branch or a loop of it, in a function it calls.
    """
    return _computed_in(_scopes_of(model))


def _computed_in(scopes: Sequence[_Scope]) -> str:
    if any(node.op_type in QUANTISING for scope in scopes for node in scope.nodes):
        return "int8"
    taken = {
        scope.types.get(name)
        for scope in scopes
        for node in scope.nodes
        if node.op_type in WEIGHTED
        for name in node.input
    }
    return "fp16" if taken & HALF else "fp32"


def _scopes_of(model: onnx.ModelProto) -> list[_Scope]:
    """The graph of a model, its functions put in where they are called, and all graphs within it."""
    flat = onnx.inliner.inline_local_functions(model) if model.functions else model
    return list(_scopes_within(onnx.shape_inference.infer_shapes(flat).graph, {}))


def _scopes_within(graph: onnx.GraphProto, around: Mapping[str, int]) -> Iterator[_Scope]:
    types = {**around, **_types_in(graph)}
    yield _Scope(graph.node, types)
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from _scopes_within(inner, types)


def doubts_of(where: QuickPass) -> dict[str, Doubts]:
    """The doubtful scores of a manifest, by graph."""
    gate = {"gate_mean_max": [(where.gate_mean_from, math.inf)], "gate_std_max": [(where.gate_std_from, math.inf)]}
    return {CLASSIFIER_FILE: {"p_abnormal": where.p_abnormal}, GATE_FILE: gate}


def limits_of(doubts: Doubts) -> list[float]:
    """Both ends of every interval, in order, as a graph holds them: in float32, and none infinite."""
    ends = (end for intervals in doubts.values() for interval in intervals for end in interval)
    return [float(np.float32(min(end, float(np.finfo(np.float32).max)))) for end in ends]


def check_arithmetic(model: SignedModel) -> None:
    """Raises ModelError unless both graphs compute in what the manifest says, and doubt the scores that it names.

    onnxruntime would not fuse the int8 of a model that calls itself fp32, OpenVINO and TensorRT would; either way the
    model was never judged as what it is. A quick pass that doubts other scores than the manifest says may decide at
    a limit of the policy, and so may one whose doubtful scans are not computed in fp32.
    """
    where = model.manifest.quick_pass
    expected = {} if where is None else doubts_of(where)
    for name in (CLASSIFIER_FILE, GATE_FILE):
        graph = onnx.load_from_string(model.contents[name])
        scopes = _scopes_of(graph)
        found, within = _computed_in(scopes), _computed_in(scopes[1:])
        if found != model.precision:
            raise ModelError(
                f"{name} of {model.model_id} computes in {found}, its manifest says precision {model.precision}",
                hint=_EXPORT_AGAIN,
            )
        if where is not None and within != "fp32":
            raise ModelError(
                f"{name} of {model.model_id} computes doubtful scans in {within}, expected fp32", hint=_EXPORT_AGAIN
            )
        limits, held = limits_of(expected.get(name, {})), _limits_in(graph)
        if held != limits:
            raise ModelError(
                f"{name} of {model.model_id} computes scans again by the limits {held}, its manifest says {limits}",
                hint=_EXPORT_AGAIN,
            )


def _limits_in(model: onnx.ModelProto) -> list[float]:
    return [float(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer if tensor.name.startswith(DOUBT)]


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor of a graph, by name."""
    return _types_in(onnx.shape_inference.infer_shapes(model).graph)


def _types_in(graph: onnx.GraphProto) -> dict[str, int]:
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return types
