"""The ledger as a file: whose it is, how it is created, opened, upgraded and locked, what its errors mean.

One process owns a ledger (a lock file says so) and writes it through one connection, in WAL mode with
synchronous=FULL: what is committed survives a power cut on a disk that honours flush. Other processes may read it
meanwhile, through `edge.store.reader`.

SQLite before 3.51.3 can corrupt a WAL database ("WAL-reset bug", sqlite.org/wal.html#walresetbug) when one connection
runs a checkpoint while another one commits. Both belong to the one writing connection here, so they never overlap: a
reader opens the file `mode=ro` and can do neither. A program that writes the ledger without asking for the lock would
break this: the next write of the owner notices it (`LedgerError`). The shared-memory index that readers need does not
work on network file systems, where the worker refuses to start.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from edge.errors import LedgerBusy, LedgerError
from edge.system.files import sync_directory
from edge.system.logs import event

log = logging.getLogger(__name__)

APPLICATION_ID = 0x45444C47  # "EDLG"
KEY_BYTES = 8
"""Bytes kept of a hash: enough that no two names or scans of one station share them."""
WAL_LIMIT_BYTES = 16 * 1024 * 1024
BUSY_TIMEOUT_S = 5.0

FIRST_SCHEMA = 8
"""Version of the first release's schema. What programs before it wrote is not upgraded: it would take reading every
message, and there is no such ledger at a plant."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
        "INSERT INTO meta VALUES ('ledger_id', lower(hex(randomblob(16))))",
        "CREATE TABLE files (file BLOB PRIMARY KEY, stamp TEXT NOT NULL, sha256 BLOB NOT NULL,"
        " finished_at_ms INTEGER NOT NULL) WITHOUT ROWID",
        "CREATE TABLE verdicts (verdict_id BLOB PRIMARY KEY, seq INTEGER NOT NULL, file_key BLOB NOT NULL,"
        " bytes_key BLOB NOT NULL) WITHOUT ROWID",
        "CREATE INDEX verdicts_by_file ON verdicts (file_key, seq)",
        "CREATE TABLE pixels (pixels_id BLOB PRIMARY KEY, verdict_id BLOB NOT NULL) WITHOUT ROWID",
        "CREATE TABLE dispositions (disposition_id BLOB PRIMARY KEY, verdict_id BLOB NOT NULL, seq INTEGER NOT NULL,"
        " content_key BLOB NOT NULL) WITHOUT ROWID",
        "CREATE INDEX dispositions_by_verdict ON dispositions (verdict_id, seq)",
        "CREATE TABLE outbox (seq INTEGER PRIMARY KEY, verdict_id BLOB NOT NULL, kind TEXT NOT NULL DEFAULT 'verdict',"
        " decided_at_ms INTEGER NOT NULL, sent_at_ms INTEGER, first_sent_at_ms INTEGER, part_id TEXT,"
        " bundle TEXT, verdict_type INTEGER, latency_ms INTEGER)",
        "CREATE INDEX outbox_by_state ON outbox (sent_at_ms, seq)",
        "CREATE INDEX outbox_by_part ON outbox (part_id, seq) WHERE part_id IS NOT NULL",
        "CREATE INDEX outbox_by_decision ON outbox (decided_at_ms, seq, verdict_type, latency_ms)",
        "CREATE TABLE payloads (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL, checksum BLOB NOT NULL)",
        "CREATE TABLE verdict_types (verdict_type INTEGER PRIMARY KEY, outcome TEXT NOT NULL, reasons TEXT NOT NULL,"
        " is_kept INTEGER NOT NULL, model_id TEXT NOT NULL, model_sha256 TEXT NOT NULL, engine TEXT NOT NULL,"
        " UNIQUE (outcome, reasons, is_kept, model_id, model_sha256, engine))",
    ),
)
"""Statements that make an empty database the first schema, and each version the next one."""

REPLAYED = ("-wal", "-journal")
LOGS = (*REPLAYED, "-shm")
"""What SQLite puts behind a database's name: it replays such a file into whatever bears that name."""

DAMAGED_HINT = (
    "stop the worker, move the whole state directory away and keep it, not this file alone; then restore a backup, or "
    "start anew: a new ledger starts at seq 1 and judges the files in the folder again; check the disk"
)
_HINTS = {
    sqlite3.SQLITE_FULL: "free some space there; the worker goes on by itself",
    # SQLite also says so of a quota that is used up (EDQUOT).
    sqlite3.SQLITE_IOERR: "check the quota of the worker's user and project there (quota, repquota), and the disk "
    "(dmesg); the worker goes on by itself when it can write again",
    sqlite3.SQLITE_READONLY: "check the mount and the owner of `state.dir`",
    sqlite3.SQLITE_CANTOPEN: "check the mount and the owner of `state.dir`",
    sqlite3.SQLITE_BUSY: "another program has it open: close it",
    sqlite3.SQLITE_CORRUPT: DAMAGED_HINT,
    sqlite3.SQLITE_NOTADB: DAMAGED_HINT,
}


