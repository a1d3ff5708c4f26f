"""Beats of the daemon's loops: how the watchdog knows that the pipeline turns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Beats:
    """Each loop beats once per turn; a loop that is silent for longer than its limit is stuck."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[str, float] = {}

    def beat(self, loop: str) -> None:
        with self._lock:
            self._last[loop] = time.monotonic()

    def rest(self, loop: str) -> None:
        """The loop waits for something to do: until its next beat its silence means nothing."""
        with self._lock:
            self._last.pop(loop, None)

    @contextmanager
    def turn(self, loop: str) -> Iterator[None]:
        """One beat, and rest at the end."""
        self.beat(loop)
        try:
            yield
        finally:
            self.rest(loop)

    @contextmanager
    def pause(self, loop: str) -> Iterator[None]:
        """Rest, and a beat at the end: inside, `if_silent` tells nothing of the loop."""
        self.rest(loop)
        yield
        self.beat(loop)

    def if_silent(self, loop: str, limit_s: float, tell: Callable[[float], None]) -> None:
        """Tell of a silence of at least `limit_s`; the loop neither beats nor rests until that is told."""
        with self._lock:
            silent_s = time.monotonic() - self._last[loop] if loop in self._last else 0.0
            if silent_s >= limit_s:
                tell(silent_s)

    def longest_silence_s(self) -> tuple[str, float]:
        """The quietest loop and its silence; ("", 0.0) while all rest."""
        with self._lock:
            if not self._last:
                return "", 0.0
            loop, last = min(self._last.items(), key=lambda item: item[1])
            return loop, time.monotonic() - last
