"""A machine with a scripted GPU: its two libraries are modules that the real code imports, here and in children.

With `gpu="real"` TensorRT alone is scripted: pycuda, the driver and the GPU are those of this machine.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

CUDA_ROOM, TRT_ROOM = (Path(__file__).parent / name for name in ("cuda", "trt"))
PROJECT = Path(__file__).parents[3]
OURS = (
    "edge.engines.tensorrt.engine",
    "edge.engines.tensorrt.log",
    "edge.engines.tensorrt.build_plan",
    "tests.support.scripted_gpu.stream",
)


@contextmanager
def installed(gpu: Literal["scripted", "real"] = "scripted") -> Iterator[None]:
    """`tensorrt` and `pycuda` can be imported inside, and are forgotten afterwards."""
    rooms = [TRT_ROOM, CUDA_ROOM] if gpu == "scripted" else [TRT_ROOM]
    replaced = ("tensorrt", "pycuda") if gpu == "scripted" else ("tensorrt",)
    with pytest.MonkeyPatch.context() as patch:
        for room in rooms:
            patch.syspath_prepend(str(room))
        before = os.environ.get("PYTHONPATH")
        patch.setenv("PYTHONPATH", os.pathsep.join([*map(str, rooms), str(PROJECT), *([before] if before else [])]))
        _forget(replaced)
        yield
    _forget(replaced)


def play(patch: pytest.MonkeyPatch, **script: object) -> None:
    """What the machine is from now on: see the modules for the words."""
    patch.setenv("SCRIPTED_GPU", json.dumps(script))


def _forget(replaced: tuple[str, ...]) -> None:
    for name in [name for name in sys.modules if name in OURS or name.partition(".")[0] in replaced]:
        del sys.modules[name]
        room, _, module = name.rpartition(".")
        if room in sys.modules and hasattr(sys.modules[room], module):
            delattr(sys.modules[room], module)  # `from room import module` would find the forgotten one
