"""The desk's record: nothing is lost by a kill, nothing is there twice, and no change goes unseen."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from edge.desk.accounts import add_account, disable_account
from edge.desk.hand_over import disposition
from edge.desk.readings import Read
from edge.desk.store import FILE_NAME, GENESIS, Account, DeskStore, chain_problems, entry_hash
from edge.desk.verify import verify
from edge.errors import DeskError
from edge.evidence.record import DISPOSITION, pieces
from edge.system.text import rfc3339
from tests.support.desk import as_published, put_piece, sheet

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
ID = "ab" * 16


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DeskStore]:
    with DeskStore(tmp_path / FILE_NAME) as opened:
        yield opened


def answer(store: DeskStore, nonce: str, decision: str = "normal", by: str = "ann", verdict_id: str = ID) -> bool:
    fields = {"verdict_id": verdict_id, "by": by, "decision": decision, "outcome": "review", "kept": "outcome"}
    more = {"file": "B01_\udcff.tif", "seconds_looked": 1.5, "part_id": None, "kinds": [], "boxes_px": []}
    more |= {"comment": "", "at": rfc3339(AT), "is_blind": True}
    return store.add_answer({**fields, **more}, nonce, lambda _: Read.FIRST)


def test_each_entry_holds_the_hash_of_the_one_before(store: DeskStore) -> None:
    for number in range(3):
        assert answer(store, f"n{number}")
    entries = [entry for _, entry in store.entries()]
    assert [json.loads(entry)["seq"] for entry in entries] == [1, 2, 3]
    assert [json.loads(entry)["previous"] for entry in entries] == [GENESIS, *map(entry_hash, entries[:-1])]
    assert store.head() == entry_hash(entries[-1])
    assert store.problems() == []


def test_an_answer_that_is_sent_twice_is_recorded_once(store: DeskStore) -> None:
    assert answer(store, "same")
    assert not answer(store, "same", "abnormal")
    assert [(each.seq, each.vote.choice) for each in store.answers(ID)] == [(1, "normal")]


def test_the_record_refuses_to_be_changed_or_cut(store: DeskStore, tmp_path: Path) -> None:
    answer(store, "n")
    other = sqlite3.connect(tmp_path / FILE_NAME)
    for statement in ("UPDATE record SET entry = x'00'", "DELETE FROM record"):
        with pytest.raises(sqlite3.IntegrityError, match="append only"):
            other.execute(statement)
    other.close()


def published(store: DeskStore) -> bytes:
    """The newest answer as the worker leaves it beside the evidence."""
    return as_published(disposition(store.entries()[-1][1]))


def tamper(path: Path, *statements: str) -> None:
    """Change the file as somebody with an editor for databases would."""
    sql = sqlite3.connect(path)
    for trigger in ("record_is_not_changed", "record_is_not_cut"):
        sql.execute(f"DROP TRIGGER {trigger}")
    for statement in statements:
        sql.execute(statement)
    sql.commit()
    sql.close()


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (["UPDATE record SET entry = replace(entry, 'normal', 'abnorm') WHERE seq = 2"], "entry 3: it does not follow"),
        (["DELETE FROM record WHERE seq = 2"], "entries are missing"),
        (["DELETE FROM record WHERE seq = 4", "DELETE FROM answer WHERE seq = 4"], ""),
        (["UPDATE answer SET decision = 'abnormal' WHERE seq = 3"], "entry 3: the table of answers"),
        (["DELETE FROM answer WHERE seq = 3"], "entry 3: the table of answers"),
        (["UPDATE account SET role = 'admin'"], "account ann: it is not as the record says"),
        (["UPDATE account SET secret = 'x'"], "account ann: it is not as the record says"),
        (["INSERT INTO account VALUES ('eve', 'x', 'admin', 0)"], "account eve: it is not as the record says"),
        (["UPDATE record SET entry = cast(entry || ' ' AS BLOB) WHERE seq = 3"], "entry 3: not written by this"),
        (["UPDATE record SET entry = x'ff' WHERE seq = 3"], "entry 3:"),
    ],
)
def test_every_change_by_hand_is_found(tmp_path: Path, statements: list[str], words: str) -> None:
    with DeskStore(tmp_path / FILE_NAME) as store:
        store.put_account(Account("ann", "scrypt$...", "reader", is_disabled=False), "add", "root", AT)
        for number in range(3):
            answer(store, f"n{number}")
        head = store.head()
    tamper(tmp_path / FILE_NAME, *statements)
    with DeskStore(tmp_path / FILE_NAME) as store:
        if words:
            assert any(words in problem for problem in store.problems()), store.problems()
        else:
            assert store.head() != head, "a cut end shows in the head, which whoever verifies may have noted"


def test_accounts_are_recorded_without_their_password(store: DeskStore) -> None:
    assert "added" in add_account(store, "ann", "correct horse battery", "reader", "root")
    assert "new password" in add_account(store, "ann", "another horse battery", "admin", "root")
    disable_account(store, "ann", "root")
    entries = [json.loads(entry) for _, entry in store.entries()]
    assert [(entry["action"], entry["role"], entry["is_disabled"]) for entry in entries] == [
        ("add", "reader", False),
        ("change", "admin", False),
        ("disable", "admin", True),
    ]
    assert "scrypt" not in json.dumps(entries)
    assert store.problems() == []


def test_a_full_disk_saves_nothing_and_says_so(store: DeskStore) -> None:
    answer(store, "n0")
    store._sql.execute("PRAGMA max_page_count = 1")  # SQLite's own way to be full: what exists is the limit
    numbers = iter(range(1, 200))
    with pytest.raises(DeskError, match="nothing was saved") as refused:
        all(answer(store, f"n{number}", verdict_id="cd" * 16) for number in numbers)
    assert "free some space" in refused.value.hint
    kept = len(store.answers())
    store._sql.execute("PRAGMA max_page_count = 100000")
    assert answer(store, f"n{kept}"), "the very answer that was refused can be given again"
    assert store.problems() == []


def test_an_answer_waits_for_another_process_and_asks_often(
    store: DeskStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's own wait asks every 0.1 s in the end, and never met the moment between two answers of the other."""
    other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            other.execute("COMMIT")

    monkeypatch.setattr("edge.desk.store.time.sleep", wait)
    assert answer(store, "n0")
    assert len(waited) == 3 and max(waited) < 0.02
    monkeypatch.setattr("edge.desk.store.WAIT_S", 0.0)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DeskError, match="nothing was saved") as refused:
        answer(store, "n1")
    assert "send it again" in refused.value.hint
    other.close()
    assert answer(store, "n1")


