"""Alarms that stand and alarms to be said; waits that grow."""

from __future__ import annotations

import random

import pytest

from edge.contract.messages import Alarm
from edge.mqtt.alarms import MAX_WAITING, AlarmBoard
from edge.mqtt.publisher import program_versions
from edge.mqtt.refusals import Backoff
from tests.support.samples import MORNING, STATION
from tools.examples import BOOT_ID


@pytest.fixture
def board() -> AlarmBoard:
    return AlarmBoard(STATION, BOOT_ID, lambda: MORNING)


def said(board: AlarmBoard) -> list[tuple[str, bool, str]]:
    heard = []
    while (alarm := board.take()) is not None:
        heard.append((alarm.code, alarm.active, alarm.message))
    return heard


def test_an_alarm_is_said_once_when_it_starts_and_once_when_it_ends(board: AlarmBoard) -> None:
    assert board.start("share-away", "gone", "mount it")
    assert not board.start("share-away", "still gone", "mount it")
    assert list(board.standing) == ["share-away"]
    assert board.end("share-away")
    assert not board.end("share-away")
    assert list(board.standing) == []
    assert said(board) == [("share-away", True, "gone"), ("share-away", False, "still gone")]


def test_a_new_connection_hears_what_stands_and_nothing_twice(board: AlarmBoard) -> None:
    board.start("share-away", "gone", "mount it")
    board.start("disk-low", "low", "free some")
    board.say_again()
    assert len(said(board)) == 2
    board.end("disk-low")
    assert len(said(board)) == 1
    board.say_again()
    assert said(board) == [("share-away", True, "gone")]


def test_new_words_of_a_standing_alarm_are_heard_over_the_next_connection_and_not_before(board: AlarmBoard) -> None:
    board.start("scans-refused", "1 file", "look at the station")
    board.start("scans-refused", "2 files", "look at the station")
    board.say_again()
    assert said(board) == [("scans-refused", True, "1 file")]
    board.say_again()
    assert said(board) == [("scans-refused", True, "2 files")]


def test_alarms_that_did_not_arrive_come_first_again(board: AlarmBoard) -> None:
    for code in ("a", "b", "c"):
        board.start(code, "m", "h")
    first, second = board.take(), board.take()
    assert isinstance(first, Alarm) and isinstance(second, Alarm)
    board.give_back([first, second])
    assert [code for code, _, _ in said(board)] == ["a", "b", "c"]


def test_a_flapping_alarm_does_not_fill_the_memory(board: AlarmBoard) -> None:
    for _ in range(MAX_WAITING):
        board.start("share-away", "gone", "mount it")
        board.end("share-away")
    assert len(said(board)) == MAX_WAITING


def test_waits_double_up_to_the_longest_and_scatter() -> None:
    backoff = Backoff(0.5, 30.0, random.Random(3))
    waits = [backoff.next_s() for _ in range(50)]
    assert all(0.5 <= wait <= 30.0 for wait in waits)
    assert [wait <= 0.5 * 2**index for index, wait in enumerate(waits)].count(False) == 0
    assert all(wait >= 15.0 for wait in waits[6:])
    assert len(set(waits[6:])) == 44
    backoff.reset()
    assert backoff.next_s() == 0.5


def test_the_status_names_what_runs_here() -> None:
    assert {"edge-worker", "python", "sqlite", "paho-mqtt"} <= set(program_versions())
