"""What a graph computes in, read from the graph itself: a manifest may say anything, and the engines believe it."""

from __future__ import annotations

from typing import Final

import onnx
from onnx import TensorProto

from edge.errors import ModelError
from edge.model.manifest import CLASSIFIER_FILE, GATE_FILE
from edge.model.signed_model import SignedModel

WEIGHTED: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
QUANTISING: Final = frozenset(
    {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}
)
"""Operators that round activations. DequantizeLinear is not one: it expands weights that are merely stored as int8."""
HALF: Final = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
PERMITTED: Final = {"fp32": ({"fp32"}, {"fp32"}), "fp16": ({"fp16"}, {"fp16"}), "int8": ({"int8"}, {"fp32", "int8"})}
"""By the manifest's precision: what classifier and gate may compute in. The gate of an int8 model stays float32, but
for a quick pass."""


def computes_in(model: onnx.ModelProto) -> str:
    """`int8` where activations are rounded, `fp16` where a weighted layer takes half precision, else `fp32`."""
    if any(node.op_type in QUANTISING for node in model.graph.node):
        return "int8"
    weighted = [node for node in model.graph.node if node.op_type in WEIGHTED]
    types = element_types(model) if weighted else {}
    return "fp16" if any(types.get(name) in HALF for node in weighted for name in node.input) else "fp32"


def check_arithmetic(model: SignedModel) -> None:
    """Raises ModelError unless both graphs compute in what the manifest says.

    onnxruntime would not fuse the int8 of a model that calls itself fp32, OpenVINO and TensorRT would; either way the
    model was never judged as what it is.
    """
    for name, permitted in zip((CLASSIFIER_FILE, GATE_FILE), PERMITTED[model.precision], strict=True):
        found = computes_in(onnx.load_from_string(model.contents[name]))
        if found not in permitted:
            raise ModelError(
                f"{name} of {model.model_id} computes in {found}, its manifest says precision {model.precision}",
                hint="export the model again with `edge-export model --precision`: it judges what it signs",
            )


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor of a graph, by name."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    return types
