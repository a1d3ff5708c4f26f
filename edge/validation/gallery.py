"""The scans a person should look at after a replay: the worst of each kind, as small pictures.

Scans stream by; of each group only the worst are kept, and of those only a thumbnail of about 20 kB. So a replay
of any length needs the memory of a few dozen pictures.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from edge.contract.messages import Verdict
from edge.errors import ScanError
from edge.images.conversion import Method
from edge.images.residual_boxes import MapGeometry
from edge.pipeline.decide import OUT_OF_SPEC
from edge.pipeline.worker import Judged
from edge.records import Outcome, Policy, Size
from edge.scans.scan import Decode, Limits, read_scan
from edge.validation.labels import LabelRow
from edge.validation.pictures import Picture, plain_picture, scan_picture
from edge.validation.results import ScanRow

UNREADABLE_SHOWN = 50


class Shelf(StrEnum):
    """The groups, each ordered by how much a person should see its scans."""

    ESCAPE = "escape"
    """Labelled abnormal, outcome normal: the most certain mistakes first."""
    OVERKILL = "overkill"
    """Labelled normal, outcome abnormal: the most certain mistakes first."""
    FLAGGED = "flagged"
    """No label, outcome abnormal: the highest probability first."""
    REVIEW = "review"
    """Sent to review after the networks ran: the furthest beyond a gate threshold first."""
    OUT_OF_SPEC = "out-of-spec"
    """Sent to review because the model was not made for such scans: in order of arrival."""
    UNREADABLE = "unreadable"
    """No pixels to judge: in order of arrival, without a picture."""


@dataclass(frozen=True, slots=True)
class Card:
    """One scan on a shelf."""

    row: ScanRow
    verdict: Verdict
    truth: LabelRow | None
    detail: str | None
    picture: Picture | None


class Gallery:
    """Takes every judged scan, keeps the worst `size` of each shelf."""

    def __init__(self, *, size: int, method: Method, geometry: MapGeometry, policy: Policy) -> None:
        self._size = size
        self._method = method
        self._geometry = geometry
        self._policy = policy
        self._heaps: dict[Shelf, list[tuple[float, int, Card]]] = {shelf: [] for shelf in Shelf}
        self._offered: Counter[Shelf] = Counter()
        self._order = 0

    def offer(self, judged: Judged, verdict: Verdict, row: ScanRow, truth: LabelRow | None) -> None:
        """Keep the scan if it is among the worst of its kind so far."""
        shelf = _shelf(row)
        if shelf is None:
            return
        self._offered[shelf] += 1
        self._order -= 1  # of equals the first stays
        rank = self._rank(shelf, row)
        heap = self._heaps[shelf]
        if len(heap) == self._limit(shelf) and (rank, self._order) < heap[0][:2]:
            return
        card = Card(row, verdict, truth, judged.prepared.detail, self._picture(judged, verdict))
        if len(heap) < self._limit(shelf):
            heapq.heappush(heap, (rank, self._order, card))
        else:
            heapq.heapreplace(heap, (rank, self._order, card))

    def add_out_of_spec_pictures(self, folder: Path, limits: Limits, decode: Decode) -> None:
        """Read the shown out-of-spec scans again and picture them with their own bounds, once all scans are judged.

        They were never converted. A file that is no longer the judged one stays without a picture.
        """
        heap = self._heaps[Shelf.OUT_OF_SPEC]
        for index, (rank, order, card) in enumerate(heap):
            try:
                frame = read_scan(folder / card.row.file, file=card.row.file, limits=limits, decode=decode)
            except ScanError:
                continue
            if frame.scan.sha256 == card.verdict.scan.sha256:
                heap[index] = (rank, order, replace(card, picture=plain_picture(frame.counts)))

    def cards(self, shelf: Shelf) -> list[Card]:
        """What is on a shelf, worst first."""
        return [card for _, _, card in sorted(self._heaps[shelf], key=lambda item: item[:2], reverse=True)]

    def offered(self, shelf: Shelf) -> int:
        """How many scans belong on a shelf, shown or not."""
        return self._offered[shelf]

    def _limit(self, shelf: Shelf) -> int:
        return UNREADABLE_SHOWN if shelf is Shelf.UNREADABLE else self._size

    def _rank(self, shelf: Shelf, row: ScanRow) -> float:
        if shelf in (Shelf.ESCAPE, Shelf.OVERKILL, Shelf.FLAGGED) and row.p_abnormal is not None:
            return abs(row.p_abnormal - self._policy.threshold)
        if shelf is Shelf.REVIEW:
            return max(
                _ratio(row.gate_mean_max, self._policy.gate_mean_threshold),
                _ratio(row.gate_std_max, self._policy.gate_std_threshold),
            )
        return 0.0

    def _picture(self, judged: Judged, verdict: Verdict) -> Picture | None:
        image, seen = judged.prepared.image, judged.prepared.scan
        if image is None or seen.height_px is None or seen.width_px is None:
            return None
        return scan_picture(
            image,
            self._method,
            judged.residual_map,
            self._geometry,
            self._policy.gate_mean_threshold,
            verdict.gate.boxes_px,
            Size(seen.height_px, seen.width_px),
        )


def _shelf(row: ScanRow) -> Shelf | None:
    if row.outcome is Outcome.UNREADABLE:
        return Shelf.UNREADABLE
    if row.outcome is Outcome.REVIEW:
        return Shelf.OUT_OF_SPEC if OUT_OF_SPEC in row.reasons else Shelf.REVIEW
    if row.is_escape:
        return Shelf.ESCAPE
    if row.is_overkill:
        return Shelf.OVERKILL
    return Shelf.FLAGGED if row.outcome is Outcome.ABNORMAL and row.label is None else None


def _ratio(score: float | None, threshold: float) -> float:
    """How far beyond its threshold; a score that is not finite is the furthest."""
    if score is None:
        return math.inf
    return score / threshold if threshold > 0 else score
