"""What the line has done and still owes: judged files, verdicts, outbox, sequence.

When a method returns, its effect survives a power cut. Every write is one short transaction, so a kill
at any moment leaves the state before or the state after it; `edge.store.database` says how.

Tables
    files      every file of the station folder that has its outcome, as it was then
    verdicts   verdict_id -> seq, kept for ever (about 60 bytes each), with hashes of the file's name and of its bytes:
               the knowledge by which a repetition is told, long after the message itself was pruned
    pixels     hash of a scan's pixels -> its first verdict, kept likewise
    dispositions   what people decided of a verdict: disposition_id -> seq, kept likewise: each is sent once
    outbox     one row per message, a verdict or a disposition; unsent while `sent_at_ms` is null; pruned in time
    verdict_types  what many verdicts have in common: outcome, reasons, model; a row of the outbox names one, so that a
               report of a million verdicts need not read their payloads
    payloads   the bytes of each message and a checksum: written once, resent as they are, pruned with the outbox row
    meta       station, next_seq, ledger_id, and what is remembered over a restart: places of folders, and its own
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from edge.contract.messages import Answer, Disposition, Kind, Verdict, canonical_json
from edge.errors import RequestError
from edge.records import FileStamp, Former, Scan
from edge.store import numbers
from edge.store.database import Database
from edge.store.ledger_file import (
    KEY_BYTES,
    bytes_key,
    create,
    is_intact,
    map_errors,
    message_checksum,
    take_lock,
)
from edge.store.requests import ResendRequest
from edge.system.logs import event
from edge.system.machine import machine_key

log = logging.getLogger(__name__)

ID_BYTES = 16
"""Length of a verdict's id."""
KEEP_LATEST = 10_000
"""Messages that no pruning touches, whatever the clock says: a jump of years must not empty the outbox. At least 1: the
newest one proves what number comes next (edge.store.numbers)."""

PRUNE_SPAN_MS = 3_600_000
"""Longest span of sent messages one call of `prune` deletes: called every ten minutes, it prunes six times as fast as
messages come. A clock that is years ahead for an hour costs the oldest six hours, not all but the newest."""

PRUNE_BATCH = 5_000
"""Messages one transaction of `prune` deletes at most, so that the line never waits long for the lock."""

PRUNE_BATCHES = 50
"""Transactions of one call at most, so that it ends within seconds: 400 messages a second, every ten minutes."""

PRUNE_PAUSE_S = 0.05
"""Between two of them, for a thread that waits for the lock."""

DAMAGED_MS = -1
"""In place of the time of sending: the bytes are no longer those that were written, so they are never sent."""

ANSWERED_MS = -2
"""Likewise, and a later message has said anew what it said: it is not waited for."""

REQUEUE = "UPDATE outbox SET sent_at_ms = NULL WHERE sent_at_ms > ?"

TOPIC = "topic"
"""Under which a ledger remembers where its verdicts are published."""

PRUNABLE_ROWS = "FROM outbox WHERE sent_at_ms < ? AND sent_at_ms >= 0 AND seq <= (SELECT max(seq) FROM outbox) - ?"

DAMAGED_ROWS = (
    "SELECT seq FROM outbox WHERE sent_at_ms < 0 AND decided_at_ms < ?"
    " AND seq <= (SELECT max(seq) FROM outbox) - ? LIMIT ?"
)

ANSWER_DAMAGED = (
    "UPDATE outbox INDEXED BY outbox_by_state SET sent_at_ms = ?"
    " WHERE sent_at_ms = ? AND kind = ? AND ((part_id = ? AND bundle IS ?) OR verdict_id = ?)"
)
"""A part's number is the part's only within its lot."""

