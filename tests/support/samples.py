"""Well-formed messages and files for tests to vary: the examples of the schemas with plainer values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import UUID

from edge.contract.messages import (
    Answer,
    BoxPx,
    GateInfo,
    Health,
    Latency,
    ModelCard,
    Status,
    Times,
    Verdict,
    verdict_id,
)
from edge.images.method import Method
from edge.records import FileStamp, Scan
from edge.store.ledger import Entry
from tools.examples import ABNORMAL, HEALTH, MODEL_CARD, ONLINE, STATION

MODEL_SHA256 = "ab" * 32
MORNING = datetime(2026, 3, 1, 6, 0, 0, 123456, tzinfo=UTC)
BOX = BoxPx(x_px=1, y_px=2, width_px=3, height_px=4)


def sample_verdict(number: int = 1, *, station: str = STATION, decided_at: datetime = MORNING) -> Verdict:
    """The verdict on scan `number`; equal numbers mean equal bytes on the detector."""
    sha256 = hashlib.sha256(f"scan {number}".encode()).hexdigest()
    gate = GateInfo(mean_max=0.01, std_max=0.02, mean_threshold=0.05, std_threshold=0.06, boxes_px=(BOX,))
    scan = {"file": f"B01_{number:04d}.tif", "sha256": sha256}
    model = {"id": "demo-1", "sha256": MODEL_SHA256, "conversion": Method.GLOBAL}
    changes = {
        "verdict_id": verdict_id(station, sha256, MODEL_SHA256),
        "station": station,
        "ledger_id": UUID(int=0),
        "seq": 0,
        "part_id": f"{number:04d}",
        "scan": ABNORMAL.scan.model_copy(update=scan),
        "p_abnormal": 0.75,
        "gate": gate,
        "model": ABNORMAL.model.model_copy(update=model),
        "times": Times(first_seen_at=MORNING, decided_at=decided_at),
        "evidence": None,
    }
    return ABNORMAL.model_copy(update=changes)


def sample_answer(number: int = 1, *, id_: int = 1, decision: str = "abnormal", part_id: str | None = "") -> Answer:
    """What a person decided of the verdict on scan `number`."""
    return Answer.model_validate(
        {
            "disposition_id": f"{id_:032x}",
            "verdict_id": sample_verdict(number).verdict_id,
            "part_id": f"{number:04d}" if part_id == "" else part_id,
            "decision": decision,
            "kinds": ("crack",),
            "boxes_px": (BOX,),
            "comment": "am Rand, außen",
            "by": "mueller",
            "at": MORNING,
            "read": "first",
            "is_blind": True,
            "stands": "normal",
            "seconds_looked": 4.5,
            "previous": "0" * 64,
        }
    )


def sample_stamp(file: str) -> FileStamp:
    return FileStamp(file, inode=7, size_bytes=4_000_000, modified_ns=1_772_000_000_000_000_000)


def stored_seqs(stored: Iterable[Verdict | None]) -> list[int | None]:
    """The numbers that a commit gave."""
    return [verdict.seq if verdict else None for verdict in stored]


def sample_entry(number: int = 1, *, station: str = STATION, decided_at: datetime = MORNING) -> Entry:
    verdict = sample_verdict(number, station=station, decided_at=decided_at)
    scan = Scan(verdict.scan.file, verdict.scan.sha256, verdict.scan.size_bytes, MORNING, 1000, 2000)
    return Entry(sample_stamp(scan.file), scan, verdict)


def sample_status(state: str) -> Status:
    return ONLINE.model_copy(update={"ledger_id": None, "state": state})


def sample_health() -> Health:
    """After a minute with three verdicts, under an alarm."""
    changes = {
        "at": MORNING,
        "outcomes": {"normal": 3},
        "latency": Latency(p50_s=0.4, p99_s=1.25, scans=3),
        "drift": {"p_abnormal": None},
        "alarms": ("share-away",),
    }
    return Health(**dict(HEALTH) | changes)


def sample_model_card() -> ModelCard:
    """The card of the model that `sample_verdict` names."""
    changes = {
        "id": "demo-1",
        "sha256": MODEL_SHA256,
        "conversion": Method.GLOBAL,
        "channels": 1,
        "gate_mean_threshold": 0.05,
        "gate_std_threshold": 0.06,
    }
    return MODEL_CARD.model_copy(update=changes)
