"""Files without an outcome, and in which order the ready ones go when there are more of them than room."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import nsmallest

from edge.records import FileStamp

REWRITING_S = 60.0
WRITING_S = 600.0
"""How long a file may be written to and never stand still: one that held a scan before, and a new one."""

FEW = 64
"""Files that a look by name may be at."""

AHEAD = 4096
"""Oldest files of a backlog that may be looked at before the next listing: it comes seconds later."""

NEWEST_TURN = 4
"""Every fourth place goes to the newest arrival; that matters only while more is ready than there is room for."""


@dataclass(slots=True)
class Waiting:
    """A file without an outcome."""

    stamp: FileStamp
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

    restless_since_s: float = field(init=False)
    """Since when it has not stood still for long enough; infinite once it has, until it is written to again."""

    def __post_init__(self) -> None:
        self.restless_since_s = self.since_s

    @property
    def is_news(self) -> bool:
        """Whether it is another scan than the one that was judged."""
        return self.stamp != self.judged

    def begin_anew(self, now_s: float) -> None:
        """It was not watched until now."""
        self.looks, self.is_ready = 0, False
        self.since_s = self.restless_since_s = now_s

    def settle(self) -> None:
        """It stood still for long enough."""
        self.is_ready = self.has_stood_still = True
        self.restless_since_s = math.inf

    def change(self, now_s: float) -> None:
        """It was written to, or is another file."""
        self.looks, self.since_s, self.not_before_s = 1, now_s, -math.inf
        self.restless_since_s = min(self.restless_since_s, now_s)
        self.is_complete = False

    def is_restless(self, now_s: float, hold_s: float) -> bool:
        """Whether it has not stood still for so long that scan after scan may be lost in it.

        `hold_s`: how long a file that is written again in place has to stand still.
        """
        limit_s = max(REWRITING_S, 3 * hold_s) if self.is_rewrite else WRITING_S
        return now_s - self.restless_since_s >= limit_s


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


class Unsettled:
    """Files that have not stood still for long enough, for looks by name between two listings."""

    def __init__(self, waiting: Mapping[str, Waiting]) -> None:
        """`waiting`: all files without an outcome, followed as they change."""
        self._waiting = waiting
        self._line: list[str] = []  # of many files the oldest, in their order from the end

    def __bool__(self) -> bool:
        return bool(self._line)

    def clear(self) -> None:
        self._line.clear()

    def all(self) -> list[str]:
        return [file for file, waiting in self._waiting.items() if not waiting.is_ready]

    def line_up(self) -> None:
        """Find the oldest, unless there are few anyway."""
        files = [] if len(self._waiting) <= FEW else self.all()
        self._line = nsmallest(AHEAD, files, key=lambda file: age(self._waiting[file].stamp))[::-1]

    def oldest(self) -> list[str]:
        """A few of those that were lined up; they come again until they are settled or gone."""
        files: list[str] = []
        while self._line and len(files) < FEW:
            file = self._line.pop()
            if file in self._waiting and not self._waiting[file].is_ready:
                files.append(file)
        self._line += reversed(files)
        return files


def age(stamp: FileStamp) -> tuple[int, str]:
    """Sorts the oldest first."""
    return stamp.modified_ns, stamp.file
