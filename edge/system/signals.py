"""The signals that end the line, and who may take them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

STOP_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT})


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
