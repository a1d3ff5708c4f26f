"""Copies of the ledger: taken while the worker runs, verified, and put in place on a new disk or another box.

A running worker copies its ledger itself: `back_up` leaves a request in the drop box, the worker answers it with a copy
beside the ledger, and `back_up` brings that copy to where it was asked for. The worker thus needs no right to write
anywhere else, and a verdict that it commits during the copy is in the copy, too.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edge.errors import LedgerBusy, LedgerError
from edge.model import history as model_history
from edge.store.ledger import TOPIC, Ledger, open_ledger
from edge.store.ledger_file import (
    DAMAGED_HINT,
    REPLAYED,
    map_errors,
    put_in_place,
    remove_database,
    take_lock,
)
from edge.store.numbers import PLACE
from edge.store.requests import BackupRequest, DropBox, Request, RequestKind, leave, parse_request
from edge.system.files import open_regular, sync_directory, write_whole
from edge.system.logs import event

log = logging.getLogger(__name__)

ANSWER_S = 120.0
"""Time given to a running worker to answer or to get on with its copy; it looks twice a second."""
ABANDONED_S = 600.0
"""A copy that was not taken for this long: the process that asked for it is gone."""
LOOK_S = 0.1
NEWEST_MODEL = "newest-model"
"""Under this name a backup carries what stands in `newest-model.json`."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a copy holds."""

    file: Path
    station: str
    next_seq: int
    unsent: int

    def __str__(self) -> str:
        return f"{self.file}: ledger of {self.station}, intact, next seq {self.next_seq}, {self.unsent} verdicts unsent"


def back_up(path: Path, station: str, target: Path) -> Inventory:
    """Copy the ledger at `path` to the new file `target` and verify the copy; the worker may run.

    Raises LedgerError if there is no ledger, if `target` exists, or when the worker does not answer.
    """
    if os.path.lexists(target):
        raise _taken_error(target)
    if not path.is_file():
        raise LedgerError(f"there is no ledger at {path}", hint="check `state.dir` in the settings")
    try:
        with open_ledger(path, station) as ledger, map_errors(target):
            return _deliver(_copy(ledger, uuid.uuid4().hex, lambda: True), target, station)
    except LedgerBusy:
        return _deliver(_request_copy(path), target, station)


def take_backup_requests(ledger: Ledger, go_on: Callable[[], bool] = lambda: True) -> int:
    """Answer what `back_up` asked of a running worker; how many copies were made. Raises LedgerError.

    A copy is given up when its request is gone or `go_on` says no.
    """
    box = DropBox(ledger.path.parent)

    def answer(request: Request, content: bytes) -> None:
        parse_request(BackupRequest, content)

        def is_wanted() -> bool:
            return request.path.exists() and go_on()

        try:
            copy = _copy(ledger, request.id, is_wanted)
            with map_errors(ledger.path):
                size_bytes = copy.stat().st_size
            event(log.info, "ledger copied", file=copy.name, size_bytes=size_bytes)
        finally:
            # Also after an error: who asked sees that the request is gone and no copy came.
            with suppress(OSError):
                request.path.unlink()

    return box.take({RequestKind.BACKUP: answer}, with_unknown=False)


def sweep_copies(ledger_path: Path) -> None:
    """Remove copies, whole and half, that will not be fetched: a kill of either side leaves them."""
    with map_errors(ledger_path):
        for copy in ledger_path.parent.glob(f"*{ledger_path.name}.copy-*"):
            if time.time() - copy.stat().st_mtime > ABANDONED_S:
                copy.unlink(missing_ok=True)
                event(log.info, "abandoned copy removed", file=copy.name)


def restore(path: Path, station: str, source: Path, next_seq: int | None = None, topic: str | None = None) -> Inventory:
    """Begin with the ledger of a backup, and with its knowledge of the newest model where there is none here.

    `next_seq`: the first number to give. `topic`: where this line's verdicts are published; two lines may each have a
    station of one name. Raises LedgerError when a ledger is there already, a worker runs, `source` is no sound ledger
    of this station or published elsewhere, or it has given `next_seq` itself.
    """
    with _blame(source, source), open_regular(source):
        pass
    lock = take_lock(path)
    try:
        with map_errors(path):
            if path.exists():
                raise LedgerError(
                    f"there is a ledger at {path}",
                    hint=f"before a restore move all of {path.parent} away and keep it, not this file alone",
                )
            draft = path.with_name(f"{path.name}.restored")
            remove_database(draft)
            _copy_file(source, draft)
            for suffix in REPLAYED:  # of a ledger that was saved from a dead box: its last commits are there
                if (log_file := source.with_name(source.name + suffix)).exists():
                    _copy_file(log_file, draft.with_name(draft.name + suffix))
            # The lock is the station's, not the draft's: the duplicate goes with the draft.
            with _blame(source, draft), Ledger(draft, station, os.dup(lock)) as ledger:
                ledger.database.check()
                if topic is not None and (former := ledger.recall(TOPIC)) not in (None, topic):
                    raise LedgerError(
                        f"{source} is the ledger of a line that published on {former}, this one publishes on {topic}",
                        hint="name this line's backup; where `topic` was renamed, restore under the old one first",
                    )
                ledger.renew_id()
                if next_seq is not None and next_seq < ledger.next_seq():
                    raise LedgerError(
                        f"--next-seq {next_seq} was given already: {source} goes on with {ledger.next_seq()}",
                        hint="ask the MES for the highest `seq` it has, and give one more than the higher of the two",
                    )
                if next_seq is not None:
                    ledger.skip_to(next_seq)
                inventory = _inventory(path, ledger)
                newest = ledger.recall(NEWEST_MODEL)
            _restore_model_history(path.parent, newest)
            put_in_place(draft, path)
    finally:
        os.close(lock)
    return inventory


