"""Intervals of a cross-validation's figures, had other lots been judged: those of a replay, `edge.validation.lots`.

Scans of one lot look alike, so an interval over scans is too narrow. Of one lot there is none: 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edge.validation.lots import (
    LotInterval,
    WorstLot,
    auprc_over_lots,
    auroc_over_lots,
    balanced_accuracy_over_lots,
    half_width,
    placements_of,
    worst_lot,
)
from edge.validation.statistics import Confusion, Interval


def accuracy_interval(lots: Sequence[Confusion]) -> Interval:
    """95 % interval of the balanced accuracy of all lots' decisions added up; `lots` holds one count a lot."""
    found = [lot.tp for lot in lots], [lot.tp + lot.fn for lot in lots]
    passed = [lot.tn for lot in lots], [lot.tn + lot.fp for lot in lots]
    return _ends(balanced_accuracy_over_lots(*found, *passed))


def accuracy_difference(lots: Sequence[Confusion], others: Sequence[Confusion]) -> tuple[float, Interval]:
    """Balanced accuracy of one decision less that of another on the same lots in the same order, and its interval.

    Student's t on the lots' residuals: what makes a lot hard for either cancels out. Never narrower than what as many
    scans without a changed decision exclude: lots that all gained the same do not prove that the next one will.
    """
    counts = np.array([(lot.tp, lot.tp + lot.fn, lot.tn, lot.tn + lot.fp) for lot in lots], np.float64)
    gained = np.array(
        [(mine.tp - theirs.tp, mine.tn - theirs.tn) for mine, theirs in zip(lots, others, strict=True)], np.float64
    )
    scans = counts[:, 1::2]
    if len(lots) < 2 or not scans.sum(axis=0).all():
        with np.errstate(invalid="ignore"):
            return float((gained.sum(axis=0) / scans.sum(axis=0)).mean()), Interval(-1.0, 1.0)
    gain = gained.sum(axis=0) / scans.sum(axis=0)
    residuals = ((gained - gain * scans) / scans.sum(axis=0)).mean(axis=1)
    least = math.hypot(*(1 - 0.025 ** (1 / scans.sum(axis=0)))) / 2
    half, difference = max(half_width(residuals), least), float(gain.mean())
    return difference, Interval(max(-1.0, difference - half), min(1.0, difference + half))


def most_wrong(lots: Mapping[str, Confusion]) -> WorstLot | None:
    """The lot with the largest share of scans decided wrongly; None where all were decided rightly."""
    return worst_lot(list(lots), [lot.fp + lot.fn for lot in lots.values()], [lot.total for lot in lots.values()])


def auprc_interval(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], lots: Sequence[str]) -> Interval:
    """95 % interval of the average precision of scores (n,), each of the lot named beside it."""
    return _ends(auprc_over_lots(scores, labels, lots))


def auroc_interval(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], lots: Sequence[str]) -> Interval:
    """95 % interval of the area under the ROC curve of scores (n,), each of the lot named beside it."""
    return _ends(auroc_over_lots(scores, labels, lots))


def auroc_difference(
    scores: npt.NDArray[np.float64],
    others: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    lots: Sequence[str],
) -> tuple[float, Interval]:
    """Area under the ROC curve of scores (n,) less that of others (n,), of the same scans, and its interval over lots.

    Student's t on what each lot's scans gained in placement (DeLong 1988, a lot's together). Both labels exist.
    """
    is_abnormal = labels == 1
    names, place = np.unique(np.asarray(lots), return_inverse=True)
    gained = placements_of(scores, is_abnormal) - placements_of(others, is_abnormal)
    difference, residuals = float(gained[is_abnormal].mean()), np.zeros(names.size)
    for mine in (is_abnormal, ~is_abnormal):
        residuals += np.bincount(place[mine], weights=gained[mine] - difference, minlength=names.size) / mine.sum()
    if names.size < 2:
        return difference, Interval(-1.0, 1.0)
    half = half_width(residuals)
    return difference, Interval(max(-1.0, difference - half), min(1.0, difference + half))


def _ends(found: LotInterval | None) -> Interval:
    return Interval(0.0, 1.0) if found is None or found.lots < 2 else Interval(found.low, found.high)
