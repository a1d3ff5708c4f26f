"""Bits that a disk or a memory has changed: what changed is told, and never sent, run or shown: R34."""

from __future__ import annotations

import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from uuid import UUID

from edge.errors import EvidenceError
from edge.evidence.record import open_piece
from tests.torture.identity_faults import numbers_heard
from tests.torture.rig import Layout, Rig, wait_until
from tests.torture.trial import Trial
from tests.torture.wrap import POINTS

EXIT_IO = 74
SPOILED = (2, 5)
ROTS = (
    "UPDATE meta SET value = value | 1 << 40 WHERE key = 'next_seq'",
    "UPDATE meta SET value = value & (value - 1) WHERE key = 'next_seq'",
    "UPDATE meta SET value = value | 1 << 20 WHERE key = 'skipped_to'",
    "DELETE FROM meta WHERE key = 'next_seq'",
    "UPDATE meta SET value = 'x' || value WHERE key = 'next_seq'",
)
"""What becomes of the number to come; the third is there once it was mended."""


def bit_rot(trial: Trial) -> None:
    """R34: bits of stored messages, of the number to come, of the ledger anywhere, of a piece of evidence.

    R19 has those of the model.
    """
    changed_messages(trial)
    rotten_numbers(trial)
    _anywhere_in_the_ledger(trial)


def changed_messages(trial: Trial) -> None:
    """A message that changed is not sent; the alarm outlasts a restart, and ends when its part is inspected again."""
    with trial.rig() as rig:
        rig.broker.stop()
        rig.worker.start()
        listed = rig.generator.arrive(6)
        rig.await_judged(6)
        trial.require_clean_stop(rig.worker)
        with sqlite3.connect(rig.state / "ledger.sqlite") as sql:
            for seq in SPOILED:
                _spoil(sql, seq)
        sql.close()
        rig.broker.start()
        rig.worker.start()
        wait_until(lambda: len(_heard(rig)) >= 4, "the others are sent")
        wait_until(lambda: bool(_heard(rig) & set(SPOILED) or rig.subscriber.alarms("message-damaged")), "an alarm")
        if not trial.require(not _heard(rig) & set(SPOILED), f"a changed message was sent: {sorted(_heard(rig))}"):
            return
        rig.worker.stop()
        seen = len(rig.subscriber.alarms("message-damaged"))
        rig.worker.start()
        wait_until(
            lambda: any(alarm.content["active"] for alarm in rig.subscriber.alarms("message-damaged")[seen:]),
            "the alarm again, after a restart",
        )
        for seq in SPOILED:
            image = (rig.scans / listed[seq - 1].file).read_bytes()
            rig.generator.put(f"B01_again_{seq}.tif", image, None)
        rig.await_all()
        wait_until(lambda: not rig.subscriber.alarms("message-damaged")[-1].content["active"], "its end")
        trial.require_clean_stop(rig.worker)
        trial.take(rig.findings())


def rotten_numbers(trial: Trial) -> None:
    """The number to come is changed before each start, and each run dies at another point: no number comes twice."""
    with trial.rig() as rig:
        rig.worker.start()
        rig.generator.arrive(5)
        rig.await_all()
        rig.worker.kill()
        ids = [_ledger_id(rig)]
        for run in range(trial.size(len(POINTS), 10 * len(POINTS))):
            rot = ROTS[run % len(ROTS)]
            with sqlite3.connect(rig.state / "ledger.sqlite") as sql:
                sql.execute(rot)
            sql.close()
            point = [*POINTS][run % len(POINTS)]
            rig.worker.start("--die-at", f"{point}:{rig.chance.randint(1, 3)}", wait=False)

            def is_dead() -> bool:
                rig.generator.arrive(1)
                time.sleep(0.05)
                return not rig.worker.is_alive()

            wait_until(is_dead, f"its end at {point}, after {rot}")
            ids.append(_ledger_id(rig))
            if not trial.require(ids[-1] != ids[-2], f"went on under one ledger_id after {rot}"):
                return
        rig.worker.start()
        trial.recovered(rig.await_all())
        wait_until(lambda: bool(rig.subscriber.alarms("ledger-renewed")), "the alarm ledger-renewed")
        trial.require_clean_stop(rig.worker)
        trial.take(rig.findings(), "rotten numbers")
        seqs = numbers_heard(trial, rig)
        trial.require(set(seqs) <= {str(UUID(ledger_id)) for ledger_id in ids}, f"heard of {len(seqs)} ledgers")
        trial.figures["ledgers of rotten numbers"] = len(ids)