def take_lock(path: Path) -> int:
    """An open, locked file descriptor beside the ledger; the kernel releases it however the process ends.

    Also makes the directory (mode 0700) if there is none. Raises LedgerBusy if another process holds
    the lock, LedgerError if others can write into the directory.
    """
    _private_directory(path.parent)
    with map_errors(path):
        lock = _open_lock(path.with_name(f"{path.name}.lock"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(lock, 32, 0).decode("ascii", "replace") or "unknown"
            os.close(lock)
            raise LedgerBusy(
                f"ledger {path} is in use by another worker (process {holder})",
                hint="stop that one first, or give this one its own `station` and `state.dir`",
            ) from error
        except OSError:
            os.close(lock)
            raise
    with suppress(OSError):  # the number only serves the message above: a full disk must not stop us here
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def _open_lock(path: Path) -> int:
    """Raises LedgerError for a link, symbolic or hard, and for anything but an own regular file: it is written to."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        found = "a symbolic link"
    else:
        status = os.fstat(lock)
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_uid == os.geteuid():
            return lock
        os.close(lock)
        found = f"mode {stat.filemode(status.st_mode)}, user {status.st_uid}, {status.st_nlink} names"
    raise LedgerError(
        f"{path} is no lock of this user: {found}, expected a regular file of user {os.geteuid()} with one name",
        hint="nothing of this program makes that: find out who did, then remove it",
    )


@contextmanager
def keep_free(path: Path) -> Iterator[bool]:
    """Whether no process owns the ledger; inside, none can take it. Makes and writes nothing. Raises OSError."""
    try:
        lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True  # no worker has run here yet
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(lock)


def create(path: Path, station: str) -> None:
    """Build the file under another name first: what bears the ledger's name is always a whole ledger."""
    draft = path.with_name(f"{path.name}.new")
    remove_database(draft)
    handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        sql = sqlite3.connect(draft, isolation_level=None)
        try:
            sql.execute("PRAGMA journal_mode = MEMORY")
            sql.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            sql.execute("BEGIN IMMEDIATE")
            _migrate(sql, 0)
            sql.execute("INSERT INTO meta VALUES ('station', ?), ('next_seq', 1)", (station,))
            sql.execute("COMMIT")
        finally:
            sql.close()
        os.fsync(handle)
    finally:
        os.close(handle)
    put_in_place(draft, path)


def put_in_place(draft: Path, path: Path) -> None:
    """Give a whole, closed database the ledger's name, for good; nothing bears that name yet.

    Logs of a ledger that was moved away without them are kept under another name: SQLite would replay them into this
    one, and at best undo it.
    """
    for log_file in (path.with_name(path.name + suffix) for suffix in LOGS):
        if log_file.exists():
            kept = log_file.with_name(f"{log_file.name}.stale-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
            log_file.rename(kept)
            event(log.warning, "log without its ledger put aside", file=kept.name)
    sync_directory(path.parent)
    draft.rename(path)
    sync_directory(path.parent)


def remove_database(path: Path) -> None:
    """Remove a draft and its logs: a kill may have left them, and the next draft must not inherit them."""
    for suffix in ("", *LOGS):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def connect(path: Path, station: str) -> sqlite3.Connection:
    """The one connection; raises LedgerError when the file is no ledger of this station and program."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise LedgerError(f"ledger {path} is no regular file: {stat.filemode(status.st_mode)}", hint=DAMAGED_HINT)
    if status.st_size == 0:
        raise LedgerError(f"ledger {path} is empty, which a ledger never is", hint=DAMAGED_HINT)
    sql = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        sql.execute("PRAGMA trusted_schema = OFF")
        expect_ledger(sql, path)
        ((journal,),) = sql.execute("PRAGMA journal_mode = WAL").fetchall()
        if journal != "wal":
            raise LedgerError(f"ledger {path} cannot use a write-ahead log", hint="put `state.dir` on a local disk")
        sql.execute("PRAGMA synchronous = FULL")
        sql.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
        _upgrade(sql, path)
        row = sql.execute("SELECT value FROM meta WHERE key = 'station'").fetchone()
        if row is None:
            raise LedgerError(f"ledger {path} names no station", hint=DAMAGED_HINT)
        if (owner := row[0]) != station:
            raise LedgerError(
                f"ledger {path} belongs to station {owner!r}, the settings say {station!r}",
                hint="give each station its own `state.dir`; a renamed station starts a new ledger",
            )
        # A killed process may leave committed transactions in the log that were never flushed. From here on
        # they count, so they are made to last before anybody publishes them. The checkpoint may stop at what a reader
        # still looks at, hence the flush.
        _flush(path.with_name(f"{path.name}-wal"))
        sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except BaseException:
        sql.close()
        raise
    return sql


def expect_ledger(sql: sqlite3.Connection, path: Path) -> None:
    """Raises LedgerError for the database of another program."""
    ((application_id,),) = sql.execute("PRAGMA application_id").fetchall()
    if application_id != APPLICATION_ID:
        raise LedgerError(f"{path} is a database, but no ledger", hint="check `state.dir` in the settings")


@contextmanager
def map_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite and the operating system raise into LedgerError, with a hint."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise  # a mistake of this program, no state of the disk
    except sqlite3.DatabaseError as error:
        hint = _HINTS.get(primary_code(error), "check the disk and the ledger with `edge-worker check`")
        raise LedgerError(f"ledger {path}: {error}", hint=hint) from error
    except UnicodeDecodeError as error:  # SQLite quotes what it cannot read
        raise LedgerError(f"ledger {path} is damaged: {error}", hint=DAMAGED_HINT) from error
    except OSError as error:
        raise LedgerError(f"ledger {path}: {error.strerror}", hint="check the mount and `state.dir`") from error


def primary_code(error: sqlite3.Error) -> int:
    """SQLITE_IOERR for every kind of it, and so on; 0 when the error has no code."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _upgrade(sql: sqlite3.Connection, path: Path) -> None:
    ((version,),) = sql.execute("PRAGMA user_version").fetchall()
    newest = newest_schema()
    if version > newest:
        raise LedgerError(
            f"ledger {path} has schema {version}, this program knows up to {newest}",
            hint="run the newer program again; its ledger cannot be taken back to an older one",
        )
    if version < FIRST_SCHEMA:
        raise LedgerError(
            f"ledger {path} has schema {version}, of a program before the first release, which has {FIRST_SCHEMA}",
            hint="let that program deliver what is unsent; then move the whole state directory away and start anew",
        )
    if version < newest:
        sql.execute("BEGIN IMMEDIATE")
        _migrate(sql, version)
        sql.execute("COMMIT")
        event(log.info, "ledger upgraded", from_schema=version, to_schema=newest)


def _flush(log_file: Path) -> None:
    """Flush a write-ahead log, if there is one. SQLite locks no bytes of it, so opening it once more is harmless."""
    with suppress(FileNotFoundError):
        handle = os.open(log_file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def message_checksum(seq: object, kind: object, verdict_id: object, payload: object) -> bytes:
    """Eight bytes that no other message has. Takes what bit rot may have made of a row, of whatever type."""
    return hashlib.blake2b(repr((seq, kind, verdict_id, payload)).encode("utf-8", "replace"), digest_size=8).digest()


def parse_id(value: object) -> UUID:
    """A ledger's id as it is stored. Raises LedgerError where bit rot has made something else of it."""
    try:
        return UUID(hex=str(value))
    except ValueError:
        raise LedgerError(f"the ledger's id is damaged: {value!r}", hint=DAMAGED_HINT) from None


def bytes_key(sha256: str) -> bytes:
    """By which the bytes of a scan are known again under their name."""
    return bytes.fromhex(sha256)[:KEY_BYTES]


def is_intact(seq: object, kind: object, key: object, payload: object, checksum: object) -> bool:
    """Whether a row of the outbox is still the one that was written."""
    return message_checksum(seq, kind, key, payload) == checksum


def newest_schema() -> int:
    """The version this program writes."""
    return FIRST_SCHEMA + len(MIGRATIONS) - 1


def _migrate(sql: sqlite3.Connection, version: int) -> None:
    """From the schema of this version to the newest; 0 is an empty database."""
    for statements in MIGRATIONS[max(0, version - FIRST_SCHEMA + 1) :]:
        for statement in statements:
            sql.execute(statement)
    sql.execute(f"PRAGMA user_version = {newest_schema()}")


def _private_directory(directory: Path) -> None:
    with map_errors(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = directory.stat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise LedgerError(
            f"state directory {directory} is writable by others (mode {stat.S_IMODE(mode):04o})",
            hint=f"chmod 0700 {directory}",
        )
