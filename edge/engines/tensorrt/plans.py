"""The plans of a model for this machine: from the cache, or built now in a process of its own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge.engines import GATE_OUTPUTS, PlanSettings, classifier_outputs
from edge.engines.tensorrt.device import Device
from edge.engines.tensorrt.plan_cache import BUILD_PREFIX, Facts, PlanCache, PlanRefused
from edge.errors import EngineError
from edge.system.logs import event

if TYPE_CHECKING:
    from edge.model.signed_model import SignedModel

log = logging.getLogger(__name__)

KERNELS_SOURCE = Path(__file__).with_name("kernels.cu")
CLASSIFIER, GATE, KERNELS, TIMING = "classifier", "gate", "kernels", "timing"
EVERY_PLAN = (CLASSIFIER, GATE, KERNELS)
NVCC_TIMEOUT_S = 120.0
NVCC_PLACES = ("/usr/local/cuda/bin",)
"""Looked at after PATH, which a service's is short."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Bytes for the device, and the facts they are valid for. `is_new`: not proven and not kept yet."""

    name: str
    facts: Facts
    payload: bytes
    is_new: bool


@dataclass(frozen=True, slots=True)
class Plans:
    """What the runtime loads. `kernels` is None where the fused preprocessing cannot be compiled here."""

    classifier: Plan
    gate: Plan
    kernels: Plan | None

    @property
    def all(self) -> tuple[Plan, ...]:
        return tuple(plan for plan in (self.classifier, self.gate, self.kernels) if plan is not None)


class PlanRoom:
    """Finds, builds and keeps plans for one device."""

    def __init__(self, device: Device, settings: PlanSettings) -> None:
        self._device = device
        self._settings = settings
        self._cache = PlanCache(
            settings.folder, settings.key_file, settings.credentials, is_read_only=not settings.may_build
        )

    @property
    def may_build(self) -> bool:
        """Whether this command may, and this user could keep what is built."""
        return self._cache.is_writable()

    def plans_for(self, model: SignedModel, batch: int, *, rebuild: Collection[str] = ()) -> Plans:
        """The plans of both networks for batches 1..`batch`, and the compiled kernels.

        What is not in the cache, or named in `rebuild`, is built, and kept by `keep` once it has proven itself. Raises
        EngineError.
        """
        if self.may_build:
            self._cache.sweep(self._settings.build_timeout_s + NVCC_TIMEOUT_S)
        outputs = classifier_outputs(model.has_reason)
        return Plans(
            self._network(CLASSIFIER, model, model.classifier, outputs, batch, CLASSIFIER in rebuild),
            self._network(GATE, model, model.gate, GATE_OUTPUTS, batch, GATE in rebuild),
            self._kernels(KERNELS in rebuild),
        )

    def keep(self, plans: Plans) -> None:
        """Store what is new, now that it reproduced the golden scans; of older plans the newest ones stay."""
        for plan in plans.all:
            if plan.is_new:
                self._cache.store(plan.name, plan.facts, plan.payload)
                self._cache.prune(plan.name, keep=[plan.facts])

    def _network(
        self, name: str, model: SignedModel, graph: bytes, outputs: tuple[str, ...], batch: int, rebuild: bool
    ) -> Plan:
        is_float32 = model.precision == "fp32"
        facts = self._device.facts | {
            "onnx_sha256": hashlib.sha256(graph).hexdigest(),
            "precision": model.precision,
            "arithmetic": "strict NaNs, no TF32" if is_float32 else "strict NaNs",
            "profile": f"1..{batch} x {model.channels} x {model.size.height_px} x {model.size.width_px}",
            "workspace_bytes": str(self._settings.workspace_bytes),
        }
        stored = None if rebuild else self._load_stored(name, facts)
        if stored is not None:
            return Plan(name, facts, stored, is_new=False)
        self._check_may_build(name)
        job = {
            "name": name,
            "channels": model.channels,
            "height_px": model.size.height_px,
            "width_px": model.size.width_px,
            "max_batch": batch,
            "outputs": outputs,
            "workspace_bytes": self._settings.workspace_bytes,
            "is_float32": is_float32,
        }
        return Plan(name, facts, self._build(job, graph), is_new=True)

    def _build(self, job: dict[str, object], graph: bytes) -> bytes:
        """Build in a subprocess (see build_plan.py). Raises EngineError with its message."""
        name = job["name"]
        event(log.info, "building a plan; this takes minutes", plan=name, **self._device.facts)
        started_s = time.monotonic()
        try:
            with tempfile.TemporaryDirectory(prefix=BUILD_PREFIX, dir=self._settings.folder) as scratch:
                payload = self._built_in(Path(scratch), job, graph)
        except OSError as error:
            raise EngineError(
                f"the plan of {name} cannot be built in {self._settings.folder}: {error.strerror}",
                hint="building takes a few times the model's size there: free space, and check the folder's rights",
            ) from error
        took_s = round(time.monotonic() - started_s, 1)
        event(log.info, "plan built", plan=name, size_bytes=len(payload), took_s=took_s)
        return payload

    def _built_in(self, folder: Path, job: dict[str, object], graph: bytes) -> bytes:
        """The plan, made in an empty folder of its own. Raises EngineError, OSError."""
        name = str(job["name"])
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        (folder / "graph.onnx").write_bytes(graph)
        timing = self._load_stored(TIMING, self._device.facts)
        if timing is not None:
            (folder / "timing.cache").write_bytes(timing)
        # -P: what lies in the working directory is no module of ours.
        program = [sys.executable, "-P", "-m", "edge.engines.tensorrt.build_plan", str(folder)]
        try:
            done = subprocess.run(  # noqa: S603 - our own interpreter and module
                program, timeout=self._settings.build_timeout_s, capture_output=True, text=True, errors="replace"
            )
        except subprocess.TimeoutExpired:
            raise EngineError(
                f"building the plan of {name} took more than {self._settings.build_timeout_s:g} s and was ended",
                hint="raise `tensorrt.build_timeout_s`, or end other programs on the GPU",
            ) from None
        plan = folder / "plan"
        if done.returncode != 0 or not plan.exists() or plan.stat().st_size == 0:
            raise _build_error(folder, name, done)
        payload = plan.read_bytes()
        with contextlib.suppress(FileNotFoundError):
            self._cache.store(TIMING, self._device.facts, (folder / "timing.cache").read_bytes())
            self._cache.prune(TIMING, keep=[self._device.facts], previous=0)
        return payload

    def _kernels(self, rebuild: bool) -> Plan | None:
        """kernels.cu compiled for this GPU; None, with a warning, where nvcc is missing or fails."""
        source = KERNELS_SOURCE.read_bytes()
        capability = self._device.compute_capability
        facts = {"source_sha256": hashlib.sha256(source).hexdigest(), "compute_capability": capability}
        try:
            stored = None if rebuild else self._load_stored(KERNELS, facts)
            if stored is not None:
                return Plan(KERNELS, facts, stored, is_new=False)
            self._check_may_build(KERNELS)
            return Plan(KERNELS, facts, compile_kernels(capability), is_new=True)
        except EngineError as error:
            event(log.warning, "scans are converted on the CPU, not on the GPU", reason=error.message, hint=error.hint)
            return None

    def _load_stored(self, name: str, facts: Facts) -> bytes | None:
        """None also for a plan that must not be loaded: it is built anew, and the log says why."""
        try:
            return self._cache.load(name, facts)
        except PlanRefused as error:
            event(log.error, "stored plan refused", reason=error.message)
            if not self._cache.is_writable():
                raise
            return None

    def _check_may_build(self, name: str) -> None:
        if not self.may_build:
            why = "this user may not write one" if self._settings.may_build else "this command builds none"
            raise EngineError(
                f"there is no plan of {name} for {self._device.gpu}, driver {self._device.driver}, TensorRT "
                f"{self._device.tensorrt} in {self._cache.folder}, and {why}",
                hint="start edge-engine-build.service, or run `edge-worker model build` as the user who may",
            )


