"""A machine with a scripted GPU: its two libraries are modules that the real code imports, here and in children."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOM = Path(__file__).parent
PROJECT = ROOM.parents[1]
OURS = ("edge.engines.trt", "edge.engines.trt_log", "edge.engines.build_plan")


@contextmanager
def installed() -> Iterator[None]:
    """`tensorrt` and `pycuda` can be imported inside, and are forgotten afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOM))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOM), str(PROJECT)]))
        _forget()
        yield
    _forget()


def play(patch: pytest.MonkeyPatch, **script: object) -> None:
    """What the machine is from now on: see the modules for the words."""
    patch.setenv("SCRIPTED_GPU", json.dumps(script))


def _forget() -> None:
    for name in [name for name in sys.modules if name in OURS or name.partition(".")[0] in ("tensorrt", "pycuda")]:
        del sys.modules[name]
