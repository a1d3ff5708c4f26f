"""Questions to a station's ledger, asked beside the running worker.

A reader never writes and never holds the worker up: it opens the file `mode=ro`, and each page of an answer is one
short read transaction (the worker's log cannot be begun anew while one lasts). What is pruned, 30 days after it was
sent by default, is no longer found.

A page is what the ledger held at one moment; a verdict that is committed meanwhile may be in a later page.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import numpy as np
import numpy.typing as npt

from edge.errors import LedgerError
from edge.records import Outcome
from edge.store.ledger import ANSWERED_MS, file_key, to_ms, where_asked
from edge.store.ledger_file import (
    BUSY_TIMEOUT_S,
    DAMAGED_HINT,
    expect_ledger,
    is_intact,
    map_errors,
    newest_schema,
    parse_id,
)
from edge.store.requests import ResendRequest

PAGE_ROWS = 200
"""Verdicts of one read transaction: about a millisecond's work."""

_COLUMNS = (
    "outbox.seq, outbox.verdict_id, decided_at_ms, sent_at_ms, payload, checksum,"
    " EXISTS (SELECT 1 FROM dispositions WHERE dispositions.verdict_id = outbox.verdict_id)"
)
_FROM = "FROM outbox JOIN payloads USING (seq)"
_FROM_VERDICTS = "FROM verdicts JOIN outbox USING (seq) JOIN payloads USING (seq)"
_NOT_NORMAL = "(SELECT verdict_type FROM verdict_types WHERE outcome <> 'normal')"
BY_DECISION = (
    f"SELECT {_COLUMNS} {_FROM} WHERE (decided_at_ms, outbox.seq) > (?, ?) AND decided_at_ms < ?"
    " AND kind = 'verdict' ORDER BY decided_at_ms, outbox.seq LIMIT ?"
)
TO_LOOK_AT = (
    f"SELECT {_COLUMNS} {_FROM} WHERE (decided_at_ms, outbox.seq) > (?, ?) AND decided_at_ms < ?"
    f" AND verdict_type IN {_NOT_NORMAL} ORDER BY decided_at_ms, outbox.seq LIMIT ?"
)
NEXT_DECIDED = (
    "SELECT min(decided_at_ms) FROM outbox WHERE decided_at_ms >= ? AND decided_at_ms < ? AND verdict_type IS NOT NULL"
)
FIGURES = (
    "SELECT group_concat(verdict_type), group_concat(coalesce(latency_ms, 0)) FROM outbox"
    " WHERE decided_at_ms >= ? AND decided_at_ms < ? AND verdict_type IS NOT NULL"
)
UNSENT = (
    "SELECT count(*) FROM outbox WHERE sent_at_ms IS NULL AND kind = 'verdict'"
    " AND decided_at_ms >= ? AND decided_at_ms < ?"
)
VERDICT_TYPES = "SELECT verdict_type, outcome, reasons, is_kept, model_id, model_sha256, engine FROM verdict_types"
BY_PART = f"SELECT {_COLUMNS} {_FROM} WHERE part_id = ? ORDER BY outbox.seq DESC LIMIT ?"
BY_FILE = f"SELECT {_COLUMNS} {_FROM_VERDICTS} WHERE file_key = ? ORDER BY verdicts.seq DESC LIMIT ?"
BY_ID = f"SELECT {_COLUMNS} {_FROM_VERDICTS} WHERE verdicts.verdict_id = ?"

SENDABLE = "SELECT count(*) FROM outbox WHERE coalesce(sent_at_ms, 0) > ?"
ANSWERS = (
    "SELECT payload FROM dispositions JOIN payloads USING (seq)"
    " WHERE dispositions.verdict_id = ? ORDER BY dispositions.seq"
)


@dataclass(frozen=True, slots=True)
class StoredVerdict:
    """A verdict as the ledger holds it."""

    seq: int
    verdict_id: str
    decided_at: datetime
    sent_at: datetime | None
    """When the broker last took it; None while it waits."""
    payload: bytes
    """The message, byte for byte as it is published."""
    checksum: bytes
    """As the message was written with."""
    dispositions: tuple[bytes, ...] = ()
    """What people decided of it, oldest first: messages of schema `disposition/1`."""

    @property
    def is_intact(self) -> bool:
        """Whether these are still the bytes that were written; others are never published."""
        return is_intact(self.seq, "verdict", bytes.fromhex(self.verdict_id), self.payload, self.checksum)


