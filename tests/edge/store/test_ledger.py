"""The ledger: numbering, outbox, refusals, and what a kill, a full disk or a second worker leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edge.contract.messages import Disposition, canonical_json
from edge.errors import LedgerError, RequestError
from edge.records import FileStamp, Former
from edge.store import ledger as ledger_module
from edge.store import ledger_file
from edge.store.ledger import Ledger, open_ledger
from edge.store.reader import LedgerReader
from edge.store.requests import ResendRequest
from edge.system import machine
from tests.support.samples import (
    MORNING,
    STATION,
    sample_answer,
    sample_entry,
    sample_stamp,
    sample_verdict,
    stored_seqs,
)

REPOSITORY = Path(__file__).parents[3]
NOW = datetime(2026, 3, 1, 7, 0, tzinfo=UTC)


def seqs(ledger: Ledger) -> list[int]:
    return [row.seq for row in ledger.outbox(0, 1_000_000)]


def run_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_verdicts_are_numbered_from_one_without_gaps_across_restarts(path: Path) -> None:
    with open_ledger(path, STATION) as ledger:
        assert stored_seqs(ledger.commit([sample_entry(1), sample_entry(2)], NOW)) == [1, 2]
    with open_ledger(path, STATION) as ledger:
        assert stored_seqs(ledger.commit([sample_entry(3)], NOW)) == [3]
        assert seqs(ledger) == [1, 2, 3]


def test_the_stored_payload_is_the_numbered_verdict_in_canonical_form(ledger: Ledger) -> None:
    ledger.commit([sample_entry(1), sample_entry(2)], NOW)
    (first, second) = ledger.outbox(0, 10)
    numbered = {"seq": 2, "ledger_id": ledger.ledger_id}
    assert second.payload == canonical_json(sample_verdict(2).model_copy(update=numbered))
    assert second.verdict_id == sample_verdict(2).verdict_id
    assert json.loads(first.payload)["seq"] == first.seq == 1


def test_a_verdict_is_stored_once(ledger: Ledger) -> None:
    original = sample_entry(1)
    again = replace(original, stamp=sample_stamp("copy.tif"))
    assert stored_seqs(ledger.commit([original, again], NOW)) == [1, None]
    assert stored_seqs(ledger.commit([again, sample_entry(2)], NOW)) == [None, 2]
    assert seqs(ledger) == [1, 2]
    assert set(ledger.files()) == {"B01_0001.tif", "B01_0002.tif", "copy.tif"}


def test_earlier_verdicts_are_found_by_name_by_bytes_and_by_pixels(ledger: Ledger) -> None:
    first, second = sample_verdict(1), sample_verdict(2)
    here, there = first.scan.sha256, second.scan.sha256
    pixels, others, by_new_model = "aa" * 16, "bb" * 16, "cc" * 16
    ledger.commit([replace(sample_entry(1), pixels_id=pixels)], NOW)
    one, two = first.verdict_id, second.verdict_id
    assert ledger.former("B01_0001.tif", here, one, pixels) == Former(one, is_same=True, repeats=one)
    assert ledger.former("B01_0001.tif", there, two, others) == Former(one, is_same=False, repeats=None)
    assert ledger.former("B01_0002.tif", here, one, None) == Former(None, is_same=False, repeats=one)
    assert ledger.former("B01_0002.tif", there, two, pixels) == Former(None, is_same=False, repeats=one)
    assert ledger.former("B01_0002.tif", there, two, others) == Former()
    assert ledger.former("B01_0001.tif", here, by_new_model, pixels).is_same
    assert ledger.former("B01_0002.tif", here, by_new_model, pixels) == Former(None, is_same=False, repeats=one)
    ledger.prune_files([])
    assert ledger.former("B01_0001.tif", here, one, None).is_same


def test_a_ledger_has_an_id_of_its_own_and_puts_it_into_every_verdict(path: Path, tmp_path: Path) -> None:
    with open_ledger(path, STATION) as ledger:
        own = ledger.ledger_id
        ledger.commit([sample_entry(1)], NOW)
        assert json.loads(ledger.outbox(0, 1)[0].payload)["ledger_id"] == str(own)
    with open_ledger(path, STATION) as ledger, open_ledger(tmp_path / "b" / "ledger.sqlite", STATION) as other:
        assert ledger.ledger_id == own != other.ledger_id
        ledger.renew_id()
        assert ledger.ledger_id != own


def test_a_file_whose_bytes_have_a_verdict_is_finished_without_another(ledger: Ledger) -> None:
    entry = sample_entry(1)
    assert stored_seqs(ledger.commit([replace(entry, verdict=None)], NOW)) == [None]
    assert ledger.files() == {"B01_0001.tif": entry.stamp}
    assert seqs(ledger) == []


def test_a_failed_commit_leaves_nothing_and_no_gap(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.commit([sample_entry(1)], NOW)

    def power_off(*_: object) -> str:
        raise RuntimeError("in the middle")

    with monkeypatch.context() as patch:
        patch.setattr(ledger_module, "_stamp_text", power_off)
        with pytest.raises(RuntimeError, match="in the middle"):
            ledger.commit([sample_entry(2)], NOW)
    assert ledger.former("B01_0002.tif", sample_verdict(2).scan.sha256, sample_verdict(2).verdict_id, None) == Former()
    assert stored_seqs(ledger.commit([sample_entry(3)], NOW)) == [2]


def test_a_verdict_of_another_station_or_with_a_number_is_a_mistake(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="xray-9"):
        ledger.commit([sample_entry(1, station="xray-9")], NOW)
    entry = sample_entry(1)
    assert entry.verdict is not None
    with pytest.raises(ValueError, match="seq 4"):
        ledger.commit([replace(entry, verdict=entry.verdict.model_copy(update={"seq": 4}))], NOW)
    assert seqs(ledger) == []


def test_file_names_and_numbers_of_foreign_file_systems_survive(path: Path) -> None:
    stamp = FileStamp("sub/scan-\udcff.tif", inode=2**64 - 1, size_bytes=0, modified_ns=-(2**70))
    entry = sample_entry(1)
    with open_ledger(path, STATION) as ledger:
        ledger.commit([replace(entry, stamp=stamp)], NOW)
    with open_ledger(path, STATION) as ledger:
        assert ledger.files() == {stamp.file: stamp}


def test_a_file_that_was_judged_again_is_known_by_its_newest_stamp(ledger: Ledger) -> None:
    old, new = sample_entry(1), sample_entry(2)
    stamp = FileStamp(old.stamp.file, inode=8, size_bytes=5, modified_ns=6)
    ledger.commit([old], NOW)
    ledger.commit([replace(new, stamp=stamp)], NOW)
    assert ledger.files() == {stamp.file: stamp}


def test_whether_a_judged_file_was_whole_is_known_after_a_restart(path: Path) -> None:
    first, second = sample_entry(1), sample_entry(2)
    with open_ledger(path, STATION) as ledger:
        ledger.commit([first, replace(second, stamp=replace(second.stamp, is_whole=False))], NOW)
    with sqlite3.connect(path) as sql:  # as older programs wrote it
        sql.execute("UPDATE files SET stamp = '1 2 3' WHERE file = ?", (first.stamp.file.encode(),))
    sql.close()
    with open_ledger(path, STATION) as ledger:
        files = ledger.files()
    assert [files[entry.stamp.file].is_whole for entry in (first, second)] == [True, False]


def test_the_outbox_gives_unsent_messages_in_order_from_a_place(ledger: Ledger) -> None:
    ledger.commit([sample_entry(number) for number in range(1, 8)], NOW)
    ledger.mark_sent([2, 4], NOW)
    assert [row.seq for row in ledger.outbox(1, 3)] == [3, 5, 6]


def test_pending_counts_and_dates_the_oldest_unsent(ledger: Ledger) -> None:
    assert ledger.pending() == ledger_module.Pending(0, None)
    ledger.commit([sample_entry(number, decided_at=MORNING + timedelta(minutes=number)) for number in (1, 2)], NOW)
    ledger.mark_sent([1], NOW)
    pending = ledger.pending()
    assert pending.count == 1
    assert pending.oldest_decided_at == datetime(2026, 3, 1, 6, 2, 0, 123000, tzinfo=UTC)


def test_requeued_messages_have_the_same_bytes(ledger: Ledger) -> None:
    ledger.commit([sample_entry(number) for number in (1, 2, 3)], NOW)
    before = ledger.outbox(0, 10)
    ledger.mark_sent([1], NOW)
    ledger.mark_sent([2, 3], NOW + timedelta(hours=1))
    assert ledger.requeue(ResendRequest(since=NOW + timedelta(minutes=30))) == 2
    assert ledger.outbox(0, 10) == before[1:]


def test_messages_are_resent_by_their_decision_or_first_sending_and_not_by_the_last_resend(ledger: Ledger) -> None:
    """An hour passes between decision and first sending of 1 and 2: the broker was away."""
    hour = timedelta(hours=1)
    ledger.commit([sample_entry(number, decided_at=NOW) for number in (1, 2)], NOW)
    ledger.commit([sample_entry(3, decided_at=NOW + 2 * hour)], NOW)
    ledger.mark_sent([1, 2], NOW + hour)
    ledger.mark_sent([3], NOW + 2 * hour)
    assert ledger.requeue(ResendRequest(since=NOW + hour)) == 3
    ledger.mark_sent([1, 2, 3], NOW + 5 * hour)
    assert ledger.requeue(ResendRequest(since=NOW + 2 * hour)) == 1
    assert seqs(ledger) == [3]


def test_messages_are_resent_by_number_and_one_verdict_with_its_answers(ledger: Ledger) -> None:
    ledger.commit([sample_entry(number) for number in range(1, 6)], NOW)
    ledger.commit_disposition(sample_answer(2))
    ledger.mark_sent(range(1, 7), NOW)
    assert ledger.requeue(ResendRequest(numbers=(3, 4))) == 2
    assert seqs(ledger) == [3, 4]
    assert ledger.requeue(ResendRequest(verdict_id=sample_verdict(2).verdict_id)) == 2
    assert seqs(ledger) == [2, 3, 4, 6]
    assert ledger.requeue(ResendRequest(numbers=(90, 99))) == ledger.requeue(ResendRequest(verdict_id="f" * 32)) == 0


def spoil(path: Path, seq: int) -> None:
    """Change one digit of a stored message, as bit rot does; the database stays a sound one."""
    sql = sqlite3.connect(path)
    with sql:
        sql.execute(
            "UPDATE payloads SET payload = CAST(replace(payload, '0.75', '0.15') AS BLOB) WHERE seq = ?", (seq,)
        )
    sql.close()


def test_a_message_that_changed_in_the_ledger_is_put_aside_and_the_others_go_on(path: Path) -> None:
    with open_ledger(path, STATION) as ledger:
        ledger.commit([sample_entry(number) for number in range(1, 5)], NOW)
    spoil(path, 2)
    with open_ledger(path, STATION) as ledger:
        assert [row.seq for row in ledger.outbox(0, 2)] == [1, 3]
        assert seqs(ledger) == [1, 3, 4]
        assert (ledger.damaged(), ledger.pending().count) == ([2], 3)
        ledger.mark_sent([1, 3, 4], NOW)
        ledger.requeue(ResendRequest(numbers=(1, 4)))
        assert seqs(ledger) == [1, 3, 4], "and no resend brings it out"
    with open_ledger(path, STATION) as ledger, LedgerReader(path) as asked:
        assert seqs(ledger) == [1, 3, 4]
        intact = {verdict.seq: verdict.is_intact for verdict in asked.decided(MORNING)}
        assert intact == {1: True, 2: False, 3: True, 4: True}


def test_damage_stands_over_a_restart_until_the_part_is_inspected_again_or_a_resend_finds_it_whole(path: Path) -> None:
    with open_ledger(path, STATION) as ledger:
        ledger.commit([sample_entry(number) for number in range(1, 6)], NOW)
        ledger.commit_disposition(sample_answer(5))
        sound = ledger.outbox(3, 1)[0].payload
    for seq in (1, 2, 4):
        spoil(path, seq)
    with sqlite3.connect(path) as sql:
        sql.execute("UPDATE payloads SET payload = x'7b7d' WHERE seq = 6")
    sql.close()
    with open_ledger(path, STATION) as ledger:
        assert seqs(ledger) == [3, 5]
    with open_ledger(path, STATION) as ledger:
        assert ledger.damaged() == [1, 2, 4, 6]
        with ledger.database.transaction("write") as sql:
            sql.execute("UPDATE payloads SET payload = ? WHERE seq = 4", (sound,))
        ledger.requeue(ResendRequest(numbers=(4, 4)))
        assert (seqs(ledger), ledger.damaged()) == ([3, 4, 5], [1, 2, 6])
        same_part, same_image = sample_entry(11), sample_entry(12)
        changes: dict[str, Any] = {"part_id": "0001"}
        ledger.commit([replace(same_part, verdict=same_part.verdict.model_copy(update=changes))], NOW)
        assert ledger.damaged() == [2, 6]
        changes = {"repeats": sample_verdict(2).verdict_id}
        ledger.commit([replace(same_image, verdict=same_image.verdict.model_copy(update=changes))], NOW)
        assert ledger.damaged() == [6]
        ledger.commit_disposition(sample_answer(5, id_=2))
        assert ledger.damaged() == []
        ledger.requeue(ResendRequest(since=NOW - timedelta(days=1)))
        assert (seqs(ledger), ledger.damaged()) == ([3, 4, 5, 7, 8, 9], []), "what was answered is not tried again"


def test_a_part_of_another_lot_with_the_same_number_answers_no_damage(path: Path) -> None:
    """The next lot begins at 1 again: its first part must not end the alarm about the first part of the last lot."""
    with open_ledger(path, STATION) as ledger:
        ledger.commit([sample_entry(1)], NOW)
    spoil(path, 1)
    with open_ledger(path, STATION) as ledger:
        assert seqs(ledger) == []
        for number, bundle, standing in ((2, "B02", [1]), (3, None, [1]), (4, sample_verdict(1).bundle, [])):
            entry = sample_entry(number)
            assert entry.verdict is not None
            again = entry.verdict.model_copy(update={"part_id": "0001", "bundle": bundle})
            ledger.commit([replace(entry, verdict=again)], NOW)
            assert ledger.damaged() == standing, bundle


def test_a_clock_that_was_set_back_makes_no_latency_of_less_than_nothing(ledger: Ledger, path: Path) -> None:
    ledger.commit([sample_entry(1, decided_at=NOW - timedelta(days=3650))], NOW)
    with sqlite3.connect(path) as sql:
        assert sql.execute("SELECT latency_ms FROM outbox").fetchall() == [(0,)]
    sql.close()


def test_damage_that_nothing_answers_is_forgotten_when_its_message_would_be_pruned(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "KEEP_LATEST", 2)
    with open_ledger(path, STATION) as ledger:
        ledger.commit([sample_entry(number) for number in range(1, 5)], NOW)
    for seq in (1, 4):
        spoil(path, seq)
    with open_ledger(path, STATION) as ledger:
        assert seqs(ledger) == [2, 3]
        assert ledger.prune(NOW - timedelta(days=1)) == 0
        assert ledger.prune(NOW + timedelta(days=1)) == 1
        assert ledger.damaged() == [4], "the newest are never pruned"


def test_no_flipped_bit_sends_a_changed_message_or_keeps_one_back_unnoticed(path: Path) -> None:
    """Single bits anywhere in the file: refused at the start, put aside, or harmless."""
    with open_ledger(path, STATION) as ledger:
        ledger.commit([sample_entry(number) for number in range(1, 41)], NOW)
        written = {row.seq: row.payload for row in ledger.outbox(0, 100)}
    sound = path.read_bytes()
    rng, noticed, unharmed = random.Random(34), 0, 0
    for _ in range(150):
        bit = rng.randrange(len(sound) * 8)
        content = bytearray(sound)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        try:
            with open_ledger(path, STATION) as ledger:
                ledger.database.check_quickly(30.0)
                sent = {row.seq: row.payload for row in ledger.outbox(0, 100)}
                put_aside = ledger.damaged()
        except LedgerError:
            noticed += 1
            continue
        finally:
            for log_file in ("-wal", "-shm"):
                path.with_name(path.name + log_file).unlink(missing_ok=True)
        assert sent.items() <= written.items(), bit
        assert sorted({*sent, *put_aside}) == sorted(written), bit
        noticed += bool(put_aside)
        unharmed += not put_aside
    assert noticed > 20
    assert unharmed > 0


def test_the_check_of_the_start_finds_an_index_that_lost_rows(path: Path) -> None:
    """They would never be sent, and nobody would know."""
    with open_ledger(path, STATION) as ledger:
        ledger.commit([sample_entry(number) for number in range(1, 5)], NOW)
        assert ledger.database.check_quickly(30.0)
    sql = sqlite3.connect(path)
    with sql:
        sql.execute("PRAGMA writable_schema = ON")
        ((root, statement),) = sql.execute(
            "SELECT rootpage, sql FROM sqlite_schema WHERE name = 'outbox_by_state'"
        ).fetchall()
        sql.execute(
            "UPDATE sqlite_schema SET sql = 'CREATE INDEX outbox_by_state ON outbox (seq, seq)'"
            " WHERE name = 'outbox_by_state'"
        )
    sql.close()
    assert root and statement
    with open_ledger(path, STATION) as ledger, pytest.raises(LedgerError, match="is damaged") as caught:
        ledger.database.check_quickly(30.0)
    assert "restore a backup" in caught.value.hint


def test_the_check_of_the_start_ends_in_time(ledger: Ledger) -> None:
    ledger.commit([sample_entry(number) for number in range(1, 100)], NOW)
    assert ledger.database.check_quickly(0.0) is False
    assert stored_seqs(ledger.commit([sample_entry(5000)], NOW)) == [100]


def test_a_message_marked_twice_keeps_its_first_time(ledger: Ledger) -> None:
    ledger.commit([sample_entry(1)], NOW)
    ledger.mark_sent([1], NOW)
    ledger.mark_sent([1], NOW + timedelta(hours=1))
    assert ledger.requeue(ResendRequest(since=NOW + timedelta(minutes=30))) == 0


def test_a_disposition_takes_the_next_number_and_lies_in_the_same_outbox(ledger: Ledger) -> None:
    ledger.commit([sample_entry(1)], NOW)
    answered = ledger.commit_disposition(sample_answer(1))
    ledger.commit([sample_entry(2)], NOW)
    verdict, disposition, other = ledger.outbox(0, 9)
    assert [row.kind for row in (verdict, disposition, other)] == ["verdict", "disposition", "verdict"]
    assert (disposition.seq, disposition.verdict_id) == (2, sample_verdict(1).verdict_id)
    content = json.loads(disposition.payload)
    assert disposition.payload == answered.payload == canonical_json(Disposition.model_validate_json(answered.payload))
    assert (content["seq"], content["ledger_id"], content["station"]) == (2, str(ledger.ledger_id), STATION)
    assert (content["decision"], content["by"], content["comment"]) == ("abnormal", "mueller", "am Rand, außen")
    assert answered.decided_at is not None
    assert answered.decided_at.replace(microsecond=0) == MORNING.replace(microsecond=0)


def test_a_disposition_is_stored_once_and_never_with_another_content(ledger: Ledger) -> None:
    ledger.commit([sample_entry(1)], NOW)
    first = ledger.commit_disposition(sample_answer(1))
    again = ledger.commit_disposition(sample_answer(1))
    assert (first.is_new, again.is_new, again.payload) == (True, False, first.payload)
    with pytest.raises(RequestError, match="another content"):
        ledger.commit_disposition(sample_answer(1, decision="normal"))
    assert ledger.commit_disposition(sample_answer(1, id_=2, decision="normal")).is_new
    assert seqs(ledger) == [1, 2, 3]


def test_a_disposition_needs_a_verdict_of_this_ledger_on_the_same_part(ledger: Ledger) -> None:
    ledger.commit([sample_entry(1)], NOW)
    with pytest.raises(RequestError, match="never given"):
        ledger.commit_disposition(sample_answer(2))
    with pytest.raises(RequestError, match="is on part '0001'"):
        ledger.commit_disposition(sample_answer(1, part_id="0002"))
    assert (seqs(ledger), ledger.next_seq()) == ([1], 2)


def test_a_verdict_that_was_pruned_can_still_be_answered_and_an_answer_is_never_sent_twice(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "KEEP_LATEST", 1)
    ledger.commit([sample_entry(1), sample_entry(2)], NOW)
    ledger.mark_sent([1, 2], NOW)
    assert ledger.prune(NOW + timedelta(days=1)) == 1
    answered = ledger.commit_disposition(sample_answer(1))
    assert (answered.is_new, answered.decided_at) == (True, None)
    ledger.commit([sample_entry(3)], NOW)
    ledger.mark_sent([3, 4], NOW)
    assert ledger.prune(NOW + timedelta(days=1)) == 2
    assert ledger.commit_disposition(sample_answer(1)).is_new is False
    assert ledger.next_seq() == 5


def test_pruning_drops_old_sent_messages_but_not_the_knowledge(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "KEEP_LATEST", 2)
    ledger.commit([sample_entry(number) for number in range(1, 7)], NOW)
    ledger.mark_sent([1, 3, 6], NOW)
    ledger.mark_sent([4], NOW + timedelta(days=2))
    assert ledger.prune(NOW + timedelta(days=1)) == 2  # 2 is unsent, 4 is young, 6 is among the newest
    assert ledger.requeue(ResendRequest(since=NOW)) == 2
    assert seqs(ledger) == [2, 4, 5, 6]
    assert stored_seqs(ledger.commit([sample_entry(1), sample_entry(7)], NOW)) == [None, 7]


def test_a_clock_that_jumps_ten_years_does_not_empty_the_outbox(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "KEEP_LATEST", 4)
    ledger.commit([sample_entry(number) for number in range(1, 11)], NOW)
    ledger.mark_sent(range(1, 11), NOW)
    assert ledger.prune(NOW + timedelta(days=3650)) == 6
    assert ledger.prune(NOW + timedelta(days=3650)) == 0
    assert ledger.requeue(ResendRequest(since=NOW)) == 4


def test_a_clock_that_is_years_ahead_for_an_hour_costs_six_hours_of_resend(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message every ten minutes, and as often `prune`."""
    monkeypatch.setattr(ledger_module, "KEEP_LATEST", 1)
    count, minutes = 60, timedelta(minutes=10)
    ledger.commit([sample_entry(number) for number in range(1, count + 1)], NOW)
    for number in range(1, count + 1):
        ledger.mark_sent([number], NOW + number * minutes)
    assert [ledger.prune(NOW + timedelta(days=3650)) for _ in range(6)] == [6] * 6
    assert ledger.prune(NOW + 30 * minutes) == 0
    assert ledger.prune(NOW + 39 * minutes) == 2


