"""A program, `python -m edge.engines.tensorrt.build_plan FOLDER`: one ONNX graph to a plan for this GPU.

It runs in a process of its own, because a build may take minutes, gigabytes and, in a library of this size, the whole
process down. FOLDER holds `job.json`, `graph.onnx` and perhaps `timing.cache`; the program adds `plan`, `timing.cache`
and, when it fails, `error.json` with what and what to try.

Precision lives in the graph: the network is strongly typed, which both TensorRT 10 and 11 know, so nothing here asks
for a version. Weights that a float32 model stores as int8 or float16 only to be small are expanded first, by
onnxruntime's constant folding; a graph that computes in float16 or int8 is built as it is. What a float32 model
promises is float32: TF32, which TensorRT takes for it by default, has 10 bits of mantissa and is switched off.

NaNs are strict, where the release can have them so: else TensorRT may take `0 x` for 0 whatever x is, and with it the
gate's way of refusing a scan whose residual is not finite.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import tensorrt as trt

from edge.engines import IMAGE_INPUT
from edge.engines.tensorrt.log import TRT_ERRORS, TrtLog
from edge.system.logs import configure_logging

JOB, GRAPH, PLAN, TIMING, ERROR = "job.json", "graph.onnx", "plan", "timing.cache", "error.json"
EXIT_FAILED = 70
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Job:
    """What to build: the shape of the image, the largest batch, and what may be used up for it."""

    name: str
    channels: int
    height_px: int
    width_px: int
    max_batch: int
    outputs: tuple[str, ...]
    workspace_bytes: int
    is_float32: bool


class BuildFailed(Exception):
    """With a hint, as all errors of the line; the parent process makes it one of them."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def main(folder: Path) -> int:
    job = Job(**json.loads((folder / JOB).read_text(encoding="utf-8")))
    try:
        graph = expand_weights(folder) if job.is_float32 else (folder / GRAPH).read_bytes()
        timing_file = folder / TIMING
        plan, timing = build(job, graph, timing_file.read_bytes() if timing_file.exists() else b"")
    except BuildFailed as error:
        (folder / ERROR).write_text(json.dumps({"message": str(error), "hint": error.hint}), encoding="utf-8")
        return EXIT_FAILED
    (folder / PLAN).write_bytes(plan)
    if timing:
        timing_file.write_bytes(timing)
    else:
        timing_file.unlink(missing_ok=True)
    return 0


def expand_weights(folder: Path) -> bytes:
    """The graph with the weights it computes with: stored int8 or float16 folded to float32, nothing else changed."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    target = folder / "expanded.onnx"
    options.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(str(folder / GRAPH), options, providers=["CPUExecutionProvider"])
    return target.read_bytes()


def build(job: Job, graph: bytes, timing: bytes) -> tuple[bytes, bytes]:
    """The plan and the timing cache to start the next build with. Raises BuildFailed."""
    log = TrtLog()
    try:
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        if not parser.parse(graph):
            errors = [str(parser.get_error(index).desc()) for index in range(min(parser.num_errors, 5))]
            raise BuildFailed(
                f"TensorRT cannot read {job.name}.onnx: {'; '.join(errors) or log.last_words()}",
                "a layer this TensorRT does not know: install a newer one, export with another --precision, "
                'or set `model.engine = "onnxruntime"`',
            )
        _check_network(job, network)
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace_bytes)
        _set_flags(job, config)
        _use_timing(config, timing)
        profile = builder.create_optimization_profile()
        smallest, largest = ([n, job.channels, job.height_px, job.width_px] for n in (1, job.max_batch))
        profile.set_shape(IMAGE_INPUT, trt.Dims(smallest), trt.Dims(largest), trt.Dims(largest))
        config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BuildFailed(f"TensorRT built no plan of {job.name}.onnx: {log.last_words()}", _hint(log, job))
        return bytes(plan), _timing_of(config)
    except TRT_ERRORS as error:
        raise BuildFailed(
            f"TensorRT failed on {job.name}.onnx: {error}; {log.last_words()}", _hint(log, job)
        ) from error


def _set_flags(job: Job, config: trt.IBuilderConfig) -> None:
    """What the plan may compute; edge/engines/tensorrt/plans.py has it among the facts of a plan."""
    if hasattr(trt.BuilderFlag, "STRICT_NANS"):
        config.set_flag(trt.BuilderFlag.STRICT_NANS)
    if job.is_float32:
        config.clear_flag(trt.BuilderFlag.TF32)


def _use_timing(config: trt.IBuilderConfig, timing: bytes) -> None:
    """Start from an earlier build's timing cache, or from an empty one: one that does not fit costs time, no build."""
    for data in (timing, b""):
        with contextlib.suppress(*TRT_ERRORS):
            cache = config.create_timing_cache(data)
            if cache is not None and config.set_timing_cache(cache, False):
                return


def _timing_of(config: trt.IBuilderConfig) -> bytes:
    """What the next build can start from; empty where TensorRT would have no cache."""
    with contextlib.suppress(*TRT_ERRORS):
        return bytes(config.get_timing_cache().serialize())
    return b""


def _check_network(job: Job, network: trt.INetworkDefinition) -> None:
    """A graph that parses but has other inputs or outputs than the line asks for is refused before it is built."""
    inputs = [network.get_input(index).name for index in range(network.num_inputs)]
    outputs = [network.get_output(index).name for index in range(network.num_outputs)]
    if inputs != [IMAGE_INPUT] or set(outputs) != set(job.outputs):
        raise BuildFailed(
            f"{job.name}.onnx has inputs {inputs} and outputs {outputs}, expected [{IMAGE_INPUT!r}] and "
            f"{list(job.outputs)}",
            "export the model again with an `edge-export` of the same release as this program",
        )


def _hint(log: TrtLog, job: Job) -> str:
    if "memory" in log.last_words().lower():
        return (
            f"too little GPU memory: end other programs on the GPU, lower `model.max_batch` (the profile is "
            f"1..{job.max_batch}) or `tensorrt.workspace_bytes` ({job.workspace_bytes})"
        )
    return 'report the words above; until then set `model.engine = "onnxruntime"`'


if __name__ == "__main__":
    # A stop ends the worker at once, wherever it is: no build of minutes goes on behind it.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    configure_logging("warning", "text")  # where it dies, the last line it wrote is all there is to tell
    sys.exit(main(Path(sys.argv[1])))
