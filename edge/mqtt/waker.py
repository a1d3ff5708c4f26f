"""A sleep that the network or another thread ends."""

from __future__ import annotations

import select
import socket
from contextlib import suppress


class Waker:
    """One thread sleeps, any may wake it; a call between two sleeps ends the next one at once."""

    def __init__(self) -> None:
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)

    def wake(self) -> None:
        with suppress(OSError):  # full: woken already; closed: nobody sleeps any more
            self._waker.send(b"\0")

    def sleep(self, wait_s: float, wanted: tuple[int, int] | None) -> None:
        """Until somebody wakes, for at most `wait_s`. `wanted`: file descriptor and poll(2) events that wake it."""
        poll = select.poll()
        poll.register(self._woken.fileno(), select.POLLIN)
        if wanted is not None:
            poll.register(*wanted)
        poll.poll(wait_s * 1000)
        with suppress(BlockingIOError):
            self._woken.recv(4096)

    def close(self) -> None:
        self._woken.close()
        self._waker.close()
