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


def run_in_stream(
    handle: int, image: int, shape: tuple[int, ...], outputs: Sequence[tuple[int, int]], work: Work
) -> None:
    """Queue `work` on the image at that address; its results go to `outputs`: addresses, sizes in bytes."""
    if hasattr(cuda, "STREAMS"):
        _scripted(handle, image, shape, outputs, work)
    else:
        _on_gpu(handle, image, shape, outputs, work)


def _scripted(handle: int, image: int, shape: tuple[int, ...], outputs: Sequence[tuple[int, int]], work: Work) -> None:
    def run() -> None:
        there = np.ctypeslib.as_array((ctypes.c_uint8 * int(np.prod(shape))).from_address(image)).reshape(shape)
        for (address, size_bytes), value in zip(outputs, work(there.copy()), strict=True):
            ctypes.memmove(address, _contiguous(value, size_bytes).ctypes.data, size_bytes)

    cuda.STREAMS[handle].add(run)


_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_KEPT: list[Any] = []
"""Buffers and callbacks that the stream still uses; the process is a test's, and ends."""


def _on_gpu(handle: int, image: int, shape: tuple[int, ...], outputs: Sequence[tuple[int, int]], work: Work) -> None:
    here = cuda.pagelocked_empty(shape, np.uint8)
    staged = [cuda.pagelocked_empty(size_bytes, np.uint8) for _, size_bytes in outputs]

    @_HOST_FUNCTION
    def run(_: int | None) -> None:  # may not call CUDA; an exception would be lost, and 0xFF is a NaN
        for stage in staged:
            stage[...] = 0xFF
        for stage, value in zip(staged, work(here.copy()), strict=True):
            stage[...] = np.frombuffer(_contiguous(value, stage.nbytes).tobytes(), np.uint8)

    _KEPT.append((here, staged, run))
    stream = ctypes.c_void_p(handle)
    _call("cuMemcpyDtoHAsync_v2", ctypes.c_void_p(here.ctypes.data), ctypes.c_uint64(image), _size(here), stream)
    _call("cuLaunchHostFunc", stream, run, None)
    for (address, _), stage in zip(outputs, staged, strict=True):
        source = ctypes.c_void_p(stage.ctypes.data)
        _call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), source, _size(stage), stream)


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
