"""The desk's own file: accounts, and a record that is only ever added to, each entry bound to the one before by hash.

An entry is canonical JSON that holds `seq` (from 1, without gaps) and `previous`, the SHA-256 of the entry before it.
To change, remove or insert one changes every hash after it. Newest entries that were cut off are found by what
left this file: each answer's `disposition_id` begins the hash of its entry, and MES, worker and evidence have it.

SQLite with `synchronous=FULL`: what was answered survives a kill and a power cut. The page and the command line may use
the file at the same time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from edge.desk.readings import Choice, Read, State, Vote, standing
from edge.errors import DeskError, DeskFault
from edge.records import Outcome
from edge.system.text import rfc3339, speakable

FILE_NAME = "desk.sqlite"
APPLICATION_ID = 0x4544534B  # "EDSK"
SCHEMA = "desk/1"
SCHEMA_VERSION = 2
WAIT_S = 20.0
"""For another process that writes: the command line beside the page, or a disk that is slow to flush."""
ASK_AGAIN_S = 0.005
GENESIS = "0" * 64
"""`previous` of the first entry."""

Role = Literal["reader", "admin"]
Fields = Mapping[str, Any]

_TABLES = (
    "CREATE TABLE record (seq INTEGER PRIMARY KEY, entry BLOB NOT NULL)",
    "CREATE TRIGGER record_is_not_changed BEFORE UPDATE ON record BEGIN SELECT RAISE(ABORT, 'append only'); END",
    "CREATE TRIGGER record_is_not_cut BEFORE DELETE ON record BEGIN SELECT RAISE(ABORT, 'append only'); END",
    "CREATE TABLE answer (seq INTEGER PRIMARY KEY REFERENCES record, nonce TEXT NOT NULL UNIQUE,"
    " verdict_id TEXT NOT NULL, account TEXT NOT NULL, decision TEXT NOT NULL, read TEXT NOT NULL,"
    " outcome TEXT NOT NULL, kept TEXT NOT NULL, file TEXT NOT NULL, seconds_looked REAL NOT NULL,"
    " is_handed INTEGER NOT NULL DEFAULT 0)",
    "CREATE INDEX answer_by_verdict ON answer (verdict_id, seq)",
    "CREATE INDEX answer_to_hand ON answer (seq) WHERE NOT is_handed",
    "CREATE TABLE account (name TEXT PRIMARY KEY, secret TEXT NOT NULL, role TEXT NOT NULL,"
    " is_disabled INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE health (at_ms INTEGER PRIMARY KEY, payload BLOB NOT NULL)",
    "CREATE TABLE shown (number INTEGER PRIMARY KEY, verdict_id TEXT NOT NULL UNIQUE, record BLOB NOT NULL)",
)
_NAMES = ("verdict_id", "by", "decision", "read", "outcome", "kept", "file", "seconds_looked")
"""Fields of an entry that the table of answers repeats, in its order."""
_ANSWERS = "SELECT seq, verdict_id, account, decision, read, outcome, kept, file, seconds_looked FROM answer"
_ANSWERS_AFTER = f"{_ANSWERS} WHERE seq > ? ORDER BY seq"
_ANSWERS_ON = f"{_ANSWERS} WHERE verdict_id = ? ORDER BY seq"
KEEP_HEALTH_MS = 8 * 86_400_000
KEEP_SHOWN = 1000
"""Scans that are remembered of those readers were shown."""


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who may log in. `secret` is the hash of the password, as edge/desk/accounts.py writes it."""

    name: str
    secret: str
    role: Role
    is_disabled: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as the record holds it: its number, its entry's bytes, and what the rule asks of it."""

    seq: int
    verdict_id: str
    vote: Vote
    outcome: Outcome
    kept: str
    file: str
    seconds_looked: float


