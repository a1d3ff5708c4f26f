"""The line's TensorRT engine with torch's networks in the place of plans: same buffers, streams, events and kernels.

What is left out is TensorRT itself, so a machine that has none still runs all the rest.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from edge.engines import CLASSIFIER_OUTPUTS, GATE_OUTPUTS, EngineSpec
from edge.engines.tensorrt.plans import compile_kernels
from edge.records import Size

MAP_PX = (25, 13)


class _OnDevice:
    """Memory that pycuda allocated, for torch."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: str) -> None:
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": dtype,
            "data": (address, False),
            "version": 3,
            "strides": None,
        }


def open_engine(networks: Any, size: Size, max_batch: int) -> Any:
    """A `FusedTrtEngine` of `networks` (`torch_parts.Networks`). Needs pycuda and nvcc."""
    if "tensorrt" not in sys.modules:  # its module is imported, and not called
        sys.path.insert(0, str(Path(__file__).parents[1] / "support" / "scripted_gpu" / "trt"))
    from edge.engines.tensorrt import engine as trt

    class Network:
        """As `trt._Network`: what it needs of a plan, and how it is queued."""

        def __init__(self, name: str, *_: object) -> None:
            outputs = CLASSIFIER_OUTPUTS if name == "classifier" else GATE_OUTPUTS
            self.name = name
            self.tails: dict[str, tuple[int, ...]] = {
                output: MAP_PX if output == "residual_map" else () for output in outputs
            }

        def enqueue(self, slot: Any, count: int, stream: Any) -> None:
            with torch.cuda.stream(torch.cuda.ExternalStream(stream.handle)):
                images = _tensor(int(slot.image), (count, 1, *size), "|u1")
                if self.name == "classifier":
                    values = dict(zip(CLASSIFIER_OUTPUTS, (networks.classify(images),), strict=True))
                else:
                    mean, std = networks.residual(images)
                    values = dict(zip(GATE_OUTPUTS[:2], (mean, std), strict=True))
                for output, value in values.items():
                    _tensor(int(slot.outputs[output]), (count,), "<f4").copy_(value)

    trt._Network = Network  # type: ignore[assignment, misc]
    spec = EngineSpec("tensorrt", "fp16", size, 1, max_batch)
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    kernels = compile_kernels(capability)
    return trt.FusedTrtEngine(classifier=b"", gate=b"", spec=spec, kernels=kernels, max_scan=Size(2200, 1300))


def _tensor(address: int, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    return torch.as_tensor(_OnDevice(address, shape, dtype), device="cuda")
