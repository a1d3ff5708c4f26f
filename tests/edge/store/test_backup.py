"""Copies of the ledger: made while it is in use, verified, put back without losing numbers or ids."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

import edge.store.backup
import edge.store.database
from edge.errors import LedgerBusy, LedgerError
from edge.store.backup import back_up, restore, sweep_copies, take_backup_requests
from edge.store.database import Database
from edge.store.ledger import TOPIC, Ledger, open_ledger
from edge.store.requests import BackupRequest, DropBox, Request, RequestKind, leave
from tests.support.samples import STATION, sample_entry, stored_seqs

NOW = datetime(2026, 5, 4, 6, tzinfo=UTC)


@pytest.fixture
def ledger(ledger: Ledger) -> Ledger:
    """Five verdicts, two of them sent."""
    ledger.commit([sample_entry(number) for number in range(1, 6)], NOW)
    ledger.mark_sent([1, 2], NOW)
    return ledger


def ask(ledger: Ledger) -> Path:
    """The request of a backup, without anybody who waits for the copy."""
    return leave(ledger.path.parent, RequestKind.BACKUP, BackupRequest())


def waiting(ledger: Ledger) -> list[Request]:
    return DropBox(ledger.path.parent).waiting([RequestKind.BACKUP])


def back_up_beside(ledger: Ledger, target: Path) -> str:
    """As the command does it from its own process, while this one answers as the worker."""
    said: list[str] = []
    asking = threading.Thread(target=lambda: said.append(str(back_up(ledger.path, STATION, target))))
    asking.start()
    while asking.is_alive():
        take_backup_requests(ledger)
        asking.join(0.01)
    return said[0]


def test_a_backup_of_a_running_ledger_is_whole_and_leaves_nothing_behind(ledger: Ledger, tmp_path: Path) -> None:
    target = tmp_path / "backup.sqlite"
    DropBox(ledger.path.parent).prepare()
    before = sorted(ledger.path.parent.iterdir())
    said = back_up_beside(ledger, target)
    assert "intact, next seq 6, 3 verdicts unsent" in said
    assert sorted(ledger.path.parent.iterdir()) == before
    assert waiting(ledger) == []
    assert target.stat().st_mode & 0o777 == 0o600
    ledger.commit([sample_entry(6)], NOW)
    assert ledger.next_seq() == 7


def test_a_backup_of_a_stopped_worker_needs_no_answer(path: Path, tmp_path: Path) -> None:
    with open_ledger(path, STATION) as ledger:
        ledger.commit([sample_entry(1)], NOW)
    assert back_up(path, STATION, tmp_path / "backup.sqlite").next_seq == 2


def test_a_ledger_saved_from_a_dead_box_is_restored_with_its_last_commits(
    ledger: Ledger, path: Path, tmp_path: Path
) -> None:
    """What a kill leaves: they are in the log beside the file."""
    saved = tmp_path / "saved"
    saved.mkdir()
    for file in (path, path.with_name(f"{path.name}-wal")):
        shutil.copy(file, saved)
    elsewhere = tmp_path / "new-box" / "ledger.sqlite"
    assert restore(elsewhere, STATION, saved / path.name).next_seq == 6
    with open_ledger(elsewhere, STATION) as moved:
        assert moved.outbox(0, 10) == ledger.outbox(0, 10)
    assert sorted(file.name for file in elsewhere.parent.iterdir()) == ["ledger.sqlite", "ledger.sqlite.lock"]


def test_a_restored_ledger_goes_on_with_its_numbers_ids_and_unsent_bytes(
    ledger: Ledger, path: Path, tmp_path: Path
) -> None:
    rows = ledger.outbox(0, 10)
    back_up_beside(ledger, tmp_path / "backup.sqlite")
    elsewhere = tmp_path / "new-box" / "ledger.sqlite"
    assert restore(elsewhere, STATION, tmp_path / "backup.sqlite").unsent == 3
    with open_ledger(elsewhere, STATION) as moved:
        assert moved.outbox(0, 10) == rows
        assert moved.files() == ledger.files()
        assert stored_seqs(moved.commit([sample_entry(1), sample_entry(9)], NOW)) == [None, 6]
    assert sorted(file.name for file in elsewhere.parent.iterdir()) == ["ledger.sqlite", "ledger.sqlite.lock"]


def test_numbers_the_mes_has_seen_since_are_left_out(ledger: Ledger, path: Path, tmp_path: Path) -> None:
    back_up_beside(ledger, tmp_path / "backup.sqlite")
    elsewhere = tmp_path / "new-box" / "ledger.sqlite"
    assert restore(elsewhere, STATION, tmp_path / "backup.sqlite", next_seq=100).next_seq == 100
    again = tmp_path / "third" / "ledger.sqlite"
    with pytest.raises(LedgerError, match=r"--next-seq 5 was given already.*goes on with 6"):
        restore(again, STATION, tmp_path / "backup.sqlite", next_seq=5)
    assert not again.exists()
    assert restore(again, STATION, tmp_path / "backup.sqlite", next_seq=6).next_seq == 6


def test_a_restore_without_a_number_begins_a_sequence_of_its_own(ledger: Ledger, tmp_path: Path) -> None:
    back_up_beside(ledger, tmp_path / "backup.sqlite")
    elsewhere = tmp_path / "new-box" / "ledger.sqlite"
    restore(elsewhere, STATION, tmp_path / "backup.sqlite")
    with open_ledger(elsewhere, STATION) as moved:
        assert moved.ledger_id != ledger.ledger_id


def test_a_backup_carries_the_knowledge_of_the_newest_model(ledger: Ledger, path: Path, tmp_path: Path) -> None:
    newest = path.with_name("newest-model.json")
    newest.write_text('{"model_id": "demo-2"}\n')
    back_up_beside(ledger, tmp_path / "backup.sqlite")
    elsewhere = tmp_path / "new-box" / "ledger.sqlite"
    restore(elsewhere, STATION, tmp_path / "backup.sqlite")
    assert elsewhere.with_name("newest-model.json").read_text() == newest.read_text()
    third = tmp_path / "third" / "ledger.sqlite"
    third.parent.mkdir(0o700)
    third.with_name("newest-model.json").write_text("newer")
    restore(third, STATION, tmp_path / "backup.sqlite")
    assert third.with_name("newest-model.json").read_text() == "newer"


@pytest.mark.parametrize("fault", ["missing", "truncated", "no database", "a folder"])
def test_a_backup_that_is_at_fault_is_blamed_and_not_the_state(ledger: Ledger, tmp_path: Path, fault: str) -> None:
    backup, state = tmp_path / "backup.sqlite", tmp_path / "new-box"
    back_up_beside(ledger, backup)
    if fault == "truncated":
        backup.write_bytes(backup.read_bytes()[:6000])
    else:
        backup.unlink()
    if fault == "no database":
        backup.write_text("notes " * 999)
    elif fault == "a folder":
        backup.mkdir()
    with pytest.raises(LedgerError) as caught:
        restore(state / "ledger.sqlite", STATION, backup)
    assert str(backup) in caught.value.message
    assert str(state) not in caught.value.message + caught.value.hint
    assert "another backup" in caught.value.hint
    assert not (state / "ledger.sqlite").exists()


def test_a_restore_never_overwrites_a_ledger_or_the_one_in_use(ledger: Ledger, path: Path, tmp_path: Path) -> None:
    back_up_beside(ledger, tmp_path / "backup.sqlite")
    with pytest.raises(LedgerBusy):
        restore(path, STATION, tmp_path / "backup.sqlite")
    ledger.close()
    with pytest.raises(LedgerError, match="there is a ledger") as caught:
        restore(path, STATION, tmp_path / "backup.sqlite")
    assert "not this file alone" in caught.value.hint


@pytest.mark.parametrize("left", ["ledger.sqlite", "ledger.sqlite.restored"])
@pytest.mark.parametrize("count", [10, 300])
def test_a_restore_is_not_undone_by_the_log_of_the_ledger_before(
    ledger: Ledger, path: Path, tmp_path: Path, count: int, left: str
) -> None:
    """A kill leaves the log beside the ledger, or beside the draft of a restore."""
    back_up_beside(ledger, tmp_path / "backup.sqlite")
    ledger.close()
    if os.fork() == 0:
        killed = open_ledger(path, STATION)
        for number in range(50, 50 + count):
            killed.commit([sample_entry(number)], NOW)
        os._exit(9)
    os.wait()
    path.rename(tmp_path / "moved-away")
    path.with_name(f"{path.name}-wal").rename(path.with_name(f"{left}-wal"))
    assert restore(path, STATION, tmp_path / "backup.sqlite", next_seq=351).next_seq == 351
    with open_ledger(path, STATION) as restored:
        restored.database.check()
        assert (restored.next_seq(), restored.pending().count) == (351, 3)
    assert not list(path.parent.glob("*.restored*"))


def test_the_backup_of_a_line_that_publishes_elsewhere_is_refused(ledger: Ledger, path: Path, tmp_path: Path) -> None:
    ledger.remember(TOPIC, "plant/hall-1/xray-1/inspection/verdict")
    back_up_beside(ledger, tmp_path / "backup.sqlite")
    elsewhere = tmp_path / "new-box" / "ledger.sqlite"
    with pytest.raises(LedgerError, match=r"published on plant/hall-1/.*, this one publishes on plant/hall-2/"):
        restore(elsewhere, STATION, tmp_path / "backup.sqlite", topic="plant/hall-2/xray-1/inspection/verdict")
    assert not elsewhere.exists()
    restore(elsewhere, STATION, tmp_path / "backup.sqlite", topic="plant/hall-1/xray-1/inspection/verdict")


def test_a_damaged_or_foreign_backup_is_refused_and_leaves_no_ledger(
    ledger: Ledger, path: Path, tmp_path: Path
) -> None:
    backup = tmp_path / "backup.sqlite"
    back_up_beside(ledger, backup)
    elsewhere = tmp_path / "new-box" / "ledger.sqlite"
    with pytest.raises(LedgerError, match="belongs to station"):
        restore(elsewhere, "another", backup)
    data = bytearray(backup.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    backup.write_bytes(data)
    with pytest.raises(LedgerError):
        restore(elsewhere, STATION, backup)
    assert not elsewhere.exists()


def test_an_existing_file_is_never_taken_as_the_target(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "backup.sqlite").write_text("yesterday's")
    with pytest.raises(LedgerError, match="exists already"):
        back_up(ledger.path, STATION, tmp_path / "backup.sqlite")


@pytest.mark.parametrize("has_hard_links", [True, False])
def test_a_file_that_another_backup_wrote_meanwhile_is_not_overwritten(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_hard_links: bool
) -> None:
    """Two of them at the same minute, from a crontab and by hand."""
    open_ledger(path, STATION).close()
    target = tmp_path / "today.sqlite"
    copy_file = edge.store.backup._copy_file

    def overtaken(source: Path, draft: Path) -> None:
        copy_file(source, draft)
        target.write_text("the other's")

    def no_link(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    if not has_hard_links:
        monkeypatch.setattr(Path, "hardlink_to", no_link)
    back_up(path, STATION, tmp_path / "first.sqlite")
    monkeypatch.setattr(edge.store.backup, "_copy_file", overtaken)
    with pytest.raises(LedgerError, match="exists already"):
        back_up(path, STATION, target)
    assert target.read_text() == "the other's"
    assert sorted(each.name for each in tmp_path.glob("*.sqlite*")) == ["first.sqlite", "today.sqlite"]


def test_a_worker_that_cannot_copy_says_so_at_once(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_database: Database, _target: Path, _go_on: object) -> None:
        raise LedgerError("database or disk is full", hint="free some space")

    monkeypatch.setattr(Database, "copy_into", full)
    raised: list[LedgerError] = []

    def ask() -> None:
        try:
            back_up(ledger.path, STATION, tmp_path / "backup.sqlite")
        except LedgerError as error:
            raised.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    while asking.is_alive():
        with contextlib.suppress(LedgerError):
            take_backup_requests(ledger)
        asking.join(0.01)
    assert "could not copy" in raised[0].message
    assert not (tmp_path / "backup.sqlite").exists()


def test_a_worker_that_does_not_answer_is_given_up(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge.store.backup, "ANSWER_S", 0.2)
    with pytest.raises(LedgerError, match="did not answer"):
        back_up(ledger.path, STATION, tmp_path / "backup.sqlite")
    assert waiting(ledger) == []


def test_the_line_writes_while_it_is_copied_and_the_copy_has_what_was_written(
    ledger: Ledger, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge.store.database, "COPY_PAGES", 1)
    lots: list[int] = []

    def go_on() -> bool:
        lots.append(ledger.path.stat().st_size)
        return True

    committed: list[int] = []

    def commit() -> None:
        while not lots:
            time.sleep(0.001)
        for number in range(100, 130):
            ledger.commit([sample_entry(number)], NOW)
            ledger.mark_sent([number - 95], NOW)
            committed.append(len(lots))

    ledger.commit([sample_entry(number) for number in range(1000, 1200)], NOW)
    writing = threading.Thread(target=commit)
    writing.start()
    ledger.database.copy_into(tmp_path / "copy.sqlite", go_on)
    writing.join()
    assert min(committed) < max(committed) <= len(lots)
    (tmp_path / "box").mkdir(mode=0o700)
    restore(tmp_path / "box" / "ledger.sqlite", STATION, tmp_path / "copy.sqlite")
    with open_ledger(tmp_path / "box" / "ledger.sqlite", STATION) as copy:
        copy.database.check()
        assert copy.next_seq() == ledger.next_seq() == 236
        assert copy.outbox(0, 1000) == ledger.outbox(0, 1000)
        assert copy.files() == ledger.files()


def test_a_copy_whose_request_is_gone_is_given_up_and_leaves_nothing(ledger: Ledger) -> None:
    request = ask(ledger)
    before = sorted(ledger.path.parent.iterdir())

    def interrupted() -> bool:
        request.unlink()
        return True

    with pytest.raises(LedgerError, match="given up"):
        take_backup_requests(ledger, lambda: interrupted() and request.exists())
    assert sorted(ledger.path.parent.iterdir()) == before
    assert stored_seqs(ledger.commit([sample_entry(9)], NOW)) == [6]


def test_a_stop_gives_a_copy_up(ledger: Ledger) -> None:
    ask(ledger)
    before = sorted(ledger.path.parent.iterdir())
    with pytest.raises(LedgerError, match="given up"):
        take_backup_requests(ledger, lambda: False)
    assert sorted(ledger.path.parent.iterdir()) == before


def test_copies_nobody_fetched_are_swept_and_those_on_their_way_are_not(ledger: Ledger) -> None:
    for name in ("ledger.sqlite.copy-1", ".ledger.sqlite.copy-2", "ledger.sqlite.copy-3"):
        ledger.path.with_name(name).touch()
        if not name.endswith("3"):
            os.utime(ledger.path.with_name(name), (0, 0))
    sweep_copies(ledger.path)
    assert [file.name for file in ledger.path.parent.glob("*copy-*")] == ["ledger.sqlite.copy-3"]


def test_an_interrupted_backup_takes_its_request_back(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(edge.store.backup.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        back_up(ledger.path, STATION, tmp_path / "backup.sqlite")
    assert waiting(ledger) == []


def test_a_copy_that_gets_on_is_waited_for(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.store.backup, "ANSWER_S", 0.5)
    copy_into = Database.copy_into

    def slowly(database: Database, target: Path, go_on: Callable[[], bool]) -> None:
        for size_bytes in range(1, 6):
            target.write_bytes(bytes(size_bytes))
            time.sleep(0.25)
        target.write_bytes(b"")
        copy_into(database, target, go_on)

    monkeypatch.setattr(Database, "copy_into", slowly)
    assert "intact" in back_up_beside(ledger, tmp_path / "backup.sqlite")


def test_a_backup_opens_in_any_sqlite(ledger: Ledger, tmp_path: Path) -> None:
    back_up_beside(ledger, tmp_path / "backup.sqlite")
    with sqlite3.connect(tmp_path / "backup.sqlite") as sql:
        assert sql.execute("SELECT count(*) FROM outbox").fetchall() == [(5,)]


@pytest.mark.parametrize("call", ["scandir", "stat", "unlink"])
def test_a_disk_that_fails_during_a_backup_is_told_as_the_ledgers_error(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The line goes on without the copy; an OSError would end it."""
    ask(ledger)
    owner = os if call == "scandir" else Path
    original = getattr(owner, call)

    def failing(path: Path, *arguments: object, **options: object) -> object:
        if call == "scandir" or ".copy-" in path.name:
            raise OSError(errno.EROFS, "Read-only file system")
        return original(path, *arguments, **options)

    monkeypatch.setattr(owner, call, failing)
    with contextlib.nullcontext() if call == "unlink" else pytest.raises(LedgerError, match="Read-only"):
        take_backup_requests(ledger)


def test_a_backup_that_is_put_over_the_ledger_with_cp_begins_a_new_sequence(tmp_path: Path) -> None:
    path, backup = tmp_path / "state" / "ledger.sqlite", tmp_path / "backup.sqlite"
    with open_ledger(path, STATION) as ledger:
        first_id = ledger.ledger_id
    back_up(path, STATION, backup)
    path.write_bytes(backup.read_bytes())  # under the inode of the ledger
    with open_ledger(path, STATION) as ledger:
        assert ledger.ledger_id != first_id
