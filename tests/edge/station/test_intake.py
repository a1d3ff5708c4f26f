"""The queue between the inbox and the worker: what it says of a file, and when it asks for more."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest

from edge.station.intake import REFILL_BELOW, ROOM, StationIntake
from tests.support.station import Line, drop

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_an_arrival_says_what_the_file_has_to_be_still_when_it_is_read(line: Line) -> None:
    intake = StationIntake(line.inbox, lambda: None)
    path = drop(line.folder / "a.tif")
    for now_s in range(3):
        intake.refill(float(now_s), NOW)
    (arrival,) = intake.take(1)
    assert arrival.expected is not None and arrival.expected.matches(path.lstat())
    drop(path)
    assert not arrival.expected.matches(path.lstat())


def test_a_backlog_is_not_throttled_by_the_longest_time_between_two_looks(line: Line) -> None:
    woken = threading.Event()
    intake = StationIntake(line.inbox, woken.set)
    for index in range(3 * ROOM):
        drop(line.folder / f"{index}.tif")
    next_look_s, taken, turn = 0.0, 0, 0
    while taken < 3 * ROOM and turn < 10_000:
        now_s = turn / 100
        if woken.is_set() or now_s >= next_look_s:
            woken.clear()
            intake.refill(now_s, NOW)
            next_look_s = now_s + line.inbox.wait_s(now_s, period_s=60)
        taken += len(intake.take(1)) if turn % 10 == 0 else 0
        turn += 1
    assert turn / 100 == pytest.approx(3 * ROOM / 10, abs=2)


def test_a_queue_that_was_never_full_asks_for_nothing(line: Line) -> None:
    """Each scan of a station that writes one a second is no reason for another look."""
    woken = threading.Event()
    intake = StationIntake(line.inbox, woken.set)
    for index in range(REFILL_BELOW - 1):
        drop(line.folder / f"{index}.tif")
    for now_s in range(3):
        intake.refill(float(now_s), NOW)
    assert len(intake.take(ROOM)) == REFILL_BELOW - 1
    assert not woken.is_set()
