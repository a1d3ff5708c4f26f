"""Bits that a disk or a memory has changed: what changed is told, and never sent, run or shown: R34."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

from edge.errors import EvidenceError
from edge.evidence.record import open_piece
from tests.torture.rig import Layout, Rig, wait_until
from tests.torture.trial import Trial

EXIT_IO = 74
SPOILED = (2, 5)


def bit_rot(trial: Trial) -> None:
    """R34: bits of stored messages, of the ledger anywhere, of a piece of evidence. R19 has those of the model."""
    changed_messages(trial)
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
