"""The scans that wait for a person: what lies in the evidence folder, with what was answered so far.

A case is a verdict with evidence. The index is in memory and follows the folder; a case whose pictures were removed
meanwhile stays until the desk restarts, so that who has it on the screen is told. What a reader was shown stays longer:
the desk's file remembers it, so that an answer that comes after all is taken.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import NamedTuple

from edge.desk.readings import Standing, State, Vote, has_answered, is_asked, standing
from edge.errors import EvidenceError
from edge.evidence.record import Piece, Record, evidence_path, open_piece, pieces
from edge.records import Outcome

REFRESH_S = 2.0
"""The folder is listed at most this often."""
PAGE_CASES = 50
CLAIM_S = 180.0
"""A scan that one reader has open is not given to another one for so long."""


@dataclass(frozen=True, slots=True)
class Case:
    """A verdict with evidence, as its record tells it."""

    path: Path
    record: Record
    is_gone: bool = False
    """The evidence was removed since."""

    @property
    def verdict_id(self) -> str:
        """Names the case in addresses."""
        return self.record.verdict_id

    @property
    def evidence(self) -> str:
        """Where the evidence lies below its folder."""
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def piece(self) -> Piece:
        """What reads the pictures."""
        return Piece(self.path, self.record)

    @property
    def has_scan(self) -> bool:
        """Whether there are counts to look at."""
        return self.record.counts_sha256 is not None


class CaseIndex:
    """All cases of an evidence folder, oldest first."""

    def __init__(self, folder: Path, clock: Callable[[], float], shown: Iterable[Record] = ()) -> None:
        """`clock`: monotonic, in seconds. `shown`: what readers were shown before the desk restarted."""
        self.folder = folder
        self._clock = clock
        self._lock = threading.Lock()
        self._here: set[str] = set()
        self._cases: dict[str, Case] = {}
        self._sorted: list[Case] = []
        self._damaged: dict[str, str] = {}
        self._read_s: float | None = None
        self.problem: EvidenceError | None = None
        """Why the folder could not be read just now."""
        paths = ((folder / evidence_path(record.decided_at, record.verdict_id), record) for record in shown)
        self._put([Case(path, record, is_gone=True) for path, record in paths])

    def cases(self) -> list[Case]:
        """Every case, oldest first."""
        self._refresh()
        return self._sorted

    def find(self, verdict_id: str) -> Case | None:
        """The case of a verdict. Raises EvidenceError where its record is damaged."""
        self._refresh()
        if (case := self._cases.get(verdict_id)) is not None:
            return case
        for evidence, message in self._damaged.items():
            if evidence.endswith(f"/{verdict_id}"):
                raise EvidenceError(message, hint="judge the part by itself; the folder of evidence needs a look")
        return None

    def has(self, verdict_id: str | None) -> bool:
        """Whether there is such a case."""
        return verdict_id in self._cases

    def damaged(self) -> Mapping[str, str]:
        """Pieces whose record cannot be read, and why."""
        self._refresh()
        return self._damaged

    def _refresh(self) -> None:
        with self._lock:
            if self._read_s is not None and self._clock() - self._read_s < REFRESH_S:
                return
            self._read_s = self._clock()
            try:
                here = set(pieces(self.folder))
                self.problem = None if self.folder.is_dir() else self._no_folder()
            except EvidenceError as error:
                self.problem = error
            if self.problem is not None:
                return
            gone = [self._cases[evidence.rpartition("/")[2]] for evidence in self._here - here]
            changed = [replace(case, is_gone=True) for case in gone]
            damaged = {}
            for evidence in here - self._here:
                try:
                    piece = open_piece(self.folder, evidence)
                except EvidenceError as error:
                    damaged[evidence] = error.message
                else:
                    changed.append(Case(piece.path, piece.record))
            self._here, self._damaged = here - damaged.keys(), damaged
            self._put(changed)

    def _put(self, changed: Sequence[Case]) -> None:
        if changed:
            self._cases = self._cases | {case.verdict_id: case for case in changed}
            self._sorted = sorted(self._cases.values(), key=lambda case: (case.record.decided_at, case.verdict_id))

    def _no_folder(self) -> EvidenceError:
        return EvidenceError(f"{self.folder}: there is no such folder", hint="see `evidence.dir`", reason="no-access")


class Claims:
    """Who has which scan on the screen, so that two readers are not given the same one."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._claims: dict[str, tuple[str, float]] = {}

    def claim(self, verdict_id: str, account: str) -> None:
        """This account looks at it now."""
        if not self.is_taken(verdict_id, account):
            self._claims[verdict_id] = (account, self._clock())

    def release(self, verdict_id: str) -> None:
        """It was answered."""
        self._claims.pop(verdict_id, None)

    def is_taken(self, verdict_id: str, account: str) -> bool:
        """Whether another account looks at it."""
        holder, since_s = self._claims.get(verdict_id, (account, 0.0))
        return holder != account and self._clock() - since_s < CLAIM_S


