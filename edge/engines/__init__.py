"""Engines run the two networks of a bundle on one device.

An open engine is always usable: opening raises or succeeds, `infer` raises `EngineError` or returns
numbers of the promised shapes. The image that enters is the converted uint8 scan; everything after
it (cast, scale, normalise, networks, softmax, residual statistics) is inside the graphs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from edge.errors import EngineError
from edge.raw import RawScan
from edge.records import Image, Size

if TYPE_CHECKING:
    from edge.bundle import Bundle

log = logging.getLogger(__name__)

GPU_NODES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/nvhost-gpu")
"""Where a driver shows itself; the last one is a Jetson's."""

IMAGE_INPUT = "image"
CLASSIFIER_OUTPUTS = ("p_abnormal",)
GATE_OUTPUTS = ("gate_mean_max", "gate_std_max", "residual_map")
"""The names the graphs of every bundle give to their input and outputs."""

CpuEngine = Literal["onnxruntime", "openvino"]
CPU_ENGINES: Final[tuple[CpuEngine, ...]] = ("onnxruntime", "openvino")
"""The first is part of the base installation."""

Batch = npt.NDArray[np.uint8]
"""Converted scans: uint8, shape (n, channels, height_px, width_px)."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an open engine takes and what runs it."""

    name: str
    """`onnxruntime`, `openvino` or `tensorrt`."""
    precision: str
    size: Size
    channels: int
    max_batch: int
    degraded: str | None = None
    """Why this is not the engine that was asked for; None when it is."""


@dataclass(frozen=True, slots=True)
class EngineOutput:
    """Scores of n scans, owned by the caller.

    `p_abnormal`, `gate_mean_max`, `gate_std_max`: float32 (n,).
    `residual_map`: float32 (n, map_height, map_width), the largest |residual window mean| per cell.
    """

    p_abnormal: npt.NDArray[np.float32]
    gate_mean_max: npt.NDArray[np.float32]
    gate_std_max: npt.NDArray[np.float32]
    residual_map: npt.NDArray[np.float32]


class Engine(Protocol):
    """The networks of one bundle, open on one device."""

    @property
    def spec(self) -> EngineSpec: ...

    def infer(self, images: Batch) -> EngineOutput:
        """Score a batch (n <= spec.max_batch). Raises EngineError; never returns partial output."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class RawEngine(Engine, Protocol):
    """An engine that also converts on its device: the scan crosses the bus once, as it was read."""

    def infer_raw(self, scans: Sequence[RawScan]) -> EngineOutput:
        """`infer` of the images that `scans` become. Raises EngineError."""
        ...


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """Where engines built for this machine are kept, and what building one may use."""

    folder: Path
    key_file: Path
    workspace_bytes: int
    build_timeout_s: float


class Degraded:
    """An engine that stands in for another, and says so in every verdict."""

    def __init__(self, engine: Engine, why: str) -> None:
        self._engine = engine
        self._spec = replace(engine.spec, degraded=why)

    @property
    def spec(self) -> EngineSpec:
        return self._spec

    def infer(self, images: Batch) -> EngineOutput:
        return self._engine.infer(images)

    def close(self) -> None:
        self._engine.close()


def open_engine(
    bundle: Bundle,
    name: str = "auto",
    *,
    cpu_engine: CpuEngine = "onnxruntime",
    threads: int | None = None,
    max_batch: int | None = None,
    plans: PlanSettings | None = None,
) -> Engine:
    """Open the networks of a verified bundle: `onnxruntime`, `openvino`, `tensorrt`, or `auto` for the best there is.

    `auto` wants TensorRT where the machine has a GPU's driver or TensorRT installed, and `plans` says where its
    engines are; where that fails, the CPU runs the networks and the spec says why. `cpu_engine`: what `auto` means on
    a CPU; where it does not open, onnxruntime it is. `threads`: of the CPU, None for all this process may use.
    `max_batch`: None for the engine's own choice. Raises EngineError.
    """
    if name == "tensorrt" or (name == "auto" and plans is not None and gpu_is_expected()):
        if plans is None:
            raise EngineError(
                "no folder for built engines was given",
                hint="`edge-worker` has one, and --build-engine fills it; else choose `onnxruntime`",
            )
        from edge.engines.on_device import open_tensorrt

        try:
            return open_tensorrt(bundle, plans, max_batch=max_batch)
        except EngineError as error:
            if name == "tensorrt":
                raise
            log.error("no GPU: the CPU runs the networks", extra={"fields": {"why": error.message, "try": error.hint}})
            cpu = open_engine(bundle, cpu_engine=cpu_engine, threads=threads, max_batch=max_batch)
            return Degraded(cpu, f"TensorRT: {error.message}")
    if name == "auto" and cpu_engine == "openvino":
        try:
            return open_engine(bundle, cpu_engine, threads=threads, max_batch=max_batch)
        except EngineError as error:
            fields = {"engine": cpu_engine, "error": error.message, "hint": error.hint}
            log.warning("the faster engine does not open, onnxruntime judges", extra={"fields": fields})
    if name in ("auto", "onnxruntime"):
        # Imported when chosen: a line that runs another engine needs no onnxruntime.
        from edge.engines.ort import open_onnxruntime

        return open_onnxruntime(bundle, threads=threads, max_batch=max_batch)
    if name == "openvino":
        try:
            from edge.engines.ov import open_openvino
        except ImportError as error:
            raise EngineError(
                f"the engine `openvino` is not installed: {error}",
                hint="pip install 'electrode-line[openvino]', or set `model.engine = \"onnxruntime\"`",
            ) from error
        return open_openvino(bundle, threads=threads, max_batch=max_batch)
    raise EngineError(
        f"there is no engine {name!r}", hint="`model.engine` is one of auto, onnxruntime, openvino, tensorrt"
    )


def gpu_is_expected() -> bool:
    """Whether somebody meant this machine to run on a GPU: a driver is loaded, or TensorRT was installed."""
    return any(Path(node).exists() for node in GPU_NODES) or find_spec("tensorrt") is not None


def check_batch(images: Batch, spec: EngineSpec) -> None:
    """Raises EngineError unless `images` are uint8 (1..max_batch, channels, height_px, width_px)."""
    wanted = (spec.channels, *spec.size)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != wanted:
        raise EngineError(
            f"images are {images.dtype} {images.shape}, this model takes uint8 (n, {', '.join(map(str, wanted))})",
            hint="convert the scan with the conversion and the size of the bundle",
        )
    if not 1 <= len(images) <= spec.max_batch:
        raise EngineError(
            f"{len(images)} images at once, this engine takes 1 to {spec.max_batch}",
            hint="give smaller batches or open the engine with a larger `max_batch`",
        )


__all__ = ["Batch", "Engine", "EngineOutput", "EngineSpec", "Image", "check_batch", "open_engine"]