class DeskStore:
    """The file of one desk. Any thread may use it; every method raises DeskError when the disk fails."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it; its directory must be there."""
        self.path = path
        self._lock = threading.RLock()
        self._votes: dict[str, tuple[Vote, ...]] = {}
        self._votes_seq = 0
        self._decided: set[str] = set()
        self._newest: tuple[int, str] | None = None
        self._appended: tuple[int, str] | None = None
        with map_errors(path), ExitStack() as unopened:
            is_new = not path.exists()
            self._sql = sqlite3.connect(path, isolation_level=None, timeout=0, check_same_thread=False)
            unopened.callback(self._sql.close)
            if is_new:
                path.chmod(0o600)
            self._patiently("PRAGMA trusted_schema = OFF")
            self._patiently("PRAGMA journal_mode = WAL")
            self._patiently("PRAGMA synchronous = FULL")
            self._file_id = _file_id(path)
            self._expect_own_file()
            unopened.pop_all()

    def __enter__(self) -> DeskStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """May be called twice."""
        self._sql.close()

    def _expect_own_file(self) -> None:
        with self._transaction("IMMEDIATE", is_checked=False):
            ((version,),) = self._sql.execute("PRAGMA user_version").fetchall()
            ((application,),) = self._sql.execute("PRAGMA application_id").fetchall()
            if (version, application) == (0, 0) and not self._sql.execute("SELECT 1 FROM sqlite_schema").fetchall():
                for statement in _TABLES:
                    self._sql.execute(statement)
                self._sql.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self._sql.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            elif application != APPLICATION_ID:
                raise DeskError(
                    f"{self.path} is no desk's file: application {application:#x}, expected {APPLICATION_ID:#x}",
                    hint="check `desk.dir` in the settings",
                )
            elif version != SCHEMA_VERSION:
                raise DeskError(
                    f"{self.path} is a desk's file of version {version}, expected {SCHEMA_VERSION}",
                    hint="it was written by another release: run that one, or put back the copy made before the change",
                )
            last = self._last_entry()
            self._newest = None if last is None else (last[0], entry_hash(last[1]))

    def _patiently(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of a statement outside of any transaction, as soon as no other process is in its way.

        SQLite's own wait asks ever more seldom, in the end every 0.1 s. Beside a process that writes one answer after
        the other it gave up after 5 s without having met a moment between two of them.
        """
        end_s = time.monotonic() + WAIT_S
        while True:
            try:
                return self._sql.execute(statement, values).fetchall()
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > end_s:
                    raise
            time.sleep(ASK_AGAIN_S)

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE", *, is_checked: bool = True) -> Iterator[None]:
        """All of it or nothing, on the disk when it ends; one at a time."""
        with self._lock, map_errors(self.path):
            self._patiently(f"BEGIN {kind}")
            try:
                if is_checked and kind == "IMMEDIATE":
                    self._expect_same_file()
                self._appended = None
                yield
                self._sql.execute("COMMIT")
                self._newest = self._appended or self._newest
            finally:
                if self._sql.in_transaction:
                    self._sql.execute("ROLLBACK")

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock, map_errors(self.path):
            return self._patiently(query, *values)

    def _expect_same_file(self) -> None:
        """Raises DeskError where an answer would go into a file that is no longer the desk's, or onto a cut record.

        A file that was exchanged (a copy put back) lives on without a name until the desk ends, with all that is
        written into it; one that another release has upgraded has other tables.
        """
        found = ""
        if _file_id(self.path) != self._file_id:
            found = "another file has taken its place"
        elif self._sql.execute("PRAGMA user_version").fetchone() != (SCHEMA_VERSION,):
            found = "another release has upgraded it"
        elif self._newest is not None:
            entry = self._sql.execute("SELECT CAST(entry AS BLOB) FROM record WHERE seq = ?", self._newest[:1])
            if [entry_hash(data) for (data,) in entry] != [self._newest[1]]:
                found = f"entry {self._newest[0]} of its record was removed or changed"
        if found:
            raise DeskError(
                f"{self.path}: {found} while it was open; nothing was saved",
                hint="edge-desk verify, then restart the desk",
                reason="changed",
            )

    def _last_entry(self) -> tuple[int, bytes] | None:
        rows = self._sql.execute("SELECT seq, CAST(entry AS BLOB) FROM record ORDER BY seq DESC LIMIT 1").fetchall()
        return rows[0] if rows else None

    def _append(self, fields: Fields) -> int:
        """Add one entry inside the transaction: its number."""
        last = self._last_entry()
        seq, previous = (1, GENESIS) if last is None else (last[0] + 1, entry_hash(last[1]))
        entry = canonical({**fields, "schema": SCHEMA, "seq": seq, "previous": previous})
        self._sql.execute("INSERT INTO record VALUES (?, ?)", (seq, entry))
        self._appended = (seq, entry_hash(entry))
        return seq

    def add_entry(self, kind: str, by: str, at: datetime, **fields: object) -> None:
        """Record something that is neither an answer nor an account, such as an export."""
        with self._transaction():
            self._append({"kind": kind, "by": by, "at": rfc3339(at), **fields})

    # -- answers -------------------------------------------------------------------------------------------------

    def add_answer(self, fields: Fields, nonce: str, read_for: Callable[[Sequence[Vote]], Read]) -> bool:
        """Record an answer; False where this very answer (by its `nonce`) is recorded already.

        `fields`: all that the entry says, verdict_id, by and decision among it. `read_for`: which reading it is, by
        the answers there are at that moment; no other answer comes in between.
        """
        with self._transaction():
            if self._sql.execute("SELECT 1 FROM answer WHERE nonce = ?", (nonce,)).fetchone():
                return False
            rows = self._sql.execute(_ANSWERS_ON, (fields["verdict_id"],)).fetchall()
            votes = [_answer(*row).vote for row in rows]
            read = read_for(votes)
            vote = Vote(fields["by"], Choice(fields["decision"]), read)
            stands = standing(Outcome(fields["outcome"]), [*votes, vote]).choice
            said = {**fields, "kind": "answer", "nonce": nonce, "read": read, "stands": stands}
            seq = self._append(said)
            row = (seq, nonce, *(speakable(said[name]) for name in _NAMES))
            self._sql.execute("INSERT INTO answer VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)", row)
        return True

    def answers(self, verdict_id: str | None = None) -> list[Answer]:
        """All answers, or those on one verdict, oldest first."""
        rows = self._rows(_ANSWERS_AFTER, 0) if verdict_id is None else self._rows(_ANSWERS_ON, verdict_id)
        return [_answer(*row) for row in rows]

    def votes(self) -> Mapping[str, Sequence[Vote]]:
        """Votes on each verdict, oldest first."""
        self._read_new_answers()
        return self._votes

    def decided(self) -> Set[str]:
        """Verdicts on which no further answer is wanted."""
        self._read_new_answers()
        return self._decided

    def _read_new_answers(self) -> None:
        """Take in what is new since the last call: the queue asks every few seconds, on each open page."""
        with self._lock:
            for answer in [_answer(*row) for row in self._rows(_ANSWERS_AFTER, self._votes_seq)]:
                votes = self._votes[answer.verdict_id] = (*self._votes.get(answer.verdict_id, ()), answer.vote)
                self._decided.discard(answer.verdict_id)
                if standing(answer.outcome, votes).state is State.DECIDED:
                    self._decided.add(answer.verdict_id)
                self._votes_seq = answer.seq

    def entry(self, seq: int) -> bytes:
        """The bytes of one entry."""
        ((entry,),) = self._rows("SELECT CAST(entry AS BLOB) FROM record WHERE seq = ?", seq)
        return bytes(entry)

    def unhanded(self) -> list[int]:
        """Numbers of the answers that the worker was not given yet, oldest first."""
        return [seq for (seq,) in self._rows("SELECT seq FROM answer WHERE NOT is_handed ORDER BY seq")]

    def mark_handed(self, seq: int) -> None:
        """The worker has the answer, or a request file that it will take."""
        with self._transaction():
            self._sql.execute("UPDATE answer SET is_handed = 1 WHERE seq = ?", (seq,))

    # -- accounts ------------------------------------------------------------------------------------------------

    def account(self, name: str) -> Account | None:
        """The account of this name, disabled or not."""
        return next((each for each in self.accounts() if each.name == name), None)

    def accounts(self) -> list[Account]:
        """All accounts by name."""
        rows = self._rows("SELECT name, secret, role, is_disabled FROM account ORDER BY name")
        return [Account(name, secret, role, bool(is_disabled)) for name, secret, role, is_disabled in rows]

    def put_account(self, account: Account, action: str, by: str, at: datetime) -> None:
        """Add or replace an account, and say so in the record."""
        with self._transaction():
            row = (account.name, account.secret, account.role, int(account.is_disabled))
            self._sql.execute("INSERT OR REPLACE INTO account VALUES (?, ?, ?, ?)", row)
            self._append({"kind": "account", "by": by, "at": rfc3339(at), "action": action, **_seal(account)})

    # -- the line's state, for the overview; no part of the record ------------------------------------------------

    def add_health(self, at_ms: int, payload: bytes) -> None:
        """Keep the worker's newest health message, once.

        Messages from more than 8 days before it are dropped, and those from after it: the clock was set back since.
        """
        with self._transaction():
            self._sql.execute("INSERT OR IGNORE INTO health VALUES (?, ?)", (at_ms, payload))
            self._sql.execute("DELETE FROM health WHERE at_ms < ? OR at_ms > ?", (at_ms - KEEP_HEALTH_MS, at_ms))

    def health_since(self, at_ms: int) -> list[bytes]:
        """Health messages from a moment on, oldest first."""
        return [row[0] for row in self._rows("SELECT payload FROM health WHERE at_ms >= ? ORDER BY at_ms", at_ms)]

    # -- what readers have on the screen; no part of the record -------------------------------------------------------

    def note_shown(self, verdict_id: str, record: bytes) -> None:
        """Remember what a reader was shown of a verdict, so that an answer can be taken when the evidence is gone."""
        if self._rows("SELECT 1 FROM shown WHERE verdict_id = ?", verdict_id):
            return
        with self._transaction():
            self._sql.execute("INSERT OR IGNORE INTO shown (verdict_id, record) VALUES (?, ?)", (verdict_id, record))
            self._sql.execute("DELETE FROM shown WHERE number <= (SELECT max(number) FROM shown) - ?", (KEEP_SHOWN,))

    def shown(self) -> list[bytes]:
        """Records of what readers were shown, oldest first."""
        return [row[0] for row in self._rows("SELECT record FROM shown ORDER BY number")]

    # -- verification --------------------------------------------------------------------------------------------

    def entries(self) -> list[tuple[Any, ...]]:
        """Numbers and bytes of all entries, oldest first."""
        return self._rows("SELECT seq, CAST(entry AS BLOB) FROM record ORDER BY seq")

    def head(self) -> str:
        """Hash of the newest entry: who notes it can later tell whether anything before it was changed."""
        rows = self._rows("SELECT CAST(entry AS BLOB) FROM record ORDER BY seq DESC LIMIT 1")
        return entry_hash(rows[0][0]) if rows else GENESIS

    def at_one_moment(self) -> AbstractContextManager[None]:
        """What is read inside fits together, whatever other processes write meanwhile."""
        return self._transaction("DEFERRED")

    def problems(self) -> list[str]:
        """Everything in the file that does not fit the chain, in words; empty where nothing was changed.

        Beside a desk that is written to, only `at_one_moment` tells the truth.
        """
        found, answers, accounts = chain_problems(self.entries())
        stored_answers = self._rows(
            "SELECT seq, nonce, verdict_id, account, decision, read, outcome, kept, file, seconds_looked FROM answer"
        )
        rows = {row[0]: row[1:] for row in stored_answers}
        for seq in sorted(rows.keys() | answers.keys()):
            if rows.get(seq) != answers.get(seq):
                found.append(f"entry {seq}: the table of answers says {rows.get(seq)}, the record {answers.get(seq)}")
        stored = {account.name: _seal(account) for account in self.accounts()}
        for name in sorted(stored.keys() | accounts.keys()):
            if stored.get(name) != accounts.get(name):
                found.append(f"account {name}: it is not as the record says")
        return found


@contextmanager
def open_to_verify(path: Path) -> Iterator[DeskStore]:
    """The desk's file, or a copy of it where this user cannot write it, as on a medium that is for reading only.

    SQLite writes beside a file that it only reads. What the file's journal holds (`-wal`) is part of it. Raises
    DeskError.
    """
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        with DeskStore(path) as store:
            yield store
        return
    with TemporaryDirectory(prefix="edge-desk-") as folder:
        copy = Path(folder) / path.name
        with map_errors(path):
            shutil.copyfile(path, copy)
            journal = path.with_name(f"{path.name}-wal")
            if journal.exists():
                shutil.copyfile(journal, copy.with_name(journal.name))
        with DeskStore(copy) as store:
            yield store


def chain_problems(
    entries: Iterable[tuple[Any, ...]],
) -> tuple[list[str], dict[int, tuple[Any, ...]], dict[str, dict[str, Any]]]:
    """What is wrong with a chain of entries; and the answers and accounts as it tells them."""
    found: list[str] = []
    answers: dict[int, tuple[Any, ...]] = {}
    accounts: dict[str, dict[str, Any]] = {}
    previous, expected = GENESIS, 1
    for seq, entry in entries:
        if seq != expected:
            found.append(f"entry {seq}: expected {expected}: entries are missing")
        try:
            fields = json.loads(entry)
            if not isinstance(fields, dict) or canonical(fields) != entry:
                raise ValueError("not written by this program")
        except ValueError as error:
            found.append(f"entry {seq}: {error}")
            fields = {}
        if fields.get("seq") != seq:
            found.append(f"entry {seq}: it says it is entry {fields.get('seq')}")
        if fields.get("previous") != previous:
            found.append(f"entry {seq}: it does not follow what stands before it, which was changed or removed")
        if fields.get("kind") == "answer":
            answers[seq] = tuple(speakable(fields.get(key)) for key in ("nonce", *_NAMES))
        elif fields.get("kind") == "account":
            keys = ("account", "role", "is_disabled", "secret_sha256")
            accounts[str(fields.get("account"))] = {key: fields.get(key) for key in keys}
        previous, expected = entry_hash(entry), seq + 1
    return found, answers, accounts


def by_verdict(answers: Iterable[Answer]) -> dict[str, list[Answer]]:
    """The answers on each verdict, in their order."""
    found: dict[str, list[Answer]] = {}
    for answer in answers:
        found.setdefault(answer.verdict_id, []).append(answer)
    return found


def canonical(fields: Fields) -> bytes:
    """The one byte form of an entry: keys sorted, no white space, UTF-8, no NaN."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace")


