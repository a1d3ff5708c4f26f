"""What a graph computes in: float32, float16, or int8. How its weights lie in the file is `export/storage.py`'s.

float16: weights and activations from the first weighted layer to the last. Before and after, where the scan is scaled,
the residual's deviations are differences of squares, and the softmax stands, it stays float32.

int8: QuantizeLinear and DequantizeLinear around convolutions, one scale per output channel for weights, one per tensor
for activations, the ranges from real scans. It is right for scans that lie well away from every limit; the others are
computed again in float32, see `export/quick_pass.py`. What stays in float32 was measured, on the demo's networks:

    classifier   first convolution: its folded means outweigh its image weights a hundredfold. In int8, with exact grey
                 levels and the means' weights made as small as the image's, it saved another 5 % and moved the logit by
                 1.0 (root mean square), for rounded weights that should cancel over a grey sheet do not. Mean, fully
                 connected layers, softmax: quantised too, they moved the logit by 7. The sums of the residual blocks
                 and the 1 x 1 convolutions of their shortcuts, whose rounding stays in the stream for all later layers.
    gate         first convolution. OpenVINO also carried the integers of the image on through the averages of the
                 layouts, and rounded those to grey levels: see `hide_image`.

Without effect on the time: the channel of ones from a 1 x 1 convolution or a Pad instead of a concatenation (1.00).

int8 is onnxruntime's own quantisation: it adds no dependency and sends no reports. Also tried: NNCF 3.4, which rounds
the sums too (logit off by 0.27), needs scikit-learn and reports its use to its makers; nvidia-modelopt 0.47 wants an
older onnx and the GPU build of onnxruntime, which cannot stand beside the one the line runs on. It is OpenVINO that
computes such a graph in int8, three times as fast as float32; onnxruntime fuses none of it, and takes longer.

float16 is done here: the converters of onnxruntime 1.31 and onnxconverter-common 1.16 both make an invalid graph of the
gate, whose two Clips share a bound.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from edge.engines import IMAGE_INPUT
from edge.records import Image
from export.arithmetic import WEIGHTED, element_types
from export.errors import ExportError
from export.graphs import IR_VERSION

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "fp16", "int8")

CALIBRATION_SCANS: Final = 16
"""Scans the ranges are taken from; more move them by less than a step."""
PERCENTILE: Final = 99.9999
"""Activations beyond it are clipped. An anomaly is a rare, strong activation: at 99.999 some of them go."""

LARGEST_HALF: Final = 65_504.0
QUANTISED: Final = ("Conv", "ConvTranspose")
_SCALING: Final = frozenset({"Slice", "Gather", "Div", "Mul"})
"""What may stand between the image as float and the networks: one of its channels is taken, and scaled."""

Progress = Callable[[int, int], None]


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that computes in float16 between its first and its last weighted layer. Raises ExportError."""
    copied = copy.deepcopy(model)
    for tensor in copied.graph.initializer:
        if (
            tensor.data_type == TensorProto.FLOAT
            and np.abs(numpy_helper.to_array(tensor)).max(initial=0) > LARGEST_HALF
        ):
            raise ExportError(f"weight {tensor.name} is too large for float16", hint="use --precision fp32")
    graph = copied.graph
    inner = _between_weighted_layers(graph)
    types = element_types(copied)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    produced_inside = {output for node in graph.node if node.name in inner for output in node.output}
    nodes: list[onnx.NodeProto] = []
    halved: dict[str, str] = {}
    restored: dict[str, str] = {}
    for node in graph.node:
        is_inner = node.name in inner
        for index, name in enumerate(node.input):
            if is_inner and name not in produced_inside and types.get(name) == TensorProto.FLOAT:
                if name not in halved:
                    halved[name] = f"{name}_fp16"
                    if name in weights:
                        values = numpy_helper.to_array(weights[name]).astype(np.float16)
                        graph.initializer.append(numpy_helper.from_array(values, halved[name]))
                    else:
                        nodes.append(_cast(name, halved[name], TensorProto.FLOAT16))
                node.input[index] = halved[name]
            elif not is_inner and name in produced_inside and types.get(name) == TensorProto.FLOAT:
                if name not in restored:
                    restored[name] = f"{name}_fp32"
                    nodes.append(_cast(name, restored[name], TensorProto.FLOAT))
                node.input[index] = restored[name]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return pin_and_check(copied, "float16")