@dataclass(frozen=True, slots=True)
class VerdictType:
    """What many verdicts have in common."""

    outcome: Outcome
    reasons: tuple[str, ...]
    is_kept: bool
    """Whether they name evidence."""
    model_id: str
    model_sha256: str
    engine: str


@dataclass(frozen=True, slots=True)
class Figures:
    """Verdicts of a span of time, in the order of neither time nor number."""

    verdict_types: npt.NDArray[np.int64]
    """Keys of `LedgerReader.verdict_types`."""
    latencies_ms: npt.NDArray[np.int64]
    """From the moment the line first saw each file complete to its decision."""


class LedgerReader:
    """The ledger of a station, read only. One thread uses it; every method raises LedgerError when the disk fails."""

    def __init__(self, path: Path) -> None:
        """Raises LedgerError if there is no ledger at `path`, or none that this program can read."""
        if not path.is_file():
            raise LedgerError(f"there is no ledger at {path}", hint="check `state.dir` in the settings")
        self.path = path
        with map_errors(path), ExitStack() as unopened:
            self._sql = sqlite3.connect(
                f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S
            )
            unopened.callback(self._sql.close)
            self._sql.execute("PRAGMA query_only = ON")
            self._sql.execute("PRAGMA trusted_schema = OFF")
            expect_ledger(self._sql, path)
            self._expect_schema()
            unopened.pop_all()

    def __enter__(self) -> LedgerReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """May be called twice."""
        with suppress(sqlite3.Error):
            self._sql.close()

    @property
    def station(self) -> str:
        """Whose ledger this is."""
        return str(self._meta("station"))

    @property
    def ledger_id(self) -> UUID:
        """Begins anew with a new or restored ledger."""
        return parse_id(self._meta("ledger_id"))

    def decided(self, since: datetime, until: datetime | None = None) -> Iterator[StoredVerdict]:
        """Verdicts decided at or after `since` and before `until`, oldest first."""
        place, end_ms = (to_ms(since), -1), to_ms(until) if until is not None else 1 << 62
        while page := self._page(BY_DECISION, *place, end_ms, PAGE_ROWS):
            yield from page
            place = to_ms(page[-1].decided_at), page[-1].seq

    def to_look_at(self, since: datetime, until: datetime) -> Iterator[StoredVerdict]:
        """Verdicts of that time that are not `normal`, oldest first."""
        place, end_ms = (to_ms(since), -1), to_ms(until)
        while page := self._page(TO_LOOK_AT, *place, end_ms, PAGE_ROWS):
            yield from page
            place = to_ms(page[-1].decided_at), page[-1].seq

    def next_decided(self, since: datetime, until: datetime) -> datetime | None:
        """When the first verdict of that time was decided; None if there is none."""
        with self._answer(NEXT_DECIDED, to_ms(since), to_ms(until)) as ((first_ms,),):
            return None if first_ms is None else _moment(first_ms)

    def figures(self, since: datetime, until: datetime) -> Figures:
        """VerdictType and latency of each verdict of that time: one read transaction, about 1 ms for 2,000 verdicts."""
        with self._answer(FIGURES, to_ms(since), to_ms(until)) as ((verdict_types, latencies_ms),):
            return Figures(_numbers(verdict_types), _numbers(latencies_ms))

    def unsent(self, since: datetime, until: datetime) -> int:
        """How many verdicts of that time the broker has not taken."""
        with self._answer(UNSENT, to_ms(since), to_ms(until)) as ((count,),):
            return int(count)

    def verdict_types(self) -> dict[int, VerdictType]:
        """What verdicts of this ledger have in common, by number."""
        with self._answer(VERDICT_TYPES) as rows:
            return {
                number: VerdictType(Outcome(outcome), tuple(reasons.split()), bool(is_kept), *model)
                for number, outcome, reasons, is_kept, *model in rows
            }

    def sendable(self, asked: ResendRequest) -> int:
        """How many messages the ledger still holds of what is asked for, those included that wait to be sent anyway."""
        where, values = where_asked(asked)
        with self._answer(f"{SENDABLE} AND {where}", ANSWERED_MS, *values) as ((count,),):
            return int(count)

    def held(self) -> tuple[int, int] | None:
        """Lowest and highest number of the messages that are not pruned; None where there is none."""
        with self._answer("SELECT min(seq), max(seq) FROM outbox") as ((first, last),):
            return None if first is None else (int(first), int(last))

    def of_part(self, part_id: str, limit: int = PAGE_ROWS) -> list[StoredVerdict]:
        """Verdicts on a part, newest first: parts of several lots may bear one name."""
        return self._page(BY_PART, part_id, limit)

    def of_file(self, file: str, limit: int = PAGE_ROWS) -> list[StoredVerdict]:
        """Verdicts on a file of the station's folder, newest first. `file`: relative to the folder, as in verdicts."""
        return self._page(BY_FILE, file_key(file), limit)

    def of_id(self, verdict_id: str) -> StoredVerdict | None:
        """The verdict of this id; None if there is none, or no longer. ValueError: no hexadecimal digits."""
        return next(iter(self._page(BY_ID, bytes.fromhex(verdict_id))), None)

    def find(self, word: str, limit: int = PAGE_ROWS) -> list[StoredVerdict]:
        """Verdicts by what a person has at hand: a verdict id, else a file, else a part; newest first."""
        with suppress(ValueError):
            if len(word) == 32 and (verdict := self.of_id(word)) is not None:
                return [verdict]
        return self.of_file(word, limit) or self.of_part(word, limit)

    def _page(self, query: str, *values: object) -> list[StoredVerdict]:
        with self._answer(query, *values) as rows:
            return [_verdict(*row[:-1], dispositions=self._dispositions(row[1]) if row[-1] else ()) for row in rows]

    @contextmanager
    def _answer(self, query: str, *values: object) -> Iterator[list[Any]]:
        """Rows of one query, inside of its read transaction."""
        with map_errors(self.path):
            self._sql.execute("BEGIN")
            try:
                yield self._sql.execute(query, values).fetchall()
            except (AttributeError, TypeError, ValueError, OverflowError) as error:  # bit rot beside the payload
                raise LedgerError(f"ledger {self.path} is damaged: {error}", hint=DAMAGED_HINT) from error
            finally:
                self._sql.execute("COMMIT")

    def _dispositions(self, key: bytes) -> tuple[bytes, ...]:
        return tuple(payload for (payload,) in self._sql.execute(ANSWERS, (key,)).fetchall())

    def _meta(self, key: str) -> Any:
        with map_errors(self.path):
            row = self._sql.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise LedgerError(f"ledger {self.path} is damaged: it has no {key}", hint=DAMAGED_HINT)
        return row[0]

    def _expect_schema(self) -> None:
        ((version,),) = self._sql.execute("PRAGMA user_version").fetchall()
        if version != newest_schema():
            raise LedgerError(
                f"ledger {self.path} has schema {version}, this program reads {newest_schema()}",
                hint="an older ledger is brought up to date when the worker of this release starts"
                if version < newest_schema()
                else "ask with the newer program",
            )


def _verdict(
    seq: int,
    key: bytes,
    decided_at_ms: int,
    sent_at_ms: int | None,
    payload: bytes,
    checksum: bytes,
    *,
    dispositions: tuple[bytes, ...],
) -> StoredVerdict:
    sent_at = None if sent_at_ms is None or sent_at_ms < 0 else _moment(sent_at_ms)  # below 0: damaged
    return StoredVerdict(seq, key.hex(), _moment(decided_at_ms), sent_at, payload, checksum, dispositions)


def _numbers(text: str | None) -> npt.NDArray[np.int64]:
    """Numbers joined by commas; None is no number. One text of a thousand costs a fifth of a thousand rows."""
    return np.fromstring(text, np.int64, sep=",") if text else np.empty(0, np.int64)


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
