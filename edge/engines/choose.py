"""Opening the engine that the settings ask for, or the best there is."""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

from edge.engines import Batch, Engine, EngineOutput, EngineSpec, PlanSettings
from edge.engines.cpu import Networks
from edge.errors import EngineError, library_error
from edge.model.signed_model import SignedModel
from edge.system.logs import event

log = logging.getLogger(__name__)

GPU_NODES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/nvhost-gpu")
"""Where a driver shows itself; the last one is a Jetson's."""

CpuEngine = Literal["onnxruntime", "openvino"]
CPU_ENGINES: Final[tuple[CpuEngine, ...]] = ("onnxruntime", "openvino")
"""The first is part of the base installation."""


class Degraded:
    """An engine that stands in for another, and says so in every verdict."""

    def __init__(self, engine: Engine, why: str, hint: str) -> None:
        self._engine = engine
        self.why = why
        self.hint = hint
        """What to try."""
        self._spec = replace(engine.spec, degraded=why)

    @property
    def spec(self) -> EngineSpec:
        return self._spec

    def infer(self, images: Batch) -> EngineOutput:
        return self._engine.infer(images)

    def close(self) -> None:
        self._engine.close()


def open_engine(
    model: SignedModel,
    name: str = "auto",
    *,
    threads: int | None = None,
    max_batch: int | None = None,
    plans: PlanSettings | None = None,
) -> Engine:
    """Open the networks of a verified model: `onnxruntime`, `openvino`, `tensorrt`, or `auto` for the best there is.

    `auto` wants TensorRT where the machine has a GPU's driver or TensorRT installed, and `plans` says where its
    engines are. Where that fails, and without a GPU, onnxruntime runs the networks on the CPU; in the first case the
    spec says why. `threads`: of the CPU, None for all this process may use. `max_batch`: None for the engine's own
    choice. Raises EngineError.
    """
    if name == "tensorrt" or (name == "auto" and plans is not None and gpu_is_expected()):
        if plans is None:
            raise EngineError(
                "no folder for built engines was given",
                hint="the settings have one, and `edge-worker model build` fills it; else choose `onnxruntime`",
            )
        from edge.engines.tensorrt.open import open_tensorrt

        try:
            return open_tensorrt(model, plans, max_batch=max_batch)
        except EngineError as error:
            if name == "tensorrt":
                raise
            event(log.error, "no GPU: the CPU runs the networks", why=error.message, hint=error.hint)
            cpu = open_on_cpu(model, "onnxruntime", threads=threads, max_batch=max_batch)
            return Degraded(cpu, f"TensorRT: {error.message}", error.hint)
    if name in ("auto", "onnxruntime"):
        return open_on_cpu(model, "onnxruntime", threads=threads, max_batch=max_batch)
    if name == "openvino":
        return open_on_cpu(model, "openvino", threads=threads, max_batch=max_batch)
    raise EngineError(
        f"there is no engine {name!r}", hint="`model.engine` is one of auto, onnxruntime, openvino, tensorrt"
    )


def open_on_cpu(
    networks: Networks, name: CpuEngine, *, threads: int | None = None, max_batch: int | None = None
) -> Engine:
    """Open two networks, of a model or not, on the CPU; options as of `open_engine`. Raises EngineError."""
    # Imported when chosen: a line that runs another engine needs no onnxruntime.
    if name == "onnxruntime":
        try:
            from edge.engines.ort import OrtEngine
        except ImportError as error:
            raise library_error(error) from error
        return OrtEngine(networks, threads=threads, max_batch=max_batch)
    try:
        from edge.engines.ov import OvEngine
    except ImportError as error:
        raise EngineError(
            f"the engine `openvino` is not installed: {error}",
            hint="pip install 'electrode-line[openvino]', or set `model.engine = \"onnxruntime\"`",
        ) from error
    return OvEngine(networks, threads=threads, max_batch=max_batch)


def gpu_is_expected() -> bool:
    """Whether somebody meant this machine to run on a GPU: a driver is loaded, or TensorRT was installed."""
    return any(Path(node).exists() for node in GPU_NODES) or find_spec("tensorrt") is not None
