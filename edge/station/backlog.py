"""Files without an outcome, and in which order the ready ones go when there are more of them than room."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge.records import FileStamp
from edge.station.known import Rights

NEWEST_TURN = 4
"""Every fourth place goes to the newest arrival; that matters only while more is ready than there is room for."""


@dataclass(slots=True)
class Waiting:
    """A file without an outcome."""

    stamp: FileStamp
    is_file: bool
    rights: Rights
    since_s: float
    is_arrival: bool
    listing: int
    looks: int = 1
    not_before_s: float = -math.inf
    is_ready: bool = False
    is_final: bool = False
    was_touched: bool = False
    is_rewrite: bool = False
    """It was a whole scan before, for all that is known, and was then written to."""
    has_stood_still: bool = False
    """Long enough to be taken for a whole scan, as its stamp shows it."""
    is_complete: bool = False
    """Its structure lay inside the file, as its stamp shows it."""
    judged: FileStamp | None = None
    """What had its outcome under this name, or in this file under another."""

    @property
    def is_news(self) -> bool:
        """Whether it is another scan than the one that was judged."""
        return self.stamp != self.judged


class Backlog:
    """Oldest first, by file time and then by name. Yet what the line scans right now is not kept waiting for hours
    by what lay in the folder before: the newest arrival gets its turn, too.
    """

    def __init__(self) -> None:
        self._former: list[tuple[int, str]] = []  # newest first, so that the oldest is popped from the end
        self._arrivals: list[tuple[int, str]] = []  # oldest first
        self._is_sorted = True
        self._turn = 0

    def __len__(self) -> int:
        return len(self._former) + len(self._arrivals)

    def add(self, stamp: FileStamp, *, is_arrival: bool) -> None:
        """`is_arrival`: the file came while the folder was watched."""
        (self._arrivals if is_arrival else self._former).append(age(stamp))
        self._is_sorted = False

    def clear(self) -> None:
        self._former.clear()
        self._arrivals.clear()

    def take(self) -> str:
        """Remove one file and return it. Raises IndexError when there is none."""
        if not self._is_sorted:
            self._former.sort(reverse=True)
            self._arrivals.sort()
            self._is_sorted = True
        self._turn += 1
        if self._arrivals and self._turn % NEWEST_TURN == 0:
            return self._arrivals.pop()[1]
        if not self._former or (self._arrivals and self._arrivals[0] < self._former[-1]):
            return self._arrivals.pop(0)[1]
        return self._former.pop()[1]


def age(stamp: FileStamp) -> tuple[int, str]:
    """Sorts the oldest first."""
    return stamp.modified_ns, stamp.file
