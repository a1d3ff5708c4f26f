"""One row of the table while it runs, and what it says in the end."""

from __future__ import annotations

import os
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.torture.checker import Findings
from tests.torture.rig import Layout, Rig, Worker


class Skipped(Exception):
    """The row cannot run here; the message says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. Counts are of scans, times in seconds."""

    id: str
    fault: str
    column: str
    seed: int
    verdict: str
    """pass, late (nothing but bars of time were missed), fail or skipped"""
    reason: str
    tried: int
    lost: int
    duplicated: int
    contradictory: int
    slowest_recovery_s: float | None
    took_s: float
    figures: dict[str, Any]
    load_average: float | None = None
    """Load of the machine over the last minute of the row: with more than its cores, times say little."""
    ended_at: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class Trial:
    """What a fault's procedure works with."""

    root: Path
    seed: int
    is_long: bool
    share: float = 1.0
    """Factor on the short column's sizes."""
    worker_options: tuple[str, ...] = ()
    """For every start of the worker, see tests/torture/worker.py."""
    figures: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    """Bars of time that were missed; what is not among the problems was lost or contradicted by nobody."""
    findings: Findings = field(default_factory=Findings)
    slowest_recovery_s: float | None = None
    notes: list[str] = field(default_factory=list)
    """Parts that could not run here, with the reason."""
    _rigs: int = 0

    def size(self, short: int, long: int) -> int:
        return long if self.is_long else max(1, round(short * self.share))

    def rig(self, layout: Layout | None = None) -> Rig:
        """A fresh line; to be used as a context."""
        self._rigs += 1
        return Rig(self.root / f"rig-{self._rigs}", self.seed, layout, self.worker_options)

    def require(self, holds: bool, otherwise: str) -> bool:
        """Note a broken promise; the row goes on."""
        if not holds:
            self.problems.append(otherwise)
        return holds

    def require_clean_stop(self, worker: Worker, which: str = "worker") -> bool:
        """SIGTERM, and note an exit code other than 0 with the last that the worker said."""
        code = worker.stop()
        said = "; ".join(str(entry["event"]) for entry in worker.read_log()[-4:])
        return self.require(code == 0, f"the {which} ended with {code}, not 0, after SIGTERM; its last words: {said}")

    def require_in_time(self, holds: bool, otherwise: str) -> bool:
        """Note a bar of time or rate that was missed: on a loaded machine that says little of the line."""
        if not holds:
            self.late.append(otherwise)
        return holds

    def recovered(self, seconds: float) -> None:
        self.slowest_recovery_s = round(max(seconds, self.slowest_recovery_s or 0.0), 2)

    def take(self, found: Findings, what: str = "") -> Findings:
        """Add up what the checker found; its faults are the row's."""
        self.findings.tried += found.tried
        self.findings.lost += found.lost
        self.findings.duplicated += found.duplicated
        self.findings.contradictory += found.contradictory
        self.problems += [f"{what}: {fault}" if what else fault for fault in found.faults]
        return found


@dataclass(frozen=True, slots=True)
class Procedure:
    """A fault of the list and the function that brings it about."""

    id: str
    fault: str
    run: Callable[[Trial], None]
    is_timed: bool = False
    """Work beside it would spoil its rates and latencies: it runs alone."""
    is_lengthy: bool = False
    """It begins before the others, so that none is left running by itself."""
    is_long_only: bool = False
    """The short column has it only where it is asked for by name."""


def run_procedure(procedure: Procedure, root: Path, seed: int, *, is_long: bool) -> Row:
    """Never raises for what the procedure finds or does; a failed one keeps its folder for the post-mortem."""
    folder = root / procedure.id
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    trial = Trial(folder, seed, is_long)
    began_s = time.monotonic()
    skip_reason = None
    try:
        procedure.run(trial)
    except Skipped as reason:
        skip_reason = str(reason)
    except Exception as error:  # noqa: BLE001 - a harness that stumbles over its own defect is a failed row
        (folder / "traceback.txt").write_text(traceback.format_exc())
        trial.problems.append(f"{type(error).__name__}: {error}")
    verdict = "skipped" if skip_reason else "fail" if trial.problems else "late" if trial.late else "pass"
    if verdict in ("pass", "skipped"):
        shutil.rmtree(folder, ignore_errors=True)
    reasons = [skip_reason] if skip_reason else ([*trial.problems, *trial.late][:4] or trial.notes)
    return Row(
        id=procedure.id,
        fault=procedure.fault,
        column="long" if is_long else "short",
        seed=seed,
        verdict=verdict,
        reason="; ".join(reasons),
        tried=trial.findings.tried,
        lost=trial.findings.lost,
        duplicated=trial.findings.duplicated,
        contradictory=trial.findings.contradictory,
        slowest_recovery_s=trial.slowest_recovery_s,
        took_s=round(time.monotonic() - began_s, 1),
        figures=trial.figures,
        load_average=round(os.getloadavg()[0], 1),
        ended_at=datetime.now(UTC).isoformat(timespec="minutes"),
    )
