"""Every error the line can raise, each with a hint for the operator.

    EdgeError(message, *, hint)
    ├── SettingsError      wrong key, type or value            exit 78, systemd does not restart
    ├── ScanError          this file only                      a verdict `unreadable`, the line goes on
    │   └── ScanIncomplete the writer may not have finished    wait, then `unreadable`
    ├── ModelError         tampered, unsigned, wrong version   exit 78, nothing is loaded
    ├── EngineError        device or runtime                   exit 70, systemd restarts
    ├── LedgerError        disk full, corrupt                  intake stops, resumes by itself
    │   └── LedgerBusy     another worker has it               this one does not start
    ├── SourceError        the store of a replay is away       the replay ends; the next one takes up there
    ├── PublishError       broker refuses or is away           back off; the row stays
    ├── EvidenceError      missing, damaged or changed         what reads it shows the error instead
    ├── TableError         labels, or a study's table          exit 65, nothing is judged or measured
    ├── RequestError       one that cannot be carried out      refused: the ledger stays as it is
    └── DeskError          the desk's own file                 nothing was saved, the person is told

A message says what, where, and observed against expected; the hint says what to try.
Third-party errors are mapped to these once, in the adapter that owns the library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge.records import Scan


class EdgeError(Exception):
    """Base of all errors that an operator is meant to read."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[Callable[..., EdgeError], tuple[type[EdgeError], dict[str, Any]]]:
        """Pickled by its fields: an error of a worker process must arrive as what it was."""
        return _restore, (type(self), self.__dict__)


def _restore(kind: type[EdgeError], fields: dict[str, Any]) -> EdgeError:
    error = kind.__new__(kind, fields["message"])
    error.__dict__.update(fields)
    return error


class SettingsError(EdgeError):
    """A setting is unknown, has the wrong type, or contradicts another."""

    exit_code = 78  # EX_CONFIG of sysexits.h: a restart does not help


class ScanError(EdgeError):
    """One file is not a scan this product reads.

    `reason` is the machine-readable word in the verdict; `scan` identifies the bytes that were read,
    or is None when not even those could be had.
    """

    exit_code = 65  # EX_DATAERR

    def __init__(self, reason: str, message: str, *, hint: str, scan: Scan | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.scan = scan


class ScanIncomplete(ScanError):
    """The file may still be growing: worth another look before it is called unreadable."""


class ModelError(EdgeError):
    """The signed model is tampered with, unsigned, or of a version this program does not know."""

    exit_code = 78


class EngineError(EdgeError):
    """The inference runtime or its device failed; nothing it returned may be used."""

    exit_code = 70  # EX_SOFTWARE: a fresh process may succeed


class LedgerError(EdgeError):
    """The ledger cannot be written or read; no scan may be taken until it can."""

    exit_code = 74  # EX_IOERR


class LedgerBusy(LedgerError):
    """Another process holds the ledger."""


class SourceError(EdgeError):
    """The store that holds the scans of a replay cannot be read now; no verdict may be made of that."""

    exit_code = 74


DeskFault = Literal["busy", "changed", "disk", "full", "refused"]
"""Why the desk saved nothing: another process writes, its file is not the one it opened, its file or its disk fails, no
room, or it may not be."""


class DeskError(EdgeError):
    """The review desk could not keep or find what it was asked for; nothing of it was saved.

    By `reason` the page says it in the reader's language.
    """

    exit_code = 74

    def __init__(self, message: str, *, hint: str, reason: DeskFault = "refused") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class RequestError(EdgeError):
    """A request in the drop box that can never be carried out."""

    exit_code = 65  # EX_DATAERR


class TableError(EdgeError):
    """A file of labels, or another table, cannot be read or does not say what it must; the message names the lines."""

    exit_code = 65


class PublishError(EdgeError):
    """The broker refused or could not be reached; the outbox keeps the row."""

    exit_code = 75  # EX_TEMPFAIL


EvidenceFault = Literal["damaged", "gone", "no-access", "not-kept", "too-large"]
"""Why evidence is not shown: not the bytes that were written, pruned or dropped, the system refuses to read it, never
there, or more than is shown."""


class EvidenceError(EdgeError):
    """Evidence of a verdict is missing, damaged, or not what was written.

    By `reason` the desk says it in the reader's language.
    """

    exit_code = 65  # EX_DATAERR

    def __init__(self, message: str, *, hint: str, reason: EvidenceFault = "damaged") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


def library_error(error: ImportError) -> EngineError:
    """The EngineError of a library that does not load: it is not there, or lacks another one of the system."""
    return EngineError(
        f"a library that this program needs does not load: {error}",
        hint="install the program again, into its own environment; where a file such as libGL.so.1 is missing: "
        "apt install libgl1 libglib2.0-0",
    )
