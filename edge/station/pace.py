"""When the inbox looks again: soon, and yet so seldom that no storm of events takes the machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

SPACING_S = 0.02
"""Shortest time from one look to the next."""

LISTING_SPACING_S = 0.25
"""Shortest time from one listing to the next where the looks between them need none, and no new scan waits for it: the
period if that is shorter."""

REST_PER_COST = 4
"""After a listing that cost t seconds of CPU, wait at least 4 t: no storm of events takes over a fifth of a core."""

BUSY_SPACING_S = 0.25
"""Shortest time between listings while ready files wait for room: new files are not the next to go."""

Stopwatch = Callable[[], tuple[float, float]]
"""Seconds on a monotonic clock, and processor time of this thread in seconds."""


def real_time() -> tuple[float, float]:
    return time.monotonic(), time.thread_time()


class Pace:
    """The earliest times of the next look and of the next listing, on the clock of `poll`."""

    def __init__(self, listing_spacing_s: float, stopwatch: Stopwatch) -> None:
        """`stopwatch`: tells what a look takes."""
        self.next_look_s = self.next_listing_s = -math.inf
        self._listing_spacing_s = listing_spacing_s
        self._stopwatch = stopwatch
        self._began_s = self._spent_s = self._cost_s = 0.0

    def begin(self) -> None:
        """A look begins."""
        self._began_s, self._spent_s = self._stopwatch()

    def has_looked(self) -> None:
        """What follows hands files out, and belongs to no listing."""
        self._cost_s = self._stopwatch()[1] - self._spent_s

    def end(self, now_s: float, *, is_listing: bool, is_busy: bool) -> None:
        """The look that began at `now_s` ends. `is_busy`: ready files wait for room."""
        ended_s = now_s + self._stopwatch()[0] - self._began_s
        self.next_look_s = ended_s + SPACING_S
        if is_listing:
            spacing_s = BUSY_SPACING_S if is_busy else self._listing_spacing_s
            self.next_listing_s = ended_s + max(spacing_s, REST_PER_COST * self._cost_s)
