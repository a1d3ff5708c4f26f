"""Which number a ledger gives next, and under which id: (ledger_id, seq) names one message for ever.

Nothing of SQLite's notices a value that bit rot has changed. So `next_seq` has to be the number behind the newest
message, which no pruning deletes, or the one that a restore skipped to: else nothing is given, and the next start
begins a new sequence under a new id, as it does where the file is a copy.
"""

from __future__ import annotations

import sqlite3
import uuid
from uuid import UUID

from edge.errors import LedgerError
from edge.store.ledger_file import DAMAGED_HINT, parse_id
from edge.system.values import MAX_SEQ

NEXT_SEQ = "next_seq"
SKIPPED_TO = "skipped_to"
"""In `meta`: the number to come, and the one that a restore or the repair of a damaged `next_seq` went on with."""
PLACE = "place"
"""Under which a ledger remembers its machine and inode: elsewhere it is a copy."""
RENEWED = "renewed"
"""Under which it remembers why it began a new sequence, until the MES was told."""

HIGHEST_NUMBER = (
    "SELECT coalesce(max(seq), 0) FROM (SELECT seq FROM outbox UNION ALL SELECT seq FROM payloads"
    " UNION ALL SELECT seq FROM verdicts UNION ALL SELECT seq FROM dispositions) WHERE typeof(seq) = 'integer'"
)


def next_seq(sql: sqlite3.Connection) -> int:
    """Number of the message to come. Raises LedgerError where it is not the one behind all that were given."""
    integer = "(SELECT CASE typeof(value) WHEN 'integer' THEN value END FROM meta WHERE key = ?)"
    query = f"SELECT {integer}, {integer}, (SELECT max(seq) FROM outbox)"  # noqa: S608
    ((stored, skipped_to, last),) = sql.execute(query, (NEXT_SEQ, SKIPPED_TO)).fetchall()
    expected: int = max((last or 0) + 1, skipped_to or 1)
    if stored != expected:
        raise LedgerError(
            f"the ledger's next number is {'damaged' if stored is None else stored}, expected {expected}",
            hint="disk or memory fail: look at both; restart the worker, which goes on under a new `ledger_id`",
        )
    return expected


def set_next_seq(sql: sqlite3.Connection, seq: int) -> None:
    """Behind the newest message, which is in the outbox."""
    sql.execute("UPDATE meta SET value = ? WHERE key = ?", (seq, NEXT_SEQ))


def skip_to(sql: sqlite3.Connection, seq: int) -> None:
    """Leave out the numbers below `seq`; never goes back."""
    _set_and_note(sql, max(next_seq(sql), seq))


def ledger_id(sql: sqlite3.Connection) -> UUID:
    """Raises LedgerError where bit rot has made something else of it."""
    row = sql.execute("SELECT value FROM meta WHERE key = 'ledger_id'").fetchone()
    return parse_id(row[0] if row else None)


def begin_sequence(sql: sqlite3.Connection) -> None:
    """Begin a sequence on purpose: a new id, and no memory of a place for `renew_id_if_needed` to do it again."""
    _repair_next_seq(sql)
    _renew_id(sql)
    sql.execute("DELETE FROM meta WHERE key = ?", (f"remembered:{PLACE}",))


def renew_id_if_needed(sql: sqlite3.Connection, place: str) -> str | None:
    """Begin a new sequence where the old one may not go on at `place`; why, None where it may.

    What the ledger remembers as RENEWED says so, too.
    """
    why = _repair_next_seq(sql)
    former = sql.execute("SELECT value FROM meta WHERE key = ?", (f"remembered:{PLACE}",)).fetchone()
    if former is not None and former[0] != place:
        why = why or "it is a copy, whose original may still give the old numbers"
    if former is None or former[0] != place:
        sql.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"remembered:{PLACE}", place))
    if why is not None:
        _renew_id(sql)
        sql.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"remembered:{RENEWED}", why))
    return why


def _renew_id(sql: sqlite3.Connection) -> None:
    sql.execute("UPDATE meta SET value = ? WHERE key = 'ledger_id'", (uuid.uuid4().hex,))


def _repair_next_seq(sql: sqlite3.Connection) -> str | None:
    """Set a damaged `next_seq` behind every number that any table holds; what was wrong, None where nothing was."""
    try:
        next_seq(sql)
    except LedgerError as error:
        ((highest,),) = sql.execute(HIGHEST_NUMBER).fetchall()
        if highest >= MAX_SEQ:
            raise LedgerError(f"the ledger holds a message of number {highest}", hint=DAMAGED_HINT) from None
        _set_and_note(sql, highest + 1)
        return error.message
    return None


def _set_and_note(sql: sqlite3.Connection, seq: int) -> None:
    sql.execute("INSERT OR REPLACE INTO meta VALUES (?, ?), (?, ?)", (NEXT_SEQ, seq, SKIPPED_TO, seq))
