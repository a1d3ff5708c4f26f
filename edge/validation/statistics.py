"""Figures of a two-class decision with their intervals. Plain numpy; training and replay use the same code.

Positive means abnormal. An undefined figure (a rate of nothing) is NaN, never 0 and never 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.floating]
"""Probabilities of `abnormal`: float, shape (n,), finite."""

Labels = npt.NDArray[np.integer]
"""Classes: integer, shape (n,), 1 abnormal and 0 normal."""

Z_95 = 1.959963984540054
"""Two-sided 95 % point of the normal distribution."""


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Rate:
    """A share with the counts it comes from."""

    hits: int
    total: int

    @property
    def share(self) -> float:
        """hits / total, NaN of nothing."""
        return self.hits / self.total if self.total else math.nan

    @property
    def interval(self) -> Interval:
        """Wilson's 95 % interval."""
        return wilson(self.hits, self.total)


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts of a decision; positive means abnormal."""

    tp: int
    fp: int
    tn: int
    fn: int

    def __add__(self, other: Confusion) -> Confusion:
        """Decisions of several lots together: the paper sums the counts, not the accuracies (J 3)."""
        return Confusion(self.tp + other.tp, self.fp + other.fp, self.tn + other.tn, self.fn + other.fn)

    @property
    def total(self) -> int:
        """All decisions."""
        return self.tp + self.fp + self.tn + self.fn

    @property
    def sensitivity(self) -> Rate:
        """Abnormal scans that were called abnormal (TPR)."""
        return Rate(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> Rate:
        """Normal scans that were called normal (TNR)."""
        return Rate(self.tn, self.tn + self.fp)

    @property
    def balanced_accuracy(self) -> float:
        """(TPR + TNR) / 2; where one class is absent, the other's rate (J 3); NaN of nothing."""
        shares = [rate.share for rate in (self.sensitivity, self.specificity) if rate.total]
        return sum(shares) / len(shares) if shares else math.nan

    @property
    def balanced_accuracy_interval(self) -> Interval:
        """95 % interval of the balanced accuracy: the two Wilson intervals combined.

        With rates a, b and their Wilson limits, the lower limit is
        (a + b)/2 - sqrt((a - low_a)^2 + (b - low_b)^2)/2, the upper one likewise: the method of variance
        estimates recovery (Newcombe 1998, method 10; Zou and Donner 2008). Unlike a bootstrap it is not
        empty when every decision was right. It takes the scans as independent; scans of one lot are not,
        so the true uncertainty over new lots is larger.
        """
        rates = [rate for rate in (self.sensitivity, self.specificity) if rate.total]
        if len(rates) < 2:
            return rates[0].interval if rates else Interval(0.0, 1.0)
        below = math.hypot(*(rate.share - rate.interval.low for rate in rates)) / 2
        above = math.hypot(*(rate.interval.high - rate.share for rate in rates)) / 2
        return Interval(max(0.0, self.balanced_accuracy - below), min(1.0, self.balanced_accuracy + above))

    @property
    def accuracy(self) -> float:
        """Share of right decisions; NaN of nothing."""
        return Rate(self.tp + self.tn, self.total).share


@dataclass(frozen=True, slots=True)
class Roc:
    """True against false positive rate: float64 (k,), from (0, 0) to (1, 1), one point per distinct score.

    Point i is the decision `p >= thresholds[i]`; the first threshold is infinite.
    """

    thresholds: npt.NDArray[np.float64]
    fpr: npt.NDArray[np.float64]
    tpr: npt.NDArray[np.float64]


def confusion(p_abnormal: Scores, labels: Labels, threshold: float) -> Confusion:
    """Decisions `p >= threshold` against labels, both shape (n,). Raises ValueError for other shapes or NaN."""
    p, truth = _check(p_abnormal, labels)
    positive = p >= threshold
    return Confusion(
        tp=int(np.sum(positive & truth)),
        fp=int(np.sum(positive & ~truth)),
        tn=int(np.sum(~positive & ~truth)),
        fn=int(np.sum(~positive & truth)),
    )


def roc(p_abnormal: Scores, labels: Labels) -> Roc | None:
    """The ROC curve; None unless both classes are there. Raises ValueError as `confusion` does."""
    p, truth = _check(p_abnormal, labels)
    if truth.all() or not truth.any():
        return None
    thresholds, true_hits, false_hits = _hits_by_threshold(p, truth)
    return Roc(
        thresholds=np.concatenate([[np.inf], thresholds]),
        fpr=np.concatenate([[0.0], false_hits / np.sum(~truth)]),
        tpr=np.concatenate([[0.0], true_hits / np.sum(truth)]),
    )


def auroc(p_abnormal: Scores, labels: Labels) -> float:
    """Area under the ROC curve: the chance that an abnormal scan scores above a normal one, ties half.

    NaN unless both classes are there. Raises ValueError as `confusion` does.
    """
    curve = roc(p_abnormal, labels)
    if curve is None:
        return math.nan
    return float(np.sum(np.diff(curve.fpr) * (curve.tpr[1:] + curve.tpr[:-1]) / 2))


def auprc(p_abnormal: Scores, labels: Labels) -> float:
    """Area under precision over recall as a step function (average precision): sum of (R_i - R_i-1) P_i.

    A guess scores the share of abnormal scans here, not 0.5. NaN unless both classes are there. Raises
    ValueError as `confusion` does.
    """
    p, truth = _check(p_abnormal, labels)
    if truth.all() or not truth.any():
        return math.nan
    _, true_hits, false_hits = _hits_by_threshold(p, truth)
    precision = true_hits / (true_hits + false_hits)
    return float(np.sum(np.diff(true_hits, prepend=0) * precision) / np.sum(truth))


def none_if_nan(value: float) -> float | None:
    """A figure as it is written down: NaN, of nothing to measure, is None."""
    return None if math.isnan(value) else float(value)


def wilson(successes: int, total: int) -> Interval:
    """Wilson's 95 % score interval of a share; (0, 1) of nothing. Source: Wilson 1927."""
    if not 0 <= successes <= total:
        raise ValueError(f"{successes} of {total} is no share")
    if total == 0:
        return Interval(0.0, 1.0)
    share, z = successes / total, Z_95
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # At the ends the limits are 0 and 1 exactly, which rounding would miss.
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == total else min(1.0, middle + half)
    return Interval(low, high)


def _hits_by_threshold(
    p: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Distinct scores, highest first, with the abnormal and the normal scans at or above each."""
    order = np.argsort(-p, kind="stable")
    ranked, hits = p[order], truth[order]
    last_of_ties = np.flatnonzero(np.append(np.diff(ranked) != 0, True))
    true_hits = np.cumsum(hits, dtype=np.int64)[last_of_ties]
    return ranked[last_of_ties], true_hits, last_of_ties + 1 - true_hits


def _check(p_abnormal: Scores, labels: Labels) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    p, classes = np.asarray(p_abnormal, np.float64), np.asarray(labels)
    if p.ndim != 1 or p.shape != classes.shape:
        raise ValueError(f"scores {p.shape} and labels {classes.shape}: expected the same length")
    if not np.isfinite(p).all():
        raise ValueError(f"{np.sum(~np.isfinite(p))} of {p.size} scores are not finite")
    if not np.isin(classes, (0, 1)).all():
        raise ValueError("labels are 0 (normal) or 1 (abnormal)")
    return p, classes == 1
