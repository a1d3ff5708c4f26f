"""Rows the broker refuses: how to find out whether it refuses everything or these rows, and when to try them again.

An access list or a quota refuses everything: then one answer holds for all, and sending on is in vain. A single message
that a broker cannot bear is another matter: the others must go round it. So after a refusal the sending pauses, and
then in each turn the oldest unsent row is tried alone. If the broker takes it, everything goes on in order of seq. If
not, it is tried once more, for mosquitto takes up a corrected access list only behind the next packet, and then one row
behind it in the same moment: when that one passes, it is the oldest row, and the others go round it; when it is
refused too, the next turn comes after a longer pause, with another row beside the oldest.

Rows that others go round are tried again at growing intervals.

Some brokers say nothing of a message they cannot bear: they hang up, or never acknowledge it. When that has happened
LONE_ENDS times in a row to one row, alone, over connections on which they answered others, it counts as refused.

Without a subscriber no row is at fault, and rules of the broker may take what no subscriber does: the rows are
offered in turn, a few at a time with growing pauses between, and from the oldest again when all were offered. When
somebody is there for one of them, all go out in order of seq.

It knows neither broker nor ledger.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from edge.contract.alarm_code import AlarmCode

OLDEST_TRIES = 2
LONE_ENDS = 3
OFFERS = 3
"""Rows that are offered at a time while there is no subscriber."""


class Refusals:
    """Keeps the rows the broker refused, and says when to try which again. `now_s` is time.monotonic()."""

    def __init__(self, shortest_s: float, longest_s: float, rng: random.Random) -> None:
        self.is_probing = False
        """Rows go out one at a time: `probe` says which."""
        self.is_unheard = False
        """No subscriber: OFFERS rows go out at a time, in turn."""
        self._alarms: dict[int, AlarmCode] = {}  # refused seq -> code of the alarm it stands for
        self._aside: set[int] = set()
        self._retry_at_s = 0.0
        self._retries = Backoff(shortest_s, longest_s, rng)
        self._resume_at_s = 0.0
        self._pauses = Backoff(shortest_s, longest_s, rng)
        self._probe: int | None = None
        self._oldest: int | None = None  # refused OLDEST_TRIES times in this turn
        self._tries = 0
        self._beside = 0  # the last row that was tried beside the oldest
        self._ended_with: int | None = None  # the row that was last alone under way when a connection ended
        self._ends = 0  # how many of them in a row
        self._alone: set[int] = set()  # refused since the probing began, with nothing else in flight

    @property
    def alarms(self) -> set[AlarmCode]:
        """Codes of the alarms for which a refused row stands."""
        return set(self._alarms.values())

    @property
    def aside(self) -> frozenset[int]:
        """Rows that the others go round for now."""
        return frozenset(self._aside)

    @property
    def probe_after(self) -> int:
        """The row to try alone is the first unsent one behind this seq."""
        return 0 if self._oldest is None else max(self._oldest, self._beside)

    def is_pausing(self, now_s: float) -> bool:
        return now_s < self._resume_at_s

    def suspect(self) -> None:
        """A connection ended with rows in flight; one may be why, its refusal lost: go on with one row, or the turn."""
        self.is_probing = not self.is_unheard
        self._probe = None

    def is_refused_by_silence(self, seq: int) -> bool:
        """A connection that had answered others ended with this row alone under way: whether that is a refusal."""
        self._ends = self._ends + 1 if seq == self._ended_with else 1
        self._ended_with = seq
        return self._ends >= LONE_ENDS

    def culprit(self, in_flight: Iterable[int]) -> int:
        """Which row a broker refused that does not say: one it has refused before, else the oldest."""
        return min(in_flight, key=lambda seq: (seq not in self._alarms, seq))

    def probe(self, seq: int | None, now_s: float) -> None:
        """This row goes out alone now; None: there is no row behind `probe_after`."""
        self._probe = seq
        if seq is None and self._oldest is not None:
            self._beside = 0
            self._pause(now_s)

    def unheard(self, seq: int, alarm: AlarmCode, now_s: float) -> None:
        """The row's topic has no subscriber."""
        is_known = seq in self._alarms
        self._alarms[seq] = alarm
        if is_known and not self.is_unheard and not self.is_probing:
            self._put_aside({seq}, now_s)  # others were taken since: they go to another topic
        else:
            self.is_unheard, self.is_probing = True, False
            self._alone.clear()
            self._beside = 0
            self._pause(now_s)

    def refused(self, seq: int, alarm: AlarmCode, now_s: float) -> None:
        is_known = self._alarms.get(seq) == alarm if self.is_unheard else seq in self._alarms
        self._alarms[seq] = alarm
        if self.is_probing and seq == self._probe:
            self._alone.add(seq)
            if self._oldest is None:
                self._tries += 1
                self._oldest = seq if self._tries == OLDEST_TRIES else None
            else:
                self._beside = seq
                self._pause(now_s)
        elif is_known and not self.is_probing:
            self._put_aside({seq}, now_s)
        else:
            self.is_unheard, self.is_probing = False, True
            self._pause(now_s)

    def taken(self, seq: int, now_s: float) -> bool:
        """Whether rows that were sent in vain are to be sent again now, from the oldest on."""
        was_unheard = self.is_unheard
        if was_unheard:
            self.is_unheard = False
            self._resume_at_s = now_s
            self._pauses.reset()
        self._alarms.pop(seq, None)
        self._aside.discard(seq)
        if seq == self._ended_with:
            self._ended_with = None
        if self.is_probing:
            self._aside.clear()
            if self._oldest is not None and seq == self._probe:
                self._put_aside(self._alone, now_s)
            self._alone.clear()
            self.is_probing = False
            self._end_turn()
            self._beside = 0
            self._pauses.reset()
        if not self._alarms:
            self._retries.reset()
        return was_unheard

    def come_back(self, now_s: float) -> bool:
        """Whether the time has come to try the rows put aside; they are so no more."""
        if not self._aside or self.is_unheard or now_s < self._retry_at_s:
            return False
        self._aside.clear()
        return True

    def _pause(self, now_s: float) -> None:
        if not self.is_pausing(now_s):
            self._resume_at_s = now_s + self._pauses.next_s()
        self._end_turn()

    def _end_turn(self) -> None:
        self._probe = self._oldest = None
        self._tries = 0

    def _put_aside(self, seqs: set[int], now_s: float) -> None:
        if not self._aside:
            self._retry_at_s = now_s + self._retries.next_s()
        self._aside |= seqs


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
