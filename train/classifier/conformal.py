"""Thresholds and the review band, from scores of scans that the network did not learn from. Plain numpy.

The band is a split-conformal set (Vovk, Gammerman, Shafer 2005), one quantile per class, since the classes are of very
different size. At level alpha the set of a scan holds `abnormal` if p is at least the k-th smallest p of the abnormal
calibration scans, k = floor(alpha (n + 1)), and `normal` likewise from the other side. Were scans exchangeable, the
true label of a new one would be in its set with a probability of 1 - alpha at least, for each class, whatever the
network is worth. Scans of one lot resemble each other, so of a new lot this holds on average over lots, about: the
scans of single lots may be covered far less often (`coverage_by_lot`). Where the set is not one label, a person
decides. The band always holds the threshold, so that outside of it the threshold says what the set says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edge.validation.statistics import Labels, Rate, Scores, confusion
from train.metrics import best_threshold


@dataclass(frozen=True, slots=True)
class Band:
    """Probabilities of abnormal that a person decides, ends included."""

    low: float
    high: float

    def holds(self, p_abnormal: Scores) -> np.ndarray:
        """Which scores lie in the band: bool (n,)."""
        p = np.asarray(p_abnormal, np.float64)
        return np.asarray((p >= self.low) & (p <= self.high), np.bool_)


@dataclass(frozen=True, slots=True)
class Coverage:
    """What a band does to labelled scans: a scan is covered if it is reviewed or decided as its label says."""

    normal: Rate
    abnormal: Rate
    reviewed: Rate


def threshold_of_cost(p_abnormal: Scores, labels: Labels, miss_cost: float) -> float:
    """The threshold of least cost where a missed abnormal scan costs `miss_cost` false alarms."""
    return _best(p_abnormal, labels, lambda fp, fn: -(fp + miss_cost * fn))


def threshold_of_escapes(p_abnormal: Scores, labels: Labels, max_escape_rate: float) -> float:
    """The largest threshold that lets at most this share of the abnormal scans pass. Raises ValueError without any."""
    abnormal = np.sort(np.asarray(p_abnormal, np.float64)[np.asarray(labels) == 1])
    if abnormal.size == 0:
        raise ValueError("an escape rate needs abnormal scans")
    return float(abnormal[math.floor(max_escape_rate * abnormal.size + 1e-9)]) if max_escape_rate < 1 else 1.0


def threshold_of_balance(p_abnormal: Scores, labels: Labels) -> float:
    """The threshold of greatest balanced accuracy."""
    return best_threshold(p_abnormal, labels)


def review_band(p_abnormal: Scores, labels: Labels, alpha: float, threshold: float) -> Band:
    """The split-conformal band at level `alpha`; with too few scans of a class for that level it reaches to the end.

    Raises ValueError unless 0 < alpha < 1.
    """
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"a level of {alpha}: expected between 0 and 1")
    p, truth = np.asarray(p_abnormal, np.float64), np.asarray(labels) == 1
    least_abnormal = _kth(np.sort(p[truth]), alpha, 0.0)
    greatest_normal = 1.0 - _kth(np.sort(1.0 - p[~truth]), alpha, 0.0)
    # Just outside the ends the set is one label. Where both classes are apart, the gap between them has no label.
    low, high = sorted((least_abnormal, greatest_normal))
    return Band(min(low, threshold), max(high, threshold))


def coverage(p_abnormal: Scores, labels: Labels, band: Band, threshold: float) -> Coverage:
    """Shares of scans that are reviewed or decided rightly, by class, and of all that are reviewed."""
    p, truth = np.asarray(p_abnormal, np.float64), np.asarray(labels) == 1
    reviewed = band.holds(p)
    covered = reviewed | ((p >= threshold) == truth)
    return Coverage(
        normal=Rate(int(covered[~truth].sum()), int((~truth).sum())),
        abnormal=Rate(int(covered[truth].sum()), int(truth.sum())),
        reviewed=Rate(int(reviewed.sum()), reviewed.size),
    )


def coverage_by_lot(
    p_abnormal: Scores, labels: Labels, lots: Sequence[str], alpha: float, choose: Callable[[Scores, Labels], float]
) -> dict[str, Coverage]:
    """What threshold and band of all other lots do to the scans of each lot; `choose` finds a threshold.

    A lot without which a class is missing is left out.
    """
    p, truth, of_scan = np.asarray(p_abnormal, np.float64), np.asarray(labels), np.asarray(lots)
    found = {}
    for lot in dict.fromkeys(lots):
        own = of_scan == lot
        if len(np.unique(truth[~own])) == 2:
            threshold = choose(p[~own], truth[~own])
            band = review_band(p[~own], truth[~own], alpha, threshold)
            found[lot] = coverage(p[own], truth[own], band, threshold)
    return found


BINS = 10
"""Bins of p in which it is held against the share of abnormal scans."""


def reliability(p_abnormal: Scores, labels: Labels) -> list[tuple[float, Rate]]:
    """Mean p and share of abnormal scans of the scans in each bin of p; empty bins are left out."""
    p, truth = np.asarray(p_abnormal, np.float64), np.asarray(labels) == 1
    place = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    return [
        (float(p[place == i].mean()), Rate(int(truth[place == i].sum()), int((place == i).sum())))
        for i in range(BINS)
        if (place == i).any()
    ]


def calibration_error(p_abnormal: Scores, labels: Labels) -> float:
    """Expected calibration error: mean distance of the bins from the diagonal, weighted by their scans."""
    table = reliability(p_abnormal, labels)
    total = sum(rate.total for _, rate in table)
    return sum(abs(mean - rate.share) * rate.total for mean, rate in table) / total


def _kth(ordered: np.ndarray, alpha: float, none: float) -> float:
    k = math.floor(alpha * (ordered.size + 1) + 1e-9)
    return float(ordered[k - 1]) if k >= 1 else none


def _best(p_abnormal: Scores, labels: Labels, worth) -> float:  # type: ignore[no-untyped-def]
    """The middle between two neighbouring scores where the decision is worth most; the lowest of equals."""
    scores = np.unique(np.concatenate([[0.0], np.asarray(p_abnormal, np.float64), [1.0]]))
    middles = (scores[:-1] + scores[1:]) / 2
    reached = []
    for middle in middles:
        counts = confusion(p_abnormal, labels, float(middle))
        reached.append(worth(counts.fp, counts.fn))
    return float(middles[int(np.argmax(reached))])
