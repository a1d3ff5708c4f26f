"""Engines run the two networks of a model on one device.

An open engine is always usable: opening raises or succeeds, `infer` raises `EngineError` or returns
numbers of the promised shapes. The image that enters is the converted uint8 scan; everything after
it (cast, scale, normalise, networks, softmax, residual statistics) is inside the graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from edge.engines.tensorrt.kernel_args import RawScan
from edge.errors import EngineError
from edge.records import Scores, Size

IMAGE_INPUT = "image"
CLASSIFIER_OUTPUTS = ("p_abnormal",)
GATE_OUTPUTS = ("gate_mean_max", "gate_std_max", "residual_map")
"""The names the graphs of every model give to their input and outputs."""
REASON_MAP = "reason_map"
"""One more output of the classifier, in models whose manifest says so."""
MAPS = frozenset({"residual_map", REASON_MAP})
"""Outputs (n, map_height, map_width); the others are (n,)."""

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
    has_reason: bool = False
    """Whether the classifier tells where its answer comes from."""
    degraded: str | None = None
    """Why this is not the engine that was asked for; None when it is."""


@dataclass(frozen=True, slots=True)
class EngineOutput:
    """Scores of n scans, owned by the caller.

    `p_abnormal`, `gate_mean_max`, `gate_std_max`: float32 (n,).
    `residual_map`: float32 (n, map_height, map_width), the largest |residual window mean| per cell.
    `reason_map`: float32 (n, map_height, map_width), of another size: what each place says of log(p / (1 - p)), which
    is its mean. None where the model has none.
    """

    p_abnormal: npt.NDArray[np.float32]
    gate_mean_max: npt.NDArray[np.float32]
    gate_std_max: npt.NDArray[np.float32]
    residual_map: npt.NDArray[np.float32]
    reason_map: npt.NDArray[np.float32] | None = None

    def scores(self) -> list[Scores]:
        """Scan by scan."""
        columns = (self.p_abnormal.tolist(), self.gate_mean_max.tolist(), self.gate_std_max.tolist())
        return [Scores(*row) for row in zip(*columns, strict=True)]


class Engine(Protocol):
    """The networks of one model, open on one device."""

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
    credentials: Path | None = None
    """Where systemd shows secrets to this service alone; None outside of one."""
    may_build: bool = True
    """False: what is stored is opened, and nothing is built, written or made."""


def classifier_outputs(has_reason: bool) -> tuple[str, ...]:
    """The outputs of a classifier's graph."""
    return (*CLASSIFIER_OUTPUTS, REASON_MAP) if has_reason else CLASSIFIER_OUTPUTS


def rank_of(output: str) -> int:
    """Dimensions of an output; the first one is the batch."""
    return 3 if output in MAPS else 1


def check_batch(images: Batch, spec: EngineSpec) -> None:
    """Raises EngineError unless `images` are uint8 (1..max_batch, channels, height_px, width_px)."""
    wanted = (spec.channels, *spec.size)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != wanted:
        raise EngineError(
            f"images are {images.dtype} {images.shape}, this model takes uint8 (n, {', '.join(map(str, wanted))})",
            hint="convert the scan with the conversion and the size of the model",
        )
    check_count(len(images), "images", spec)


def check_count(count: int, what: str, spec: EngineSpec) -> None:
    """Raises EngineError for an empty batch, or one that is larger than the engine takes."""
    if not 1 <= count <= spec.max_batch:
        raise EngineError(
            f"{count} {what} at once, this engine takes 1 to {spec.max_batch}",
            hint="give smaller batches or open the engine with a larger `max_batch`",
        )
