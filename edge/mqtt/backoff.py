"""How long to wait after a failure."""

from __future__ import annotations

import random


class Backoff:
    """Exponential waits with jitter, so that stations do not return all at once."""

    def __init__(self, shortest_s: float, longest_s: float, rng: random.Random) -> None:
        self._shortest_s = shortest_s
        self._longest_s = longest_s
        self._rng = rng
        self._failures = 0

    def next_s(self) -> float:
        """Between half of the nominal wait and all of it; the nominal wait doubles with every call."""
        nominal_s = min(self._longest_s, self._shortest_s * 2 ** min(self._failures, 32))
        self._failures += 1
        return max(self._shortest_s, self._rng.uniform(nominal_s / 2, nominal_s))

    def reset(self) -> None:
        self._failures = 0
