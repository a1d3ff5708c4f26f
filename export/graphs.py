"""Checkpoints to ONNX graphs that take the converted uint8 scan and hold everything after it.

Classifier: cast, scale, ImageNet normalisation, ResNet-34, pooling, trained layers, softmax, reason map. Gate: cast,
scale, autoencoder, residual, window statistics, layout, filter, their maxima and a small residual map. So one file runs
on every engine and the host never sees a float image. Sizes are fixed at export, only the batch is free.
"""

from __future__ import annotations

import copy
import warnings
from typing import Final

import onnx
import torch
from torch import Tensor, nn

from edge.engines import GATE_OUTPUTS, IMAGE_INPUT, classifier_outputs
from edge.images.method import Method
from edge.records import Size
from export.errors import ExportError
from export.reason import explain, reason_geometry
from train.classifier.models import Classifier
from train.gate.network import Gate
from train.networks import IMAGENET_MEAN, IMAGENET_STD, fold_batch_norms, p_abnormal_of

OPSET: Final = 18
"""What torch's exporter writes without converting between versions; onnxruntime 1.14 and TensorRT 8.6 read it."""
IR_VERSION: Final = 10
"""The newest file format that onnxruntime 1.21, the oldest one supported, reads."""


class ClassifierGraph(nn.Module):
    """Converted scans uint8 (n, channels, height, width) -> p_abnormal float32 (n,), and its map where there is one.

    reason_map: float32 (n, map_height, map_width); see `export.reason`.
    """

    def __init__(self, network: Classifier) -> None:
        super().__init__()
        network = copy.deepcopy(network).eval()  # batch norm is folded in eval mode only
        backbone = network.backbone
        fold_batch_norms(backbone)
        backbone.conv1 = _fold_normalisation(backbone.conv1, network.channels)
        self.network = network
        self.has_reason = reason_geometry(network) is not None
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = image.float()
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        return explain(self.network, x) if self.has_reason else (p_abnormal_of(self.network(x)),)


class GateGraph(nn.Module):
    """Converted scans uint8 (n, channels, height, width) -> gate_mean_max (n,), gate_std_max (n,), residual_map.

    residual_map: float32 (n, map_height, map_width), the largest |window mean| of each cell by autoencoder or filter,
    weighed as the gate does.
    """

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = copy.deepcopy(gate)
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = image.float()  # first of all: TensorRT takes uint8 as an input, and for nothing but a cast
        if x.shape[1] == 3:
            x = x[:, Method.MIXED.gate_channel : Method.MIXED.gate_channel + 1]
        scores = self.gate(x / 255.0)
        return scores.mean, scores.std, scores.residual_map


def classifier_onnx(graph: ClassifierGraph, channels: int, size: Size) -> onnx.ModelProto:
    """The classifier as an ONNX model: input `image`, output `p_abnormal`, perhaps `reason_map`. Raises ExportError."""
    return _export(graph, channels, size, classifier_outputs(graph.has_reason))


def gate_onnx(graph: GateGraph, channels: int, size: Size) -> onnx.ModelProto:
    """The gate as an ONNX model with outputs `gate_mean_max`, `gate_std_max`, `residual_map`. Raises ExportError."""
    return _export(graph, channels, size, GATE_OUTPUTS)


def _export(graph: nn.Module, channels: int, size: Size, outputs: tuple[str, ...]) -> onnx.ModelProto:
    """Torch's graph-capturing exporter: of its two the faster result, and for the gate the exact one.

    The older, tracing exporter left a residual map with an If and a size of its own, and its scores were off by 2e-5.
    """
    for name, value in graph.state_dict().items():
        if not torch.isfinite(value).all():
            raise ExportError(
                f"weight {name} of {type(graph).__name__} is not finite", hint="the training diverged: train again"
            )
    example = torch.zeros(2, channels, *size, dtype=torch.uint8)  # 2: a batch of 1 would be taken for a constant
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's, on its own internals; its result is checked instead
            program = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[IMAGE_INPUT],
                output_names=list(outputs),
                dynamic_shapes=({0: torch.export.Dim("n")},),
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(
            f"torch {torch.__version__} cannot export {type(graph).__name__}: {str(error).splitlines()[0]}",
            hint="try the torch release that the changelog names",
        ) from error
    assert program is not None
    model = program.model_proto
    _strip(model)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"the exported {type(graph).__name__} is not valid ONNX: {error}",
            hint="try the torch release that the changelog names",
        ) from error
    return model


def _strip(model: onnx.ModelProto) -> None:
    """Leave out the traces of the exporting machine, such as source paths: the same network gives the same file."""
    model.ir_version = IR_VERSION
    model.doc_string = ""
    del model.metadata_props[:]
    graph = model.graph
    graph.doc_string = ""
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.value_info[:]


def _fold_normalisation(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    """The first convolution on raw grey levels: (x / 255 - mean) / std is moved into its weights, exactly.

    The mean cannot go into a bias, because the padding is zero *after* normalisation: a border pixel sees fewer
    means than an inner one. So it becomes the weight of one more input channel that is 1 inside the image and,
    padded with zeros like the others, 0 outside. With one channel for all three inputs their weights are summed.
    """
    weight = conv.weight.detach().double()
    scaled = weight / (255.0 * torch.tensor(IMAGENET_STD, dtype=torch.float64)).view(1, 3, 1, 1)
    mean = torch.tensor(IMAGENET_MEAN, dtype=torch.float64).view(1, 3, 1, 1)
    ones = -(scaled * 255.0 * mean).sum(dim=1, keepdim=True)
    image = scaled.sum(dim=1, keepdim=True) if channels == 1 else scaled
    folded = copy.deepcopy(conv)
    folded.in_channels = channels + 1
    folded.weight = nn.Parameter(torch.cat([image, ones], dim=1).float(), requires_grad=False)
    return folded