def test_one_call_prunes_several_batches_and_leaves_the_rest_to_the_next(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"KEEP_LATEST": 1, "PRUNE_BATCH": 2, "PRUNE_BATCHES": 3, "PRUNE_PAUSE_S": 0.0}.items():
        monkeypatch.setattr(ledger_module, name, value)
    ledger.commit([sample_entry(number) for number in range(1, 11)], NOW)
    ledger.mark_sent(range(1, 11), NOW)
    assert [ledger.prune(NOW + timedelta(days=1)) for _ in range(3)] == [6, 3, 0]


def test_a_clock_that_jumps_back_keeps_the_order_of_seq(ledger: Ledger) -> None:
    ledger.commit([sample_entry(1, decided_at=MORNING)], NOW)
    ledger.commit([sample_entry(2, decided_at=MORNING - timedelta(days=3650))], NOW - timedelta(days=3650))
    assert seqs(ledger) == [1, 2]


def test_files_that_left_the_folder_are_forgotten(ledger: Ledger) -> None:
    ledger.commit([sample_entry(number) for number in (1, 2, 3)], NOW)
    assert ledger.prune_files(["B01_0002.tif", "new.tif"]) == 2
    assert set(ledger.files()) == {"B01_0002.tif"}


def test_of_a_folder_that_was_emptied_everything_is_forgotten_but_the_verdicts(ledger: Ledger) -> None:
    entry = sample_entry(1)
    ledger.commit([entry], NOW)
    assert ledger.prune_files([]) == 1
    assert ledger.files() == {}
    assert entry.verdict is not None
    assert ledger.former("B01_0001.tif", entry.scan.sha256, entry.verdict.verdict_id, None).is_same


