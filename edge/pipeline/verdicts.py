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
from edge.images.residual_boxes import MapGeometry, worst_windows
from edge.pipeline.prepare import Prepared
from edge.records import Box, Decision, Outcome, Policy, Scan, Scores, Size


@dataclass(frozen=True, slots=True)
class VerdictFactory:
    """What all verdicts of one run share: who speaks, and for which model."""

    station: str
    boot_id: UUID
    model: ModelInfo
    policy: Policy
    input_size: Size
    map_geometry: MapGeometry
    naming: re.Pattern[str]
    is_simulated: bool = False

    def known_by(self, scan: Scan) -> tuple[str, str]:
        """The ids under which this very file may have its verdict: as an image, under any name, or as `unreadable`."""
        return self._id(scan, is_image=True), self._id(scan, is_image=False)

    def with_scores(
        self,
        prepared: Prepared,
        decision: Decision,
        scores: Scores,
        residual_map: npt.NDArray[np.float32],
        infer_ms: float,
        now: datetime,
    ) -> Verdict:
        """A scan the networks were asked about; `residual_map` is float32 (map_height, map_width)."""
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
        return self._verdict(prepared, decision, p_abnormal, gate, infer_ms, now)

    def without_scores(self, prepared: Prepared, decision: Decision, now: datetime) -> Verdict:
        """A file the networks were not asked about: unreadable, or not made for this model."""
        return self._verdict(prepared, decision, None, self._gate(None, None, ()), None, now)

    def _id(self, scan: Scan, *, is_image: bool) -> str:
        return verdict_id(self.station, scan.sha256, self.model.id, None if is_image else scan.file)

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
        now: datetime,
    ) -> Verdict:
        scan = prepared.scan
        named = self.naming.search(scan.file)
        groups = named.groupdict() if named else {}
        has_pixels = decision.outcome is not Outcome.UNREADABLE
        return Verdict(
            verdict_id=self._id(scan, is_image=has_pixels),
            station=self.station,
            boot_id=self.boot_id,
            seq=0,  # the ledger counts
            part_id=groups.get("part_id"),
            bundle=groups.get("bundle"),
            scan=ScanInfo(
                file=scan.file,
                sha256=scan.sha256,
                size_bytes=scan.size_bytes,
                width_px=scan.width_px,
                height_px=scan.height_px,
                modified_at=scan.modified_at,
            ),
            outcome=decision.outcome,
            reasons=decision.reasons,
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
            is_simulated=self.is_simulated,
        )