@dataclass(frozen=True, slots=True)
class Reader:
    """Who looks."""

    account: str
    is_admin: bool
    is_blind: bool
    """Whether the line's verdict is hidden until the own first answer."""


class Row(NamedTuple):
    """A case as one reader may see it. A tuple, because a page makes one for each of thousands."""

    case: Case
    votes: tuple[Vote, ...]
    standing: Standing
    is_asked: bool
    """Whether an answer of this reader is wanted."""
    is_hidden: bool
    """Whether the line's verdict, and with it what the case is kept for, must not be shown yet."""


def row_for(case: Case, votes: Sequence[Vote], reader: Reader) -> Row:
    """How the reader may see the case, and whether an answer is wanted."""
    stands = standing(case.record.outcome, votes)
    # Without pixels there is nothing to judge before the verdict is known.
    is_hidden = reader.is_blind and case.has_scan and not has_answered(votes, reader.account)
    return Row(case, tuple(votes), stands, _is_asked(case, votes, reader), is_hidden)


def _is_asked(case: Case, votes: Sequence[Vote], reader: Reader) -> bool:
    stands = standing(case.record.outcome, votes)
    return not case.is_gone and is_asked(stands.state, votes, reader.account, is_admin=reader.is_admin)


WAITING = "waiting"
"""Filter of `state`: what waits for this reader."""
ALL = "all"
OLDEST = "oldest"
ORDERS = (OLDEST, "newest", "part", "lot", "outcome", "reason", "people")
"""How the queue may be sorted; within what is alike, the oldest is first."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What the queue shows; an empty value takes all."""

    state: str = WAITING
    outcome: str = ""
    lot: str = ""
    part: str = ""
    reason: str = ""
    since: str = ""
    until: str = ""
    sort: str = OLDEST

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> Filter:
        """From the words of an address; what is no filter or no value of one is left out."""

        def word(key: str) -> str:
            return query.get(key, "").strip()[:200]

        states = (WAITING, ALL, *State)
        return cls(
            state=word("state") if word("state") in states else WAITING,
            outcome=word("outcome") if word("outcome") in list(Outcome) else "",
            lot=word("lot"),
            part=word("part"),
            reason=word("reason"),
            since=_day_text(word("since")),
            until=_day_text(word("until")),
            sort=word("sort") if word("sort") in ORDERS else OLDEST,
        )

    @classmethod
    def for_next(cls, query: Mapping[str, str]) -> Filter:
        """Filter for the way from scan to scan: only what waits for the reader, the oldest first."""
        return replace(cls.parse(query), state=WAITING, sort=OLDEST)

    @property
    def words(self) -> dict[str, str]:
        """The filter as words of an address; what takes all is left out."""
        fields = ("state", "outcome", "lot", "part", "reason", "since", "until", "sort")
        return {key: getattr(self, key) for key in fields if getattr(self, key) not in ("", WAITING, OLDEST)}

    def takes(self, row: Row) -> bool:
        """Whether the queue shows the row. What is hidden from the reader is found by no filter that would tell it."""
        record = row.case.record
        told = not row.is_hidden
        part = self.part.lower()
        return (
            (self.state == ALL or (row.is_asked if self.state == WAITING else row.standing.state == self.state))
            and (not self.outcome or (told and record.outcome == self.outcome))
            and (not self.reason or (told and self.reason in record.reasons))
            and (not self.lot or record.bundle == self.lot)
            and (not part or part in (record.part_id or "").lower() or part in record.file.lower())
            and (not self.since or record.decided_at >= _midnight(self.since))
            and (not self.until or record.decided_at < _midnight(self.until) + timedelta(days=1))
        )

    def in_order(self, rows: Iterable[Row]) -> list[Row]:
        """The rows that it takes, sorted. `rows`: oldest first. What is hidden comes last, in the order of time."""
        taken = [row for row in rows if self.takes(row)]
        if self.sort == OLDEST:
            return taken
        return taken[::-1] if self.sort == "newest" else sorted(taken, key=self._place)

    def _place(self, row: Row) -> tuple[bool, str]:
        record, standing = row.case.record, row.standing
        if self.sort in ("outcome", "reason"):
            told = record.outcome if self.sort == "outcome" else " ".join(record.reasons)
            return row.is_hidden, "" if row.is_hidden else told
        if self.sort == "people":
            return row.is_asked, standing.state + ("" if row.is_asked else standing.choice or "")
        return False, ((record.bundle or "") if self.sort == "lot" else record.part_id or record.file).lower()


