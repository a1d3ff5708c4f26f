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

_IS_DEAF_TO_HANGUPS = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
"""As `nohup` starts it."""
STOP_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT} | (set() if _IS_DEAF_TO_HANGUPS else {signal.SIGHUP}))
_SENT: Final = frozenset({0, 128, -1, -6})
"""`si_code` of a signal that somebody sent, by sigaction(2): SI_USER, SI_KERNEL (a terminal), SI_QUEUE, SI_TKILL."""
LOOK_S = 0.1
"""The end of `stop_ends_process` waits so long at most."""


def await_stop(timeout_s: float) -> signal.Signals | None:
    """The stop signal that comes within `timeout_s`, None if none does; within `hold_stop_signals`.

    Where the whole process stands still for longer than that (SIGSTOP, a suspended machine, a debugger), CPython's
    sigtimedwait returns unwritten memory instead of None: taken for a signal, it was the clean stop of a line that
    was not told to stop, and that is not started again.
    """
    received = signal.sigtimedwait(STOP_SIGNALS, timeout_s)
    if received is None or received.si_signo not in STOP_SIGNALS or received.si_code not in _SENT:
        return None
    return signal.Signals(received.si_signo)


def exit_code_after(received: signal.Signals) -> int:
    """What a clean stop ends with: 0 where it was asked for.

    A hangup (a terminal that closes, a `kill -HUP` by habit) asks for no end of the line: any other code than 0 makes
    a service manager start it again, with the settings as they are by then.
    """
    return 128 + received if received == signal.SIGHUP else 0


@contextmanager
def hold_stop_signals() -> Iterator[None]:
    """Inside, they wait for `await_stop`: no handler ever interrupts a lock that is half taken.

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
    """Inside, a stop ends the process at once and cleanly, whatever the main thread is waiting for.

    For the start of the line, within `hold_stop_signals`: loading a model takes seconds, building its engine minutes,
    and until the line runs nothing is lost by an end as sudden as a kill.
    """
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.is_set():
            if (received := await_stop(LOOK_S)) is not None:
                event(log.info, "stopped before the line was ready", signal=received.name)
                os._exit(exit_code_after(received))

    thread = threading.Thread(target=watch, name="stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
