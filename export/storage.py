"""How weights are stored in the model: as float32, float16, or int8 per output channel.

Storage only: a Cast or DequantizeLinear stands between a stored weight and the operator that uses it, and
onnxruntime computes it once, when it loads the graph (`session.disable_quant_qdq=1`). The arithmetic is float32
in all three cases and so is the time per scan; a ResNet-34 takes 90, 45 or 23 MB on disk.
"""

from __future__ import annotations

import copy
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.errors import ExportError

Storage = Literal["fp32", "fp16", "int8"]

MIN_ELEMENTS: Final = 16_384
"""Smaller tensors stay float32. Together they are under 1 % of a ResNet-34 and hold what rounds badly: the first
convolution, whose folded means outweigh its image weights a hundredfold, biases, the last layer, the whole gate."""

_OUTPUT_AXIS: Final = {"Conv": 0, "Gemm": 0, "MatMul": 1, "ConvTranspose": 1}


def store_weights(model: onnx.ModelProto, storage: Storage) -> onnx.ModelProto:
    """A copy of `model` with its large weights stored as `storage`; `fp32` returns an equal copy.

    int8 is symmetric, scale = largest |weight| of the output channel / 127. Raises ExportError for a weight that
    float16 cannot hold.
    """
    stored = copy.deepcopy(model)
    if storage == "fp32":
        return stored
    weights = {tensor.name: tensor for tensor in stored.graph.initializer}
    conversions: list[onnx.NodeProto] = []
    for node in list(stored.graph.node):
        if node.op_type not in _OUTPUT_AXIS or len(node.input) < 2:
            continue
        tensor = weights.get(node.input[1])
        if tensor is None or tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < MIN_ELEMENTS:
            continue
        name = tensor.name
        if storage == "fp16":
            if np.abs(values).max() > np.finfo(np.float16).max:
                raise ExportError(
                    f"weight {name} is too large for float16",
                    hint="use --precision fp32, weights stored as int8 or fp32: an int8 model holds float16 ones",
                )
            _replace(stored.graph, tensor, {f"{name}_fp16": values.astype(np.float16)})
            conversions.append(helper.make_node("Cast", [f"{name}_fp16"], [name], f"{name}_load", to=TensorProto.FLOAT))
        else:
            axis = _output_axis(node)
            quantised, scale = quantise(values, axis)
            _replace(stored.graph, tensor, {f"{name}_int8": quantised, f"{name}_scale": scale})
            inputs = [f"{name}_int8", f"{name}_scale"]
            conversions.append(helper.make_node("DequantizeLinear", inputs, [name], f"{name}_load", axis=axis))
        del weights[name]  # a second user of the same weight reads the same conversion
    nodes = conversions + list(stored.graph.node)
    del stored.graph.node[:]
    stored.graph.node.extend(nodes)
    return stored


def quantise(values: npt.NDArray[np.float32], axis: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """int8 values of the same shape, and one float32 scale per index of `axis`; values = int8 * scale + error."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    scale = np.abs(values).max(axis=others).astype(np.float32) / np.float32(127)
    scale[scale == 0.0] = 1.0  # a dead channel: 0 / 1 is 0
    shape = [-1 if i == axis else 1 for i in range(values.ndim)]
    return np.rint(values / scale.reshape(shape)).clip(-127, 127).astype(np.int8), scale


def _output_axis(node: onnx.NodeProto) -> int:
    if node.op_type != "Gemm":
        return _OUTPUT_AXIS[node.op_type]
    transposed = any(attribute.name == "transB" and attribute.i == 1 for attribute in node.attribute)
    return 0 if transposed else 1


def _replace(graph: onnx.GraphProto, old: TensorProto, new: dict[str, npt.NDArray[np.generic]]) -> None:
    graph.initializer.remove(old)
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in new.items())
