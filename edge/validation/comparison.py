"""Two models on the same scans: what one decides rightly and the other does not, and every decision that differs."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace

import numpy as np

from edge.contract.messages import ModelCard, Verdict
from edge.records import Outcome
from edge.validation.labels import Label
from edge.validation.lots import NO_LOT, WorstLot, worst_lot
from edge.validation.paired import Difference, PairedTable, difference_over_lots, paired_table
from edge.validation.pictures import Picture
from edge.validation.table import ScanRow

CHANGES_LISTED = 200
CHANGES_PICTURED = 12

_MEANING = "{} by this model less by the other"


@dataclass(frozen=True)
class ComparisonFigures:
    """Flat figures for `summary.json` and `--require`; None: no other model, or nothing to measure it on."""

    changed_count: int | None = field(default=None, metadata={"means": "files with another outcome"})
    right_difference: float | None = field(
        default=None, metadata={"means": _MEANING.format("share of labelled scans decided rightly")}
    )
    right_difference_low: float | None = field(default=None, metadata={"means": "its lower 95 % limit"})
    right_difference_high: float | None = field(default=None, metadata={"means": "its upper 95 % limit"})
    right_difference_lots_low: float | None = field(default=None, metadata={"means": "its lower 95 % limit over lots"})
    right_difference_lots_high: float | None = field(default=None, metadata={"means": "its upper 95 % limit over lots"})
    right_p_value: float | None = field(default=None, metadata={"means": "exact p of McNemar's test of it"})
    stopped_difference: float | None = field(
        default=None, metadata={"means": _MEANING.format("share of abnormal scans stopped")}
    )
    stopped_difference_low: float | None = field(default=None, metadata={"means": "its lower 95 % limit"})
    stopped_difference_high: float | None = field(default=None, metadata={"means": "its upper 95 % limit"})
    stopped_difference_lots_low: float | None = field(
        default=None, metadata={"means": "its lower 95 % limit over lots"}
    )
    stopped_difference_lots_high: float | None = field(
        default=None, metadata={"means": "its upper 95 % limit over lots"}
    )
    stopped_p_value: float | None = field(default=None, metadata={"means": "exact p of McNemar's test of it"})
    passed_difference: float | None = field(
        default=None, metadata={"means": _MEANING.format("share of normal scans passed")}
    )
    passed_difference_low: float | None = field(default=None, metadata={"means": "its lower 95 % limit"})
    passed_difference_high: float | None = field(default=None, metadata={"means": "its upper 95 % limit"})
    passed_difference_lots_low: float | None = field(default=None, metadata={"means": "its lower 95 % limit over lots"})
    passed_difference_lots_high: float | None = field(
        default=None, metadata={"means": "its upper 95 % limit over lots"}
    )
    passed_p_value: float | None = field(default=None, metadata={"means": "exact p of McNemar's test of it"})

    def flat(self) -> dict[str, int | float | None]:
        """Names and values as `summary.json` holds them."""
        return asdict(self)


COMPARISON_MEANINGS: dict[str, str] = {
    item.name: f"--against: {item.metadata['means']}" for item in fields(ComparisonFigures)
}
"""Names of these figures with their definitions."""


@dataclass(frozen=True, slots=True)
class PairedShare:
    """One reading of "right" under both models; the other model is the first of the table."""

    name: str
    table: PairedTable
    difference: Difference
    worst: WorstLot | None
    """Lot that lost the largest share of right decisions; None where none lost any."""


@dataclass(frozen=True, slots=True)
class Change:
    """A scan on which the models' outcomes differ."""

    row: ScanRow
    verdict: Verdict
    """This model's."""
    other: ScanRow
    picture: Picture | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the report shows of two models."""

    other: ModelCard
    shares: tuple[PairedShare, ...]
    changes: tuple[Change, ...]
    """The first CHANGES_LISTED, those that made a decision wrong before those that made it right."""
    figures: ComparisonFigures


class Changes:
    """Takes the rows of both models, keeps the changes that matter most."""

    def __init__(self) -> None:
        self.count = 0
        self._heap: list[tuple[tuple[int, float], int, Change]] = []

    def offer(self, row: ScanRow, verdict: Verdict, other: ScanRow) -> None:
        """Keep the scan if its outcome changed; of equals the first stays."""
        if row.outcome is other.outcome:
            return
        self.count += 1
        moved = abs(_p(row) - _p(other))
        item = ((_weight(row, other), moved), -self.count, Change(row, verdict, other))
        if len(self._heap) < CHANGES_LISTED:
            heapq.heappush(self._heap, item)
        elif item[:2] > self._heap[0][:2]:
            heapq.heapreplace(self._heap, item)

    def kept(self, picture_of: Callable[[str, Verdict], Picture | None]) -> tuple[Change, ...]:
        """What is kept, the gravest first; the first CHANGES_PICTURED with pictures."""
        in_order = [change for _, _, change in sorted(self._heap, key=lambda item: item[:2], reverse=True)]
        pictured = [
            replace(change, picture=picture_of(change.row.file, change.verdict))
            for change in in_order[:CHANGES_PICTURED]
            if change.row.outcome is not Outcome.UNREADABLE
        ]
        by_file = {change.row.file: change for change in pictured}
        return tuple(by_file.get(change.row.file, change) for change in in_order)


def compare(
    rows: Sequence[ScanRow], others: Sequence[ScanRow], other: ModelCard, changes: tuple[Change, ...], changed: int
) -> Comparison:
    """Compare the decisions of this model (`rows`) with those of another on the same files in the same order."""
    right = _share("Decided rightly", rows, others, (Label.NORMAL, Label.ABNORMAL))
    stopped = _share("Abnormal and stopped", rows, others, (Label.ABNORMAL,))
    passed = _share("Normal and passed", rows, others, (Label.NORMAL,))
    figures = ComparisonFigures(
        changed_count=changed,
        right_difference=_of(right, lambda share: share.difference.difference),
        right_difference_low=_of(right, lambda share: share.difference.low),
        right_difference_high=_of(right, lambda share: share.difference.high),
        right_difference_lots_low=_of(right, lambda share: share.difference.lots_low),
        right_difference_lots_high=_of(right, lambda share: share.difference.lots_high),
        right_p_value=_of(right, lambda share: share.table.p_value),
        stopped_difference=_of(stopped, lambda share: share.difference.difference),
        stopped_difference_low=_of(stopped, lambda share: share.difference.low),
        stopped_difference_high=_of(stopped, lambda share: share.difference.high),
        stopped_difference_lots_low=_of(stopped, lambda share: share.difference.lots_low),
        stopped_difference_lots_high=_of(stopped, lambda share: share.difference.lots_high),
        stopped_p_value=_of(stopped, lambda share: share.table.p_value),
        passed_difference=_of(passed, lambda share: share.difference.difference),
        passed_difference_low=_of(passed, lambda share: share.difference.low),
        passed_difference_high=_of(passed, lambda share: share.difference.high),
        passed_difference_lots_low=_of(passed, lambda share: share.difference.lots_low),
        passed_difference_lots_high=_of(passed, lambda share: share.difference.lots_high),
        passed_p_value=_of(passed, lambda share: share.table.p_value),
    )
    shares = tuple(share for share in (right, stopped, passed) if share is not None)
    return Comparison(other, shares, changes, figures)


def _share(
    name: str, rows: Sequence[ScanRow], others: Sequence[ScanRow], labels: tuple[Label, ...]
) -> PairedShare | None:
    """Right: an abnormal scan that does not pass, a normal one that does."""
    flags: list[tuple[bool, bool]] = []
    lots: list[str | None] = []
    for row, other in zip(rows, others, strict=True):
        if row.label in labels:
            flags.append((_is_right(other), _is_right(row)))
            lots.append(row.lot)
    first, second = np.array(flags, bool).reshape(-1, 2).T
    difference = difference_over_lots(first, second, lots)
    if difference is None:
        return None
    lost: dict[str, list[int]] = {}
    for (was_right, is_right), lot in zip(flags, lots, strict=True):
        tally = lost.setdefault(NO_LOT if lot is None else lot, [0, 0])
        tally[0] += was_right - is_right
        tally[1] += 1
    losses = [max(0, less) for less, _ in lost.values()]
    worst = worst_lot(list(lost), losses, [scans for _, scans in lost.values()])
    return PairedShare(name, paired_table(first, second), difference, worst)


def _is_right(row: ScanRow) -> bool:
    return (row.outcome is Outcome.NORMAL) == (row.label is Label.NORMAL)


def _weight(row: ScanRow, other: ScanRow) -> int:
    """3: an escape the other model had stopped; 2: another new mistake; 1: a mistake that is gone; 0: neither."""
    if row.label is None or _is_right(row) == _is_right(other):
        return 0
    return 1 if _is_right(row) else 3 if row.is_escape else 2


def _p(row: ScanRow) -> float:
    return 0.5 if row.p_abnormal is None else row.p_abnormal


def _of(share: PairedShare | None, figure: Callable[[PairedShare], float | None]) -> float | None:
    return None if share is None else figure(share)
