"""Compares the station's list, the worker's ledger and the subscriber's log. Shares no code with the worker."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.torture.generator import Listed

SCORE_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Message:
    """A line of the subscriber's log."""

    at_s: float
    kind: str
    payload: str

    @property
    def content(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.payload)
        return content


@dataclass(frozen=True, slots=True)
class LedgerRow:
    seq: int
    verdict_id: str
    payload: str
    is_sent: bool


@dataclass(slots=True)
class Findings:
    """What a comparison found; `faults` are sentences, empty when all is well."""

    tried: int = 0
    lost: int = 0
    duplicated: int = 0
    """Messages beyond the first of a verdict: allowed, if they are byte for byte the same."""
    contradictory: int = 0
    faults: list[str] = field(default_factory=list)


def read_ledger(path: Path) -> tuple[list[LedgerRow], str]:
    """Rows of a ledger nobody runs on (a copy is opened, log included) and the word of SQLite's integrity check."""
    with tempfile.TemporaryDirectory(prefix="ledger-copy-") as folder:
        for part in (path, path.with_name(f"{path.name}-wal")):
            if part.exists():
                shutil.copyfile(part, Path(folder) / part.name)
        sql = sqlite3.connect(Path(folder) / path.name)
        try:
            ((word,),) = sql.execute("PRAGMA integrity_check(1)").fetchall()
            rows = sql.execute(
                "SELECT seq, hex(verdict_id), payload, coalesce(sent_at_ms, -1) >= 0 FROM outbox"
                " JOIN payloads USING (seq) ORDER BY seq"
            ).fetchall()
        finally:
            sql.close()
    return [LedgerRow(seq, key.lower(), payload.decode(), bool(sent)) for seq, key, payload, sent in rows], word


def compare(listed: Sequence[Listed], messages: Iterable[Message], rows: Sequence[LedgerRow]) -> Findings:
    """Every listed content must have arrived, once or byte-identical; nothing else may have."""
    verdicts = [message for message in messages if message.kind == "verdict"]
    found = Findings(tried=len(listed))
    by_id: dict[str, Counter[str]] = {}
    for message in verdicts:
        by_id.setdefault(message.content["verdict_id"], Counter())[message.payload] += 1
    found.contradictory = sum(len(payloads) > 1 for payloads in by_id.values())
    found.duplicated = len(verdicts) - len(by_id)
    received = {}
    for payloads in by_id.values():
        content = json.loads(next(iter(payloads)))
        received[content["scan"]["sha256"]] = content
    known = {entry.sha256: entry for entry in listed}
    found.lost = sum(sha256 not in received for sha256 in known)
    for sha256, content in received.items():
        entry = known.get(sha256)
        if entry is None:
            found.faults.append(f"a verdict on bytes nobody listed: {content['scan']['file']} {content['reasons']}")
        elif not _score_fits(content["p_abnormal"], entry.p_abnormal):
            score = content["p_abnormal"]
            found.faults.append(f"{entry.file}: p_abnormal {score}, its pixels give {entry.p_abnormal}")
    _compare_with_ledger(found, by_id, rows)
    if found.lost:
        missing = [entry.file for entry in listed if entry.sha256 not in received]
        found.faults.append(f"{found.lost} lost, such as {missing[:3]}")
    if found.contradictory:
        found.faults.append(f"{found.contradictory} contradictory")
    return found


def _score_fits(said: float | None, expected: float | None) -> bool:
    if said is None or expected is None:
        return said is expected
    return abs(said - expected) <= SCORE_TOLERANCE


def _compare_with_ledger(found: Findings, by_id: dict[str, Counter[str]], rows: Sequence[LedgerRow]) -> None:
    stored = {row.verdict_id: row for row in rows}
    if len(stored) != len(rows):
        found.faults.append("the ledger holds two messages of one verdict")
    seqs = [row.seq for row in rows]
    if seqs and seqs != list(range(seqs[0], seqs[0] + len(seqs))):
        found.faults.append("the ledger's sequence has a gap")
    for verdict_id, payloads in by_id.items():
        row = stored.get(verdict_id)
        if row is None:
            found.faults.append(f"published and not in the ledger: verdict {verdict_id}")
        elif any(payload != row.payload for payload in payloads):
            found.faults.append(f"published bytes differ from the ledger's: verdict {verdict_id}")
    for row in rows:
        if row.is_sent and row.verdict_id not in by_id:
            found.faults.append(f"closed in the ledger, never received: seq {row.seq}")
