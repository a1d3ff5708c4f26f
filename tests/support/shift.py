"""A night at a station, for whatever reads its ledger: verdicts of every kind, evidence, decisions, hostile names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from edge.contract.messages import Answer, Verdict
from edge.evidence.record import evidence_path
from edge.records import Outcome
from edge.store.ledger import Entry, Ledger, open_ledger
from tests.support.evidence import sample_piece
from tests.support.samples import MORNING, STATION, sample_answer, sample_entry

HOSTILE = ('"><script>alert(1)</script>', "<img src=x onerror=alert(2)>", "=cmd|'/c calc'!A1", "\u202egnp.exe")
"""Names of parts and of decisions that would like to be more than names."""


@dataclass(frozen=True, slots=True)
class Night:
    """The files of a station after a night."""

    root: Path
    verdicts: list[Verdict]
    since: datetime
    until: datetime

    @property
    def config(self) -> Path:
        return self.root / "edge.toml"

    @property
    def folder(self) -> Path:
        return self.root / "scans"

    def of(self, outcome: Outcome) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.outcome is outcome]


def make_night(root: Path, count: int = 24) -> Night:
    """`count` verdicts, one every twenty minutes from MORNING on; every fourth is not normal and keeps evidence."""
    (root / "scans").mkdir(parents=True)
    (root / "edge.toml").write_text(
        f'station = "{STATION}"\n[folder]\npath = "{root / "scans"}"\n[state]\ndir = "{root / "state"}"\n'
    )
    verdicts: list[Verdict] = []
    with open_ledger(root / "state" / "ledger.sqlite", STATION) as ledger:
        for number in range(count):
            verdicts += _commit(ledger, root, number)
        for verdict in verdicts[7::8]:
            ledger.commit_disposition(answer_on(verdict, HOSTILE[1]))
        ledger.mark_sent([verdict.seq for verdict in verdicts[:-2]], verdicts[-1].times.decided_at)
    for index, verdict in enumerate(verdicts):
        if verdict.evidence is not None and index != 3:  # the fourth was dropped
            counts = np.random.default_rng(index).integers(1300, 47_000, (200, 100), dtype=np.uint16)
            sample_piece(root / "state" / "evidence", verdict=verdict, counts=counts, has_reason=index % 8 == 7)
    return Night(root, verdicts, MORNING - timedelta(minutes=1), MORNING + timedelta(minutes=20 * count))


def _commit(ledger: Ledger, root: Path, number: int) -> list[Verdict]:
    decided_at = MORNING + timedelta(minutes=20 * number)
    entry = sample_entry(number, decided_at=decided_at)
    verdict = entry.verdict
    assert verdict is not None
    file = f"B01_{number:04}.tif"
    data = f"scan {number}".encode()
    (root / "scans" / file).write_bytes(data)
    scan = verdict.scan.model_copy(update={"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)})
    times = verdict.times.model_copy(update={"first_seen_at": decided_at - timedelta(seconds=1 + number / 10)})
    changes: dict[str, object] = {
        "outcome": Outcome.NORMAL,
        "p_abnormal": 0.1,
        "times": times,
        "scan": scan,
        "part_id": f"{number:04}",
    }
    if number % 4 == 3:
        outcome = (Outcome.REVIEW, Outcome.ABNORMAL, Outcome.UNREADABLE)[number // 4 % 3]
        evidence = evidence_path(decided_at, verdict.verdict_id)
        changes |= {"outcome": outcome, "evidence": evidence, "part_id": (*HOSTILE, "0019", "0023")[number // 4 % 6]}
        if outcome is Outcome.REVIEW:
            changes |= {"reasons": ("gate-mean",), "p_abnormal": 0.3}
        if outcome is Outcome.UNREADABLE:
            gate = verdict.gate.model_copy(update={"mean_max": None, "std_max": None, "boxes_px": ()})
            detail = f"{file}: 10 of 4000000 bytes"
            changes |= {"reasons": ("truncated",), "detail": detail, "p_abnormal": None, "gate": gate}
        else:
            changes |= {"gate": verdict.gate.model_copy(update={"mean_max": 0.07})}
    changed = Verdict.model_validate({**verdict.model_dump(), **_plain(changes)})
    stored = ledger.commit([Entry(entry.stamp, entry.scan, changed)], decided_at)
    return [one for one in stored if one is not None]


def answer_on(verdict: Verdict, by: str) -> Answer:
    """That a person found the scan normal."""
    changes = {
        "disposition_id": hashlib.sha256(verdict.verdict_id.encode()).hexdigest()[:32],
        "verdict_id": verdict.verdict_id,
        "kinds": (),
        "comment": None,
        "by": by,
        "at": verdict.times.decided_at + timedelta(hours=1),
    }
    return sample_answer(decision="normal", part_id=verdict.part_id).model_copy(update=changes)


def _plain(changes: dict[str, object]) -> dict[str, object]:
    return {key: value.model_dump() if hasattr(value, "model_dump") else value for key, value in changes.items()}
