"""Which answer stands: the rule for a second reader, and for who wins.

1. One reader is enough where the line took no side (`review`, `unreadable`) or the reader agrees with it.
2. A second reader, of another account, is asked where the first one disagrees with the line or is undecided. Neither
   sees the other's answer before giving an own one.
3. Of two or more readers: one `abnormal` is enough for `abnormal`; `normal` needs all of them. Anything else goes to an
   admin who has not read the scan yet, and whose answer stands; of two admins' answers, `abnormal` stands.

A second answer of one reader replaces the first; the record keeps both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from edge.records import Outcome


class Choice(StrEnum):
    """What a person says of a scan."""

    NORMAL = "normal"
    ABNORMAL = "abnormal"
    UNDECIDED = "undecided"


class State(StrEnum):
    """What a scan waits for."""

    OPEN = "open"
    SECOND = "second"
    ARBITER = "arbiter"
    DECIDED = "decided"


class Read(StrEnum):
    """The how-manieth look at a scan an answer is; an arbiter's is the third."""

    FIRST = "first"
    SECOND = "second"
    THIRD = "third"


@dataclass(frozen=True, slots=True)
class Vote:
    """One answer, as far as the rule asks: oldest first in a sequence of them."""

    account: str
    choice: Choice
    read: Read


@dataclass(frozen=True, slots=True)
class Standing:
    """What the answers together say now; `choice` is None until they decide."""

    state: State
    choice: Choice | None = None


_OPEN = Standing(State.OPEN)


def standing(outcome: Outcome, votes: Sequence[Vote]) -> Standing:
    """Apply the rule to the answers on one verdict, oldest first."""
    if not votes:
        return _OPEN
    last = {vote.account: vote for vote in votes}
    arbiters = {vote.choice for vote in last.values() if vote.read is Read.THIRD} - {Choice.UNDECIDED}
    if arbiters:
        return Standing(State.DECIDED, Choice.ABNORMAL if Choice.ABNORMAL in arbiters else Choice.NORMAL)
    choices = {vote.choice for vote in last.values()}
    if len(last) == 1:
        (choice,) = choices
        if choice is Choice.UNDECIDED or disagrees(outcome, choice):
            return Standing(State.SECOND)
        return Standing(State.DECIDED, choice)
    if Choice.ABNORMAL in choices:
        return Standing(State.DECIDED, Choice.ABNORMAL)
    if choices == {Choice.NORMAL}:
        return Standing(State.DECIDED, Choice.NORMAL)
    return Standing(State.ARBITER)


def read_of(outcome: Outcome, votes: Sequence[Vote], account: str, *, is_admin: bool) -> Read:
    """Which reading an answer of this account would be now; an account that answers again keeps its own."""
    own = [vote.read for vote in votes if vote.account == account]
    if own:
        return own[-1]
    if is_admin and standing(outcome, votes).state is State.ARBITER:
        return Read.THIRD
    return Read.SECOND if votes else Read.FIRST


def is_asked(state: State, votes: Sequence[Vote], account: str, *, is_admin: bool) -> bool:
    """Whether this account's answer is wanted: the scan waits, and for somebody who has not read it.

    `state`: what `standing` makes of `votes`.
    """
    if has_answered(votes, account):
        return False
    return state in (State.OPEN, State.SECOND) or (state is State.ARBITER and is_admin)


def has_answered(votes: Sequence[Vote], account: str) -> bool:
    """Whether one of the answers is this account's."""
    return bool(votes) and any(vote.account == account for vote in votes)


def disagrees(outcome: Outcome, choice: Choice) -> bool:
    """Whether a person says the opposite of the line; `review` and `unreadable` take no side."""
    return (outcome, choice) in ((Outcome.NORMAL, Choice.ABNORMAL), (Outcome.ABNORMAL, Choice.NORMAL))
