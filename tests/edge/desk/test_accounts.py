"""Accounts of the desk: passwords that are hard to guess, sessions that end, guessers that wait."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from edge.desk.accounts import (
    MAX_WAIT_S,
    NO_ACCOUNT,
    LoginLimit,
    Sessions,
    add_account,
    disable_account,
    hash_password,
    is_password,
)
from edge.desk.store import FILE_NAME, DeskStore
from edge.errors import DeskError


class Clock:
    """Seconds that a test turns."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_password_is_known_by_its_hash_alone() -> None:
    secret = hash_password("correct horse battery")
    assert secret != hash_password("correct horse battery"), "each has a salt of its own"
    assert is_password("correct horse battery", secret)
    assert not is_password("correct horse batterz", secret)
    assert not is_password("", NO_ACCOUNT)


@pytest.mark.parametrize("name", ["", "Ann", "a b", "ann/..", "-ann", "a" * 41, "änn", "ann\n"])
def test_a_name_that_could_be_mistaken_is_refused(tmp_path: Path, name: str) -> None:
    with DeskStore(tmp_path / FILE_NAME) as store, pytest.raises(DeskError, match="no name of an account"):
        add_account(store, name, "correct horse battery", "reader", "root")


@pytest.mark.parametrize("password", ["", "short", "x" * 257])
def test_a_password_too_short_or_too_long_is_refused(tmp_path: Path, password: str) -> None:
    with DeskStore(tmp_path / FILE_NAME) as store, pytest.raises(DeskError, match="12 to 256 are needed"):
        add_account(store, "ann", password, "reader", "root")


def test_disabling_nobody_is_an_error(tmp_path: Path) -> None:
    with DeskStore(tmp_path / FILE_NAME) as store, pytest.raises(DeskError, match="there is no account 'ann'"):
        disable_account(store, "ann", "root")


def test_a_session_ends_when_it_is_idle_old_or_ended() -> None:
    clock = Clock()
    sessions = Sessions(clock, idle_s=600)
    token = sessions.begin("ann", "secret")
    for _ in range(70):
        clock.now_s += 590
        found = sessions.find(token)
        assert found is not None and found.account == "ann"
    clock.now_s += 12 * 3600 - 70 * 590 + 1
    assert sessions.find(token) is None, "a session has its day, however busy"
    token = sessions.begin("ann", "secret")
    clock.now_s += 601
    assert sessions.find(token) is None
    token = sessions.begin("ann", "secret")
    sessions.end(token)
    assert sessions.find(token) is None
    assert sessions.find("guessed") is None


def test_a_session_does_not_follow_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions(time.monotonic, idle_s=600)
    token = sessions.begin("ann", "secret")
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert sessions.find(token) is not None


def test_of_a_thousand_guesses_for_one_account_a_few_are_looked_at() -> None:
    clock = Clock()
    limit = LoginLimit(clock)
    looked_at = 0
    for _ in range(1000):
        looked_at += limit.admit("ann", "10.0.0.1") == 0
        clock.now_s += 1.0
    assert looked_at <= 5 + 5


def test_guessing_many_names_from_one_address_waits_too() -> None:
    limit = LoginLimit(Clock())
    assert sum(limit.admit(f"user{number}", "10.0.0.1") == 0 for number in range(1000)) == 20
    assert limit.admit("ann", "10.0.0.2") == 0


def test_a_right_password_forgets_the_wrong_ones_of_its_name_alone() -> None:
    limit = LoginLimit(Clock())
    for _ in range(4):
        limit.admit("ann", "10.0.0.1")
    limit.note_success("ann", "10.0.0.1")
    assert [limit.admit("ann", "10.0.0.1") for _ in range(5)] == [0.0] * 5
    for number in range(100):  # with an account of one's own in between
        limit.admit(f"user{number}", "10.0.0.9")
        if limit.admit("eve", "10.0.0.9") == 0:
            limit.note_success("eve", "10.0.0.9")
    assert limit.admit("user", "10.0.0.9") > 0


def test_waiting_has_an_end() -> None:
    clock = Clock()
    limit = LoginLimit(clock)
    waits = []
    for _ in range(200):
        waits.append(limit.admit("bob", "10.0.0.2"))
        clock.now_s += waits[-1]
    assert max(waits) == MAX_WAIT_S
    assert waits.count(0.0) > 90, "who waits is looked at again"
