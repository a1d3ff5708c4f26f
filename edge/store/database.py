"""The ledger's one connection: one transaction at a time, opened anew after an error, copied and checked as a whole.

What the tables hold is the matter of `edge.store.ledger`; whose file it is and what its errors mean, of
`edge.store.ledger_file`.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from edge.errors import LedgerError
from edge.store.ledger_file import DAMAGED_HINT, connect, map_errors, primary_code
from edge.system.logs import event

log = logging.getLogger(__name__)

LOGS_IN_USE = ("-wal", "-shm")

LOGS_HINT = (
    "leave `ledger.sqlite-wal` and `ledger.sqlite-shm` alone while the worker runs: they are part of the ledger; find "
    "out what cleans up there"
)

COPY_PAGES = 1_000
"""Pages (4 MB) a copy takes at a time; between two lots the line may write."""

COPY_PAUSE_S = 0.005
"""Between two lots, for a thread that waits for the lock."""

CHECKS = (
    *(f"PRAGMA integrity_check({table})" for table in ("meta", "outbox", "files", "dispositions", "verdict_types")),
    "PRAGMA quick_check(1)",
)


class Database:
    """A ledger's file and the lock on it. Every method may be called from any thread, and raises LedgerError."""

    def __init__(self, path: Path, station: str, lock: int) -> None:
        """Takes over the locked file descriptor, also when it raises LedgerError, as `connect` does."""
        self.path = path
        self.station = station
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._process_lock: int | None = lock
        self._data_version = 0
        self._files = {suffix: path.with_name(path.name + suffix) for suffix in ("", *LOGS_IN_USE)}
        """What the connection has open, by what SQLite puts behind the ledger's name."""
        self._identities: dict[str, tuple[int, int]] = {}
        """Device and inode of each of these; no other file gets them while they are open."""
        try:
            with self._lock, map_errors(path):
                self._connect()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Write the log back into the database and release the lock; may be called twice."""
        with self._lock:
            self._disconnect()
            if self._process_lock is not None:
                os.close(self._process_lock)
                self._process_lock = None

    @contextmanager
    def transaction(self, kind: Literal["read", "write"]) -> Iterator[sqlite3.Connection]:
        """Hold the lock and one transaction: committed on success, rolled back on any exception."""
        with self._lock, map_errors(self.path):
            sql = self._connect()
            if kind == "write":
                self._expect_own_file()
            self._expect_own_logs(sql)
            try:
                sql.execute("BEGIN IMMEDIATE" if kind == "write" else "BEGIN")
                if kind == "write":
                    self._expect_no_other_writer(sql)
                yield sql
                sql.execute("COMMIT")
            except sqlite3.DatabaseError as error:
                if primary_code(error) != sqlite3.SQLITE_FULL:
                    # After a failed write or flush it is not known what the file holds: read it afresh.
                    self._disconnect()
                raise
            finally:
                if self._connection is not None and sql.in_transaction:
                    sql.execute("ROLLBACK")

    def copy_into(self, target: Path, go_on: Callable[[], bool]) -> None:
        """Write the whole ledger, as it is at the end of the copying, to a new file and flush it. The line goes on.

        `go_on` is asked after every lot of pages. Raises LedgerError, also when it says no.
        """
        with self._lock, map_errors(self.path):
            source = self._connect()

            def between(_status: int, left: int, _total: int) -> None:
                if left:
                    # SQLite gives what this connection writes meanwhile to the copy, too.
                    self._lock.release()
                    time.sleep(COPY_PAUSE_S)
                    self._lock.acquire()
                if self._connection is not source or not go_on():
                    raise LedgerError(f"copy of {self.path} given up", hint="ask again")

            copy = sqlite3.connect(target, isolation_level=None)
            try:
                copy.execute("PRAGMA synchronous = OFF")  # flushed below, once
                source.backup(copy, pages=COPY_PAGES, progress=between)
            finally:
                copy.close()
            with target.open("rb") as file:
                os.fsync(file.fileno())

    def check_quickly(self, limit_s: float) -> bool:
        """Verify what `limit_s` allows, the tables that decide what is sent first; whether that was all.

        Payloads come last: each is compared with its checksum before it is sent. Raises LedgerError naming a fault.
        """
        with self._lock, map_errors(self.path):
            sql = self._connect()
            alarm_clock = threading.Timer(limit_s, sql.interrupt)
            alarm_clock.start()
            try:
                until_s = time.monotonic() + limit_s
                for pragma in CHECKS:
                    if time.monotonic() >= until_s:
                        return False
                    (finding,) = sql.execute(pragma).fetchall()[0]
                    if finding != "ok":
                        raise LedgerError(f"ledger {self.path} is damaged: {finding}", hint=DAMAGED_HINT)
            except sqlite3.OperationalError as error:
                if primary_code(error) != sqlite3.SQLITE_INTERRUPT:
                    raise
                return False
            finally:
                alarm_clock.cancel()
                alarm_clock.join()
            return True

    def check(self) -> None:
        """Read the whole ledger and verify it. Raises LedgerError naming the first fault."""
        with self.transaction("read") as sql:
            ((finding,),) = sql.execute("PRAGMA integrity_check(1)").fetchall()
        if finding != "ok":
            raise LedgerError(f"ledger {self.path} is damaged: {finding}", hint=DAMAGED_HINT)

    def _connect(self) -> sqlite3.Connection:
        """The connection, opened anew if an error closed it; the caller holds the lock."""
        if self._process_lock is None:
            raise RuntimeError("the ledger is closed")
        if self._connection is None:
            self._connection = connect(self.path, self.station)
            try:
                self._data_version = _data_version(self._connection)
                self._identities = {suffix: _identity(file) for suffix, file in self._files.items()}
            except BaseException:
                self._disconnect()
                raise
        return self._connection

    def _is_own(self, suffix: str) -> bool:
        """Whether the file of this name is the one that the connection has open."""
        try:
            return _identity(self._files[suffix]) == self._identities[suffix]
        except FileNotFoundError:
            return False

    def _expect_own_file(self) -> None:
        """Raises LedgerError when another file, or none, has its name: what is written would end with this process."""
        if not self._is_own(""):
            raise LedgerError(
                f"ledger {self.path} was moved, removed or replaced while the worker writes it",
                hint="put it back with what lay beside it, or restart the worker: it then begins with what is there",
            )

    def _expect_own_logs(self, sql: sqlite3.Connection) -> None:
        """Raises LedgerError, once, when one of SQLite's logs was removed or replaced.

        What is committed would go into a file without a name, and end with this process. So the whole log is written
        into the ledger first; the next call begins with a new one.
        """
        lost = [suffix for suffix in LOGS_IN_USE if not self._is_own(suffix)]
        if not lost or not self._is_own(""):
            return
        ((is_busy, _, _),) = sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        found = f"{self._files[lost[0]]} was removed or replaced while the worker writes it"
        if is_busy:
            raise LedgerError(f"{found}, and a reader keeps its content out of the ledger", hint=LOGS_HINT)
        self._disconnect()
        event(log.error, "log of the ledger removed", file=self._files[lost[0]].name)
        raise LedgerError(f"{found}; nothing of it is lost", hint=LOGS_HINT)

    def _expect_no_other_writer(self, sql: sqlite3.Connection) -> None:
        """Raises LedgerError, once, when another connection has written: two writers can damage a WAL database."""
        data_version = _data_version(sql)
        if data_version != self._data_version:
            self._data_version = data_version
            event(log.error, "ledger written by another program", file=self.path.name)
            raise LedgerError(
                f"another program has written to the ledger {self.path}",
                hint="find out which (fuser, lsof) and close it: only `edge-worker` may write there; then check the "
                "ledger with `edge-worker check`",
            )

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _data_version(sql: sqlite3.Connection) -> int:
    """Number that changes when another connection commits, and not by this one's commits."""
    ((version,),) = sql.execute("PRAGMA data_version").fetchall()
    return int(version)
