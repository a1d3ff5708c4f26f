"""Questions to a ledger beside its worker: what is found, what is not touched, what is refused."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge.errors import LedgerError
from edge.records import Outcome
from edge.store import ledger_file, reader
from edge.store.ledger import Ledger, open_ledger
from edge.store.reader import LedgerReader, StoredVerdict
from tests.support.samples import MORNING, STATION, sample_answer, sample_entry, sample_verdict

REPOSITORY = Path(__file__).parents[3]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 3, 1, 7, 0, tzinfo=UTC)


def minutes(count: int) -> datetime:
    return MORNING + timedelta(minutes=count)


def commit(ledger: Ledger, numbers: range) -> None:
    """One verdict a minute."""
    ledger.commit([sample_entry(number, decided_at=minutes(number)) for number in numbers], NOW)


def seqs(verdicts: Iterator[StoredVerdict] | list[StoredVerdict]) -> list[int]:
    return [verdict.seq for verdict in verdicts]


def test_verdicts_are_read_beside_the_worker_as_they_are_published(ledger: Ledger, path: Path) -> None:
    commit(ledger, range(1, 4))
    ledger.mark_sent([2], NOW)
    with LedgerReader(path) as asked:
        found = list(asked.decided(MORNING))
        assert (asked.station, asked.ledger_id) == (STATION, ledger.ledger_id)
    assert [(verdict.seq, verdict.sent_at) for verdict in found] == [(1, None), (2, NOW), (3, None)]
    assert found[0].payload == ledger.outbox(0, 1)[0].payload
    assert (found[0].verdict_id, found[0].decided_at) == (
        sample_verdict(1).verdict_id,
        minutes(1).replace(microsecond=123000),
    )


def test_a_reader_sees_what_is_committed_after_it_was_opened(ledger: Ledger, path: Path) -> None:
    with LedgerReader(path) as asked:
        assert seqs(asked.decided(MORNING)) == []
        commit(ledger, range(1, 3))
        assert seqs(asked.decided(MORNING)) == [1, 2]


def test_a_span_of_time_begins_at_since_and_ends_before_until(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(ledger, range(1, 8))
    monkeypatch.setattr(reader, "PAGE_ROWS", 2)
    with LedgerReader(path) as asked:
        assert seqs(asked.decided(minutes(2), minutes(6))) == [2, 3, 4, 5]
        assert seqs(asked.decided(minutes(5))) == [5, 6, 7]


def test_many_verdicts_of_one_moment_are_all_found(ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.commit([sample_entry(number) for number in range(1, 6)], NOW)
    monkeypatch.setattr(reader, "PAGE_ROWS", 2)
    with LedgerReader(path) as asked:
        assert seqs(asked.decided(MORNING)) == [1, 2, 3, 4, 5]


def test_a_verdict_is_found_by_its_id_its_file_and_its_part(ledger: Ledger, path: Path) -> None:
    first, twin = sample_entry(1), sample_entry(2)
    assert twin.verdict is not None
    # The part of another lot that bears the same name.
    twin = replace(twin, verdict=twin.verdict.model_copy(update={"part_id": "0001", "bundle": "B02"}))
    ledger.commit([first, twin, sample_entry(3)], NOW)
    with LedgerReader(path) as asked:
        assert seqs(asked.find(sample_verdict(3).verdict_id)) == [3]
        assert seqs(asked.find("B01_0001.tif")) == [1]
        assert seqs(asked.find("0001")) == [2, 1]
        assert seqs(asked.of_part("0001", limit=1)) == [2]
        assert asked.find("f" * 32) == asked.find("nothing") == []


def test_a_file_that_came_again_shows_its_newest_verdict_first(ledger: Ledger, path: Path) -> None:
    again = sample_entry(2)
    again = replace(again, stamp=replace(again.stamp, file="B01_0001.tif"), scan=sample_entry(1).scan)
    ledger.commit([sample_entry(1), again], NOW)
    with LedgerReader(path) as asked:
        assert seqs(asked.of_file("B01_0001.tif")) == [2, 1]


def test_what_people_decided_comes_with_the_verdict_and_is_no_verdict(ledger: Ledger, path: Path) -> None:
    ledger.commit([sample_entry(1), sample_entry(2)], NOW)
    first = ledger.commit_disposition(sample_answer(1))
    second = ledger.commit_disposition(sample_answer(1, id_=2, decision="normal"))
    with LedgerReader(path) as asked:
        assert [(verdict.seq, verdict.dispositions) for verdict in asked.decided(MORNING - timedelta(hours=1))] == [
            (1, (first.payload, second.payload)),
            (2, ()),
        ]
        assert asked.of_part("0001")[0].dispositions == (first.payload, second.payload)


def test_a_reader_can_neither_write_nor_run_a_checkpoint(ledger: Ledger, path: Path) -> None:
    commit(ledger, range(1, 3))
    log_bytes = path.with_name(f"{path.name}-wal").read_bytes()
    with LedgerReader(path) as asked:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            asked._sql.execute("DELETE FROM outbox")
        with suppress(sqlite3.OperationalError):  # refused, or answered with nothing done
            asked._sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert path.with_name(f"{path.name}-wal").read_bytes() == log_bytes
    commit(ledger, range(3, 4))  # and the worker has not taken it for another writer


def test_the_log_of_a_dead_worker_is_read_and_left_for_the_next_one(path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from edge.store.ledger import open_ledger;"
        "from tests.support.samples import *;"
        f"open_ledger(Path(sys.argv[1]), {STATION!r}).commit([sample_entry(1)], MORNING);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path)], cwd=REPOSITORY, check=False)
    assert killed.returncode == -signal.SIGKILL
    log_bytes = path.with_name(f"{path.name}-wal").read_bytes()
    with LedgerReader(path) as asked:
        assert seqs(asked.decided(MORNING)) == [1]
    assert path.with_name(f"{path.name}-wal").read_bytes() == log_bytes
    with LedgerReader(path) as asked, open_ledger(path, STATION) as ledger:
        assert [row.seq for row in ledger.outbox(0, 9)] == [1]
        commit(ledger, range(2, 3))
        assert seqs(asked.decided(MORNING)) == [1, 2]


def test_a_reader_that_stays_open_does_not_keep_the_log_growing(ledger: Ledger, path: Path) -> None:
    with LedgerReader(path) as asked:
        for number in range(1, 6000, 100):  # 30 MB
            commit(ledger, range(number, number + 100))
            assert asked.held() == (1, number + 99)
    assert path.with_name(f"{path.name}-wal").stat().st_size < ledger_file.WAL_LIMIT_BYTES


def test_a_ledger_that_is_not_there_or_no_ledger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no ledger at"):
        LedgerReader(tmp_path / "ledger.sqlite")
    other = tmp_path / "other.sqlite"
    sql = sqlite3.connect(other)
    sql.execute("CREATE TABLE t (x)")
    sql.close()
    with pytest.raises(LedgerError, match="no ledger"):
        LedgerReader(other)
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.parametrize(("by", "hint"), [(-1, "worker of this release starts"), (1, "newer program")])
def test_the_ledger_of_another_release_is_refused_with_what_to_do(
    path: Path, monkeypatch: pytest.MonkeyPatch, by: int, hint: str
) -> None:
    open_ledger(path, STATION).close()
    monkeypatch.setattr(ledger_file, "FIRST_SCHEMA", ledger_file.FIRST_SCHEMA - by)
    with pytest.raises(LedgerError, match="this program reads") as caught:
        LedgerReader(path)
    assert hint in caught.value.hint


def test_every_question_goes_through_an_index(path: Path) -> None:
    """At a million verdicts a scan of a table would take seconds."""
    open_ledger(path, STATION).close()
    sql = sqlite3.connect(path)
    try:
        by_key = reader.BY_PART, reader.BY_FILE, reader.BY_ID, reader.ANSWERS
        in_order = reader.BY_DECISION, reader.TO_LOOK_AT
        for query in (*by_key, *in_order, reader.FIGURES, reader.NEXT_DECIDED, reader.UNSENT):
            plan = str(sql.execute("EXPLAIN QUERY PLAN " + query, (1,) * query.count("?")).fetchall())
            assert "SCAN" not in plan.replace("SCAN verdict_types", ""), query  # a table of a few dozen rows
            assert "TEMP B-TREE" not in plan, query
    finally:
        sql.close()


def test_figures_come_from_the_verdicts_of_that_time_alone(ledger: Ledger, path: Path) -> None:
    commit(ledger, range(1, 8))
    ledger.commit_disposition(sample_answer(2))
    normal = sample_entry(8, decided_at=minutes(8))
    assert normal.verdict is not None
    ledger.commit([replace(normal, verdict=normal.verdict.model_copy(update={"outcome": Outcome.NORMAL}))], NOW)
    ledger.mark_sent([1, 2, 3], NOW)
    with LedgerReader(path) as asked:
        assert asked.figures(minutes(2), minutes(5)).latencies_ms.tolist() == [120_000, 180_000, 240_000]
        assert asked.figures(minutes(20), minutes(30)).verdict_types.tolist() == []
        outcomes = [
            asked.verdict_types()[key].outcome for key in asked.figures(minutes(7), minutes(9)).verdict_types.tolist()
        ]
        assert outcomes == [Outcome.ABNORMAL, Outcome.NORMAL]
        assert seqs(asked.to_look_at(minutes(6), minutes(9))) == [6, 7]
        assert asked.unsent(minutes(2), minutes(6)) == 2
        after = minutes(2) + timedelta(milliseconds=1)
        assert asked.next_decided(after, minutes(9)) == minutes(3).replace(microsecond=123000)
        assert asked.next_decided(minutes(9), NOW) is None