@contextmanager
def _blame(source: Path, opened: Path) -> Iterator[None]:
    """Errors that tell of the backup `source`, not of the copy `opened` of it."""
    try:
        with map_errors(source):
            yield
    except LedgerError as error:
        message = error.message.replace(str(opened), str(source)).replace("ledger ", "backup ", 1)
        is_damaged = error.hint == DAMAGED_HINT or isinstance(error.__cause__, OSError)
        hint = f"check {source}, or take another backup" if is_damaged else error.hint
        raise LedgerError(message, hint=hint) from error


def _model_history(state: Path) -> str | None:
    with suppress(FileNotFoundError), open_regular(state / model_history.FILE) as (stream, _):
        return stream.read().decode("utf-8", "replace")
    return None


def _restore_model_history(state: Path, newest: str | None) -> None:
    file = state / model_history.FILE
    if newest is not None and not file.exists():
        with write_whole(file, durable=True, mode=0o644) as stream:
            stream.write(newest.encode())


def _copy(ledger: Ledger, name: str, go_on: Callable[[], bool]) -> Path:
    """A copy beside the ledger; what bears its final name is whole."""
    draft = ledger.path.with_name(f".{ledger.path.name}.copy-{name}")
    final = ledger.path.with_name(f"{ledger.path.name}.copy-{name}")
    try:
        with map_errors(ledger.path):
            draft.touch(mode=0o600, exist_ok=False)
        ledger.database.copy_into(draft, go_on)
        with map_errors(ledger.path):
            draft.rename(final)
    finally:
        with suppress(OSError):  # a disk that fails here has failed above, and that is said
            remove_database(draft)
    return final


def _request_copy(path: Path) -> Path:
    """The copy a running worker makes on request."""
    name = uuid.uuid4().hex
    request = leave(path.parent, RequestKind.BACKUP, BackupRequest(), name)
    answer = path.with_name(f"{path.name}.copy-{name}")
    draft = path.with_name(f".{answer.name}")
    try:
        until_s, seen_bytes = time.monotonic() + ANSWER_S, 0
        while not answer.exists():
            if not request.exists() and not answer.exists():
                raise LedgerError("the worker could not copy its ledger", hint="its log says why; is the disk full?")
            if (size_bytes := _size_bytes(draft)) > seen_bytes:
                until_s, seen_bytes = time.monotonic() + ANSWER_S, size_bytes
            if time.monotonic() > until_s:
                raise LedgerError(f"the worker did not answer within {ANSWER_S:g} s", hint="is it of an older release?")
            time.sleep(LOOK_S)
    except BaseException:  # an interrupt too: without its request the worker gives the copy up
        request.unlink(missing_ok=True)
        answer.unlink(missing_ok=True)
        raise
    return answer


def _size_bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _deliver(copy: Path, target: Path, station: str) -> Inventory:
    """Bring a copy to its place, open it as the worker would, and verify every page."""
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with map_errors(target):
            _copy_file(copy, draft)
            lock = os.open(draft, os.O_RDONLY)
            with Ledger(draft, station, lock) as ledger:
                ledger.database.check()
                if (newest := _model_history(copy.parent)) is not None:
                    ledger.remember(NEWEST_MODEL, newest)
                ledger.remember(PLACE, "a backup")  # so that it is told from the ledger where it is put back with `cp`
                inventory = _inventory(target, ledger)
            _name_anew(draft, target)
            sync_directory(target.parent)
    finally:
        copy.unlink(missing_ok=True)
        draft.unlink(missing_ok=True)
    return inventory


def _name_anew(draft: Path, target: Path) -> None:
    """Unlike a rename this takes no name that another backup has taken meanwhile."""
    try:
        target.hardlink_to(draft)
    except FileExistsError:
        raise _taken_error(target) from None
    except OSError:  # a file system without hard links, such as that of a memory stick
        if os.path.lexists(target):
            raise _taken_error(target) from None
        draft.rename(target)


def _taken_error(target: Path) -> LedgerError:
    return LedgerError(f"{target} exists already", hint="give each backup a name of its own, such as its date")


def _copy_file(source: Path, target: Path) -> None:
    with open_regular(source) as (original, _), write_whole(target, durable=True, mode=0o600) as copy:
        shutil.copyfileobj(original, copy)


def _inventory(file: Path, ledger: Ledger) -> Inventory:
    return Inventory(file, ledger.station, ledger.next_seq(), ledger.pending().count)
