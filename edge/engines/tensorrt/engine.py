"""TensorRT 10 or 11 on the local NVIDIA GPU, by pycuda: no torch, no autoinit.

The engine lives in the GPU's primary context, which is pushed for the length of each call and popped again. So the
thread that opens it may hand it to the one that infers; only one may use it at a time, and a thread that ends leaves
nothing on pycuda's stack, which would abort the process.

A batch runs in two halves, each with its own pinned buffers, device buffers and events: while the first half computes
on one stream, the second is copied into pinned memory and uploaded on the other. Results are copied out of pinned
memory before `infer` returns, so they belong to the caller.

`FusedTrtEngine` takes raw scans: uint16 counts cross the bus once, and kernels.cu makes the networks' image of them.

Any CUDA error ends the engine: the context may be poisoned, so only a fresh process can go on (EngineError, exit 70).
CUDA graphs are not used: pycuda does not offer their capture, and some sixty launches a batch are queued well ahead of
the GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pycuda.driver as cuda
import tensorrt as trt

from edge.engines import (
    GATE_OUTPUTS,
    IMAGE_INPUT,
    Batch,
    EngineOutput,
    EngineSpec,
    check_batch,
    check_count,
    classifier_outputs,
    rank_of,
)
from edge.engines.tensorrt.kernel_args import FRAME, RawScan, axis, frame, launch
from edge.engines.tensorrt.log import TRT_ERRORS, TrtLog
from edge.engines.tensorrt.plan_cache import KernelsRefused, PlanRefused
from edge.engines.tensorrt.plans import half_of
from edge.errors import EngineError
from edge.records import Size

NAME = "tensorrt"
KERNELS = ("stretch", "stretch_resize")
MAX_AXES = 512
"""Tables kept on the device, about 3 MB: scans of 2053 to 2115 by 1119 to 1219 px have 164 between them."""

_RESTART = "restarting the service is right; if it comes back, look at `journalctl -k` for the GPU's own words (Xid)"
_BUILD_AGAIN = "run `edge-worker model build`; if that does not help, export the model again"


class TrtEngine:
    """Both networks, open on the GPU."""

    def __init__(self, *, classifier: bytes, gate: bytes, spec: EngineSpec) -> None:
        """Plans whose bytes were verified. Raises EngineError when one does not load or is not what `spec` says."""
        self._spec = spec
        self._ended = False
        self._log = TrtLog()
        try:
            cuda.init()
            self._context = cuda.Device(0).retain_primary_context()
        except cuda.Error as error:
            raise EngineError(f"the GPU cannot be used: {error}", hint=_RESTART) from error
        with self._on_gpu("opening the engine"):
            runtime = trt.Runtime(self._log)
            self._networks = [
                _Network("gate", runtime, gate, GATE_OUTPUTS, spec, self._log),
                _Network("classifier", runtime, classifier, classifier_outputs(spec.has_reason), spec, self._log),
            ]
            self._upload, self._compute = cuda.Stream(), cuda.Stream()
            shapes = {name: shape for network in self._networks for name, shape in network.tails.items()}
            self._slots = [_Slot(spec, shapes) for _ in range(2)]

    @property
    def spec(self) -> EngineSpec:
        return self._spec

    def infer(self, images: Batch) -> EngineOutput:
        """Score a batch: see `Engine.infer`. A NaN among the scores is handed on: the engine does not judge it."""
        check_batch(images, self._spec)

        def stage(slot: _Slot, first: int, count: int) -> None:
            np.copyto(slot.host_image[:count], images[first : first + count])
            cuda.memcpy_htod_async(slot.image, slot.host_image[:count], self._upload)
            slot.uploaded.record(self._upload)
            self._compute.wait_for_event(slot.uploaded)

        return self._run(len(images), stage)

    def close(self) -> None:
        """Free the GPU; a second call does nothing."""
        if self._ended:
            return
        with self._on_gpu("closing the engine"):
            self._compute.synchronize()
            self._release()
        self._ended = True
        self._context.detach()

    def _release(self) -> None:
        """Drop what lives in the context while it is current."""
        self._networks = []
        self._slots = []
        del self._upload, self._compute

    def _run(self, scans: int, stage: Callable[[_Slot, int, int], None]) -> EngineOutput:
        """Scores of `scans` scans, half batch by half batch; `stage` puts images into a slot."""
        half = half_of(self._spec.max_batch)
        with self._on_gpu(f"a batch of {scans}"):
            results: dict[str, npt.NDArray[np.float32]] = {
                name: np.empty((scans, *host.shape[1:]), np.float32)
                for name, host in self._slots[0].host_outputs.items()
            }
            running: list[tuple[_Slot, int, int]] = []
            for number, first in enumerate(range(0, scans, half)):
                slot, count = self._slots[number % 2], min(half, scans - first)
                if len(running) == 2:
                    _collect(*running.pop(0), results)
                stage(slot, first, count)
                for network in self._networks:
                    network.enqueue(slot, count, self._compute)
                for name, host in slot.host_outputs.items():
                    cuda.memcpy_dtoh_async(host[:count], slot.outputs[name], self._compute)
                slot.done.record(self._compute)
                running.append((slot, first, count))
            for started in running:
                _collect(*started, results)
        return EngineOutput(**results)

    @contextmanager
    def _on_gpu(self, doing: str) -> Iterator[None]:
        """The context is current inside; whatever CUDA or TensorRT raises ends the engine as an EngineError."""
        if self._ended:
            raise EngineError("the engine is closed", hint="open it again: an engine cannot be used after close()")
        try:
            self._context.push()
            try:
                yield
            finally:
                cuda.Context.pop()
        except (cuda.Error, *TRT_ERRORS) as error:
            self._ended = True
            hint = _RESTART
            if isinstance(error, cuda.MemoryError):
                hint = "the GPU's memory is full: end other programs on it, or lower `model.max_batch`"
            raise EngineError(f"the GPU failed at {doing}: {error}", hint=hint) from error


class FusedTrtEngine(TrtEngine):
    """The engine with kernels.cu in front: `infer_raw` takes scans as they were read."""

    def __init__(self, *, kernels: bytes, max_scan: Size, classifier: bytes, gate: bytes, spec: EngineSpec) -> None:
        """`kernels`: a cubin for this GPU, else KernelsRefused. `max_scan`: the largest scan there will be."""
        super().__init__(classifier=classifier, gate=gate, spec=spec)
        self._max_px = max_scan.height_px * max_scan.width_px
        self._axes: dict[tuple[int, int], Any] = {}
        self._kernels: dict[str, Any] = {}
        try:
            with self._on_gpu("loading the kernels"):
                self._kernels = _load_kernels(kernels)
                for slot in self._slots:
                    slot.add_raw(half_of(spec.max_batch), self._max_px)
        except EngineError:
            self.close()
            raise

    def infer_raw(self, scans: Sequence[RawScan]) -> EngineOutput:
        """Scores of scans (n <= spec.max_batch) in their order. Raises EngineError; never returns partial output."""
        self._check_raw(scans)
        with self._on_gpu("the tables of a batch"):
            self._upload_axes(scans)

        def stage(slot: _Slot, first: int, count: int) -> None:
            batch = scans[first : first + count]
            for place, scan in enumerate(batch):
                pinned = slot.host_raw[place, : scan.counts.size]
                np.copyto(pinned, scan.counts.reshape(-1))
                cuda.memcpy_htod_async(slot.raw_address(place), pinned, self._upload)
            slot.uploaded.record(self._upload)
            self._compute.wait_for_event(slot.uploaded)
            for place, scan in enumerate(batch):
                self._convert(scan, slot, place)

        return self._run(len(scans), stage)

    def _convert(self, scan: RawScan, slot: _Slot, place: int) -> None:
        source = Size(*scan.counts.shape)
        how = launch(source, scan.size)
        argument = frame(
            scan,
            counts=slot.raw_address(place),
            image=slot.image_address(place),
            columns=int(self._axes[source.width_px, scan.size.width_px]),
            rows=int(self._axes[source.height_px, scan.size.height_px]),
        )
        self._kernels[how.kernel].prepared_async_call(how.grid, how.block, self._compute, argument)

    def _upload_axes(self, scans: Sequence[RawScan]) -> None:
        """Have the tables of these scans on the device. Between batches: nothing on the GPU reads them or waits.

        The context must be current: pycuda frees memory in it, or in the thread that opened the engine, or never.
        """
        wanted = {pair for scan in scans for pair in zip(scan.counts.shape, scan.size, strict=True)}
        if len(self._axes.keys() | wanted) > MAX_AXES:
            self._axes.clear()
        for source_px, target_px in wanted - self._axes.keys():
            self._axes[source_px, target_px] = cuda.to_device(axis(source_px, target_px))

    def _check_raw(self, scans: Sequence[RawScan]) -> None:
        check_count(len(scans), "scans", self._spec)
        for scan in scans:
            fits = scan.counts.dtype == np.uint16 and scan.counts.ndim == 2 and 0 < scan.counts.size <= self._max_px
            if not fits or scan.size != self._spec.size or len(scan.stretches) != self._spec.channels:
                raise EngineError(
                    f"a raw scan of {scan.counts.dtype} {scan.counts.shape} for {len(scan.stretches)} x "
                    f"{tuple(scan.size)} px, this engine takes uint16 of up to {self._max_px} px for "
                    f"{self._spec.channels} x {tuple(self._spec.size)} px",
                    hint="check the scan against the model's `scan_spec` before",
                )

    def _release(self) -> None:
        self._axes.clear()
        self._kernels = {}
        super()._release()


def _load_kernels(cubin: bytes) -> dict[str, Any]:
    """The kernels by name, ready to be launched."""
    try:
        module = cuda.module_from_buffer(cubin)
        kernels = {name: module.get_function(name) for name in KERNELS}
    except cuda.MemoryError:
        raise
    except cuda.Error as error:
        raise KernelsRefused(f"the compiled kernels do not load on this GPU: {error}", hint=_BUILD_AGAIN) from error
    for kernel in kernels.values():
        kernel.prepare([f"{FRAME.itemsize}s"])
    return kernels


class _Network:
    """One plan, deserialised, with the context it executes in."""

    def __init__(
        self, name: str, runtime: trt.Runtime, plan: bytes, outputs: tuple[str, ...], spec: EngineSpec, log: TrtLog
    ) -> None:
        self._name, self._log = name, log
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:  # TensorRT's way of refusing
            raise PlanRefused(f"TensorRT refuses the plan of {name}: {log.last_words()}", hint=_BUILD_AGAIN)
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        found = {tensor: (engine.get_tensor_dtype(tensor), _shape(engine, tensor)) for tensor in names}
        image = (-1, spec.channels, *spec.size)
        ok = found.pop(IMAGE_INPUT, None) == (trt.DataType.UINT8, image) and set(found) == set(outputs)
        if not (ok and all(_is_output(tensor, *of) for tensor, of in found.items())):
            raise PlanRefused(
                f"the plan of {name} has tensors {names}, of them outputs {found}; the manifest says {IMAGE_INPUT}, "
                f"uint8 {image}, and float32 {list(outputs)} with a free batch",
                hint=_BUILD_AGAIN,
            )
        self.tails: dict[str, tuple[int, ...]] = {tensor: shape[1:] for tensor, (_, shape) in found.items()}
        self._image = image[1:]
        self._engine = engine  # the context does not keep it alive
        self._context = engine.create_execution_context()
        if self._context is None:
            raise EngineError(
                f"no memory on the GPU to run {name}: {log.last_words()}",
                hint="end other programs on the GPU, or lower `model.max_batch` and build the engine again",
            )

    def enqueue(self, slot: _Slot, count: int, stream: Any) -> None:
        context = self._context
        ok = context.set_input_shape(IMAGE_INPUT, (count, *self._image))
        ok = ok and context.set_tensor_address(IMAGE_INPUT, int(slot.image))
        for output in self.tails:
            ok = ok and context.set_tensor_address(output, int(slot.outputs[output]))
        if not (ok and context.execute_async_v3(stream.handle)):
            raise RuntimeError(f"TensorRT did not run {self._name} on {count} images: {self._log.last_words()}")


class _Slot:
    """Buffers of one half batch: pinned on the host, and their twins on the device."""

    def __init__(self, spec: EngineSpec, tails: dict[str, tuple[int, ...]]) -> None:
        half = half_of(spec.max_batch)
        self.host_image = cuda.pagelocked_empty((half, spec.channels, *spec.size), np.uint8)
        self.image = cuda.mem_alloc(self.host_image.nbytes)
        self.host_outputs = {name: cuda.pagelocked_empty((half, *tail), np.float32) for name, tail in tails.items()}
        self.outputs = {name: cuda.mem_alloc(host.nbytes) for name, host in self.host_outputs.items()}
        self.uploaded, self.done = cuda.Event(), cuda.Event()

    def add_raw(self, half: int, max_px: int) -> None:
        """Room for `half` scans of `max_px` counts, each at a multiple of 16 bytes as the kernels want it."""
        self.host_raw = cuda.pagelocked_empty((half, -(-max_px // 8) * 8), np.uint16)
        self.raw = cuda.mem_alloc(self.host_raw.nbytes)

    def raw_address(self, place: int) -> int:
        return int(self.raw) + place * int(self.host_raw[0].nbytes)

    def image_address(self, place: int) -> int:
        return int(self.image) + place * int(self.host_image[0].nbytes)


def _shape(engine: trt.ICudaEngine, tensor: str) -> tuple[int, ...]:
    """-1 where the batch is."""
    dims = engine.get_tensor_shape(tensor)
    return tuple(dims[axis] for axis in range(len(dims)))


def _is_output(tensor: str, dtype: trt.DataType, shape: tuple[int, ...]) -> bool:
    return bool(
        dtype == trt.DataType.FLOAT
        and len(shape) == rank_of(tensor)
        and shape[0] == -1
        and min(shape[1:], default=1) > 0
    )


def _collect(slot: _Slot, first: int, count: int, results: dict[str, npt.NDArray[np.float32]]) -> None:
    """Wait for a half batch and copy its results out of pinned memory."""
    slot.done.synchronize()
    for name, host in slot.host_outputs.items():
        results[name][first : first + count] = host[:count]