def test_a_sound_ledger_passes_the_check(ledger: Ledger) -> None:
    ledger.commit([sample_entry(1)], NOW)
    ledger.database.check()


def test_a_damaged_ledger_fails_with_a_hint(path: Path) -> None:
    with open_ledger(path, STATION) as ledger:
        ledger.commit([sample_entry(number) for number in range(200)], NOW)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = b"\xa5" * (len(content) - len(content) // 2)
    path.write_bytes(content)
    with pytest.raises(LedgerError) as caught, open_ledger(path, STATION) as ledger:
        ledger.database.check()
    assert "move the whole state directory away" in caught.value.hint


def test_the_state_is_private(ledger: Ledger, path: Path) -> None:
    assert path.parent.stat().st_mode & 0o777 == 0o700
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file.name


def test_a_state_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o775)
    with pytest.raises(LedgerError, match="writable by others"):
        open_ledger(tmp_path / "ledger.sqlite", STATION)


def test_the_ledger_of_another_station_is_refused(path: Path) -> None:
    open_ledger(path, STATION).close()
    with pytest.raises(LedgerError, match=r"'xray-1'.*'xray-2'"):
        open_ledger(path, "xray-2")
    open_ledger(path, STATION).close()  # and the refusal left no lock


@pytest.mark.parametrize(("content", "complaint"), [(b"", "empty"), (b"not a database at all" * 99, "not a database")])
def test_a_file_that_is_no_ledger_is_refused(path: Path, content: bytes, complaint: str) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_bytes(content)
    with pytest.raises(LedgerError, match=complaint):
        open_ledger(path, STATION)
    assert path.read_bytes() == content


