"""onnxruntime on the CPU.

Chosen by measurement at 2000 x 1000 on 2 cores: the memory pattern planner reserves 0.6 GB more for no gain: off. The
arena stays on: without it every run faults its memory in again, half as slow again. The two networks run one after the
other, each on all threads: side by side they would only share the same cores. So they share one arena too, 1.1 instead
of 1.5 GB.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state

from edge.engines import IMAGE_INPUT, Batch, EngineSpec
from edge.engines.cpu import EXPORT_AGAIN, CpuEngine, Networks, check_outputs
from edge.errors import EngineError

NAME = "onnxruntime"
PROVIDERS = ["CPUExecutionProvider"]

_LOG_ERRORS_ONLY = 3
# A graph in memory has no folder. Were one to ask for a file beside it, onnxruntime would look in the working folder.
_NO_FOLDER = "/dev/null/external-data-is-not-read"

# Every class that onnxruntime's native code raises (which there are differs between releases), and what its Python
# side raises: unknown names, wrong types, no memory for a result.
_ORT_ERRORS: tuple[type[BaseException], ...] = (
    *(
        kind
        for kind in vars(onnxruntime_pybind11_state).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


class OrtEngine(CpuEngine):
    """Both graphs in onnxruntime on the CPU, from memory; nothing is read from disk.

    `threads`: None takes every core this process may use. `max_batch`: None for 1, as more gain nothing.
    Raises EngineError when a graph cannot be loaded or is not what it is said to be.
    """

    def __init__(self, networks: Networks, *, threads: int | None = None, max_batch: int | None = None) -> None:
        size, channels, precision = networks.size, networks.channels, networks.precision
        spec = EngineSpec(NAME, precision, size, channels, max_batch or 1, networks.has_reason)
        threads = threads or len(os.sched_getaffinity(0))

        def open_graph(name: str, graph: bytes, ranks: dict[str, int]) -> Graph:
            return Graph(name, graph, (channels, *size), ranks, precision, threads)

        super().__init__(spec, open_graph, networks)


class Graph:
    """One ONNX graph, open on the CPU, that takes uint8 images (n, channels, height, width): an `OpenGraph`.

    `ranks`: names of the outputs and their number of dimensions; all float32, the first dimension is n.
    """

    def __init__(
        self,
        name: str,
        graph: bytes,
        image: tuple[int, int, int],
        ranks: dict[str, int],
        precision: str,
        threads: int,
    ) -> None:
        self._name = name
        self._session = _open_session(name, graph, precision, threads)
        self._check_input(image)
        self._shapes = {output: self._output_shape(output, rank) for output, rank in ranks.items()}

    def run(self, image: Batch) -> dict[str, npt.NDArray[np.float32]]:
        try:
            values = self._session.run(list(self._shapes), {IMAGE_INPUT: image})
        except _ORT_ERRORS as error:
            raise EngineError(
                f"{self._name} failed on an image of shape {image.shape}: {_first_line(error)}",
                hint="if it happens again, check free memory",
            ) from error
        outputs = dict(zip(self._shapes, values, strict=True))
        check_outputs(self._name, outputs, self._shapes)
        return outputs

    def _check_input(self, image: tuple[int, int, int]) -> None:
        inputs = [(node.name, node.type, list(node.shape)) for node in self._session.get_inputs()]
        ok = len(inputs) == 1 and inputs[0][:2] == (IMAGE_INPUT, "tensor(uint8)")
        ok = ok and len(inputs[0][2]) == 4 and not isinstance(inputs[0][2][0], int) and tuple(inputs[0][2][1:]) == image
        if not ok:
            raise EngineError(
                f"{self._name} takes {inputs}, the manifest says {IMAGE_INPUT}, uint8 {('n', *image)}",
                hint=EXPORT_AGAIN,
            )

    def _output_shape(self, output: str, rank: int) -> tuple[int, ...]:
        """Sizes after the batch, all fixed at export."""
        nodes = {node.name: node for node in self._session.get_outputs()}
        node = nodes.get(output)
        if node is None or node.type != "tensor(float)" or len(node.shape) != rank:
            found = [(name, node.type, list(node.shape)) for name, node in nodes.items()]
            raise EngineError(
                f"{self._name} has no output {output}, float32 with {rank} dimensions, but {found}", hint=EXPORT_AGAIN
            )
        tail = tuple(node.shape[1:])
        if isinstance(node.shape[0], int) or not all(isinstance(side, int) and side > 0 for side in tail):
            raise EngineError(
                f"{self._name} has output {output} of shape {list(node.shape)}, expected a free batch and fixed sides",
                hint=EXPORT_AGAIN,
            )
        return tail


def session_options(precision: str, threads: int) -> Any:
    """How every graph is opened: an `onnxruntime.SessionOptions`."""
    _share_one_arena()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_ERRORS_ONLY
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_mem_pattern = False
    # Spinning threads would take the cores from reading and converting the next scans.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.use_env_allocators", "1")
    # Weights that are merely stored as int8 become float32 here, once. Only an int8 model computes in int8.
    options.add_session_config_entry("session.disable_quant_qdq", "0" if precision == "int8" else "1")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NO_FOLDER)
    return options


@cache
def _share_one_arena() -> None:
    """The networks run in turn, so one arena as large as the larger one's activations serves both; once a process.

    It grows by what is asked for, not by doubling: activations are few and huge.
    """
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    same_as_requested = onnxruntime.OrtArenaCfg({"arena_extend_strategy": 1})
    onnxruntime.create_and_register_allocator(memory, same_as_requested)


def _open_session(name: str, graph: bytes, precision: str, threads: int) -> Any:
    options = session_options(precision, threads)
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=PROVIDERS)
    except _ORT_ERRORS as error:
        raise EngineError(
            f"onnxruntime {onnxruntime.__version__} cannot load {name}: {_first_line(error)}", hint=EXPORT_AGAIN
        ) from error
    session.disable_fallback()
    if (got := session.get_providers()) != PROVIDERS:
        raise EngineError(
            f"onnxruntime runs {name} on {got}, asked for {PROVIDERS}",
            hint="reinstall onnxruntime; the installed build lacks what was asked for",
        )
    return session


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or repr(error)
