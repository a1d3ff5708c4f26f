"""Which engine of the CPU is faster here: `edge-worker model tune` measures it, the operator writes it down."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from edge.engines.choose import CPU_ENGINES, CpuEngine, open_engine
from edge.engines.golden import check_golden, golden_image
from edge.errors import EdgeError
from edge.model.signed_model import SignedModel

ROUNDS: Final = 5


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a measurement found."""

    seconds: dict[CpuEngine, float]
    """Median time per scan of each engine that reproduced the golden scans."""
    failures: dict[CpuEngine, str]
    """Why an engine took no part."""

    @property
    def faster(self) -> CpuEngine:
        return min(self.seconds, key=lambda name: self.seconds[name])


def tune(model: SignedModel, *, threads: int | None, clock: Callable[[], float] = time.perf_counter) -> Tuned:
    """Measure each engine of the CPU on a golden scan, one after the other.

    Raises EngineError or ModelError where none can judge.
    """
    seconds: dict[CpuEngine, float] = {}
    failures: dict[CpuEngine, str] = {}
    last: EdgeError | None = None
    for name in CPU_ENGINES:
        try:
            seconds[name] = _seconds_per_scan(model, name, threads, clock)
        except EdgeError as error:
            failures[name] = error.message
            last = error
    if last is not None and not seconds:
        raise last
    return Tuned(seconds, failures)


def _seconds_per_scan(model: SignedModel, name: CpuEngine, threads: int | None, clock: Callable[[], float]) -> float:
    engine = open_engine(model, name, threads=threads)
    try:
        check_golden(model, engine)
        image = golden_image(model, model.manifest.golden[0])[np.newaxis]
        times = []
        for _ in range(ROUNDS):
            started = clock()
            engine.infer(image)
            times.append(clock() - started)
        return statistics.median(times)
    finally:
        engine.close()
