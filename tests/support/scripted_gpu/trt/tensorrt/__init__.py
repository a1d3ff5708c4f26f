"""The part of TensorRT that the line uses, without a GPU: a plan is the ONNX graph, onnxruntime runs it.

A test holds every name here against the signatures of TensorRT 10 and 11. Which release it plays, and what it fails
at, the JSON in the environment variable SCRIPTED_GPU says.
"""

from __future__ import annotations

import json
import os
import signal
import time
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.support.scripted_gpu.script import script

if TYPE_CHECKING:
    import onnx

__version__ = script("tensorrt", "11.4.0.106")


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity = Severity
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class DataType(Enum):
    """By ONNX's numbers."""

    FLOAT = 1
    UINT8 = 2
    INT64 = 7
    HALF = 10


class MemoryPoolType(Enum):
    WORKSPACE = 0


class BuilderFlag:
    """STRICT_NANS is not in every release."""

    TF32 = "TF32"
    STRICT_NANS = "STRICT_NANS"


if script("no_strict_nans"):
    del BuilderFlag.STRICT_NANS


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 1


class Dims:
    def __init__(self, shape: list[int]) -> None:
        self._shape = shape

    def __len__(self) -> int:
        return len(self._shape)

    def __getitem__(self, axis: int) -> int:
        return self._shape[axis]


class ITensor:
    def __init__(self, name: str) -> None:
        self.name = name


class INetworkDefinition:
    graph: onnx.ModelProto

    @property
    def num_inputs(self) -> int:
        return len(self.graph.graph.input)

    @property
    def num_outputs(self) -> int:
        return len(self.graph.graph.output)

    def get_input(self, index: int) -> ITensor:
        return ITensor(self.graph.graph.input[index].name)

    def get_output(self, index: int) -> ITensor:
        return ITensor(self.graph.graph.output[index].name)


class ParserError:
    def desc(self) -> str:
        return "No importer registered for op: Wobble"


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = network

    def parse(self, model: bytes) -> bool:
        import onnx  # gpu-check takes this module where neither ONNX nor its runtime is

        self._network.graph = onnx.load_from_string(model)
        return not script("unsupported_layer")

    @property
    def num_errors(self) -> int:
        return 1

    def get_error(self, index: int) -> ParserError:
        return ParserError()


class IHostMemory(bytes):
    pass


class ITimingCache:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._data + b"timed")


class IOptimizationProfile:
    largest: Dims

    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None:  # noqa: A002 - TensorRT's names
        self.largest = max


class IBuilderConfig:
    profile: IOptimizationProfile
    cache: ITimingCache | None = None

    def __init__(self) -> None:
        self._flags = {BuilderFlag.TF32}

    def set_flag(self, flag: str) -> None:
        self._flags.add(flag)

    def clear_flag(self, flag: str) -> None:
        self._flags.discard(flag)

    def get_flag(self, flag: str) -> bool:
        return flag in self._flags

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        assert pool is MemoryPoolType.WORKSPACE
        assert pool_size > 0

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        if serialized_timing_cache and script("timing_cache") == "not created":
            return None
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache | None, ignore_mismatch: bool) -> bool:
        if not isinstance(cache, ITimingCache):
            raise TypeError("set_timing_cache(): incompatible function arguments")
        if script("timing_cache") == "never set" or (cache._data and script("timing_cache") == "not set"):
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self.cache

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profile = profile
        return 0


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def create_network(self, flags: int) -> INetworkDefinition:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        if script("hangs"):
            time.sleep(600)
        if script("dies"):
            os.write(2, b"words of a library \xff\n")
            self._logger.log(Severity.ERROR, "[tuner] about to die")
            os.kill(os.getpid(), signal.SIGKILL)
        if script("no_memory"):
            self._logger.log(Severity.ERROR, "[defaultAllocator] Requested amount of GPU memory could not be allocated")
            return None
        if script("empty_plan"):
            return IHostMemory(b"")
        flags = [flag for flag in ("TF32", "STRICT_NANS") if config.get_flag(flag)]
        if "STRICT_NANS" not in flags:
            _fold_products_with_zero(network.graph.graph)
        head = {
            "version": __version__,
            "max_batch": config.profile.largest[0],
            "offset": script("wrong_scores", 0.0),
            "offset_in_batches": script("wrong_in_batches", script("wrong_scores", 0.0)),
            "flags": flags,
        }
        return IHostMemory(b"PLAN" + json.dumps(head).encode() + b"\0" + network.graph.SerializeToString())


def _fold_products_with_zero(graph: onnx.GraphProto) -> None:
    """x * 0 becomes 0 whatever x is, as TensorRT may take it without STRICT_NANS."""
    import onnx

    zeros = {constant.name for constant in graph.initializer if not onnx.numpy_helper.to_array(constant).any()}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        factor = next((name for name in node.input if node.op_type == "Mul" and name not in zeros), None)
        if factor is None or not zeros & set(node.input):
            graph.node.append(node)
            continue
        shape = f"shape of {node.output[0]}"
        graph.node.append(onnx.helper.make_node("Shape", [factor], [shape]))
        graph.node.append(onnx.helper.make_node("ConstantOfShape", [shape], [node.output[0]]))  # of float32 0


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        head, _, graph = serialized_engine.removeprefix(b"PLAN").partition(b"\0")
        if not serialized_engine.startswith(b"PLAN") or json.loads(head)["version"] != __version__:
            self._logger.log(Severity.ERROR, "Version tag does not match")
            return None
        return ICudaEngine(json.loads(head), graph)


class ICudaEngine:
    def __init__(self, head: dict[str, Any], graph: bytes) -> None:
        import onnx
        import onnxruntime

        self.head, self.session = head, onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        model = onnx.load_from_string(graph).graph
        self._tensors = {value.name: value.type.tensor_type for value in (*model.input, *model.output)}

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType(self._tensors[name].elem_type)

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims([-1 if side.dim_param else side.dim_value for side in self._tensors[name].shape.dim])

    def create_execution_context(self) -> IExecutionContext | None:
        return None if script("no_context") else IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        from tests.support.scripted_gpu.stream import Room  # a build needs no pycuda

        self._engine = engine
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}
        most = engine.head["max_batch"]
        _, *image = engine.get_tensor_shape("image")._shape
        self._room = Room((most, *image), [most * size_bytes for size_bytes in self._sizes().values()])

    def _sizes(self) -> dict[str, int]:
        """Bytes of each output for one image."""
        names = [output.name for output in self._engine.session.get_outputs()]
        return {name: -4 * int(np.prod(self._engine.get_tensor_shape(name)._shape)) for name in names}  # batch: -1

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = shape
        return bool(shape[0] <= self._engine.head["max_batch"])

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        if script("refuses_to_run"):
            return False
        session, shape, sizes = self._engine.session, self._shape, self._sizes()
        outputs = [(self._addresses[name], shape[0] * size_bytes) for name, size_bytes in sizes.items()]
        offset = np.float32(self._engine.head["offset_in_batches" if shape[0] > 1 else "offset"])

        def work(image: np.ndarray) -> list[np.ndarray]:
            return [value + offset for value in session.run(list(sizes), {"image": image})]

        self._room.run(stream_handle, self._addresses["image"], shape, outputs, work)
        return True
