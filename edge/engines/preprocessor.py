"""From counts to scores: what the decode pool makes of a scan, and how the engine takes it.

On a CPU engine the pool converts and the engine gets images. An engine that converts on its device gets raw scans.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np

from edge.engines import Engine, EngineOutput, RawEngine
from edge.engines.tensorrt.kernel_args import METHODS, RawScan, raw_scan
from edge.images.conversion import prepare
from edge.images.spec import InputSpec
from edge.records import Counts, Image

Pixels = TypeVar("Pixels", Image, RawScan)


@dataclass(frozen=True, slots=True)
class Front(Generic[Pixels]):
    """The two halves of one engine's way in; `infer` takes what `prepare` made, at most `max_batch` of it."""

    spec: InputSpec
    """The scans it is for."""
    prepare: Callable[[Counts], Pixels]
    """Runs in any thread. Raises ValueError for counts that are no scan."""
    infer: Callable[[Sequence[Pixels]], EngineOutput]
    """Runs in the engine's thread. Raises EngineError."""
    max_batch: int


def front_of(engine: Engine, spec: InputSpec) -> Front[Any]:
    """The way of this engine."""
    if isinstance(engine, RawEngine) and spec.method in METHODS:
        to_raw = partial(raw_scan, method=spec.method, bounds=spec.bounds, size=spec.size)
        return Front(spec, to_raw, engine.infer_raw, engine.spec.max_batch)
    to_image = partial(prepare, method=spec.method, bounds=spec.bounds, size=spec.size)
    return Front(spec, to_image, partial(_infer_images, engine), engine.spec.max_batch)


def _infer_images(engine: Engine, images: Sequence[Image]) -> EngineOutput:
    return engine.infer(images[0][np.newaxis] if len(images) == 1 else np.stack(images))