def rows_for(cases: Iterable[Case], votes: Mapping[str, Sequence[Vote]], reader: Reader) -> list[Row]:
    """One row a case, in the order of `cases`."""
    return [row_for(case, votes.get(case.verdict_id, ()), reader) for case in cases]


def count_asked(cases: Iterable[Case], votes: Mapping[str, Sequence[Vote]], reader: Reader, chosen: Filter) -> int:
    """How many of the chosen cases wait for the reader."""
    if chosen == Filter():  # as a rule: no need of a row for each
        return sum(_is_asked(case, votes.get(case.verdict_id, ()), reader) for case in cases)
    return len(chosen.in_order(rows_for(cases, votes, reader)))


def next_row(
    cases: Iterable[Case],
    votes: Mapping[str, Sequence[Vote]],
    claims: Claims,
    reader: Reader,
    chosen: Filter,
    after: str | None = None,
) -> Row | None:
    """The oldest chosen case that waits for the reader and is open nowhere else; `after` one, then from the start.

    `cases`: oldest first. Few of them are looked at: the queue may hold thousands.
    """
    first, is_after = None, after is None
    for case in cases:
        if case.verdict_id == after:
            is_after = True
        elif is_after or first is None:
            row = row_for(case, votes.get(case.verdict_id, ()), reader)
            if row.is_asked and chosen.takes(row) and not claims.is_taken(case.verdict_id, reader.account):
                if is_after:
                    return row
                first = row
    return first


def neighbours(cases: Sequence[Case], case: Case, most: int = 3) -> list[Case]:
    """Up to `most` cases of the same lot on each side in time, oldest first, without the case itself."""
    if case.record.bundle is None:
        return []
    lot = [other for other in cases if other.record.bundle == case.record.bundle]
    place = next((number for number, other in enumerate(lot) if other.verdict_id == case.verdict_id), None)
    if place is None:
        return []
    return [*lot[max(place - most, 0) : place], *lot[place + 1 : place + 1 + most]]


def _day_text(text: str) -> str:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return ""
    return day.isoformat() if 1971 <= day.year <= 2999 else ""  # the ends of the calendar have no local time


def _midnight(day: str) -> datetime:
    """Local midnight at the beginning of a day: readers think in the shifts of their plant."""
    return datetime.combine(date.fromisoformat(day), time()).astimezone()