def _ledger_id(rig: Rig) -> str:
    with closing(sqlite3.connect(rig.state / "ledger.sqlite")) as sql:
        ((ledger_id,),) = sql.execute("SELECT value FROM meta WHERE key = 'ledger_id'").fetchall()
    return str(ledger_id)


def _anywhere_in_the_ledger(trial: Trial) -> None:
    """One bit of the file: the start is refused, the message is put aside, or nothing came to harm."""
    outcomes = {"refused": 0, "put aside": 0, "unharmed": 0}
    with trial.rig(Layout(evidence={"sample": 1.0})) as rig:
        rig.broker.stop()
        rig.worker.start()
        rig.generator.arrive(6)
        rig.await_judged(6)
        trial.require_clean_stop(rig.worker)
        ledger = rig.state / "ledger.sqlite"
        sound, (rows, _) = ledger.read_bytes(), rig.ledger_rows()
        written = {row.payload for row in rows}
        _spoil_a_piece(trial, rig.state / "evidence")
        rig.broker.start()
        in_a_message = 8 * sound.index(rows[2].verdict_id.encode()) + 1
        in_the_header = rig.chance.randrange(8 * len(b"SQLite format 3"))
        anywhere = [rig.chance.randrange(8 * len(sound)) for _ in range(trial.size(1, 60))]
        for bit in (in_a_message, in_the_header, *anywhere):
            content = bytearray(sound)
            content[bit // 8] ^= 1 << bit % 8
            for log_file in ("-wal", "-shm"):
                Path(f"{ledger}{log_file}").unlink(missing_ok=True)
            ledger.write_bytes(content)
            seen = rig.subscriber.count("verdict")
            alarms = len(rig.subscriber.alarms("message-damaged"))

            def is_over(seen: int = seen, alarms: int = alarms) -> bool:
                put_aside = len(rig.subscriber.alarms("message-damaged")) > alarms
                return not rig.worker.is_alive() or put_aside or rig.subscriber.count("verdict") >= seen + len(rows)

            rig.worker.start(wait=False)
            wait_until(is_over, f"a refusal, an alarm or all messages, after bit {bit} was changed")
            if not rig.worker.is_alive():
                code = rig.worker.wait_end()
                trial.require(code == EXIT_IO, f"bit {bit}: exit code {code}, expected {EXIT_IO}")
                outcomes["refused"] += 1
            else:
                rig.worker.kill()
                is_put_aside = len(rig.subscriber.alarms("message-damaged")) > alarms
                outcomes["put aside" if is_put_aside else "unharmed"] += 1
        sent = {message.payload for message in rig.subscriber.of("verdict")}
        trial.require(sent <= written, f"{len(sent - written)} messages were sent that nobody wrote")
        trial.findings.tried += len(rows)
    trial.require(outcomes["put aside"] > 0 and outcomes["refused"] > 0, f"what became of the bits: {outcomes}")
    trial.figures["bits of the ledger"] = outcomes


def _spoil(sql: sqlite3.Connection, seq: int) -> None:
    """Change one bit of a digit of its score, so that the message stays a valid one in a sound database."""
    ((payload,),) = sql.execute("SELECT payload FROM payloads WHERE seq = ?", (seq,)).fetchall()
    content, place = bytearray(payload), re.search(rb'"p_abnormal":0\.\d', payload)
    assert place is not None
    content[place.end() - 1] ^= 1
    sql.execute("UPDATE payloads SET payload = ? WHERE seq = ?", (bytes(content), seq))


def _spoil_a_piece(trial: Trial, evidence: Path) -> None:
    scan = next(evidence.glob("*/*/scan.png"), None)
    if not trial.require(scan is not None, "no evidence was kept"):
        return
    content = bytearray(scan.read_bytes())
    content[len(content) // 2] ^= 1
    scan.write_bytes(content)
    try:
        open_piece(evidence, f"{scan.parent.parent.name}/{scan.parent.name}").read(scan.name)
    except EvidenceError:
        return
    trial.require(False, "a changed picture is shown as if it were whole")


def _heard(rig: Rig) -> set[int]:
    return {message.content["seq"] for message in rig.subscriber.of("verdict")}