def test_another_database_is_refused(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    foreign = sqlite3.connect(path)
    foreign.execute("CREATE TABLE recipes (name TEXT)")
    foreign.close()
    with pytest.raises(LedgerError, match="no ledger"):
        open_ledger(path, STATION)


def test_a_creation_that_was_interrupted_is_begun_anew(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.with_name(f"{path.name}.new").write_bytes(b"half")
    with open_ledger(path, STATION) as ledger:
        assert stored_seqs(ledger.commit([sample_entry(1)], NOW)) == [1]


def test_an_older_schema_is_upgraded_with_its_pending_messages(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_ledger(path, STATION) as ledger:
        ledger.commit([sample_entry(1), sample_entry(2)], NOW)
        before = ledger.outbox(0, 10)
    newer = (*ledger_file.MIGRATIONS, ("ALTER TABLE files ADD COLUMN note TEXT",))
    with monkeypatch.context() as patch:
        patch.setattr(ledger_file, "MIGRATIONS", newer)
        with open_ledger(path, STATION) as ledger:
            assert ledger.outbox(0, 10) == before
    own = ledger_file.newest_schema()
    with pytest.raises(LedgerError, match=f"schema {own + 1}, this program knows up to {own}"):
        open_ledger(path, STATION)


def test_a_ledger_of_before_the_first_release_is_refused_with_what_to_do_and_not_touched(path: Path) -> None:
    open_ledger(path, STATION).close()
    sql = sqlite3.connect(path)
    sql.execute("PRAGMA user_version = 7")
    sql.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="schema 7, of a program before the first release") as caught:
        open_ledger(path, STATION)
    assert "move the whole state directory away" in caught.value.hint
    assert path.read_bytes() == before


def test_an_upgrade_that_fails_leaves_the_old_schema(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_ledger(path, STATION) as ledger:
        ledger.commit([sample_entry(1)], NOW)
    broken = (*ledger_file.MIGRATIONS, ("ALTER TABLE files ADD COLUMN note TEXT", "DROP TABLE nothing"))
    with monkeypatch.context() as patch:
        patch.setattr(ledger_file, "MIGRATIONS", broken)
        with pytest.raises(LedgerError, match="nothing"):
            open_ledger(path, STATION)
    with open_ledger(path, STATION) as ledger:
        assert seqs(ledger) == [1]


OPENING = """
import sys
from pathlib import Path
from typing import Any
from edge.store.ledger import open_ledger
open_ledger(Path(sys.argv[1]), "xray-1")
"""


def test_a_second_worker_is_refused_by_number_of_the_first(ledger: Ledger, path: Path) -> None:
    second = run_python(OPENING, path)
    _, complaint = second.communicate(timeout=30)
    assert second.returncode != 0
    assert f"in use by another worker (process {os.getpid()})" in complaint


def test_a_closed_ledger_can_be_opened_again_and_not_used(path: Path) -> None:
    first = open_ledger(path, STATION)
    first.close()
    first.close()
    open_ledger(path, STATION).close()
    with pytest.raises(RuntimeError, match="closed"):
        first.pending()


@pytest.mark.parametrize("is_replaced", [True, False])
def test_nothing_is_written_into_a_ledger_that_was_moved_away(ledger: Ledger, path: Path, is_replaced: bool) -> None:
    """As by an operator who forgot to stop the worker: what it wrote on would end with the process."""
    ledger.commit([sample_entry(1)], NOW)
    away = path.with_name("away.sqlite")
    path.rename(away)
    if is_replaced:
        shutil.copy(away, path)
    with pytest.raises(LedgerError, match="moved, removed or replaced"):
        ledger.commit([sample_entry(2)], NOW)
    assert seqs(ledger) == [1]
    away.rename(path)
    assert stored_seqs(ledger.commit([sample_entry(2)], NOW)) == [2]


def test_what_another_program_writes_is_told_once(ledger: Ledger, path: Path) -> None:
    ledger.commit([sample_entry(1)], NOW)
    other = sqlite3.connect(path)
    try:
        with other:
            other.execute("UPDATE outbox SET sent_at_ms = 1")
    finally:
        other.close()
    with pytest.raises(LedgerError, match="another program has written") as caught:
        ledger.commit([sample_entry(2)], NOW)
    assert "edge-worker" in caught.value.hint
    assert stored_seqs(ledger.commit([sample_entry(2)], NOW)) == [2]


def test_a_ledger_that_another_program_is_writing_is_refused_with_a_hint(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_ledger(path, STATION).close()
    monkeypatch.setattr(ledger_file, "BUSY_TIMEOUT_S", 0.01)
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError) as caught, open_ledger(path, STATION) as ledger:
            ledger.commit([sample_entry(1)], NOW)
        assert "close it" in caught.value.hint
    finally:
        other.close()


def test_threads_share_one_sequence(ledger: Ledger) -> None:
    def commit(first: int) -> None:
        for number in range(first, first + 25):
            ledger.commit([sample_entry(number)], NOW)
            ledger.mark_sent([row.seq for row in ledger.outbox(0, 2)], NOW)

    threads = [threading.Thread(target=commit, args=(100 * index,)) for index in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.requeue(ResendRequest(since=NOW))
    assert seqs(ledger) == list(range(1, 101))


COMMITTING = """
import sys
from pathlib import Path
from typing import Any
from edge.store.ledger import open_ledger
from tests.support.samples import MORNING, sample_entry
first = int(sys.argv[2])
with open_ledger(Path(sys.argv[1]), "xray-1") as ledger:
    for number in range(first, first + 100_000):
        print(number, ledger.commit([sample_entry(number)], MORNING)[0].seq, flush=True)
"""


def test_a_kill_at_any_moment_loses_no_committed_verdict_and_leaves_no_gap(path: Path) -> None:
    """Five kills while commits run without pause; what was reported committed must be there."""
    reported: dict[int, int] = {}
    for kill in range(5):
        worker = run_python(COMMITTING, path, 1_000_000 * kill)
        assert worker.stdout is not None
        for _ in range(20 + 7 * kill):
            number, seq = map(int, worker.stdout.readline().split())
            reported[seq] = number
        worker.send_signal(signal.SIGKILL)
        rest, _ = worker.communicate(timeout=30)
        for line in rest.splitlines():
            if len(fields := line.split()) == 2:
                reported[int(fields[1])] = int(fields[0])
    with open_ledger(path, STATION) as ledger:  # and the lock of the killed process is free
        ledger.database.check()
        rows = {row.seq: row.verdict_id for row in ledger.outbox(0, 1_000_000)}
    assert sorted(rows) == list(range(1, len(rows) + 1))
    assert len(reported) >= 150
    for seq, number in reported.items():
        assert rows[seq] == sample_verdict(number).verdict_id


KILLED = """
import os, sys
from pathlib import Path
from typing import Any
from edge.store.ledger import open_ledger
from tests.support.samples import MORNING, sample_entry
ledger = open_ledger(Path(sys.argv[1]), "xray-1")
for number in range(1000, 1000 + int(sys.argv[2])):
    ledger.commit([sample_entry(number)], MORNING)
os._exit(9)
"""


def kill_with_a_log(path: Path, count: int) -> None:
    """A worker that is killed leaves its last commits in the log beside the ledger."""
    worker = run_python(KILLED, path, count)
    _, complaint = worker.communicate(timeout=60)
    assert worker.returncode == 9, complaint
    assert path.with_name(f"{path.name}-wal").stat().st_size > 0


@pytest.mark.parametrize("count", [3, 60, 400])
def test_a_new_ledger_does_not_take_up_the_log_of_one_that_was_moved_away(path: Path, count: int) -> None:
    kill_with_a_log(path, count)
    path.rename(path.with_name("moved-away"))
    for seq in (1, 2):
        with open_ledger(path, STATION) as ledger:
            ledger.database.check()
            assert stored_seqs(ledger.commit([sample_entry(seq)], NOW)) == [seq]
    (kept,) = path.parent.glob("ledger.sqlite-wal.stale-*")
    assert kept.stat().st_size > 0


def test_a_draft_of_a_ledger_does_not_take_up_the_log_of_an_earlier_one(path: Path) -> None:
    kill_with_a_log(path, 60)
    path.with_name(f"{path.name}-wal").rename(path.with_name(f"{path.name}.new-wal"))
    path.rename(path.with_name("moved-away"))
    with open_ledger(path, STATION) as ledger:
        ledger.database.check()
        assert ledger.next_seq() == 1
    assert not list(path.parent.glob("*.new*"))


def commit_until_it_fails(ledger: Ledger) -> tuple[int, LedgerError]:
    """How many commits of one verdict each the disk took, and what it said then."""
    for number in range(1, 1_000):
        try:
            ledger.commit([sample_entry(number)], NOW)
        except LedgerError as error:
            return number - 1, error
    raise AssertionError("the disk never filled")


def test_a_full_disk_refuses_commits_and_mends_itself_when_space_returns(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(600_000))
    with open_ledger(small_disk / "ledger.sqlite", STATION) as ledger:
        committed, error = commit_until_it_fails(ledger)
        assert committed > 0
        assert "space" in error.hint
        assert ledger.pending().count == committed  # reading goes on
        with pytest.raises(LedgerError):
            ledger.commit([sample_entry(number) for number in range(committed + 1, committed + 400)], NOW)
        ballast.unlink()
        assert stored_seqs(ledger.commit([sample_entry(committed + 1)], NOW)) == [committed + 1]
        ledger.database.check()
    with open_ledger(small_disk / "ledger.sqlite", STATION) as ledger:
        assert seqs(ledger) == list(range(1, committed + 2))


def test_a_disk_too_full_to_create_a_ledger_leaves_none(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"):
        ballast.write_bytes(bytes(2_000_000))
    with pytest.raises(LedgerError):
        open_ledger(small_disk / "ledger.sqlite", STATION)
    ballast.unlink()
    with open_ledger(small_disk / "ledger.sqlite", STATION) as ledger:
        assert stored_seqs(ledger.commit([sample_entry(1)], NOW)) == [1]


FILE_TOO_LARGE = """
import resource, signal, sys
from pathlib import Path
from typing import Any
from edge.errors import LedgerError, RequestError
from edge.store.ledger import open_ledger
from tests.support.samples import MORNING, sample_entry
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
with open_ledger(Path(sys.argv[1]), "xray-1") as ledger:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, unlimited[1]))
    failed = None
    for number in range(1, 1000):
        try:
            ledger.commit([sample_entry(number)], MORNING)
        except LedgerError as error:
            failed = number
            print(error.message, error.hint)
            break
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert failed is not None
    assert [verdict.seq for verdict in ledger.commit([sample_entry(failed)], MORNING)] == [failed]
    ledger.database.check()
    assert [row.seq for row in ledger.outbox(0, 10_000)] == list(range(1, failed + 1))
"""


def test_an_input_output_error_is_reported_and_the_ledger_works_afterwards(path: Path) -> None:
    """The kernel refuses writes beyond a file size: the one way to an I/O error that needs no root."""
    worker = run_python(FILE_TOO_LARGE, path)
    said, complaint = worker.communicate(timeout=60)
    assert worker.returncode == 0, complaint
    assert "ledger" in said
    assert "dmesg" in said and "quota" in said  # SQLite says the same of a quota that is used up


def test_a_file_handle_that_went_bad_is_replaced(ledger: Ledger, path: Path) -> None:
    """As after a disk that went away and was mounted again: the old handle never works any more."""
    ledger.commit([sample_entry(1)], NOW)
    log_file = str(path.with_name(f"{path.name}-wal"))
    (handle,) = (int(link.name) for link in Path("/proc/self/fd").iterdir() if os.path.realpath(link) == log_file)
    useless = os.open("/dev/null", os.O_RDONLY)
    os.dup2(useless, handle)
    os.close(useless)
    with pytest.raises(LedgerError):
        ledger.commit([sample_entry(2)], NOW)
    assert stored_seqs(ledger.commit([sample_entry(3)], NOW)) == [2]
    assert seqs(ledger) == [1, 2]
    ledger.database.check()


def test_a_state_directory_that_is_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(LedgerError) as caught:
        open_ledger(tmp_path / "state" / "ledger.sqlite", STATION)
    assert caught.value.hint


def test_the_outbox_is_read_through_its_index(ledger: Ledger, path: Path) -> None:
    """At a million messages a scan of the table would hold the line up."""
    ledger.close()
    sql = sqlite3.connect(path)
    try:
        plan = str(sql.execute("EXPLAIN QUERY PLAN " + ledger_module.UNSENT_ROWS, (5, 9)).fetchall())
    finally:
        sql.close()
    assert "USING INDEX outbox_by_state (sent_at_ms=? AND seq>?)" in plan
    assert "TEMP B-TREE" not in plan


def test_a_word_is_remembered_over_the_restart(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "ledger.sqlite", STATION) as ledger:
        assert ledger.recall("folder") is None
        ledger.remember("folder", "here")
        ledger.remember("folder", "there")
    with open_ledger(tmp_path / "ledger.sqlite", STATION) as ledger:
        assert ledger.recall("folder") == "there"
        assert ledger.recall("station") is None


def changed(path: Path, statement: str) -> None:
    """As bit rot would, which no check of SQLite's finds."""
    with contextlib.closing(sqlite3.connect(path)) as sql, sql:
        sql.execute(statement)


def test_a_file_whose_stamp_is_damaged_is_looked_at_again_and_does_not_keep_the_worker_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "state" / "ledger.sqlite"
    with open_ledger(path, STATION) as ledger:
        ledger.commit([sample_entry(1), sample_entry(2)], NOW)
        spoilt, sound = sorted(ledger.files())
    changed(path, f"UPDATE files SET stamp = '12 3x 4 5' WHERE file = CAST('{spoilt}' AS BLOB)")
    with open_ledger(path, STATION) as ledger:
        assert list(ledger.files()) == [sound]
        assert "files damaged in the ledger" in caplog.messages


def test_an_id_that_is_damaged_is_a_damaged_ledger(tmp_path: Path) -> None:
    path = tmp_path / "state" / "ledger.sqlite"
    open_ledger(path, STATION).close()
    changed(path, "UPDATE meta SET value = 'q' || substr(value, 2) WHERE key = 'ledger_id'")
    with open_ledger(path, STATION) as ledger, pytest.raises(LedgerError, match="id is damaged") as caught:
        _ = ledger.ledger_id
    assert "restore a backup" in caught.value.hint


COLUMNS = {
    "files": ("file", "stamp", "sha256", "finished_at_ms"),
    "verdicts": ("verdict_id", "seq", "file_key", "bytes_key"),
    "pixels": ("pixels_id", "verdict_id"),
    "dispositions": ("disposition_id", "verdict_id", "seq", "content_key"),
    "outbox": ("verdict_id", "kind", "decided_at_ms", "sent_at_ms", "first_sent_at_ms", "part_id", "verdict_type"),
    "payloads": ("payload", "checksum"),
    "verdict_types": ("outcome", "reasons", "model_id"),
}


def test_whatever_one_value_becomes_by_bit_rot_the_ledger_answers_or_says_that_it_is_damaged(tmp_path: Path) -> None:
    """Anything else would end the worker, and each of its next runs at the same scan or request."""
    sound = tmp_path / "sound" / "ledger.sqlite"
    pixels_id = f"{7:064x}"
    with open_ledger(sound, STATION) as ledger:
        ledger.commit([replace(sample_entry(number), pixels_id=pixels_id) for number in (1, 2)], NOW)
        ledger.commit_disposition(sample_answer(1))
        ledger.mark_sent([1], NOW)
    path = tmp_path / "rotten" / "ledger.sqlite"
    path.parent.mkdir(mode=0o700)
    tried = 0
    for table, columns in COLUMNS.items():
        for column in columns:
            for value in ("'x'", "x'ff'", "9e18"):
                for log in ("", "-wal", "-shm"):
                    Path(f"{path}{log}").unlink(missing_ok=True)
                shutil.copy(sound, path)
                changed(path, f"UPDATE OR IGNORE {table} SET {column} = {value}")
                tried += 1
                _use(path, pixels_id)
    assert tried > 70


def _use(path: Path, pixels_id: str) -> None:
    """Each thing a line asks of its ledger."""
    verdicts = [sample_verdict(number) for number in (1, 2, 3)]
    with contextlib.suppress(LedgerError), open_ledger(path, STATION) as ledger:
        for deed in (
            ledger.files,
            *(
                lambda verdict=verdict: ledger.former(
                    verdict.scan.file, verdict.scan.sha256, verdict.verdict_id, pixels_id
                )
                for verdict in verdicts
            ),
            lambda: ledger.commit([sample_entry(3)], NOW),
            *(lambda number=number: ledger.commit_disposition(sample_answer(number, id_=number)) for number in (1, 2)),
            lambda: ledger.outbox(0, 10),
            ledger.damaged,
            ledger.pending,
            ledger.newest_decision,
            lambda: ledger.requeue(ResendRequest(numbers=(1, 9))),
            lambda: ledger.prune_files([]),
            lambda: ledger.prune(NOW + timedelta(days=40)),
        ):
            with contextlib.suppress(LedgerError, RequestError):
                deed()


@pytest.mark.parametrize("rot", ["'x'", "x'ff'", "12"])
def test_a_repetition_is_told_although_bit_rot_took_the_id_of_what_it_repeats(path: Path, rot: str) -> None:
    pixels_id = f"{7:064x}"
    with open_ledger(path, STATION) as ledger:
        ledger.commit([replace(sample_entry(1), pixels_id=pixels_id)], NOW)
    changed(path, f"UPDATE pixels SET verdict_id = {rot}")
    changed(path, f"UPDATE verdicts SET verdict_id = {rot}")
    with open_ledger(path, STATION) as ledger:
        verdict = sample_verdict(1)
        former = ledger.former(verdict.scan.file, verdict.scan.sha256, verdict.verdict_id, pixels_id)
    assert former.is_same
    for found in (former.name_id, former.repeats):
        assert found is not None
        assert re.fullmatch("[0-9a-f]{32}", found)


ROT = {
    "too low": "UPDATE meta SET value = 1 WHERE key = 'next_seq'",
    "a bit flipped": "UPDATE meta SET value = value + (1 << 20) WHERE key = 'next_seq'",
    "text": "UPDATE meta SET value = CAST(x'39ff' AS TEXT) WHERE key = 'next_seq'",
    "gone": "UPDATE meta SET key = 'next_sep' WHERE key = 'next_seq'",
    "the newest message": "UPDATE outbox SET seq = seq + (1 << 40) WHERE seq = 6",
    "what was skipped to": "UPDATE meta SET value = 1 << 40 WHERE key = 'skipped_to'",
}


@pytest.mark.parametrize("where", ROT)
def test_a_number_that_bit_rot_changed_is_never_given_twice_under_one_id_nor_a_silent_gap(
    path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of SQLite's checks a value. Pruned but for the newest: what was given is known by that one."""
    monkeypatch.setattr(ledger_module, "KEEP_LATEST", 1)
    with open_ledger(path, STATION) as ledger:
        ledger.skip_to(3)
        assert stored_seqs(ledger.commit([sample_entry(number) for number in range(4)], NOW)) == [3, 4, 5, 6]
        former = ledger.ledger_id
        ledger.mark_sent(range(3, 7), NOW)
        assert ledger.prune(NOW + timedelta(days=1)) == 3
    with open_ledger(path, STATION) as ledger:
        assert (ledger.ledger_id, ledger.next_seq(), ledger.renewed) == (former, 7, None)
    changed(path, ROT[where])
    with open_ledger(path, STATION) as ledger:
        assert ledger.ledger_id != former
        assert "next number" in str(ledger.renewed)
        (seq,) = stored_seqs(ledger.commit([sample_entry(9)], NOW))
        assert seq is not None
        assert seq >= 7
        second = ledger.ledger_id
        ledger.database.check()
    with open_ledger(path, STATION) as ledger:
        assert (ledger.ledger_id, ledger.next_seq()) == (second, seq + 1)
        assert ledger.renewed is not None
        ledger.forget_renewal()
        assert ledger.renewed is None


def test_a_number_that_changes_while_the_worker_runs_is_not_given(ledger: Ledger) -> None:
    ledger.commit([sample_entry(1)], NOW)
    with ledger.database.transaction("write") as sql:
        sql.execute(ROT["too low"])
    with pytest.raises(LedgerError, match="next number is 1, expected 2"):
        ledger.commit([sample_entry(2)], NOW)
    with pytest.raises(LedgerError, match="next number is 1, expected 2"):
        ledger.commit_disposition(sample_answer(1))
    assert seqs(ledger) == [1]


@pytest.mark.parametrize("key", ["station", "ledger_id"])
def test_a_ledger_that_lost_a_word_about_itself_is_a_damaged_one(path: Path, key: str) -> None:
    open_ledger(path, STATION).close()
    changed(path, f"DELETE FROM meta WHERE key = '{key}'")
    with pytest.raises(LedgerError) as caught, open_ledger(path, STATION) as ledger:
        _ = ledger.ledger_id
    assert "restore a backup" in caught.value.hint


def test_what_sqlite_quotes_of_a_damaged_schema_is_a_damaged_ledger(tmp_path: Path) -> None:
    path = tmp_path / "state" / "ledger.sqlite"
    open_ledger(path, STATION).close()
    path.write_bytes(path.read_bytes().replace(b"CREATE INDEX outbox_by_part", b"CREATE INDE\xd8 outbox_by_part"))
    with pytest.raises(LedgerError) as caught:
        open_ledger(path, STATION)
    assert "move the whole state directory away" in caught.value.hint


def test_a_copy_of_a_ledger_begins_a_new_sequence_and_the_ledger_itself_goes_on(tmp_path: Path) -> None:
    """As by a copy of the state directory to a second box, or an old one put back: numbers would be given twice."""
    path, second = tmp_path / "state" / "ledger.sqlite", tmp_path / "second" / "ledger.sqlite"
    with open_ledger(path, STATION) as ledger:
        ledger.commit([sample_entry(1)], NOW)
        first_id = ledger.ledger_id
    shutil.copytree(path.parent, second.parent)
    with open_ledger(path, STATION) as ledger:
        assert ledger.ledger_id == first_id
    with open_ledger(second, STATION) as copy:
        second_id = copy.ledger_id
        assert second_id != first_id
        assert copy.next_seq() == 2
    with open_ledger(second, STATION) as copy:
        assert copy.ledger_id == second_id


def test_a_disk_that_moved_to_another_machine_begins_a_new_sequence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, number = tmp_path / "state" / "ledger.sqlite", tmp_path / "machine-id"
    monkeypatch.setattr(machine, "MACHINE_ID", number)
    ids = []
    for text in ("11" * 16, "11" * 16, "22" * 16):
        number.write_text(text)
        with open_ledger(path, STATION) as ledger:
            ids.append(ledger.ledger_id)
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("removed", [("-wal",), ("-shm",), ("-wal", "-shm")])
def test_a_clean_up_that_removes_sqlites_logs_costs_no_verdict_whenever_the_power_goes(
    tmp_path: Path, removed: tuple[str, ...]
) -> None:
    path = tmp_path / "state" / "ledger.sqlite"
    with open_ledger(path, STATION) as ledger:
        ledger.commit([sample_entry(1)], NOW)
        for suffix in removed:
            path.with_name(path.name + suffix).unlink()
        with pytest.raises(LedgerError, match="removed or replaced while the worker writes it"):
            ledger.commit([sample_entry(2)], NOW)
        ledger.commit([sample_entry(2)], NOW)
        left = tmp_path / "left"
        shutil.copytree(path.parent, left)  # what a power cut leaves
    with open_ledger(left / path.name, STATION) as ledger:
        assert seqs(ledger) == [1, 2]


def test_a_log_that_was_removed_is_written_into_the_ledger_before_the_next_verdict_comes(tmp_path: Path) -> None:
    path = tmp_path / "state" / "ledger.sqlite"
    with open_ledger(path, STATION) as ledger:
        ledger.commit([sample_entry(1)], NOW)
        path.with_name(f"{path.name}-wal").unlink()
        with pytest.raises(LedgerError, match="nothing of it is lost"):
            ledger.damaged()  # which the publisher asks every second
        left = tmp_path / "left"
        shutil.copytree(path.parent, left)
    with open_ledger(left / path.name, STATION) as ledger:
        assert seqs(ledger) == [1]
