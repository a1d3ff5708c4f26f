"""What follows a committed verdict: the log line, the tally, the evidence, the move of the file."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from edge.contract.messages import Latency, Verdict
from edge.contract.reasons import in_words
from edge.evidence.keeper import Keeper
from edge.evidence.piece import Offer
from edge.pipeline.worker import Judged
from edge.records import ExpectedFile, Outcome
from edge.station.archive import Archive
from edge.system.heartbeat import Beats
from edge.system.logs import event

log = logging.getLogger(__name__)

DRIFT_WEIGHT = 0.02
"""Weight of the newest scan in the running means: about the last 50 scans count."""


LATENCY_SCANS = 1000
"""Newest scans whose latency counts: the slowest ten of them lie above p99."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What was decided since the start; `drift` holds running means of the scores, None before the first one."""

    outcomes: dict[str, int]
    latency: Latency | None
    repeated: int
    unnamed: int
    last_scan_at: datetime | None
    last_verdict_at: datetime | None
    drift: dict[str, float | None]


class AfterVerdict:
    """Called by the worker's thread after each commit; the tally may be read from any."""

    def __init__(
        self,
        folder: Path,
        archive: Archive | None,
        keeper: Keeper | None,
        on_verdict: Callable[[], None],
        reads: Beats,
    ) -> None:
        """`keeper`: None where no evidence is kept. `reads`: told of each file while it is opened."""
        self._reads = reads
        self._keeper = keeper
        self._folder = folder
        self._archive = archive
        self._on_verdict = on_verdict
        self._lock = threading.Lock()
        self._outcomes: Counter[str] = Counter()
        self._latencies_s: deque[float] = deque(maxlen=LATENCY_SCANS)
        self._repeated = 0
        self._unnamed = 0
        self._last_scan: datetime | None = None
        self._last_verdict: datetime | None = None
        self._means: dict[str, float | None] = {"p_abnormal": None, "gate_mean_max": None, "gate_std_max": None}

    def follow(self, judged: Judged) -> None:
        """Never raises for the file: its verdict stands, whatever becomes of the evidence or the move."""
        stamp, verdict = judged.prepared.arrival.stamp, judged.verdict
        if verdict is None:
            event(log.info, "same scan judged before", file=judged.prepared.scan.file)
            with self._lock:
                self._repeated += 1
        else:
            self._on_verdict()
            self._note(verdict)
            _log_verdict(verdict)
            if self._keeper is not None:
                source = None
                if verdict.outcome is Outcome.UNREADABLE:
                    expected = judged.prepared.arrival.expected or ExpectedFile(stamp, has_stable_inodes=True)
                    source = self._folder / stamp.file, expected
                with self._reads.turn(stamp.file):
                    self._keeper.offer(_offer(judged, verdict), source)
        if self._archive is not None:
            self._archive.add(stamp)

    def tally(self) -> Tally:
        with self._lock:
            return Tally(
                dict(self._outcomes),
                _latency(self._latencies_s),
                self._repeated,
                self._unnamed,
                self._last_scan,
                self._last_verdict,
                dict(self._means),
            )

    def _note(self, verdict: Verdict) -> None:
        values = {
            "p_abnormal": verdict.p_abnormal,
            "gate_mean_max": verdict.gate.mean_max,
            "gate_std_max": verdict.gate.std_max,
        }
        with self._lock:
            self._outcomes[verdict.outcome.value] += 1
            times = verdict.times
            # A clock that was set back between the two gives less than nothing.
            self._latencies_s.append(max((times.decided_at - times.first_seen_at).total_seconds(), 0.0))
            self._unnamed += verdict.part_id is None
            self._last_scan = verdict.times.first_seen_at
            self._last_verdict = verdict.times.decided_at
            for name, value in values.items():
                mean = self._means[name]
                if value is not None:
                    self._means[name] = value if mean is None else mean + DRIFT_WEIGHT * (value - mean)


def _latency(latencies_s: Collection[float]) -> Latency | None:
    if not latencies_s:
        return None
    p50_s, p99_s = (round(float(value), 3) for value in np.percentile(list(latencies_s), (50, 99)))
    return Latency(p50_s=p50_s, p99_s=p99_s, scans=len(latencies_s))


def _offer(judged: Judged, verdict: Verdict) -> Offer:
    prepared = judged.prepared
    maps = judged.residual_map, judged.reason_map
    return Offer(verdict, prepared.counts, prepared.pixels_sha256, prepared.pixels, *maps)


def _log_verdict(verdict: Verdict) -> None:
    durations = verdict.durations_ms
    event(
        log.info,
        "scan judged",
        file=verdict.scan.file,
        part_id=verdict.part_id,
        seq=verdict.seq,
        outcome=verdict.outcome.value,
        reasons=list(verdict.reasons),
        detail=in_words(verdict),
        p_abnormal=verdict.p_abnormal,
        gate_mean=verdict.gate.mean_max,
        gate_std=verdict.gate.std_max,
        took_ms=round(
            sum(part for part in (durations.read, durations.convert, durations.infer) if part is not None), 1
        ),
        since_seen_s=round((verdict.times.decided_at - verdict.times.first_seen_at).total_seconds(), 3),
        verdict_id=verdict.verdict_id,
    )
