"""A decoder that dies, eats, or hangs on marked files: stands in for the interpreter of edge's child processes.

`python -m tests.torture.poison MODULE ARGUMENTS` runs that module of edge as its program would, poisoned.
"""

from __future__ import annotations

import runpy
import signal
import sys
import time
from typing import Any

import edge.scans.pixels

CRASHES, EATS, HANGS = b"POISON-CRASH", b"POISON-MEMORY", b"POISON-SLEEP"


def poisoned(data: bytes, layout: Any) -> Any:
    """In place of edge.scans.pixels.decode."""
    if CRASHES in data:
        signal.raise_signal(signal.SIGSEGV)  # to this very thread, as a fault is: kill() may leave it a moment to go on
    if EATS in data:
        eaten = []
        while True:
            eaten.append(b"x" * (1 << 24))
    if HANGS in data:
        time.sleep(3600)
    return healthy(data, layout)


healthy = edge.scans.pixels.decode

if __name__ == "__main__":
    edge.scans.pixels.decode = poisoned
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
