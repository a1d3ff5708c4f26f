"""OpenVINO on the CPU: the faster engine on most Intel and AMD boxes, above all for int8 models (extra `openvino`).

Both graphs are compiled for one scan. The threads sleep between scans: OpenVINO's pool (oneTBB) does not spin. Float
arithmetic is float32, asked for by name: left to itself the runtime takes bfloat16 where the processor has it, and the
gate's residual deviations are small differences of larger numbers.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.engines import IMAGE_INPUT, Batch, EngineSpec
from edge.engines.cpu import EXPORT_AGAIN, CpuEngine, Networks, check_outputs
from edge.errors import EngineError

# `import openvino` reports its use to its makers over the network, unless this package cannot be imported. A line PC
# talks to its broker alone.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino as ov  # noqa: E402

NAME = "openvino"
DEVICE = "CPU"

# OpenVINO raises RuntimeError for everything its C++ side throws; its Python side checks types and names.
_OV_ERRORS: tuple[type[Exception], ...] = (RuntimeError, MemoryError, TypeError, ValueError, KeyError)

_ALLOW_KERNELS = (
    "OpenVINO makes its kernels when it loads a graph, which this service may not: install its drop-in, "
    'systemd/edge-worker-openvino.conf (`MemoryDenyWriteExecute=no`), or set `model.engine = "onnxruntime"`'
)


class OvEngine(CpuEngine):
    """Both graphs in OpenVINO on the CPU, from memory; nothing is read from disk. Parameters as of `OrtEngine`."""

    def __init__(self, networks: Networks, *, threads: int | None = None, max_batch: int | None = None) -> None:
        size, channels = networks.size, networks.channels
        spec = EngineSpec(NAME, networks.precision, size, channels, max_batch or 1, networks.has_reason)
        options = compile_options(threads or len(os.sched_getaffinity(0)))

        def open_graph(name: str, graph: bytes, ranks: dict[str, int]) -> Graph:
            return Graph(name, graph, (channels, *size), ranks, options)

        super().__init__(spec, open_graph, networks)


class Graph:
    """One ONNX graph, compiled for uint8 images (1, channels, height, width): an `OpenGraph`.

    `ranks`: names of the outputs and their number of dimensions; all float32, the first dimension is 1.
    """

    def __init__(
        self, name: str, graph: bytes, image: tuple[int, int, int], ranks: dict[str, int], options: dict[str, object]
    ) -> None:
        self._name = name
        model = _read(name, graph)
        _check_input(name, model, image)
        self._shapes = {output: _output_shape(name, model, output, rank) for output, rank in ranks.items()}
        try:
            model.reshape({IMAGE_INPUT: ov.PartialShape([1, *image])})
            self.compiled = ov.Core().compile_model(model, DEVICE, options)
            self._request = self.compiled.create_infer_request()
        except _OV_ERRORS as error:
            raise _cannot_load(name, error) from error

    def run(self, image: Batch) -> dict[str, npt.NDArray[np.float32]]:
        try:
            self._request.infer({IMAGE_INPUT: np.ascontiguousarray(image)}, share_inputs=True)
            # Copied: the request writes its next results into the same memory.
            outputs = {output: self._request.get_tensor(output).data.copy() for output in self._shapes}
        except _OV_ERRORS as error:
            raise EngineError(
                f"{self._name} failed on an image of shape {image.shape}: {_reason(error)}",
                hint="if it happens again, check free memory",
            ) from error
        check_outputs(self._name, outputs, self._shapes)
        return outputs


def compile_options(threads: int) -> dict[str, object]:
    """How every graph is compiled: for the shortest time of one batch, on exactly these threads, in float32."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        # Other processes of the box choose their cores too; and the scheduler knows the affinity given to the service.
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": "f32",
    }


def _read(name: str, graph: bytes) -> Any:
    """The parsed graph, read through a file in memory.

    Given bytes, OpenVINO would look for weights stored beside the graph in the working folder, which no signature
    covers. A memory file has no folder: such a graph is refused.
    """
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(graph)
        stream.flush()
        try:
            return ov.Core().read_model(f"/proc/self/fd/{descriptor}")
        except _OV_ERRORS as error:
            raise _cannot_load(name, error) from error


def _check_input(name: str, model: Any, image: tuple[int, ...]) -> None:
    inputs = [
        (sorted(port.get_names()), port.get_element_type().get_type_name(), _shape(port)) for port in model.inputs
    ]
    if inputs != [([IMAGE_INPUT], "u8", [None, *image])]:
        raise EngineError(
            f"{name} takes {inputs}, the manifest says {IMAGE_INPUT}, uint8 {('n', *image)}", hint=EXPORT_AGAIN
        )


def _output_shape(name: str, model: Any, output: str, rank: int) -> tuple[int, ...]:
    """Sizes after the batch, all fixed at export."""
    ports = {label: port for port in model.outputs for label in port.get_names()}
    port = ports.get(output)
    shape = _shape(port) if port is not None else []
    if port is None or port.get_element_type() != ov.Type.f32 or len(shape) != rank:
        found = [(label, each.get_element_type().get_type_name(), _shape(each)) for label, each in ports.items()]
        raise EngineError(
            f"{name} has no output {output}, float32 with {rank} dimensions, but {found}", hint=EXPORT_AGAIN
        )
    tail = tuple(side for side in shape[1:] if side)
    if shape[0] is not None or len(tail) != rank - 1:
        raise EngineError(
            f"{name} has output {output} of shape {shape}, expected a free batch and fixed sides", hint=EXPORT_AGAIN
        )
    return tail


def _shape(port: Any) -> list[int | None]:
    """Sizes, None where free; empty where not even their number is known."""
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return []
    return [None if dimension.is_dynamic else dimension.get_length() for dimension in shape]


def _cannot_load(name: str, error: BaseException) -> EngineError:
    reason = _reason(error)
    hint = _ALLOW_KERNELS if "can't protect" in reason else EXPORT_AGAIN
    return EngineError(f"OpenVINO {ov.get_version()} cannot load {name}: {reason}", hint=hint)


def _reason(error: BaseException) -> str:
    """The last line says what is wrong; those before it, where in OpenVINO's source it was found."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)
