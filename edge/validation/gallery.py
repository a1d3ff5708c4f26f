"""The scans a person should look at after a replay: the worst of each kind, and some where all went well.

Verdicts stream by; of each group only the first few by rank are kept. These scans are read and judged once more, for
their pictures: so a replay of any length needs the memory of a few dozen pictures, and takes none that is not seen.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from edge.contract.messages import Verdict
from edge.contract.reasons import OUT_OF_SPEC
from edge.records import Outcome, Policy
from edge.validation.labels import Label, LabelRow
from edge.validation.pictures import Picture
from edge.validation.table import ScanRow

UNREADABLE_SHOWN = 50
EXAMPLES_SHOWN = 2


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
    NORMAL = "normal"
    """Rightly, or without a label, passed: two examples, the least probability first."""
    ABNORMAL = "abnormal"
    """Labelled and called abnormal: two examples, the highest probability first."""


@dataclass(frozen=True, slots=True)
class Card:
    """One scan on a shelf."""

    row: ScanRow
    verdict: Verdict
    truth: LabelRow | None
    picture: Picture | None = None


class Gallery:
    """Takes every verdict, keeps the `size` first of each shelf."""

    def __init__(self, *, size: int, policy: Policy) -> None:
        self._size = size
        self._policy = policy
        self._heaps: dict[Shelf, list[tuple[float, int, Card]]] = {shelf: [] for shelf in Shelf}
        self._offered: Counter[Shelf] = Counter()
        self._order = 0

    def offer(self, verdict: Verdict, row: ScanRow, truth: LabelRow | None) -> None:
        """Keep the scan if it is among the first of its shelf so far."""
        shelf = shelf_of(row)
        self._offered[shelf] += 1
        self._order -= 1  # of equals the first stays
        rank = self._rank(shelf, row)
        heap = self._heaps[shelf]
        if len(heap) < self._limit(shelf):
            heapq.heappush(heap, (rank, self._order, Card(row, verdict, truth)))
        elif (rank, self._order) > heap[0][:2]:
            heapq.heapreplace(heap, (rank, self._order, Card(row, verdict, truth)))

    def add_pictures(self, picture_of: Callable[[str, Verdict], Picture | None]) -> None:
        """Picture what is kept, once all scans are judged, by file and verdict; unreadable files have no picture."""
        for shelf, heap in self._heaps.items():
            if shelf is not Shelf.UNREADABLE:
                heap[:] = [
                    (rank, order, replace(card, picture=picture_of(card.row.file, card.verdict)))
                    for rank, order, card in heap
                ]

    def cards(self, shelf: Shelf) -> list[Card]:
        """What is on a shelf, worst first."""
        return [card for _, _, card in sorted(self._heaps[shelf], key=lambda item: item[:2], reverse=True)]

    def offered(self, shelf: Shelf) -> int:
        """How many scans belong on a shelf, shown or not."""
        return self._offered[shelf]

    def _limit(self, shelf: Shelf) -> int:
        return {
            Shelf.UNREADABLE: UNREADABLE_SHOWN,
            Shelf.NORMAL: EXAMPLES_SHOWN,
            Shelf.ABNORMAL: EXAMPLES_SHOWN,
        }.get(shelf, self._size)

    def _rank(self, shelf: Shelf, row: ScanRow) -> float:
        if shelf not in (Shelf.REVIEW, Shelf.OUT_OF_SPEC) and row.p_abnormal is not None:
            return abs(row.p_abnormal - self._policy.threshold)
        if shelf is Shelf.REVIEW:
            return max(
                _ratio(row.gate_mean_max, self._policy.gate_mean_threshold),
                _ratio(row.gate_std_max, self._policy.gate_std_threshold),
            )
        return 0.0


def shelf_of(row: ScanRow) -> Shelf:
    """Where a scan belongs."""
    if row.outcome is Outcome.UNREADABLE:
        return Shelf.UNREADABLE
    if row.outcome is Outcome.REVIEW:
        return Shelf.OUT_OF_SPEC if OUT_OF_SPEC in row.reasons else Shelf.REVIEW
    if row.outcome is Outcome.NORMAL:
        return Shelf.ESCAPE if row.label is Label.ABNORMAL else Shelf.NORMAL
    if row.label is None:
        return Shelf.FLAGGED
    return Shelf.OVERKILL if row.label is Label.NORMAL else Shelf.ABNORMAL


def _ratio(score: float | None, threshold: float) -> float:
    """How far beyond its threshold; a score that is not finite is the furthest."""
    if score is None:
        return math.inf
    return score / threshold if threshold > 0 else score
