"""Work of the CPU at its place in a CUDA stream: the scripted one's queue, or a real one by a host function.

On a real GPU the image is copied off the device, the host function runs, and its results are copied back, all queued
in the stream and nothing awaited; so whoever reads a result too early, or overwrites an image too soon, is caught.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pycuda.driver as cuda

Work = Callable[[np.ndarray], Sequence[np.ndarray]]
"""Results, in their order, of an image uint8 (n, channels, height, width)."""


_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Room:
    """What one execution context needs for its work on the CPU, made before any of it is queued.

    Pinned memory is had while Python is held, and perhaps only when the GPU is idle; a host function that is queued
    by then waits for Python, and the GPU for it. One stream runs the work of a context in its order, so one set of
    buffers does for all of it.
    """

    def __init__(self, image: tuple[int, ...], sizes_bytes: Sequence[int]) -> None:
        """`image`: shape of the largest batch (n, channels, height, width). `sizes_bytes`: of its results."""
        self._is_scripted = hasattr(cuda, "STREAMS")
        self._kept: list[Any] = []  # callbacks that the stream still uses; the process is a test's, and ends
        if not self._is_scripted:
            self._here = cuda.pagelocked_empty(image, np.uint8)
            self._staged = [cuda.pagelocked_empty(size_bytes, np.uint8) for size_bytes in sizes_bytes]

    def run(
        self, handle: int, image: int, shape: tuple[int, ...], outputs: Sequence[tuple[int, int]], work: Work
    ) -> None:
        """Queue `work` on the image at that address; its results go to `outputs`: addresses, sizes in bytes."""
        if self._is_scripted:
            _scripted(handle, image, shape, outputs, work)
        else:
            self._on_gpu(handle, image, shape, outputs, work)

    def _on_gpu(
        self, handle: int, image: int, shape: tuple[int, ...], outputs: Sequence[tuple[int, int]], work: Work
    ) -> None:
        here = self._here[: shape[0]]
        staged = [room[:size_bytes] for room, (_, size_bytes) in zip(self._staged, outputs, strict=True)]

        @_HOST_FUNCTION
        def run(_: int | None) -> None:  # may not call CUDA; an exception would be lost, and 0xFF is a NaN
            for stage in staged:
                stage[...] = 0xFF
            for stage, value in zip(staged, work(here.copy()), strict=True):
                stage[...] = np.frombuffer(_contiguous(value, stage.nbytes).tobytes(), np.uint8)

        self._kept.append(run)
        stream = ctypes.c_void_p(handle)
        _call("cuMemcpyDtoHAsync_v2", ctypes.c_void_p(here.ctypes.data), ctypes.c_uint64(image), _size(here), stream)
        _call("cuLaunchHostFunc", stream, run, None)
        for (address, _), stage in zip(outputs, staged, strict=True):
            source = ctypes.c_void_p(stage.ctypes.data)
            _call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), source, _size(stage), stream)


def _scripted(handle: int, image: int, shape: tuple[int, ...], outputs: Sequence[tuple[int, int]], work: Work) -> None:
    def run() -> None:
        there = np.ctypeslib.as_array((ctypes.c_uint8 * int(np.prod(shape))).from_address(image)).reshape(shape)
        for (address, size_bytes), value in zip(outputs, work(there.copy()), strict=True):
            ctypes.memmove(address, _contiguous(value, size_bytes).ctypes.data, size_bytes)

    cuda.STREAMS[handle].add(run)


def _call(name: str, *arguments: object) -> None:
    code = getattr(_driver(), name)(*arguments)
    if code != 0:
        raise RuntimeError(f"{name} failed with CUDA error {code}")


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def _size(array: np.ndarray) -> ctypes.c_size_t:
    return ctypes.c_size_t(array.nbytes)


def _contiguous(value: np.ndarray, size_bytes: int) -> np.ndarray:
    value = np.ascontiguousarray(value)
    if value.nbytes != size_bytes:
        raise ValueError(f"a result of {value.nbytes} bytes, {size_bytes} were announced")
    return value