def test_what_is_answered_while_the_record_is_verified_is_no_change_of_it(
    store: DeskStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two looks at the file, and between the file and the evidence, there may be an answer."""
    answer(store, "n0")
    evidence = tmp_path / "evidence"
    piece = put_piece(evidence, 1, counts=sheet(1, 20, 10))

    def pieces_while_a_reader_answers(folder: Path) -> list[str]:
        with DeskStore(tmp_path / FILE_NAME) as page:
            answer(page, "n1", verdict_id=piece.record.verdict_id)
            (piece.path / DISPOSITION).write_bytes(published(page))
        return pieces(folder)

    def problems_while_a_reader_answers(entries: list[tuple[int, bytes]]) -> Any:
        with DeskStore(tmp_path / FILE_NAME) as page:
            answer(page, "n2")
        return chain_problems(entries)

    monkeypatch.setattr("edge.desk.verify.pieces", pieces_while_a_reader_answers)
    monkeypatch.setattr("edge.desk.store.chain_problems", problems_while_a_reader_answers)
    problems, summary = verify(store, evidence, None)
    assert problems == []
    assert summary.startswith("unchanged: 2 entries, 1 answers kept beside evidence")
    assert len(store.answers()) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"decision": "abnormal"}, "is not as the record has it: decision"),
        ({"comment": "fine"}, "is not as the record has it: comment"),
        ({"disposition_id": "0" * 32}, "is not in the record"),
        ({"seconds_looked": "long"}, "is damaged"),
    ],
    ids=["another decision", "another comment", "unknown", "no answer"],
)
def test_an_answer_beside_the_evidence_that_was_changed_is_found(
    store: DeskStore, tmp_path: Path, change: dict[str, str], words: str
) -> None:
    piece = put_piece(tmp_path / "evidence", 1, counts=sheet(1, 20, 10))
    answer(store, "n", verdict_id=piece.record.verdict_id)
    (piece.path / DISPOSITION).write_bytes(published(store))
    assert verify(store, tmp_path / "evidence", None)[0] == []
    (piece.path / DISPOSITION).write_text(json.dumps(json.loads(published(store)) | change))
    (problem,) = verify(store, tmp_path / "evidence", None)[0]
    assert words in problem


def test_the_answer_of_one_verdict_beside_the_evidence_of_another_is_found(store: DeskStore, tmp_path: Path) -> None:
    one, other = (put_piece(tmp_path / "evidence", number, counts=sheet(1, 20, 10)) for number in (1, 2))
    answer(store, "n", verdict_id=one.record.verdict_id)
    (other.path / DISPOSITION).write_bytes(published(store))
    (problem,) = verify(store, tmp_path / "evidence", None)[0]
    assert other.record.verdict_id in problem and "not as the record has it: verdict_id" in problem


def cut(path: Path) -> None:
    """The last answer, the account made after it, and what tells of them."""
    tamper(path, "DELETE FROM record WHERE seq > 2", "DELETE FROM answer WHERE seq > 2", "DELETE FROM account")


def exchange(path: Path) -> None:
    with DeskStore(path.with_name("copy")):
        path.with_name("copy").replace(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (cut, "entry 4 of its record was removed or changed"),
        (exchange, "another file has taken its place"),
        (Path.unlink, "another file has taken its place"),
        (lambda path: tamper(path, "PRAGMA user_version = 3"), "another release has upgraded it"),
    ],
    ids=["cut", "a copy put back", "removed", "upgraded"],
)
def test_a_file_that_was_changed_while_it_is_open_takes_no_answer(
    store: DeskStore, change: Callable[[Path], None], words: str
) -> None:
    """It would go on from a record that was cut, or into a file that ends with this process."""
    for number in range(3):
        answer(store, f"n{number}")
    store.put_account(Account("ann", "scrypt$...", "reader", is_disabled=False), "add", "root", AT)
    change(store.path)
    with pytest.raises(DeskError, match=words) as refused:
        answer(store, "n9")
    assert refused.value.reason == "changed" and "nothing was saved" in refused.value.message


def test_what_is_no_desk_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    sql = sqlite3.connect(path)
    sql.execute("CREATE TABLE other (a)")
    sql.close()
    with pytest.raises(DeskError, match="is no desk's file"):
        DeskStore(path)
    newer = tmp_path / "newer"
    DeskStore(newer).close()
    tamper(newer, "PRAGMA user_version = 9")
    with pytest.raises(DeskError, match="of version 9, expected 2") as refused:
        DeskStore(newer)
    assert "another release" in refused.value.hint
    path.write_bytes(b"no database at all, and long enough to be read as one" * 20)
    with pytest.raises(DeskError, match="nothing was saved"):
        DeskStore(path)
    with pytest.raises(DeskError):
        DeskStore(tmp_path / "missing" / FILE_NAME)


def test_the_file_is_its_users_alone(store: DeskStore) -> None:
    assert store.path.stat().st_mode & 0o777 == 0o600


ANSWERER = """
import sys
from pathlib import Path
from edge.desk.readings import Read
from edge.desk.store import DeskStore
store = DeskStore(Path(sys.argv[1]))
fields = {"verdict_id": "ab" * 16, "by": "ann", "decision": "normal", "outcome": "review", "kept": "outcome"}
fields |= {"file": "a.tif", "seconds_looked": 1.5}
for number in range(100000):
    store.add_answer(fields, f"{sys.argv[2]}-{number}", lambda _: Read.FIRST)
    print(number, flush=True)
"""


def test_a_kill_loses_no_answer_that_was_confirmed(tmp_path: Path) -> None:
    """Two processes answer at once, both are killed in the middle."""
    path = tmp_path / FILE_NAME
    DeskStore(path).close()
    confirmed: set[str] = set()
    names = ["a", "b"]
    running = [
        subprocess.Popen([sys.executable, "-c", ANSWERER, path, name], stdout=subprocess.PIPE, text=True)
        for name in names
    ]
    for process, name in zip(running, names, strict=True):
        assert process.stdout is not None
        for _ in range(5):
            confirmed.add(f"{name}-{process.stdout.readline().strip()}")
    for process, name in zip(running, names, strict=True):
        os.kill(process.pid, signal.SIGKILL)
        assert process.stdout is not None
        rest = process.stdout.read().splitlines(keepends=True)
        confirmed |= {f"{name}-{line.strip()}" for line in rest if line.endswith("\n")}
        process.wait()
        process.stdout.close()
    with DeskStore(path) as store:
        nonces = [json.loads(entry)["nonce"] for _, entry in store.entries()]
        assert confirmed <= set(nonces)
        assert len(nonces) == len(set(nonces))
        assert store.problems() == []


def test_health_is_kept_for_eight_days_and_each_once(store: DeskStore) -> None:
    day_ms = 86_400_000
    for day in (0, 0, 1, 9):
        store.add_health(day * day_ms, b"%d" % day)
    assert store.health_since(0) == [b"1", b"9"]
    assert store.health_since(2 * day_ms) == [b"9"]


def test_answers_wait_until_they_are_handed_over(store: DeskStore) -> None:
    answer(store, "n0")
    answer(store, "n1")
    assert store.unhanded() == [1, 2]
    store.mark_handed(1)
    assert store.unhanded() == [2]
    assert store.problems() == []