def to_int8(model: onnx.ModelProto, calibration: Sequence[Image], progress: Progress | None = None) -> onnx.ModelProto:
    """A copy of a classifier or gate, all convolutions int8 but the first one and the shortcuts.

    `calibration`: converted scans uint8 (channels, height_px, width_px). Activations are unsigned. Raises ExportError.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    first, *others = _convolutions(model)
    kept = [first.name, *(node.name for node in others if shapes[node.input[1]][2:] == (1, 1))]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        target = Path(folder) / "int8.onnx"
        quantize_static(
            hide_image(model),  # a copy: the tool changes what it is given
            target,
            _Scans(calibration, progress),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            nodes_to_exclude=list(kept),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={
                "ActivationSymmetric": False,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "CalibPercentile": PERCENTILE,
                "CalibStridedMinMax": 1,  # one scan at a time: all activations of a full-size scan take 2 GB
            },
        )
        return pin_and_check(_float_for_others(onnx.load(target), kept), "int8")


def _convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type in QUANTISED]


def hide_image(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which OpenVINO does not take the 8 bits of the image, times a scale, for quantised values.

    It would carry them on through the gate's averages and round those to grey levels, in a graph that is float32 too if
    it is a branch of one with int8. No grey level is negative, and nothing is carried through an Abs.
    """
    copied = copy.deepcopy(model)
    nodes = list(copied.graph.node)
    last = next(node for node in nodes if node.input[0] == IMAGE_INPUT)
    while len(users := [node for node in nodes if last.output[0] in node.input]) == 1 and users[0].op_type in _SCALING:
        last = users[0]
    name = last.output[0]
    last.output[0] = f"{name}_seen"
    nodes.insert(nodes.index(last) + 1, helper.make_node("Abs", [last.output[0]], [name], "hide_image"))
    del copied.graph.node[:]
    copied.graph.node.extend(nodes)
    return copied


def _float_for_others(model: onnx.ModelProto, kept: Sequence[str]) -> onnx.ModelProto:
    """The graph with every rounded activation rounded for quantised convolutions alone: the tool does so for all."""
    made_by = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" or (node.op_type in QUANTISED and node.name not in kept):
            continue
        for index, name in enumerate(node.input):
            dequantise = made_by.get(name)
            if dequantise is not None and dequantise.op_type == "DequantizeLinear":
                node.input[index] = made_by[dequantise.input[0]].input[0]
    return model


class _Scans(CalibrationDataReader):  # type: ignore[misc]
    """Scans one after another, as the calibrator asks for them."""

    def __init__(self, images: Sequence[Image], progress: Progress | None) -> None:
        self._images = images
        self._progress = progress
        self._range: Iterator[int] = iter(range(len(images)))

    def __len__(self) -> int:
        return len(self._images)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._range = iter(range(start_index, end_index))

    def get_next(self) -> dict[str, Any] | None:
        index = next(self._range, None)
        if index is None:
            return None
        if self._progress is not None:
            self._progress(index + 1, len(self._images))
        return {IMAGE_INPUT: self._images[index][None]}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The tool prints what it does, and advises on the root logger to optimise the graph first: the exporter has."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _cast(source: str, target: str, element_type: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], f"{target}_cast", to=element_type)


def _between_weighted_layers(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes from which one weighted layer is reached and which are reached from one, those included.

    The product with known scans is no such layer: before it tiles are divided by deviations that may be too small for
    float16. The scans lie in the file as halves, no weight of a plain graph does.
    """
    constant = {tensor.name for tensor in graph.initializer}
    known = {node.output[0] for node in graph.node if node.op_type == "Cast" and node.input[0] in constant}
    weighted = {node.name for node in graph.node if node.op_type in WEIGHTED and known.isdisjoint(node.input)}
    after: set[str] = set()
    tensors: set[str] = set()
    for node in graph.node:  # in order of execution
        if node.name in weighted or tensors & set(node.input):
            after.add(node.name)
            tensors |= set(node.output)
    before: set[str] = set()
    needed: set[str] = set()
    for node in reversed(graph.node):
        if node.name in weighted or needed & set(node.output):
            before.add(node.name)
            needed |= set(node.input)
    return after & before


def pin_and_check(model: onnx.ModelProto, what: str) -> onnx.ModelProto:
    """Pinned to the file format every engine reads, and valid. Raises ExportError."""
    model.ir_version = IR_VERSION
    del model.metadata_props[:]
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"the {what} graph is not valid ONNX: {error}", hint="try the onnxruntime release that the changelog names"
        ) from error
    return model