UNSENT_ROWS = (
    "SELECT seq, kind, verdict_id, payload, checksum FROM outbox JOIN payloads USING (seq)"
    " WHERE sent_at_ms IS NULL AND seq > ? ORDER BY seq LIMIT ?"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished file. `verdict` is None when it has one already; else its `seq` is 0."""

    stamp: FileStamp
    scan: Scan
    verdict: Verdict | None
    pixels_id: str | None = None
    """The key of the scan's pixels; None where it has none."""


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One message to deliver, byte for byte."""

    seq: int
    verdict_id: str
    """The verdict it is, or concerns."""
    payload: bytes
    kind: Kind = Kind.VERDICT


@dataclass(frozen=True, slots=True)
class Answered:
    """A person's decision as it is stored."""

    payload: bytes | None
    """The message; None where it was stored before and is pruned since."""
    decided_at: datetime | None
    """When the verdict was decided; None where it is pruned."""
    is_new: bool


@dataclass(frozen=True, slots=True)
class Pending:
    """What the broker has not acknowledged yet."""

    count: int
    oldest_decided_at: datetime | None


def open_ledger(path: Path, station: str) -> Ledger:
    """Open the station's ledger, creating it and its directory (mode 0700) if there is none.

    A copy of a ledger begins a new sequence (`Ledger.renew_id_if_needed`).
    Raises LedgerError when another process has it, when it belongs to another station or a newer
    program, when others can write into its directory, or when it cannot be read.
    """
    lock = take_lock(path)
    try:
        with map_errors(path):
            if not path.exists():
                create(path, station)
    except BaseException:
        os.close(lock)
        raise
    ledger = Ledger(path, station, lock)
    try:
        ledger.renew_id_if_needed()
    except BaseException:
        ledger.close()
        raise
    return ledger


class Ledger:
    """What the line has done and still owes, in SQLite.

    Every method may be called from any thread and raises LedgerError when the disk fails.

    After an error nothing of the call was kept, and the next call tries afresh: the ledger recovers by itself
    when space or the disk returns.
    """

    def __init__(self, path: Path, station: str, lock: int) -> None:
        """For `open_ledger`. Takes over the locked file descriptor, also when it raises LedgerError."""
        self.path = path
        self.station = station
        self.database = Database(path, station, lock)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock (`Database.close`); may be called twice."""
        self.database.close()

    def files(self) -> dict[str, FileStamp]:
        """Every file with an outcome, as it was when judged; keys are the relative paths.

        One whose stamp bit rot has made unreadable is left out: it is looked at again, and known by name and bytes.
        """
        with self.database.transaction("read") as sql:
            rows = sql.execute("SELECT file, stamp FROM files").fetchall()
        stamps, damaged = {}, 0
        for file, text in rows:
            try:
                stamp = _stamp(os.fsdecode(file), text)
            except (AttributeError, TypeError, ValueError):
                damaged += 1
            else:
                stamps[stamp.file] = stamp
        if damaged:
            event(log.error, "files damaged in the ledger", files=damaged)
        return stamps

    @property
    def ledger_id(self) -> UUID:
        """Made with the ledger: (ledger_id, seq) names one message for ever."""
        with self.database.transaction("read") as sql:
            return numbers.ledger_id(sql)

    def former(self, file: str, sha256: str, first_id: str, pixels_id: str | None) -> Former:
        """The earlier verdicts that bear on an arrival of `file` with these bytes and pixels, by whichever model.

        `first_id`: of the first verdict on these bytes by this model; what has no pixels is known by it alone.
        """
        first = bytes.fromhex(first_id)
        with self.database.transaction("read") as sql:
            last = _last_of(sql, file)
            repeats = first if _is_known(sql, first) else None
            if repeats is None and pixels_id is not None:
                row = sql.execute(
                    "SELECT verdict_id FROM pixels WHERE pixels_id = ?", (bytes.fromhex(pixels_id),)
                ).fetchone()
                repeats = row[0] if row else None
        return Former(
            name_id=_hex_id(last[0]) if last else None,
            is_same=last is not None and last[1] == bytes_key(sha256),
            repeats=None if repeats is None else _hex_id(repeats),
        )

    def is_judged(self, file: str, sha256: str) -> bool:
        """Whether the last verdict on `file` is one on these bytes."""
        with self.database.transaction("read") as sql:
            last = _last_of(sql, file)
        return last is not None and last[1] == bytes_key(sha256)

    def commit(self, entries: Sequence[Entry], now: datetime) -> list[Verdict | None]:
        """Finish files in one transaction; each new verdict as it is stored, with its sequence number.

        None where a verdict of the same id stood already: only the file is noted as finished.
        ValueError if a verdict is another station's or already has a number.
        """
        for entry in entries:
            verdict = entry.verdict
            if verdict is not None and (verdict.station != self.station or verdict.seq != 0):
                raise ValueError(f"{entry.scan.file}: a verdict of {verdict.station!r} with seq {verdict.seq}")
        with self.database.transaction("write") as sql:
            next_seq, ledger_id = numbers.next_seq(sql), numbers.ledger_id(sql)
            stored: list[Verdict | None] = []
            for entry in entries:
                if entry.verdict is None or _is_known(sql, bytes.fromhex(entry.verdict.verdict_id)):
                    stored.append(None)
                else:
                    verdict = entry.verdict.model_copy(update={"seq": next_seq, "ledger_id": ledger_id})
                    _insert_verdict(sql, verdict, entry)
                    stored.append(verdict)
                    next_seq += 1
                sql.execute(
                    "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)",
                    (
                        os.fsencode(entry.stamp.file),
                        _stamp_text(entry.stamp),
                        bytes.fromhex(entry.scan.sha256),
                        to_ms(now),
                    ),
                )
            numbers.set_next_seq(sql, next_seq)
        return stored

    def commit_disposition(self, answer: Answer) -> Answered:
        """Store what a person decided, with the next sequence number, once per `disposition_id`.

        Raises RequestError for a verdict this ledger never gave, for another part than the verdict's, and for an id
        that came before with another content.
        """
        key, verdict_key = bytes.fromhex(answer.disposition_id), bytes.fromhex(answer.verdict_id)
        content_key = hashlib.sha256(answer.model_dump_json().encode()).digest()
        with self.database.transaction("write") as sql:
            if not _is_known(sql, verdict_key):
                raise RequestError(
                    f"verdict {answer.verdict_id} was never given by this station's ledger",
                    hint="answer where the verdict came from; a ledger that was begun anew knows none of the old ones",
                )
            part = sql.execute(
                "SELECT part_id, decided_at_ms FROM outbox WHERE verdict_id = ? AND seq ="
                " (SELECT seq FROM verdicts WHERE verdict_id = ?)",
                (verdict_key, verdict_key),
            ).fetchone()
            if part is not None and part[0] != answer.part_id:
                raise RequestError(
                    f"part {answer.part_id!r}, but verdict {answer.verdict_id} is on part {part[0]!r}",
                    hint="nothing was sent: look at the scan again",
                )
            decided_at = None if part is None else _moment(part[1])
            known = sql.execute(
                "SELECT content_key, payload FROM dispositions LEFT JOIN payloads USING (seq) WHERE disposition_id = ?",
                (key,),
            ).fetchone()
            if known is not None:
                if known[0] != content_key:
                    raise RequestError(
                        f"disposition {answer.disposition_id} came before with another content",
                        hint="the first one stands; a changed answer needs an id of its own",
                    )
                return Answered(known[1], decided_at, is_new=False)
            seq = numbers.next_seq(sql)
            disposition = Disposition(**dict(answer), station=self.station, ledger_id=numbers.ledger_id(sql), seq=seq)
            payload = canonical_json(disposition)
            sql.execute("INSERT INTO dispositions VALUES (?, ?, ?, ?)", (key, verdict_key, seq, content_key))
            sql.execute(
                "INSERT INTO outbox (seq, verdict_id, decided_at_ms, kind) VALUES (?, ?, ?, ?)",
                (seq, verdict_key, to_ms(answer.at), Kind.DISPOSITION.value),
            )
            _insert_payload(sql, seq, Kind.DISPOSITION, verdict_key, payload)
            sql.execute(ANSWER_DAMAGED, (ANSWERED_MS, DAMAGED_MS, Kind.DISPOSITION.value, None, None, verdict_key))
            numbers.set_next_seq(sql, seq + 1)
        return Answered(payload, decided_at, is_new=True)

    def outbox(self, after_seq: int, limit: int) -> list[OutboxRow]:
        """Unsent messages with seq > `after_seq`, in order of seq, at most `limit`.

        One whose bytes are no longer those that were written is put aside: it is among `damaged` from then on.
        """
        while True:
            with self.database.transaction("read") as sql:
                rows = sql.execute(UNSENT_ROWS, (after_seq, limit)).fetchall()
            damaged = [row[0] for row in rows if not is_intact(*row)]
            if not damaged:
                return [OutboxRow(seq, key.hex(), payload, Kind(kind)) for seq, kind, key, payload, _ in rows]
            with self.database.transaction("write") as sql:
                sql.executemany(
                    "UPDATE outbox SET sent_at_ms = ? WHERE seq = ?", [(DAMAGED_MS, seq) for seq in damaged]
                )
            event(log.error, "messages damaged in the ledger", seqs=damaged)

    def damaged(self) -> list[int]:
        """Numbers of messages that were found damaged and that nothing has answered, lowest first.

        A later verdict that names the part and its lot, or repeats the very image, answers a verdict, and a later
        disposition of the same verdict a disposition. A resend tries again, for memory may have failed and not the
        disk. `prune` forgets.
        """
        with self.database.transaction("read") as sql:
            rows = sql.execute("SELECT seq FROM outbox WHERE sent_at_ms = ? ORDER BY seq", (DAMAGED_MS,)).fetchall()
        return [seq for (seq,) in rows]

    def mark_sent(self, seqs: Collection[int], now: datetime) -> None:
        """The broker has taken responsibility for these."""
        with self.database.transaction("write") as sql:
            rows = [(to_ms(now), seq) for seq in seqs]
            sql.executemany(
                "UPDATE outbox SET sent_at_ms = ?1, first_sent_at_ms = coalesce(first_sent_at_ms, ?1)"
                " WHERE seq = ?2 AND sent_at_ms IS NULL",
                rows,
            )

    def pending(self) -> Pending:
        """How much is unsent, and how old the first of it is."""
        with self.database.transaction("read") as sql:
            ((count,),) = sql.execute("SELECT count(*) FROM outbox WHERE sent_at_ms IS NULL").fetchall()
            oldest = sql.execute(
                "SELECT decided_at_ms FROM outbox WHERE sent_at_ms IS NULL ORDER BY seq LIMIT 1"
            ).fetchall()
        return Pending(count, _moment(oldest[0][0]) if oldest else None)

    def newest_decision(self) -> datetime | None:
        """When the line last decided, by the clock of the time; None before the first verdict."""
        query = "SELECT decided_at_ms FROM outbox WHERE verdict_type IS NOT NULL ORDER BY decided_at_ms DESC LIMIT 1"
        with self.database.transaction("read") as sql:
            row = sql.execute(query).fetchone()
        return None if row is None else _moment(row[0])

    def requeue(self, asked: ResendRequest) -> int:
        """Make the messages that are asked for unsent again; how many of them were sent and are still there."""
        where, values = where_asked(asked)
        with self.database.transaction("write") as sql:
            return sql.execute(f"{REQUEUE} AND {where}", (ANSWERED_MS, *values)).rowcount

    def prune(self, before: datetime) -> int:
        """Delete messages sent, or damaged and decided, before `before`; never the newest `KEEP_LATEST`; how many.

        One call deletes the oldest of them (`PRUNE_SPAN_MS`, `PRUNE_BATCHES`), later calls the others. What was judged
        stays known: `former` does not forget.
        """
        pruned = self._prune_damaged(before)
        until_ms = self._prune_until_ms(before)
        for _ in range(PRUNE_BATCHES):
            batch = self._prune_batch(until_ms)
            pruned += batch
            if batch < PRUNE_BATCH:
                break
            time.sleep(PRUNE_PAUSE_S)
        return pruned

    def prune_files(self, existing: Collection[str]) -> int:
        """Forget files that are no longer in the folder; how many.

        `existing` is what was seen there: empty where all scans are moved on. Whether the folder was there at all is
        for the caller to know.
        """
        with self.database.transaction("write") as sql:
            rows = sql.execute("SELECT file FROM files")  # bit rot may have made a number of a name
            gone = [row for row in rows if not isinstance(row[0], bytes) or os.fsdecode(row[0]) not in existing]
            sql.executemany("DELETE FROM files WHERE file = ?", gone)
        return len(gone)

    def remember(self, name: str, value: str) -> None:
        """Keep a word over the restart, for recall; written only if it is another one."""
        if self.recall(name) != value:
            with self.database.transaction("write") as sql:
                sql.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"remembered:{name}", value))

    def recall(self, name: str) -> str | None:
        with self.database.transaction("read") as sql:
            row = sql.execute("SELECT value FROM meta WHERE key = ?", (f"remembered:{name}",)).fetchone()
        return str(row[0]) if row else None

    def next_seq(self) -> int:
        """The number of the verdict to come."""
        with self.database.transaction("read") as sql:
            return numbers.next_seq(sql)

    def renew_id(self) -> None:
        """Begin a new sequence: what this ledger says from now on is not what the one it was copied from said."""
        with self.database.transaction("write") as sql:
            numbers.begin_sequence(sql)

    def renew_id_if_needed(self) -> None:
        """Begin a new sequence where this is not the file that gave the former numbers, or has lost the last one.

        The file may be a copy, whose original may still give them: on another machine, or after this one was put back
        over it. A machine whose whole disk was cloned looks the same. `renewed` says why until `forget_renewal`.
        """
        with map_errors(self.path):
            place = f"{machine_key()} {self.path.lstat().st_ino}"
        with self.database.transaction("write") as sql:
            why = numbers.renew_id_if_needed(sql, place)
        if why is not None:
            event(log.error, "the ledger goes on under a new ledger_id", file=self.path.name, reason=why)

    @property
    def renewed(self) -> str | None:
        """Why `renew_id_if_needed` began a new sequence; None where it did not, or where that was told."""
        return self.recall(numbers.RENEWED)

    def forget_renewal(self) -> None:
        """The MES was told of the new `ledger_id`."""
        with self.database.transaction("write") as sql:
            sql.execute("DELETE FROM meta WHERE key = ?", (f"remembered:{numbers.RENEWED}",))

    def skip_to(self, seq: int) -> None:
        """Leave out the numbers below `seq`; never goes back."""
        with self.database.transaction("write") as sql:
            numbers.skip_to(sql, seq)

    def _prune_until_ms(self, before: datetime) -> int:
        with self.database.transaction("read") as sql:
            oldest = sql.execute(
                f"SELECT sent_at_ms {PRUNABLE_ROWS} ORDER BY sent_at_ms LIMIT 1", (to_ms(before), KEEP_LATEST)
            ).fetchone()
        return to_ms(before) if oldest is None else min(to_ms(before), oldest[0] + PRUNE_SPAN_MS)

    def _prune_batch(self, until_ms: int) -> int:
        with self.database.transaction("write") as sql:
            rows = sql.execute(f"SELECT seq {PRUNABLE_ROWS} LIMIT ?", (until_ms, KEEP_LATEST, PRUNE_BATCH)).fetchall()
            return _delete(sql, rows)

    def _prune_damaged(self, before: datetime) -> int:
        with self.database.transaction("write") as sql:
            rows = sql.execute(DAMAGED_ROWS, (to_ms(before), KEEP_LATEST, PRUNE_BATCH)).fetchall()
            return _delete(sql, rows)


def _delete(sql: sqlite3.Connection, rows: list[tuple[int]]) -> int:
    sql.executemany("DELETE FROM payloads WHERE seq = ?", rows)
    sql.executemany("DELETE FROM outbox WHERE seq = ?", rows)
    return len(rows)


def _is_known(sql: sqlite3.Connection, key: bytes) -> bool:
    return bool(sql.execute("SELECT 1 FROM verdicts WHERE verdict_id = ?", (key,)).fetchall())


def _last_of(sql: sqlite3.Connection, file: str) -> tuple[bytes, bytes] | None:
    """The id and the key of the bytes of the last verdict on a file."""
    rows: list[tuple[bytes, bytes]] = sql.execute(
        "SELECT verdict_id, bytes_key FROM verdicts WHERE file_key = ? ORDER BY seq DESC LIMIT 1", (file_key(file),)
    ).fetchall()
    return rows[0] if rows else None


def file_key(file: str) -> bytes:
    """Hash of a scan's name, by which the ledger finds its verdicts."""
    return hashlib.sha256(file.encode("utf-8", "surrogateescape")).digest()[:KEY_BYTES]


def _insert_verdict(sql: sqlite3.Connection, verdict: Verdict, entry: Entry) -> None:
    key = bytes.fromhex(verdict.verdict_id)
    row = (key, verdict.seq, file_key(entry.scan.file), bytes_key(entry.scan.sha256))
    sql.execute("INSERT INTO verdicts VALUES (?, ?, ?, ?)", row)
    if entry.pixels_id is not None:
        sql.execute("INSERT OR IGNORE INTO pixels VALUES (?, ?)", (bytes.fromhex(entry.pixels_id), key))
    times = verdict.times
    decided_at_ms = to_ms(times.decided_at)
    latency_ms = max(decided_at_ms - to_ms(times.first_seen_at), 0)  # a clock that was set back in between
    sql.execute(
        "INSERT INTO outbox (seq, verdict_id, decided_at_ms, part_id, bundle, verdict_type, latency_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (verdict.seq, key, decided_at_ms, verdict.part_id, verdict.bundle, _verdict_type(sql, verdict), latency_ms),
    )
    _insert_payload(sql, verdict.seq, Kind.VERDICT, key, canonical_json(verdict))
    repeats = None if verdict.repeats is None else bytes.fromhex(verdict.repeats)
    answers = (Kind.VERDICT.value, verdict.part_id, verdict.bundle, repeats)
    sql.execute(ANSWER_DAMAGED, (ANSWERED_MS, DAMAGED_MS, *answers))


def _verdict_type(sql: sqlite3.Connection, verdict: Verdict) -> int:
    """The number of what this verdict has in common with others; made with the first of them."""
    model = verdict.model
    facts = (
        verdict.outcome.value,
        " ".join(verdict.reasons),
        verdict.evidence is not None,
        model.id,
        model.sha256,
        model.engine,
    )
    row = sql.execute(
        "SELECT verdict_type FROM verdict_types WHERE (outcome, reasons, is_kept, model_id, model_sha256, engine)"
        " = (?, ?, ?, ?, ?, ?)",
        facts,
    ).fetchone()
    if row is None:
        row = sql.execute(
            "INSERT INTO verdict_types (outcome, reasons, is_kept, model_id, model_sha256, engine)"
            " VALUES (?, ?, ?, ?, ?, ?) RETURNING verdict_type",
            facts,
        ).fetchone()
    return int(row[0])


def _insert_payload(sql: sqlite3.Connection, seq: int, kind: Kind, key: bytes, payload: bytes) -> None:
    checksum = message_checksum(seq, kind.value, key, payload)
    sql.execute("INSERT INTO payloads VALUES (?, ?, ?)", (seq, payload, checksum))


def _stamp_text(stamp: FileStamp) -> str:
    """As text, because inode numbers and times of foreign file systems exceed SQLite's 64-bit integers."""
    return f"{stamp.inode} {stamp.size_bytes} {stamp.modified_ns} {stamp.changed_ns} {int(stamp.is_whole)} {stamp.kind}"


def _stamp(file: str, text: str) -> FileStamp:
    # Older programs wrote less, newer ones may write more.
    inode, size_bytes, modified_ns, *newer = map(int, text.split())
    changed_ns, is_whole, kind = (*newer, *(0, 1, stat.S_IFREG)[len(newer) :])[:3]
    return FileStamp(file, inode, size_bytes, modified_ns, changed_ns, bool(is_whole), kind)


def to_ms(moment: datetime) -> int:
    """Milliseconds since 1970, as the ledger keeps times."""
    return round(moment.timestamp() * 1000)


def _moment(ms: float) -> datetime | None:
    """The inverse of `to_ms`; None where bit rot has made something else of a time."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC)
    except (TypeError, ValueError, OverflowError):
        return None


def _hex_id(stored: object) -> str:
    """A verdict's id as text; for what bit rot has made of one, an id of no verdict, so that what it tells stands."""
    if isinstance(stored, bytes) and len(stored) == ID_BYTES:
        return stored.hex()
    return hashlib.sha256(repr(stored).encode()).hexdigest()[: 2 * ID_BYTES]


def where_asked(asked: ResendRequest) -> tuple[str, tuple[object, ...]]:
    """Condition on rows of the outbox that picks what is asked for, and its values.

    Since a moment: decided, or sent for the first time, then or later. The first sending counts, too: a broker that
    lost its memory has lost what waited for it long before. Later sendings do not, or a second resend would send all of
    the first one again. Of a verdict: with what people decided of it.
    """
    if asked.numbers is not None:
        return "seq BETWEEN ? AND ?", asked.numbers
    if asked.since is not None:
        return "(decided_at_ms >= ? OR first_sent_at_ms >= ?)", (to_ms(asked.since),) * 2
    assert asked.verdict_id is not None, "a request says one thing"
    of_verdict = "SELECT seq FROM verdicts WHERE verdict_id = ? UNION SELECT seq FROM dispositions WHERE verdict_id = ?"
    return f"seq IN ({of_verdict})", (bytes.fromhex(asked.verdict_id),) * 2
