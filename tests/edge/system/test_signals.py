"""The signals that end the line: what is one, and what only looks like one."""

from __future__ import annotations

import subprocess
import sys

import pytest

PAUSED = """
import os, signal, sys, time
from edge.system.signals import await_stop, hold_stop_signals
with hold_stop_signals():
    line = os.getpid()
    if (other := os.fork()) == 0:
        time.sleep(0.1)
        os.kill(line, signal.SIGSTOP)
        time.sleep(0.6)
        os.kill(line, signal.SIGCONT)
        os._exit(0)
    began_s = time.monotonic()
    received = await_stop(0.3)
    assert time.monotonic() - began_s > 0.5, "it was not paused beyond its timeout"
    os.waitpid(other, 0)
    os.kill(line, signal.SIGTERM)
    print(received, await_stop(5.0).name)
"""


def test_a_pause_of_the_whole_process_is_no_stop_and_a_stop_after_it_is_one() -> None:
    """A suspended machine, a debugger, SIGSTOP: the wait for a signal ends long after its time."""
    done = subprocess.run([sys.executable, "-c", PAUSED], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("None SIGTERM\n", "")


@pytest.mark.parametrize(("prefix", "stops"), [([], True), (["nohup"], False)])
def test_a_hangup_stops_the_line_unless_it_was_started_not_to_hear_one(prefix: list[str], stops: bool) -> None:
    program = "import signal; from edge.system.signals import STOP_SIGNALS; print(signal.SIGHUP in STOP_SIGNALS)"
    done = subprocess.run(
        [*prefix, sys.executable, "-c", program], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    assert done.stdout == f"{stops}\n"
