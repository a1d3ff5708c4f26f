"""Well-formed messages and files for tests to vary."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import UUID

from edge.contract.messages import (
    Answer,
    BoxPx,
    DurationsMs,
    GateInfo,
    ModelCard,
    ModelInfo,
    ScanInfo,
    Status,
    Times,
    Verdict,
    verdict_id,
)
from edge.records import FileStamp, Outcome, Scan
from edge.store.ledger import Entry

STATION = "xray-1"
MODEL_SHA256 = "ab" * 32
BOOT_ID = UUID("6f1c2a34-9a1b-4c8d-8e55-0c7f0b0a9d11")
MORNING = datetime(2026, 3, 1, 6, 0, 0, 123456, tzinfo=UTC)


def sample_verdict(number: int = 1, *, station: str = STATION, decided_at: datetime = MORNING) -> Verdict:
    """The verdict on scan `number`; equal numbers mean equal bytes on the detector."""
    sha256 = hashlib.sha256(f"scan {number}".encode()).hexdigest()
    return Verdict(
        verdict_id=verdict_id(station, sha256, MODEL_SHA256),
        station=station,
        boot_id=BOOT_ID,
        ledger_id=UUID(int=0),
        seq=0,
        part_id=f"{number:04d}",
        bundle="B01",
        scan=ScanInfo(
            file=f"B01_{number:04d}.tif",
            sha256=sha256,
            size_bytes=4_000_000,
            width_px=1000,
            height_px=2000,
            modified_at=MORNING,
        ),
        outcome=Outcome.ABNORMAL,
        reasons=("classifier",),
        detail=None,
        repeats=None,
        p_abnormal=0.75,
        threshold=0.5,
        review_band=(0.4, 0.6),
        gate=GateInfo(
            mean_max=0.01,
            std_max=0.02,
            mean_threshold=0.05,
            std_threshold=0.06,
            boxes_px=(BoxPx(x_px=1, y_px=2, width_px=3, height_px=4),),
        ),
        model=ModelInfo(
            id="demo-1",
            sha256=MODEL_SHA256,
            conversion="global",
            bounds_counts=(1200, 48000),
            engine="onnxruntime",
            precision="fp32",
            degraded=None,
        ),
        times=Times(first_seen_at=MORNING, decided_at=decided_at),
        durations_ms=DurationsMs(read=1.5, convert=2.0, infer=300.0),
        evidence=None,
        is_simulated=False,
    )


def sample_answer(number: int = 1, *, id_: int = 1, decision: str = "abnormal", part_id: str | None = "") -> Answer:
    """What a person decided of the verdict on scan `number`."""
    return Answer.model_validate(
        {
            "disposition_id": f"{id_:032x}",
            "verdict_id": sample_verdict(number).verdict_id,
            "part_id": f"{number:04d}" if part_id == "" else part_id,
            "decision": decision,
            "kinds": ("crack",),
            "boxes_px": (BoxPx(x_px=1, y_px=2, width_px=3, height_px=4),),
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


def sample_status(state: str, *, station: str = STATION, boot_id: UUID = BOOT_ID) -> Status:
    return Status.model_validate(
        {
            "station": station,
            "boot_id": boot_id,
            "ledger_id": None,
            "state": state,
            "reason": None,
            "hint": None,
            "at": MORNING,
            "versions": {"edge-worker": "1.0.0"},
            "degraded": None,
        }
    )


def sample_model_card(*, station: str = STATION, boot_id: UUID = BOOT_ID) -> ModelCard:
    return ModelCard(
        station=station,
        boot_id=boot_id,
        id="demo-1",
        sha256="ab" * 32,
        created_at=MORNING,
        loaded_at=MORNING,
        conversion="global",
        bounds_counts=(1200, 48000),
        height_px=2000,
        width_px=1000,
        channels=1,
        threshold=0.5,
        review_band=(0.4, 0.6),
        gate_mean_threshold=0.05,
        gate_std_threshold=0.06,
        engine="onnxruntime",
        precision="fp32",
        degraded=None,
    )
