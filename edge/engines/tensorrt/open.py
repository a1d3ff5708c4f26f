"""TensorRT on this machine: plans from the cache or built now, and no engine that does not repeat the golden scans."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from edge.engines import EngineSpec, PlanSettings
from edge.engines.golden import check_full_batch, check_golden
from edge.engines.tensorrt.device import find_device
from edge.engines.tensorrt.plan_cache import KernelsRefused, PlanRefused
from edge.engines.tensorrt.plans import EVERY_PLAN, KERNELS, PlanRoom, Plans, half_of
from edge.errors import EngineError, ModelError
from edge.records import Size
from edge.system.logs import event

if TYPE_CHECKING:
    from edge.engines.tensorrt.engine import TrtEngine
    from edge.model.signed_model import SignedModel

log = logging.getLogger(__name__)

DEFAULT_MAX_BATCH = 4
"""Two halves of two: enough to overlap upload and computing, little memory, and no scan waits for many others."""


def open_tensorrt(model: SignedModel, settings: PlanSettings, *, max_batch: int | None = None) -> TrtEngine:
    """The networks of a verified model on the GPU, golden scans reproduced.

    A plan that is missing is built, where this user may write one; so is, once, what is stored and is refused, does not
    load, or does not repeat the golden scores. A GPU that is full or fails is no reason to build. What is new is kept
    once it has proven itself. Kernels that do not load even when they are new are done without: the CPU converts.
    Raises EngineError that says what is missing or failed.
    """
    if model.manifest.quick_pass is not None:
        raise EngineError(
            f"model {model.model_id} computes doubtful scans twice, in branches that were never tried on TensorRT",
            hint="export it with --precision fp16, or fp32: int8 is for OpenVINO",
        )
    room = PlanRoom(find_device(), settings)
    max_batch = max_batch or DEFAULT_MAX_BATCH
    plans = room.plans_for(model, half_of(max_batch))
    engine = _try_open(model, plans, max_batch)
    if isinstance(engine, PlanRefused) and room.may_build and (suspects := _suspects(plans, engine)):
        event(log.error, "stored engine failed, building it again", why=engine.message, again=suspects)
        plans = room.plans_for(model, half_of(max_batch), rebuild=suspects)
        engine = _try_open(model, plans, max_batch)
    if isinstance(engine, KernelsRefused):
        event(log.warning, "scans are converted on the CPU, not on the GPU", reason=engine.message, hint=engine.hint)
        plans = replace(plans, kernels=None)
        engine = _try_open(model, plans, max_batch)
    if isinstance(engine, PlanRefused):
        raise engine
    with ExitStack() as unkept:
        unkept.callback(engine.close)
        room.keep(plans)
        unkept.pop_all()
    return engine


def _suspects(plans: Plans, refused: PlanRefused) -> list[str]:
    """Stored plans that may be at fault: what was built just now would be no better the next time."""
    if isinstance(refused, KernelsRefused):
        return [plan.name for plan in plans.all if plan.name == KERNELS and not plan.is_new]
    return [] if all(plan.is_new for plan in plans.all) else list(EVERY_PLAN)


def _try_open(model: SignedModel, plans: Plans, max_batch: int) -> TrtEngine | PlanRefused:
    """A proven engine or what speaks against it, without a traceback: that would keep the failed one's GPU memory."""
    try:
        return _open_proven(model, plans, max_batch)
    except PlanRefused as error:
        return type(error)(error.message, hint=error.hint)


def build(model: SignedModel, settings: PlanSettings, *, max_batch: int | None = None) -> str:
    """Have a proven engine on disk for the next start, and say which. Raises EngineError."""
    engine = open_tensorrt(model, settings, max_batch=max_batch)
    engine.close()
    return (
        f"the engine of {model.model_id} ({model.precision}) is in {settings.folder}: it repeats the golden scans "
        f"in batches of up to {engine.spec.max_batch}"
    )


def _open_proven(model: SignedModel, plans: Plans, max_batch: int) -> TrtEngine:
    # Imported here: it needs TensorRT and pycuda, which `find_device` has seen by now.
    from edge.engines.tensorrt.engine import NAME, FusedTrtEngine, TrtEngine

    spec = EngineSpec(NAME, model.precision, model.size, model.channels, max_batch, model.has_reason)
    classifier, gate = plans.classifier.payload, plans.gate.payload
    engine: TrtEngine
    if plans.kernels is None:
        engine = TrtEngine(classifier=classifier, gate=gate, spec=spec)
    else:
        scans = model.input_spec().scan_spec
        largest = Size(scans.height_px[1], scans.width_px[1])
        engine = FusedTrtEngine(
            classifier=classifier, gate=gate, spec=spec, kernels=plans.kernels.payload, max_scan=largest
        )
    with ExitStack() as unproven:
        unproven.callback(engine.close)
        try:
            check_golden(model, engine)
            check_full_batch(model, engine)
        except ModelError as error:  # the model is as signed: what was built of it here is not
            raise PlanRefused(error.message, hint=error.hint) from error
        unproven.pop_all()
    return engine
