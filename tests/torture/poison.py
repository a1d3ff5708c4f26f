"""A decoder that dies, eats, or never ends on marked files: stands in for the interpreter of edge's child processes.

`python -m tests.torture.poison MODULE ARGUMENTS` runs that module of edge as its program would, poisoned.
"""

from __future__ import annotations

import ctypes
import runpy
import sys
from typing import Any

import edge.scans.pixels

CRASHES, EATS, BURNS = b"POISON-CRASH", b"POISON-MEMORY", b"POISON-FOREVER"


def poisoned(data: bytes, layout: Any) -> Any:
    """In place of edge.scans.pixels.decode."""
    if CRASHES in data:
        ctypes.string_at(0)  # a fault in this very thread, which no system call filter keeps from happening
    if EATS in data:
        eaten = []
        while True:
            eaten.append(b"x" * (1 << 24))
    if BURNS in data:
        while True:
            pass
    return healthy(data, layout)


healthy = edge.scans.pixels.decode

if __name__ == "__main__":
    edge.scans.pixels.decode = poisoned
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
