"""Processes that begin as copies of one that has imported what they need: a second of processor time less each.

They are processes of their own and die by a real SIGKILL. The server that makes the copies has one thread and has run
nothing but imports. Where the start itself is tried or measured, a process begins by exec: see `Layout.by_exec`.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.torture.worker", "tests.torture.subscriber"])


class Fork:
    """`python -m module arguments` in a copy; of subprocess.Popen it has what the rig uses."""

    def __init__(self, module: str, arguments: Sequence[str], log: Path | None = None) -> None:
        """`log`: where both outputs are appended."""
        self._process = _CONTEXT.Process(target=_run, args=(module, list(arguments), log))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. subprocess.TimeoutExpired as of Popen."""
        self._process.join(timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired(f"fork {self.pid}", timeout or 0.0)
        return code

    def kill(self) -> None:
        self._process.kill()


def _run(module: str, arguments: list[str], log: Path | None) -> None:
    if log is not None:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)
    program = importlib.import_module(module)
    sys.argv = [str(program.__file__), *arguments]
    sys.exit(program.main())
