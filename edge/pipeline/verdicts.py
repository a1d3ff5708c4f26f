"""From a judged scan to the message the MES receives."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID

import numpy as np
import numpy.typing as npt

from edge.contract.messages import (
    BoxPx,
    DurationsMs,
    GateInfo,
    ModelInfo,
    ScanInfo,
    Times,
    Verdict,
    finite_or_none,
    verdict_id,
)
from edge.evidence.piece import Selection
from edge.evidence.record import evidence_path
from edge.images.residual_boxes import MapGeometry, worst_windows
from edge.pipeline.prepare import Prepared
from edge.records import Box, Decision, Former, Outcome, Policy, Scan, Scores, Size

NEW = Former()


def parse_name(naming: re.Pattern[str], file: str) -> dict[str, str | None]:
    """What a file's name tells by the groups of the expression; empty if it does not fit."""
    named = naming.search(file)
    return named.groupdict() if named else {}


@dataclass(frozen=True, slots=True)
class VerdictFactory:
    """What all verdicts of one run share: who speaks, and for which model."""

    station: str
    topic: str
    """Whole topic of the verdicts: two lines may each have a station of this name."""
    boot_id: UUID
    model: ModelInfo
    policy: Policy
    input_size: Size
    map_geometry: MapGeometry
    naming: re.Pattern[str]
    selection: Selection | None = None
    """Which verdicts keep evidence; None: no verdict does."""
    is_simulated: bool = False

    def first_id(self, scan: Scan) -> str:
        """The id of the first verdict on these bytes by this model."""
        return verdict_id(self.topic, scan.sha256, self.model.sha256)

    def pixels_id(self, pixels_sha256: str) -> str:
        """The key by which equal pixels are known again: in unequal files, by another model, under another topic."""
        return verdict_id("", pixels_sha256, "", ("pixels",))

    def with_scores(
        self,
        prepared: Prepared,
        decision: Decision,
        scores: Scores,
        residual_map: npt.NDArray[np.float32],
        infer_ms: float,
        now: datetime,
    ) -> Verdict:
        """A new scan the networks were asked about; `residual_map` is float32 (map_height, map_width)."""
        scan = prepared.scan
        boxes: tuple[Box, ...] = ()
        if scan.height_px is not None and scan.width_px is not None:
            boxes = worst_windows(
                residual_map,
                self.map_geometry,
                self.input_size,
                Size(scan.height_px, scan.width_px),
                self.policy.gate_mean_threshold,
            )
        gate = self._gate(finite_or_none(scores.gate_mean_max), finite_or_none(scores.gate_std_max), boxes)
        p_abnormal = finite_or_none(scores.p_abnormal, 0.0, 1.0)
        return self._verdict(prepared, decision, p_abnormal, gate, infer_ms, NEW, now)

    def without_scores(self, prepared: Prepared, decision: Decision, now: datetime, former: Former = NEW) -> Verdict:
        """A file the networks were not asked about: unreadable, not made for this model, or repeated."""
        return self._verdict(prepared, decision, None, self._gate(None, None, ()), None, former, now)

    def id_of(self, scan: Scan, former: Former) -> str:
        """The id of the verdict on this arrival."""
        if former.repeats is None:
            return self.first_id(scan)
        # The last verdict of the name is part of it: A, B, A under one name are three arrivals.
        return verdict_id(self.topic, scan.sha256, self.model.sha256, (scan.file, former.name_id or ""))

    def _gate(self, mean_max: float | None, std_max: float | None, boxes: tuple[Box, ...]) -> GateInfo:
        return GateInfo(
            mean_max=mean_max,
            std_max=std_max,
            mean_threshold=self.policy.gate_mean_threshold,
            std_threshold=self.policy.gate_std_threshold,
            boxes_px=tuple(BoxPx(**asdict(box)) for box in boxes),
        )

    def _verdict(
        self,
        prepared: Prepared,
        decision: Decision,
        p_abnormal: float | None,
        gate: GateInfo,
        infer_ms: float | None,
        former: Former,
        now: datetime,
    ) -> Verdict:
        scan = prepared.scan
        name = parse_name(self.naming, scan.file)
        has_pixels = decision.outcome is not Outcome.UNREADABLE
        verdict_id = self.id_of(scan, former)
        is_kept = self.selection is not None and self.selection.why(decision.outcome, scan.file, verdict_id) is not None
        return Verdict(
            verdict_id=verdict_id,
            station=self.station,
            boot_id=self.boot_id,
            ledger_id=UUID(int=0),  # both are the ledger's to give
            seq=0,
            part_id=name.get("part_id"),
            bundle=name.get("bundle"),
            scan=ScanInfo(**asdict(scan)),
            outcome=decision.outcome,
            reasons=decision.reasons,
            detail=_detail(prepared, former),
            repeats=former.repeats,
            p_abnormal=p_abnormal,
            threshold=self.policy.threshold if has_pixels else None,
            review_band=self.policy.review_band if has_pixels else None,
            gate=gate,
            model=self.model,
            times=Times(first_seen_at=prepared.arrival.first_seen_at, decided_at=now),
            durations_ms=DurationsMs(
                read=round(prepared.read_ms, 3),
                convert=round(prepared.convert_ms, 3) if has_pixels else None,
                infer=round(infer_ms, 3) if infer_ms is not None else None,
            ),
            evidence=evidence_path(now, verdict_id) if is_kept else None,
            is_simulated=self.is_simulated,
        )


def _detail(prepared: Prepared, former: Former) -> str | None:
    if former.repeats is not None and prepared.pixels_sha256 is not None:
        return f"{prepared.scan.file}: this image was judged before, by verdict {former.repeats}"
    return prepared.detail
