"""How fast a replay was, and what an archive of millions of scans would take. Apart from all other figures.

Everything else a replay finds follows from scans, labels and model alone, and is the same on every machine.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from uuid import UUID

import numpy as np

from edge.model.manifest import QuickPass
from edge.records import Scores
from edge.system.text import rfc3339
from edge.validation.table import ScanRow

STAGES = ("read", "convert", "infer")
ARCHIVE_SCANS = 10_000_000
"""The archive that the line of costs speaks of."""


@dataclass(frozen=True)
class Speed:
    """Figures of time for `run.json` and `--require`. None: nothing was judged, or that step never ran."""

    scans_per_s: float | None = field(metadata={"means": "judged files / seconds from the first to the last"})
    scans_per_core_hour: float | None = field(metadata={"means": "judged files in an hour on each core used"})
    read_ms_p50: float | None = field(metadata={"means": "median time to read a file, ms"})
    read_ms_p90: float | None = field(metadata={"means": "90th percentile of it, ms"})
    convert_ms_p50: float | None = field(metadata={"means": "median time to convert a scan to the input image, ms"})
    convert_ms_p90: float | None = field(metadata={"means": "90th percentile of it, ms"})
    infer_ms_p50: float | None = field(metadata={"means": "median time of both networks per scan, ms"})
    infer_ms_p90: float | None = field(metadata={"means": "90th percentile of it, ms"})
    doubtful_count: int | None = field(metadata={"means": "scored scans that the model's quick pass computed again"})
    """By the scores of the answer, so off by those that crossed the edge of doubt; None for a model without one."""

    def flat(self) -> dict[str, int | float | None]:
        """Names and values as `run.json` holds them."""
        return asdict(self)


SPEED_MEANINGS: dict[str, str] = {item.name: item.metadata["means"] for item in fields(Speed)}
"""Names of these figures with their definitions."""


@dataclass(frozen=True, slots=True)
class Run:
    """When, where and how fast files were judged."""

    program: str
    boot_id: UUID
    started_at: datetime
    finished_at: datetime
    elapsed_s: float
    """From the first file to the last, without what an earlier run had judged."""
    judged: int
    resumed: int
    """Files that an earlier run had judged before it was ended."""
    workers: int
    cores: int
    speed: Speed


def measure_speed(
    rows: Sequence[ScanRow], *, judged: int, elapsed_s: float, cores: int, quick_pass: QuickPass | None = None
) -> Speed:
    """Throughput of the `judged` files of this run on `cores`; of all `rows` the stages, and doubts of `quick_pass`."""
    per_s = judged / elapsed_s if judged and elapsed_s > 0 else None
    times = np.array([row.durations_ms for row in rows], np.float64).reshape(-1, len(STAGES))  # None becomes NaN
    middle, slow = [], []
    for column in times.T:
        ran = column[~np.isnan(column)]
        p50, p90 = np.percentile(ran, (50, 90)) if ran.size else (None, None)
        middle.append(None if p50 is None else float(p50))
        slow.append(None if p90 is None else float(p90))
    return Speed(
        scans_per_s=per_s,
        scans_per_core_hour=None if per_s is None else per_s * 3600 / cores,
        read_ms_p50=middle[0],
        read_ms_p90=slow[0],
        convert_ms_p50=middle[1],
        convert_ms_p90=slow[1],
        infer_ms_p50=middle[2],
        infer_ms_p90=slow[2],
        doubtful_count=None if quick_pass is None else _doubtful_count(rows, quick_pass),
    )


def _doubtful_count(rows: Sequence[ScanRow], quick_pass: QuickPass) -> int:
    columns = ((row.p_abnormal, row.gate_mean_max, row.gate_std_max) for row in rows)
    return sum(
        quick_pass.doubts(Scores(p, mean, std))
        for p, mean, std in columns
        if p is not None and mean is not None and std is not None
    )


def doubt_line(run: Run) -> str | None:
    """How many scans took the time of two passes, as a sentence; None for a model without a quick pass."""
    count = run.speed.doubtful_count
    return None if count is None else f"{count} scans were doubtful to the quick pass, and computed again in float32"


def cost_line(run: Run) -> str | None:
    """What an archive takes at this speed, as a sentence; None where the networks judged nothing."""
    rate = run.speed.scans_per_core_hour
    if rate is None or run.speed.infer_ms_p50 is None:  # files that are refused say nothing about an archive
        return None
    core_hours = ARCHIVE_SCANS / rate
    return (
        f"{rate:,.0f} scans an hour and core; {ARCHIVE_SCANS:,} take {core_hours:,.0f} core hours: "
        f"{_days(core_hours / 16)} on 16 cores, {_days(core_hours / 128)} on 128"
    )


def run_json(run: Run) -> str:
    """The run for programs."""
    facts = {
        "schema": "replay-run/1",
        "program": run.program,
        "boot_id": str(run.boot_id),
        "started_at": rfc3339(run.started_at),
        "finished_at": rfc3339(run.finished_at),
        "elapsed_s": round(run.elapsed_s, 3),
        "judged": run.judged,
        "resumed": run.resumed,
        "workers": run.workers,
        "cores": run.cores,
        "speed": run.speed.flat(),
        "archive": cost_line(run),
    }
    return json.dumps(facts, indent=2, allow_nan=False) + "\n"


def _days(hours: float) -> str:
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"
