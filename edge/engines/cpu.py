"""What the CPU engines share: a classifier and a gate, opened by one runtime, checked alike and closed together.

A batch is computed scan by scan: together they take as long (2.0 s each at 2000 x 1000, 2 cores) and 0.7 GB more, and
a graph with a quick pass would compute all of them again for one that is doubtful.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from edge.engines import GATE_OUTPUTS, Batch, EngineOutput, EngineSpec, check_batch, classifier_outputs, rank_of
from edge.errors import EngineError
from edge.records import Size

EXPORT_AGAIN: Final = "export the model again with an `edge-export` of the same release as this program"


class Networks(Protocol):
    """What an engine is opened with: a verified model is such a thing, `PairOfNetworks` another."""

    @property
    def classifier(self) -> bytes: ...
    @property
    def gate(self) -> bytes: ...
    @property
    def size(self) -> Size: ...
    @property
    def channels(self) -> int: ...
    @property
    def precision(self) -> str: ...
    @property
    def has_reason(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class PairOfNetworks:
    """Two ONNX graphs that are in no model, or not yet."""

    classifier: bytes
    gate: bytes
    size: Size
    """Size of the image the graphs take, px."""
    channels: int
    precision: str = "fp32"
    has_reason: bool = False
    """Whether the classifier has an output `reason_map`."""


class OpenGraph(Protocol):
    """One ONNX graph, open in some runtime."""

    def run(self, image: Batch) -> dict[str, npt.NDArray[np.float32]]:
        """All outputs of one scan (1, channels, height_px, width_px), by name, owned by the caller.

        Raises EngineError unless each has the shape it promised.
        """
        ...


OpenOne = Callable[[str, bytes, dict[str, int]], OpenGraph]
"""Opens a graph by the name it goes by in messages, its bytes, and its outputs with their dimensions."""


class CpuEngine:
    """Both graphs, open. One thread calls `infer`."""

    def __init__(self, spec: EngineSpec, open_graph: OpenOne, networks: Networks) -> None:
        self._spec = spec
        self._classifier: OpenGraph | None = open_graph(
            "classifier.onnx", networks.classifier, _ranks(classifier_outputs(spec.has_reason))
        )
        self._gate: OpenGraph | None = open_graph("gate.onnx", networks.gate, _ranks(GATE_OUTPUTS))

    @property
    def spec(self) -> EngineSpec:
        return self._spec

    def infer(self, images: Batch) -> EngineOutput:
        """Score a batch: see `Engine.infer`. A NaN among the scores is handed on: the engine does not judge it."""
        if self._classifier is None or self._gate is None:
            raise EngineError("the engine is closed", hint="open it again: an engine cannot be used after close()")
        check_batch(images, self._spec)
        each = [{**self._gate.run(image), **self._classifier.run(image)} for image in np.split(images, len(images))]
        return EngineOutput(**{name: np.concatenate([outputs[name] for outputs in each]) for name in each[0]})

    def close(self) -> None:
        """Free both networks; a second call does nothing."""
        self._classifier = self._gate = None


def check_outputs(graph: str, outputs: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises EngineError unless each output of a graph for one scan is float32 (1, *shape)."""
    for name, shape in shapes.items():
        value, expected = outputs[name], (1, *shape)
        if not isinstance(value, np.ndarray) or value.dtype != np.float32 or value.shape != expected:
            found = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
            raise EngineError(f"{graph} returned {name} as {found}, expected float32 {expected}", hint=EXPORT_AGAIN)


def _ranks(outputs: tuple[str, ...]) -> dict[str, int]:
    return {name: rank_of(name) for name in outputs}