def entry_hash(entry: bytes) -> str:
    """SHA-256 of an entry, hexadecimal."""
    return hashlib.sha256(entry).hexdigest()


@contextmanager
def map_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite and the operating system raise into DeskError, with a hint."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise  # a mistake of this program, no state of the disk
    except sqlite3.DatabaseError as error:
        reason: DeskFault = "disk"
        hint = "check the disk, the owner and `desk.dir`"
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            reason, hint = "full", "free some space there and send it again"
        elif _is_busy(error):
            reason, hint = "busy", "another process holds the file, or the disk hardly moves: send it again"
        raise DeskError(f"{path}: {error}; nothing was saved", hint=hint, reason=reason) from error
    except OSError as error:
        message = f"{path}: {error.strerror}; nothing was saved"
        raise DeskError(message, hint="check `desk.dir`", reason="disk") from error


def _file_id(path: Path) -> tuple[int, int] | None:
    """Device and number of the file that has this name now; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _is_busy(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def now() -> datetime:
    """The wall clock, for what people read; order and expiry do not hang on it."""
    return datetime.now(UTC)


def _seal(account: Account) -> dict[str, Any]:
    """An account as the record holds it: nothing to guess a password by, but a changed one is seen."""
    return {
        "account": account.name,
        "role": account.role,
        "is_disabled": account.is_disabled,
        "secret_sha256": hashlib.sha256(account.secret.encode()).hexdigest(),
    }


def _answer(
    seq: int,
    verdict_id: str,
    account: str,
    decision: str,
    read: str,
    outcome: str,
    kept: str,
    file: str,
    seconds_looked: float,
) -> Answer:
    vote = Vote(account, Choice(decision), Read(read))
    return Answer(seq, verdict_id, vote, Outcome(outcome), kept, file, seconds_looked)
