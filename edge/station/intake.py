"""Between the inbox's thread and the worker's: a short queue of complete files.

Only hints live here. A stamp lost with the process is found again in the folder.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime

from edge.records import Arrival, FileStamp
from edge.station.inbox import Inbox

ROOM = 64
"""Files handed out ahead of the worker: enough to keep it busy, few enough that a newer one is not kept waiting."""

REFILL_BELOW = ROOM // 2
"""The inbox sleeps once there is no room, for `folder.poll_s` perhaps: falling below this wakes it."""


class StationIntake:
    """The worker's `Intake` on a station folder; thread-safe."""

    def __init__(self, inbox: Inbox, wake_inbox: Callable[[], None]) -> None:
        """`wake_inbox` ends the sleep of the inbox's thread; called from the worker's."""
        self._inbox = inbox
        self._wake_inbox = wake_inbox
        self._changed = threading.Condition()
        self._ready: deque[Arrival] = deque()

    def refill(self, now_s: float, now: datetime) -> None:
        """The inbox's thread: look at the folder and take as many complete files as there is room for."""
        with self._changed:
            room = max(0, ROOM - len(self._ready))
        arrivals = self._inbox.poll(now_s, now, room)
        if arrivals:
            with self._changed:
                self._ready.extend(arrivals)
                self._changed.notify_all()

    def take(self, limit: int) -> list[Arrival]:
        with self._changed:
            was_full = len(self._ready) >= REFILL_BELOW
            taken = [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]
            needs_more = was_full and len(self._ready) < REFILL_BELOW
        if needs_more:
            self._wake_inbox()
        return taken

    def finished(self, stamp: FileStamp) -> None:
        self._inbox.finished(stamp)

    def retry(self, stamp: FileStamp) -> None:
        self._inbox.retry(stamp)

    def wait(self, timeout_s: float) -> None:
        """Until something is ready, `wake` is called, or the time is up."""
        with self._changed:
            if not self._ready:
                self._changed.wait(timeout_s)

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
