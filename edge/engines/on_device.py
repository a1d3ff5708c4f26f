"""TensorRT on this machine: plans from the cache or built now, and no engine that does not repeat the golden scans."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from edge.engines import EngineSpec, PlanSettings
from edge.engines.device import find_device
from edge.engines.plans import PlanRoom, Plans, half_of
from edge.errors import BundleError, EngineError
from edge.golden import check_golden
from edge.records import Size

if TYPE_CHECKING:
    from edge.bundle import Bundle
    from edge.engines.trt import TrtEngine

log = logging.getLogger(__name__)

DEFAULT_MAX_BATCH = 4
"""Two halves of two: enough to overlap upload and computing, little memory, and no scan waits for many others."""


def open_tensorrt(
    bundle: Bundle, settings: PlanSettings, *, max_batch: int | None = None, rebuild: bool = False
) -> TrtEngine:
    """The networks of a verified bundle on the GPU, golden scans reproduced.

    A plan that is missing, refused, or no longer loads or repeats the golden scores is built anew, where this user may
    write one; it is kept only after it has proven itself. `rebuild`: build even where a good one is stored.
    Raises EngineError that says what is missing or failed.
    """
    room = PlanRoom(find_device(), settings)
    max_batch = max_batch or DEFAULT_MAX_BATCH
    plans = room.plans_for(bundle, half_of(max_batch), rebuild=rebuild)
    try:
        engine = _proven(bundle, plans, max_batch)
    except EngineError as error:
        if all(plan.is_new for plan in plans.all):
            raise
        log.error("stored engine failed, building it again", extra={"fields": {"why": error.message}})
        plans = room.plans_for(bundle, half_of(max_batch), rebuild=True)
        engine = _proven(bundle, plans, max_batch)
    try:
        room.keep(plans)
    except BaseException:
        engine.close()
        raise
    return engine


def build(bundle: Bundle, settings: PlanSettings, *, max_batch: int | None = None, rebuild: bool = False) -> str:
    """Have a proven engine on disk for the next start, and say which. Raises EngineError."""
    engine = open_tensorrt(bundle, settings, max_batch=max_batch, rebuild=rebuild)
    engine.close()
    return (
        f"the engine of {bundle.model_id} ({bundle.precision}) is in {settings.folder}: it repeats the golden scans "
        f"in batches of up to {engine.spec.max_batch}"
    )


def _proven(bundle: Bundle, plans: Plans, max_batch: int) -> TrtEngine:
    # Imported here: it needs TensorRT and pycuda, which `find_device` has seen by now.
    from edge.engines.trt import NAME, FusedTrtEngine, TrtEngine

    spec = EngineSpec(NAME, bundle.precision, bundle.size, bundle.channels, max_batch)
    classifier, gate = plans.classifier.payload, plans.gate.payload
    engine: TrtEngine
    if plans.kernels is None:
        engine = TrtEngine(classifier=classifier, gate=gate, spec=spec)
    else:
        scans = bundle.input_spec().scan_spec
        largest = Size(scans.height_px[1], scans.width_px[1])
        engine = FusedTrtEngine(
            classifier=classifier, gate=gate, spec=spec, kernels=plans.kernels.payload, max_scan=largest
        )
    try:
        check_golden(bundle, engine)
    except BundleError as error:  # the bundle is as signed: what was built of it here is not
        engine.close()
        raise EngineError(error.message, hint=error.hint) from error
    except BaseException:
        engine.close()
        raise
    return engine
