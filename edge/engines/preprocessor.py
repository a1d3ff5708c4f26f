"""From counts to scores: what the decode pool makes of a scan, and how the engine takes it.

On a CPU engine the pool converts and the engine gets images. An engine that converts on its device gets raw scans.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from edge.engines import Engine, EngineOutput, RawEngine
from edge.engines.tensorrt.kernel_args import METHODS, RawScan, raw_scan
from edge.images.conversion import Histogram, prepare
from edge.images.spec import InputSpec
from edge.records import Counts, Image

Pixels = Image | RawScan
"""A scan as an engine takes it: all scans of one engine are of one of the two types."""


class Preprocessor:
    """The way of a scan into one engine: `prepare` in any thread, `infer` in the engine's."""

    def __init__(self, engine: Engine, spec: InputSpec) -> None:
        """`spec`: the scans the model takes and what they become."""
        self.spec = spec
        self.max_batch = engine.spec.max_batch
        self._engine = engine
        self._raw_engine = engine if isinstance(engine, RawEngine) and spec.method in METHODS else None

    def prepare(self, counts: Counts, hist: Histogram | None = None) -> Pixels:
        """What `infer` takes. `hist`: the counts' histogram where it is known. Raises ValueError for no scan."""
        make = prepare if self._raw_engine is None else raw_scan
        return make(counts, self.spec.method, self.spec.bounds, self.spec.size, hist)

    def infer(self, scans: Sequence[Pixels]) -> EngineOutput:
        """Score 1 to `max_batch` prepared scans. Raises EngineError."""
        if self._raw_engine is not None:
            return self._raw_engine.infer_raw(cast(Sequence[RawScan], scans))
        images = cast(Sequence[Image], scans)
        return self._engine.infer(images[0][np.newaxis] if len(images) == 1 else np.stack(images))
