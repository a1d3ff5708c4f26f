"""Whether the broker refuses everything or one row, told from what it answers to single rows."""

from __future__ import annotations

import random
from collections.abc import Callable

from edge.mqtt.refusals import OLDEST_TRIES, Refusals

CODE = "verdict-refused"


def refusals() -> Refusals:
    return Refusals(1.0, 30.0, random.Random(1))


def turns(state: Refusals, unsent: list[int], is_refused: Callable[[int], bool], now_s: float, count: int) -> list[int]:
    """Probe as the publisher does, for a number of turns or until a row passes; the rows that went out."""
    sent: list[int] = []
    while count and state.is_probing:
        if state.is_pausing(now_s):
            now_s += 0.5
            continue
        seq = next((seq for seq in unsent if seq > state.probe_after), None)
        state.probe(seq, now_s)
        if seq is not None:
            sent.append(seq)
            (state.refused(seq, CODE, now_s) if is_refused(seq) else state.taken(seq, now_s))
        count -= state.is_pausing(now_s)
    return sent


def test_while_everything_is_refused_each_turn_tries_the_oldest_row_and_another_one() -> None:
    state = refusals()
    state.refused(1, CODE, 0.0)
    oldest = [1] * OLDEST_TRIES
    assert turns(state, [1, 2, 3], lambda _: True, 0.0, 4) == [*oldest, 2, *oldest, 3, *oldest, *oldest, 2]
    assert state.is_probing
    assert state.alarms == {CODE}


def test_when_the_oldest_row_passes_nothing_is_gone_round() -> None:
    state = refusals()
    for seq in (1, 2, 3):
        state.refused(seq, CODE, 0.0)
    assert turns(state, [1, 2, 3], lambda _: False, 0.0, 1) == [1]
    assert not state.is_probing
    assert state.aside == frozenset()
    assert state.alarms == {CODE}  # 2 and 3 have yet to be taken


def test_rows_that_are_refused_for_themselves_are_gone_round_and_come_back() -> None:
    state = refusals()
    state.refused(1, CODE, 0.0)
    turns(state, [1, 2, 3], lambda seq: seq < 3, 0.0, 9)
    assert not state.is_probing
    assert state.aside == {1, 2}
    waits_s, now_s = [], 100.0
    assert state.come_back(now_s)
    for _ in range(6):
        began_s = now_s
        for seq in (1, 2):
            state.refused(seq, CODE, now_s)
        assert state.aside == {1, 2}
        assert not state.is_probing  # the others go on
        while not state.come_back(now_s):
            now_s += 0.1
        waits_s.append(now_s - began_s)
    assert waits_s[0] < waits_s[-1] <= 30.1
    for seq in (1, 2):
        state.taken(seq, now_s)
    assert (state.aside, state.alarms) == (frozenset(), set())


def test_a_row_that_ends_the_connection_is_known_again_among_others() -> None:
    state = refusals()
    state.refused(7, CODE, 0.0)
    state.suspect()
    assert state.culprit([3, 5, 7, 9]) == 7
    assert state.culprit([5, 3, 9]) == 3
