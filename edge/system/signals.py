"""The signals that end the line, and who may take them."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from edge.system.logs import event

log = logging.getLogger(__name__)

STOP_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT})
LOOK_S = 0.1
"""The end of `stop_ends_process` waits so long at most."""


@contextmanager
def stop_signals_held() -> Iterator[None]:
    """Inside, they wait for `sigtimedwait`: no handler ever interrupts a lock that is half taken.

    Threads inherit this, the networks' own ones too, if it is entered before they start. One that had not would take
    the signal whenever the main thread is not waiting for it, and the process would end there and then.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def stop_ends_process() -> Iterator[None]:
    """Inside, a stop ends the process at once with 0, whatever the main thread is waiting for.

    For the start of the line, within `stop_signals_held`: loading a model takes seconds, building its engine minutes,
    and until the line runs nothing is lost by an end as sudden as a kill.
    """
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.is_set():
            received = signal.sigtimedwait(STOP_SIGNALS, LOOK_S)
            if received is not None:
                event(log.info, "stopped before the line was ready", signal=signal.Signals(received.si_signo).name)
                os._exit(0)

    thread = threading.Thread(target=watch, name="stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
