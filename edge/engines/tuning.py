"""Which engine of the CPU is faster here: measured once by `edge-worker model tune`, then taken by `auto`.

The answer is kept in the state directory with everything it depends on. Where any of that differs it counts for
nothing, and `auto` takes onnxruntime, the engine of the base installation. A kept answer decides about speed alone:
whichever engine it names must reproduce the golden scans before it judges.
"""

from __future__ import annotations

import logging
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from edge.engines.choose import CPU_ENGINES, CpuEngine, open_engine
from edge.engines.golden import check_golden, golden_image
from edge.errors import EdgeError
from edge.model.bundle import Bundle
from edge.system.files import written_whole
from edge.system.logs import event

log = logging.getLogger(__name__)

TUNING_FILE: Final = "engine-choice.json"
ROUNDS: Final = 5
CPU_FACTS: Final = Path("/sys/devices/system/cpu/modalias")
"""Not /proc/cpuinfo: the unit hides it from the worker, and `model tune` runs outside of the unit."""


class Conditions(BaseModel):
    """What a measurement depends on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle_sha256: str
    versions: dict[str, str | None]
    """Version of each engine; None where one is not installed."""
    processor: str
    cores: tuple[int, ...]
    threads: int | None


class Choice(BaseModel):
    """The faster engine, and what was measured: seconds per scan of each engine that reproduced the golden scans."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: CpuEngine
    seconds: dict[CpuEngine, float]
    conditions: Conditions


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a measurement found; `failures` says why an engine took no part."""

    choice: Choice
    failures: dict[str, str]


def conditions_here(bundle: Bundle, threads: int | None) -> Conditions:
    """What a measurement on this machine depends on now."""
    return Conditions(
        bundle_sha256=bundle.digest,
        versions={name: _version(name) for name in CPU_ENGINES},
        processor=_processor(),
        cores=tuple(sorted(os.sched_getaffinity(0))),
        threads=threads,
    )


def tune(bundle: Bundle, state: Path, *, threads: int | None, clock: Callable[[], float] = time.perf_counter) -> Tuned:
    """Measure each engine of the CPU on a golden scan, one after the other, and keep the faster one's name in `state`.

    Raises EngineError or BundleError where none can judge, OSError where `state` cannot be written.
    """
    seconds: dict[CpuEngine, float] = {}
    failures: dict[str, str] = {}
    last: EdgeError | None = None
    for name in CPU_ENGINES:
        try:
            seconds[name] = _seconds_per_scan(bundle, name, threads, clock)
        except EdgeError as error:
            failures[name] = error.message
            last = error
    if last is not None and not seconds:
        raise last
    choice = Choice(
        engine=min(seconds, key=lambda name: seconds[name]),
        seconds=seconds,
        conditions=conditions_here(bundle, threads),
    )
    _store(state, choice)
    return Tuned(choice, failures)


def chosen_engine(bundle: Bundle, state: Path, threads: int | None) -> CpuEngine:
    """The measured engine if it was measured under these very conditions, else onnxruntime."""
    path = state / TUNING_FILE
    try:
        choice = Choice.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return CPU_ENGINES[0]
    except (OSError, ValidationError) as error:
        event(log.warning, "engine choice not readable", file=str(path), error=str(error)[:200])
        return CPU_ENGINES[0]
    if choice.conditions != conditions_here(bundle, threads):
        event(log.warning, "engine choice is stale: `edge-worker model tune`", file=str(path))
        return CPU_ENGINES[0]
    return choice.engine


def _seconds_per_scan(bundle: Bundle, name: CpuEngine, threads: int | None, clock: Callable[[], float]) -> float:
    engine = open_engine(bundle, name, threads=threads)
    try:
        check_golden(bundle, engine)
        image = golden_image(bundle, bundle.manifest.golden[0])[np.newaxis]
        times = []
        for _ in range(ROUNDS):
            started = clock()
            engine.infer(image)
            times.append(clock() - started)
        return statistics.median(times)
    finally:
        engine.close()


def _store(state: Path, choice: Choice) -> None:
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with written_whole(state / TUNING_FILE, durable=True) as stream:
        stream.write(choice.model_dump_json(indent=2).encode() + b"\n")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """Make and abilities as the kernel lists them, the same for every process; else the architecture alone."""
    try:
        return CPU_FACTS.read_text(encoding="utf-8", errors="replace").strip() or platform.machine()
    except OSError:
        return platform.machine()
