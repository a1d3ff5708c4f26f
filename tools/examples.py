"""An example of each message, shipped in its schema: what a developer of the MES builds fixtures from."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from edge.contract.alarm_code import AlarmCode
from edge.contract.messages import (
    Alarm,
    BoxPx,
    Disposition,
    DurationsMs,
    Evidence,
    GateInfo,
    Health,
    Latency,
    Message,
    ModelCard,
    ModelInfo,
    ScanInfo,
    Status,
    Times,
    Verdict,
    verdict_id,
)
from edge.images.method import Method
from edge.records import Outcome

STATION = "xray-1"
TOPIC = f"enterprise/site/area/line/{STATION}/inspection/verdict"
BOOT_ID = UUID("6f1c2a34-9a1b-4c8d-8e55-0c7f0b0a9d11")
LEDGER_ID = UUID("7d0c5c1e-52f0-4f07-9d3e-0c1f6a3d2b44")
MODEL_SHA256 = "fb5fcd80" * 8
MORNING = datetime(2026, 3, 1, 6, 0, tzinfo=UTC)


def _scan(part: str, sha256: str, width_px: int | None, height_px: int | None) -> ScanInfo:
    return ScanInfo(
        file=f"B01_{part}.tif",
        sha256=sha256,
        size_bytes=4_000_000 if width_px else 1_250_000,
        width_px=width_px,
        height_px=height_px,
        modified_at=MORNING - timedelta(seconds=1),
    )


_MODEL = ModelInfo(
    id="demo-3",
    sha256=MODEL_SHA256,
    conversion=Method.MIXED,
    bounds_counts=(1200, 48000),
    engine="onnxruntime",
    precision="fp32",
    degraded=None,
)

ABNORMAL = Verdict(
    verdict_id=verdict_id(TOPIC, "2a" * 32, MODEL_SHA256),
    station=STATION,
    boot_id=BOOT_ID,
    ledger_id=LEDGER_ID,
    seq=1204,
    part_id="0017",
    bundle="B01",
    scan=_scan("0017", "2a" * 32, 1000, 2000),
    outcome=Outcome.ABNORMAL,
    reasons=("classifier",),
    detail=None,
    repeats=None,
    p_abnormal=0.93,
    threshold=0.5,
    review_band=(0.4, 0.6),
    gate=GateInfo(mean_max=0.07, std_max=0.07, mean_threshold=0.35, std_threshold=0.34, boxes_px=()),
    model=_MODEL,
    times=Times(first_seen_at=MORNING, decided_at=MORNING + timedelta(milliseconds=412)),
    durations_ms=DurationsMs(read=9.4, convert=7.1, infer=302.6),
    evidence=f"2026-03-01/{verdict_id(TOPIC, '2a' * 32, MODEL_SHA256)}",
    is_simulated=False,
)

UNREADABLE = Verdict(
    verdict_id=verdict_id(TOPIC, "3b" * 32, MODEL_SHA256),
    station=STATION,
    boot_id=BOOT_ID,
    ledger_id=LEDGER_ID,
    seq=1205,
    part_id="0018",
    bundle="B01",
    scan=_scan("0018", "3b" * 32, None, None),
    outcome=Outcome.UNREADABLE,
    reasons=("truncated",),
    detail="B01_0018.tif: strip 3 ends at byte 1500000, the file has 1250000",
    repeats=None,
    p_abnormal=None,
    threshold=None,
    review_band=None,
    gate=GateInfo(mean_max=None, std_max=None, mean_threshold=0.35, std_threshold=0.34, boxes_px=()),
    model=_MODEL,
    times=Times(first_seen_at=MORNING + timedelta(seconds=2), decided_at=MORNING + timedelta(seconds=33)),
    durations_ms=DurationsMs(read=2.2, convert=None, infer=None),
    evidence=None,
    is_simulated=False,
)

ONLINE = Status(
    station=STATION,
    boot_id=BOOT_ID,
    ledger_id=LEDGER_ID,
    state="online",
    reason=None,
    hint=None,
    at=MORNING,
    versions={"edge-worker": "0.1.0", "python": "3.11.7"},
    degraded=None,
)

MODEL_CARD = ModelCard(
    station=STATION,
    boot_id=BOOT_ID,
    id="demo-3",
    sha256=MODEL_SHA256,
    created_at=MORNING - timedelta(days=3),
    loaded_at=MORNING,
    conversion=Method.MIXED,
    bounds_counts=(1200, 48000),
    height_px=2000,
    width_px=1000,
    channels=3,
    threshold=0.5,
    review_band=(0.4, 0.6),
    gate_mean_threshold=0.35,
    gate_std_threshold=0.34,
    engine="onnxruntime",
    precision="fp32",
    degraded=None,
)

HEALTH = Health(
    station=STATION,
    boot_id=BOOT_ID,
    at=MORNING + timedelta(minutes=1),
    uptime_s=60.2,
    backlog_scans=0,
    unsent_verdicts=0,
    oldest_unsent_s=None,
    last_scan_at=MORNING + timedelta(seconds=59),
    last_verdict_at=MORNING + timedelta(seconds=60),
    outcomes={"normal": 57, "abnormal": 2, "review": 1},
    latency=Latency(p50_s=0.41, p99_s=0.96, scans=60),
    repeated=0,
    overwritten=0,
    removed=0,
    unnamed=0,
    resident_bytes=310_000_000,
    clock_synchronised=True,
    disk_free_bytes=412_000_000_000,
    evidence=Evidence(kept=3, dropped=0, used_bytes=9_400_000),
    gpu=None,
    drift={"p_abnormal": 0.031, "gate_mean_max": 0.07, "gate_std_max": 0.07},
    alarms=(),
)

EXAMPLES: tuple[Message, ...] = (
    ABNORMAL,
    UNREADABLE,
    Disposition(
        disposition_id="4c" * 16,
        verdict_id=ABNORMAL.verdict_id,
        part_id="0017",
        decision="abnormal",
        kinds=("crack",),
        boxes_px=(BoxPx(x_px=410, y_px=1204, width_px=60, height_px=35),),
        comment="at the edge",
        by="mueller",
        at=MORNING + timedelta(minutes=9),
        read="first",
        is_blind=True,
        stands="abnormal",
        seconds_looked=8.5,
        previous="0" * 64,
        station=STATION,
        ledger_id=LEDGER_ID,
        seq=1377,
    ),
    ONLINE,
    Status(
        station=STATION,
        boot_id=BOOT_ID,
        ledger_id=None,
        state="refused",
        reason="model demo-3 is signed by a key that is not trusted",
        hint="put the public key of the signer into `model.trusted_key`, or the right model there",
        at=MORNING,
        versions={"edge-worker": "0.1.0", "python": "3.11.7"},
        degraded=None,
    ),
    MODEL_CARD,
    HEALTH,
    Alarm(
        station=STATION,
        boot_id=BOOT_ID,
        at=MORNING + timedelta(hours=2),
        code=AlarmCode.FOLDER_AWAY,
        active=True,
        message="/srv/xray/scans: No such file or directory",
        hint="check the mount; scans are taken when it is back",
    ),
)
