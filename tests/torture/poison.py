"""A decoder that dies, eats, or never ends on marked files: stands in for the interpreter of edge's child processes.

`python -m tests.torture.poison MODULE ARGUMENTS` runs that module of edge as its program would, poisoned.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import Any

import edge.scans.pixels
import edge.scans.syscall_filter

CRASHES, EATS, BURNS = b"POISON-CRASH", b"POISON-MEMORY", b"POISON-FOREVER"
WORKS, WORK_S = b"POISON-WORK", 0.3
"""It computes so long, then decodes: time enough to stop it."""
REACHES = b"POISON-REACH:"
"""Followed by the state directory and a line feed: the decoder tries to do harm there, then decodes."""
UNFILTERED = "TORTURE_UNFILTERED"
"""Set in the environment, the system calls of the decoder are not filtered."""


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
    if WORKS in data:
        until_s = time.process_time() + WORK_S
        while time.process_time() < until_s:
            pass
    if REACHES in data:
        reach(os.fsdecode(data.partition(REACHES)[2].partition(b"\n")[0]))
    return healthy(data, layout)


def reach(state: str) -> None:
    """What code in the decoder would do to the line."""
    for deed in (
        lambda: Path(state, ".newest-model.json.new").symlink_to("/etc/passwd"),
        lambda: Path(state, "ledger.sqlite.lock").rename(f"{state}/lock.gone"),
        lambda: os.truncate(f"{state}/ledger.sqlite", 0),
        lambda: Path(state, "ledger.sqlite-wal").unlink(),
        lambda: os.kill(os.getppid(), signal.SIGKILL),
    ):
        with contextlib.suppress(OSError):
            deed()


healthy = edge.scans.pixels.decode

if __name__ == "__main__":
    edge.scans.pixels.decode = poisoned
    if UNFILTERED in os.environ:
        edge.scans.syscall_filter.allow_only_unpacking = lambda: True
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
