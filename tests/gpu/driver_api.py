"""kernels.cu on a real GPU beside torch: compiled by nvcc, launched through the CUDA driver with ctypes.

torch owns the memory, the streams and the primary context; nothing else needs to be installed. The line itself
launches the same cubin through pycuda (edge/engines/tensorrt/engine.py).
"""

from __future__ import annotations

import ctypes

import numpy as np
import torch

from edge.engines.tensorrt.kernel_args import RawScan, axis, frame, launch
from edge.engines.tensorrt.plans import compile_kernels
from edge.records import Size


class Kernels:
    """Both kernels, loaded for the current device."""

    def __init__(self) -> None:
        torch.cuda.init()
        torch.zeros(1, device="cuda")  # makes the primary context current
        self._driver = ctypes.CDLL("libcuda.so.1")
        major, minor = torch.cuda.get_device_capability()
        module, cubin = ctypes.c_void_p(), compile_kernels(f"{major}.{minor}")
        self._call("cuModuleLoadData", ctypes.byref(module), cubin)
        self._functions = {}
        for name in ("stretch", "stretch_resize"):
            function = ctypes.c_void_p()
            self._call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
            self._functions[name] = function
        self._axes: dict[tuple[int, int], torch.Tensor] = {}

    def run(self, scan: RawScan, counts: torch.Tensor, image: torch.Tensor) -> None:
        """Queue the conversion on torch's current stream.

        `counts`: the scan's, int16 on the device, same bytes. `image`: uint8 (planes, *scan.size) on the device.
        """
        source = Size(*scan.counts.shape)
        how = launch(source, scan.size)
        argument = frame(
            scan,
            counts=counts.data_ptr(),
            image=image.data_ptr(),
            columns=self._axis(source.width_px, scan.size.width_px),
            rows=self._axis(source.height_px, scan.size.height_px),
        )
        packed = ctypes.create_string_buffer(argument, len(argument))
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(packed))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        sizes = [ctypes.c_uint(side) for side in (*how.grid, *how.block, 0)]
        self._call("cuLaunchKernel", self._functions[how.kernel], *sizes, stream, arguments, None)

    def _axis(self, source_px: int, target_px: int) -> int:
        key = source_px, target_px
        if key not in self._axes:
            self._axes[key] = torch.from_numpy(axis(source_px, target_px).view(np.int32).copy()).cuda()
        return self._axes[key].data_ptr()

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code != 0:
            raise RuntimeError(f"{name} failed with CUDA error {code}")


def on_device(scan: RawScan) -> torch.Tensor:
    """The counts of a scan in device memory."""
    return torch.from_numpy(scan.counts.view(np.int16)).cuda()
