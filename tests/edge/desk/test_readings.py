"""Who wins: every pair of answers against every outcome of the line."""

from __future__ import annotations

import itertools

import pytest

from edge.desk.readings import Choice, Read, Standing, State, Vote, is_asked, read_of, standing
from edge.records import Outcome

NORMAL, ABNORMAL, UNDECIDED = Choice.NORMAL, Choice.ABNORMAL, Choice.UNDECIDED


def votes(*choices: Choice) -> list[Vote]:
    """Answers of ann, bob and cleo, in this order; the third as an arbiter."""
    return [Vote(name, choice, read) for name, choice, read in zip(("ann", "bob", "cleo"), choices, Read, strict=False)]


@pytest.mark.parametrize("outcome", [Outcome.REVIEW, Outcome.UNREADABLE])
@pytest.mark.parametrize("choice", [NORMAL, ABNORMAL])
def test_one_reader_is_enough_where_the_line_took_no_side(outcome: Outcome, choice: Choice) -> None:
    assert standing(outcome, votes(choice)) == Standing(State.DECIDED, choice)


@pytest.mark.parametrize(
    ("outcome", "choice", "state"),
    [
        (Outcome.NORMAL, NORMAL, State.DECIDED),
        (Outcome.ABNORMAL, ABNORMAL, State.DECIDED),
        (Outcome.NORMAL, ABNORMAL, State.SECOND),
        (Outcome.ABNORMAL, NORMAL, State.SECOND),
        (Outcome.NORMAL, UNDECIDED, State.SECOND),
        (Outcome.REVIEW, UNDECIDED, State.SECOND),
    ],
)
def test_a_second_reader_is_asked_where_the_first_disagrees_or_is_undecided(
    outcome: Outcome, choice: Choice, state: State
) -> None:
    assert standing(outcome, votes(choice)).state is state


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("pair", list(itertools.product(Choice, Choice)))
def test_of_two_readers_one_abnormal_is_enough_and_normal_needs_both(
    outcome: Outcome, pair: tuple[Choice, Choice]
) -> None:
    found = standing(outcome, votes(*pair))
    if ABNORMAL in pair:
        assert found == Standing(State.DECIDED, ABNORMAL)
    elif pair == (NORMAL, NORMAL):
        assert found == Standing(State.DECIDED, NORMAL)
    else:
        assert found == Standing(State.ARBITER)


def test_the_answer_of_the_arbiter_stands_and_an_undecided_one_asks_another_arbiter() -> None:
    assert standing(Outcome.REVIEW, votes(UNDECIDED, NORMAL, NORMAL)) == Standing(State.DECIDED, NORMAL)
    assert standing(Outcome.REVIEW, votes(UNDECIDED, NORMAL, UNDECIDED)) == Standing(State.ARBITER)


def test_of_two_arbiters_abnormal_stands_whoever_changes_the_own_answer() -> None:
    """The first was undecided, so a second one was asked; then the first one made up their mind."""
    asked = [*votes(UNDECIDED, NORMAL), Vote("cleo", UNDECIDED, Read.THIRD), Vote("dora", NORMAL, Read.THIRD)]
    assert standing(Outcome.REVIEW, asked) == Standing(State.DECIDED, NORMAL)
    late = [*asked, Vote("cleo", ABNORMAL, Read.THIRD)]
    assert standing(Outcome.REVIEW, late) == Standing(State.DECIDED, ABNORMAL)


def test_whoever_answers_again_replaces_the_own_answer() -> None:
    again = [Vote("ann", ABNORMAL, Read.FIRST), Vote("ann", NORMAL, Read.FIRST)]
    assert standing(Outcome.REVIEW, again) == Standing(State.DECIDED, NORMAL)
    assert read_of(Outcome.REVIEW, again, "ann", is_admin=True) is Read.FIRST


def test_nobody_is_asked_twice_and_only_an_admin_arbitrates() -> None:
    def asks(given: list[Vote], account: str, *, is_admin: bool) -> bool:
        return is_asked(standing(Outcome.REVIEW, given).state, given, account, is_admin=is_admin)

    disputed = votes(UNDECIDED, NORMAL)
    assert not asks(votes(UNDECIDED), "ann", is_admin=False)
    assert asks(votes(UNDECIDED), "bob", is_admin=False)
    assert not asks(disputed, "cleo", is_admin=False)
    assert asks(disputed, "cleo", is_admin=True)
    assert not asks(disputed, "bob", is_admin=True)
    assert read_of(Outcome.REVIEW, disputed, "cleo", is_admin=True) is Read.THIRD
    assert not asks(votes(NORMAL), "bob", is_admin=True)
