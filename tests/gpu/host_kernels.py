"""kernels.cu on the CPU: compiled as C++ against host_cuda.h, its threads run one after the other."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from edge.engines import tensorrt

COMPILER = shutil.which("g++") or shutil.which("clang++")
HEADER = Path(__file__).with_name("host_cuda.h")
SOURCE = Path(tensorrt.__file__).with_name("kernels.cu")

Run = Callable[[str, tuple[int, int, int], tuple[int, int, int], bytes], None]


def load(folder: Path) -> Run:
    """`run(kernel, grid, block, frame)`, from a library that is built in `folder`."""
    assert COMPILER is not None
    library = folder / "kernels.so"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-fno-strict-aliasing", "-x", "c++", "-I", str(SOURCE.parent)]
    subprocess.run([COMPILER, *flags, str(HEADER), "-o", str(library)], check=True, capture_output=True, timeout=100)
    entry = ctypes.CDLL(str(library)).launch

    def run(kernel: str, grid: tuple[int, int, int], block: tuple[int, int, int], frame: bytes) -> None:
        entry({"stretch": 0, "stretch_resize": 1}[kernel], (ctypes.c_int * 3)(*grid), (ctypes.c_int * 3)(*block), frame)

    return run
