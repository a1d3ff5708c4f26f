"""What a connection goes without: asked for again with each one, given up only for what the broker refuses for good."""

from __future__ import annotations

import pytest

from edge.errors import PublishError
from edge.mqtt.concessions import CONCESSION_ENDS, Concessions
from edge.mqtt.connection import Ended

REFUSED = PublishError("refused", hint="")


def ask(concessions: Concessions) -> tuple[bool, bool]:
    """(may retain, has a will) of the next connection."""
    concessions.begin()
    return concessions.may_retain, concessions.has_will


def refuse(concessions: Concessions, code: int | None = None) -> None:
    concessions.ended(Ended(REFUSED, code=code, is_at_connect=True), is_at_retained=False)


def test_a_will_that_is_refused_is_given_up_by_degrees_and_asked_for_again() -> None:
    concessions = Concessions()
    asked = []
    for _ in range(CONCESSION_ENDS + 4):
        asked.append(ask(concessions))
        refuse(concessions)
    assert asked == [(True, True)] * CONCESSION_ENDS + [(False, True), (False, False), (True, True), (False, True)]


def test_one_refusal_of_all_after_a_connection_that_went_without_is_enough_to_go_without() -> None:
    concessions = Concessions()
    for _ in range(CONCESSION_ENDS):
        ask(concessions)
        refuse(concessions)
    assert ask(concessions) == (False, True)
    assert not concessions.accepted(can_retain=True)
    for _ in range(3):  # and at each later connection
        assert ask(concessions) == (True, True)
        refuse(concessions)
        assert ask(concessions) == (False, True)
        assert concessions.accepted(can_retain=True)
        assert concessions.missing() is not None


@pytest.mark.parametrize("code", [0x84, 0x86, 0x88, 0x89, 0x9D])
def test_a_refusal_that_says_what_it_is_about_takes_nothing_away(code: int) -> None:
    concessions = Concessions()
    for _ in range(2 * CONCESSION_ENDS):
        assert ask(concessions) == (True, True)
        refuse(concessions, code)


def test_the_brokers_word_for_it_is_enough_at_once() -> None:
    concessions = Concessions()
    ask(concessions)
    assert concessions.ended(Ended(REFUSED, code=0x9A, is_at_connect=True), is_at_retained=False)
    assert ask(concessions) == (False, True)
    assert concessions.accepted(can_retain=True)
    assert ask(concessions) == (True, True)
