"""The part of pycuda that edge/engines/tensorrt/engine.py uses, without a GPU: device memory is host memory.

Device memory is freed while its context is current, or in the thread that made the context; elsewhere pycuda leaks it,
and this one raises. Streams are lazy: what is queued runs only when somebody waits for it, so a buffer that is
overwritten too early, or read too soon, gives wrong scores here as it would on a GPU. Nothing works without a current
context, and only pinned memory may be copied asynchronously. Kernels are kernels.cu, compiled for the CPU.

What fails comes from the JSON in the environment variable SCRIPTED_GPU.
"""

from __future__ import annotations

import builtins
import ctypes
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.scripted_gpu.script import script


class Error(Exception):
    pass


class LogicError(Error):
    pass


class MemoryError(Error):  # noqa: A001 - pycuda's name
    pass


STREAMS: dict[int, Stream] = {}
LIVE_BYTES = 0
_PINNED: list[tuple[int, int]] = []
_local = threading.local()


def init() -> None:
    if script("no_driver"):
        raise LogicError("cuInit failed: no CUDA-capable device is detected")


def get_version() -> tuple[int, int, int]:
    return (13, 0, 0)


def get_driver_version() -> int:
    return int(script("cuda", 13000))


def _stack() -> list[Context]:
    if not hasattr(_local, "stack"):
        _local.stack = []
    return _local.stack


def _check() -> None:
    if not _stack():
        raise LogicError("cuCtxGetCurrent failed: invalid device context")
    if script("lost") or Path(script("lost_when_exists", "/nowhere/at all")).exists():
        raise LogicError("cuMemcpyHtoDAsync failed: unspecified launch failure")


class Context:
    def __init__(self) -> None:
        self.thread = threading.get_ident()

    def push(self) -> None:
        _stack().append(self)

    @staticmethod
    def pop() -> None:
        _stack().pop()

    def detach(self) -> None:
        assert self not in _stack()


class Device:
    def __init__(self, index: int) -> None:
        self.index = index

    @staticmethod
    def count() -> int:
        return int(script("gpus", 1))

    def name(self) -> str:
        return str(script("gpu", "Scripted RTX"))

    def compute_capability(self) -> tuple[int, int]:
        return (8, 7)

    def total_memory(self) -> int:
        return 8 << 30

    def retain_primary_context(self) -> Context:
        return Context()


class Stream:
    def __init__(self) -> None:
        _check()
        self.handle = len(STREAMS) + 1
        STREAMS[self.handle] = self
        self.queue: list[Callable[[], None]] = []

    def add(self, work: Callable[[], None]) -> None:
        _check()
        self.queue.append(work)

    def drain(self) -> None:
        while self.queue:
            self.queue.pop(0)()

    def synchronize(self) -> None:
        _check()
        self.drain()

    def wait_for_event(self, event: Event) -> None:
        recorded = event.recorded
        self.add(recorded.run)


class _Recorded:
    """A point in a stream: running it runs all that was queued before."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.is_reached = stream, False

    def run(self) -> None:
        while not self.is_reached:
            self.stream.queue.pop(0)()


class Event:
    def __init__(self) -> None:
        _check()

    def record(self, stream: Stream) -> Event:
        recorded = self.recorded = _Recorded(stream)

        def reach() -> None:
            recorded.is_reached = True

        stream.add(reach)
        return self

    def synchronize(self) -> Event:
        _check()
        self.recorded.run()
        return self


class DeviceAllocation:
    def __init__(self, size_bytes: int) -> None:
        global LIVE_BYTES
        _check()
        if LIVE_BYTES + size_bytes > script("memory_bytes", 1 << 40):
            raise MemoryError("cuMemAlloc failed: out of memory")
        LIVE_BYTES += size_bytes
        self._context = _stack()[-1]
        self._room = np.full(size_bytes + 256, 0xEE, np.uint8)
        self._address = -(-self._room.ctypes.data // 256) * 256
        self._size_bytes = size_bytes

    def __int__(self) -> int:
        return self._address

    def __del__(self) -> None:
        global LIVE_BYTES
        if not hasattr(self, "_size_bytes"):
            return
        if self._context not in _stack()[-1:] and self._context.thread != threading.get_ident():
            raise LogicError("cannot activate out-of-thread context: the memory is lost")
        LIVE_BYTES -= self._size_bytes


def mem_alloc(size_bytes: int) -> DeviceAllocation:
    return DeviceAllocation(size_bytes)


def to_device(array: np.ndarray) -> DeviceAllocation:
    there = DeviceAllocation(array.nbytes)
    ctypes.memmove(int(there), array.ctypes.data, array.nbytes)
    return there


def pagelocked_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    _check()
    array = np.full(shape, 7, dtype)
    _PINNED.append((array.ctypes.data, array.ctypes.data + array.nbytes))
    return array


def _check_pinned(array: np.ndarray) -> None:
    begin = array.ctypes.data
    if not array.flags.c_contiguous or not any(low <= begin and begin + array.nbytes <= high for low, high in _PINNED):
        raise LogicError("not pinned: this copy would not be asynchronous")


def memcpy_htod_async(target: Any, source: np.ndarray, stream: Stream) -> None:
    _check_pinned(source)
    stream.add(lambda: ctypes.memmove(int(target), source.ctypes.data, source.nbytes) and None)


def memcpy_dtoh_async(target: np.ndarray, source: Any, stream: Stream) -> None:
    _check_pinned(target)
    stream.add(lambda: ctypes.memmove(target.ctypes.data, int(source), target.nbytes) and None)


class Function:
    def __init__(self, name: str, run: Callable[..., None]) -> None:
        self._name, self._run = name, run

    def prepare(self, formats: list[str]) -> Function:
        assert formats == ["104s"]
        return self

    def prepared_async_call(
        self, grid: tuple[int, int, int], block: tuple[int, int, int], stream: Stream, argument: bytes
    ) -> None:
        stream.add(lambda: self._run(self._name, grid, block, argument))


class Module:
    def get_function(self, name: str) -> Function:
        return Function(name, _kernels())


def module_from_buffer(cubin: bytes) -> Module:
    _check()
    if script("no_image_for_device") or cubin == script("bad_cubin", "").encode():
        raise LogicError("cuModuleLoadDataEx failed: no kernel image is available for execution on the device")
    return Module()


def _kernels() -> Callable[..., None]:
    from tests.gpu import host_kernels

    if not hasattr(builtins, "_scripted_kernels"):
        with tempfile.TemporaryDirectory() as folder:  # once loaded, a library needs its file no more
            builtins._scripted_kernels = host_kernels.load(Path(folder))  # type: ignore[attr-defined]
    run: Callable[..., None] = builtins._scripted_kernels  # type: ignore[attr-defined]
    return run