def half_of(max_batch: int) -> int:
    """Scans that run at once, the largest batch a plan is built for: TensorRT runs a batch in two halves."""
    return (max_batch + 1) // 2


def compile_kernels(capability: str) -> bytes:
    """kernels.cu as a cubin for a compute capability such as `8.7`. Raises EngineError.

    Compiled ahead, so that the line needs no compiler and no memory that is writable and executable.
    """
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=":".join(NVCC_PLACES))
    if nvcc is None:
        raise EngineError(
            "nvcc, which compiles the preprocessing for the GPU, is not installed",
            hint="install the CUDA toolkit (package cuda-nvcc) and build the engine again",
        )
    try:
        with tempfile.TemporaryDirectory(prefix="edge-kernels-") as folder:
            target = Path(folder) / "kernels.cubin"
            architecture = f"-arch=sm_{capability.replace('.', '')}"
            command = [nvcc, "--cubin", architecture, str(KERNELS_SOURCE), "-o", str(target)]
            done = subprocess.run(  # noqa: S603 - the toolkit of this machine
                command, capture_output=True, text=True, errors="replace", timeout=NVCC_TIMEOUT_S
            )
            if done.returncode != 0:
                raise EngineError(
                    f"nvcc fails on {KERNELS_SOURCE.name}: {_last_line(done.stderr)}",
                    hint="the toolkit must know this GPU: install the CUDA release of the driver",
                )
            return target.read_bytes()
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(
            f"nvcc cannot be run: {error}",
            hint="free space in the folder for temporary files, or reinstall the toolkit",
        ) from error


def _build_error(folder: Path, name: str, done: subprocess.CompletedProcess[str]) -> EngineError:
    """What the build program said, or how it died."""
    try:
        told = json.loads((folder / "error.json").read_text(encoding="utf-8"))
        return EngineError(told["message"], hint=told["hint"])
    except (OSError, ValueError, KeyError):
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        return EngineError(
            f"the build of {name} ended with {how}: {_last_line(done.stderr) or 'without a word'}",
            hint="out of memory? look at `journalctl -k`; else reinstall TensorRT and pycuda for this driver",
        )


def _last_line(text: str) -> str:
    return next(iter(text.strip().splitlines()[-1:]), "")
