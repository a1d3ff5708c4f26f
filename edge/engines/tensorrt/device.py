"""Which GPU, driver, CUDA and TensorRT this machine has: what a plan is valid for, or which of them is missing."""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge.errors import EngineError

DRIVER_VERSION = Path("/sys/module/nvidia/version")

INSTALL = "pip install 'electrode-line[gpu]'; pycuda needs the CUDA toolkit to compile"


@dataclass(frozen=True, slots=True)
class Device:
    """Everything that decides whether a plan may run here, save the model."""

    gpu: str
    compute_capability: str
    """Such as `8.7`."""
    memory_bytes: int
    driver: str
    cuda: str
    """What the driver speaks and what pycuda was compiled for."""
    tensorrt: str

    @property
    def facts(self) -> dict[str, str]:
        return {name: str(value) for name, value in asdict(self).items()}


def find_device() -> Device:
    """The GPU and the libraries, without making a CUDA context. Raises EngineError that says which part is missing."""
    trt = _import_library("tensorrt", "TensorRT")
    cuda = _import_library("pycuda.driver", "pycuda")
    try:
        cuda.init()
        found = cuda.Device.count()
        if not found:
            raise EngineError(
                f"CUDA finds {found} GPUs here, expected at least one",
                hint="is the card in its slot, and does nvidia-smi list it?",
            )
        gpu = cuda.Device(0)
        major, minor = gpu.compute_capability()
        spoken = cuda.get_driver_version()
        return Device(
            gpu=gpu.name(),
            compute_capability=f"{major}.{minor}",
            memory_bytes=int(gpu.total_memory()),
            driver=_driver_version(),
            cuda=f"{spoken // 1000}.{spoken % 1000 // 10}, pycuda for {'.'.join(map(str, cuda.get_version()))}",
            tensorrt=str(vars(trt)["__version__"]),
        )
    except cuda.Error as error:
        raise EngineError(
            f"CUDA cannot be used: {error}",
            hint="does nvidia-smi work for this user? The service needs /dev/nvidia*: see systemd/edge-worker-gpu.conf",
        ) from error


def _driver_version() -> str:
    try:
        return DRIVER_VERSION.read_text(encoding="ascii").strip()
    except OSError:  # a Jetson's driver comes with its kernel
        return "of the kernel"


def _import_library(module: str, library: str) -> Any:
    """An optional library. Whatever its import raises is one error: it is compiled code with parts that may miss."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        missing = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be loaded: {error}"
        raise EngineError(f"{library} {missing}", hint=INSTALL) from error
