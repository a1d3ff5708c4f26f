"""Intervals had other lots been judged: lots are drawn again, scans of one lot stay together. Plain numpy.

Scans of one lot look alike, so an interval over scans is too narrow; a percentile bootstrap of a dozen lots is still
rather too narrow than too wide. Of one lot there is none: 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from edge.validation.statistics import Confusion, Interval, auroc

DRAWS: Final = 2000
"""Times the lots are drawn again."""

Counts = npt.NDArray[np.float64]


def accuracy_interval(lots: Sequence[Confusion]) -> Interval:
    """95 % interval of the balanced accuracy of all lots' decisions added up; `lots` holds one count a lot."""
    if len(lots) < 2:
        return Interval(0.0, 1.0)
    counts = _counts(lots)
    return _interval(_balanced(counts[_draws(len(lots))].sum(axis=1)))


def accuracy_difference(lots: Sequence[Confusion], others: Sequence[Confusion]) -> tuple[float, Interval]:
    """Balanced accuracy of one decision less that of another on the same lots in the same order, and its interval.

    Both are drawn together: what makes a lot hard for either cancels out.
    """
    mine, theirs, draws = _counts(lots), _counts(others), _draws(len(lots))
    drawn = _balanced(mine[draws].sum(axis=1)) - _balanced(theirs[draws].sum(axis=1))
    found = _balanced(mine.sum(axis=0)) - _balanced(theirs.sum(axis=0))
    return float(found), _interval(drawn)


def auroc_interval(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], lots: Sequence[str]) -> Interval:
    """95 % interval of the area under the ROC curve of scores (n,), each of the lot named beside it."""
    names = np.array(lots)
    members = [np.flatnonzero(names == name) for name in np.unique(names)]
    if len(members) < 2:
        return Interval(0.0, 1.0)
    areas = []
    for draw in _draws(len(members)):
        numbers = np.concatenate([members[place] for place in draw])
        areas.append(auroc(scores[numbers], labels[numbers]))
    return _interval(np.array(areas))


def _draws(lots: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(0).integers(lots, size=(DRAWS, lots))


def _counts(lots: Sequence[Confusion]) -> Counts:
    return np.array([(lot.tp, lot.fn, lot.tn, lot.fp) for lot in lots], np.float64)


def _balanced(counts: Counts) -> Counts:
    """Balanced accuracy of counts (..., 4); NaN where a draw holds one class only."""
    with np.errstate(invalid="ignore"):
        tp, fn, tn, fp = np.moveaxis(counts, -1, 0)
        return np.asarray((tp / (tp + fn) + tn / (tn + fp)) / 2)


def _interval(drawn: Counts) -> Interval:
    known = drawn[np.isfinite(drawn)]
    if len(known) == 0:
        return Interval(0.0, 1.0)
    low, high = np.quantile(known, (0.025, 0.975))
    return Interval(float(low), float(high))
