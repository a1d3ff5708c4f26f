"""What errors cost at the plant's own defect rate, and what a verdict is worth there.

A test set is often half abnormal, a plant is not: rates of the set (escapes of abnormal, overkill of normal) carry over
to another defect rate, shares of verdicts do not. Every figure here weighs the two classes by the plant's rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge.validation.lots import share_over_lots
from edge.validation.sample_size import CONFIDENCE, lower_bound, upper_bound

PER_MILLION = 1e6
_OF_TWO, _OF_FOUR = (1 - (1 - CONFIDENCE) / rates for rates in (2, 4))
"""Confidence of each of several limits that hold together (Bonferroni)."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Cost of one wrong or doubtful verdict, in any one unit of money."""

    escape: float
    """A defective electrode that goes on as normal."""

    overkill: float
    """A good electrode that is rejected."""

    review: float
    """A scan that a person looks at, whatever its class."""


@dataclass(frozen=True, slots=True)
class VerdictCounts:
    """Scans of each class by verdict: escapes and reviews of abnormal, overkill and reviews of normal."""

    abnormal: int
    escaped: int
    reviewed_abnormal: int
    normal: int
    overkill: int
    reviewed_normal: int


@dataclass(frozen=True, slots=True)
class PlantFigures:
    """What the rates mean at a defect rate."""

    defect_rate: float
    escapes_ppm: float
    """Defective electrodes that pass as normal, in a million electrodes made."""

    escapes_ppm_of_normal: float
    """Defective electrodes in a million that were called normal."""

    value_of_normal: float
    """Share of good electrodes among those called normal (negative predictive value); NaN where none is."""

    value_of_abnormal: float
    """Share of defective electrodes among those called abnormal (positive predictive value); NaN where none is."""

    review_share: float
    cost_per_scan: float | None
    """Expected cost of one electrode; None without prices."""

    escapes_ppm_bound: float
    """One-sided 95 % limits here and below, exact where one rate enters, Bonferroni's where several do."""

    value_of_normal_bound: float
    value_of_abnormal_bound: float
    cost_per_scan_bound: float | None


@dataclass(frozen=True, slots=True)
class PlantBounds:
    """One-sided 95 % limits of the figures of a plant had other lots been judged; fields as of PlantFigures."""

    escapes_ppm: float
    value_of_normal: float
    value_of_abnormal: float
    cost_per_scan: float | None


@dataclass(frozen=True, slots=True)
class CostCurve:
    """Expected cost of one scan by threshold; all arrays float64, shape (k,), thresholds rising."""

    thresholds: npt.NDArray[np.float64]
    cost: npt.NDArray[np.float64]
    escape: npt.NDArray[np.float64]
    overkill: npt.NDArray[np.float64]

    @property
    def cheapest(self) -> float:
        """Threshold of least cost; among equals the lowest, which lets fewer escapes through."""
        return float(self.thresholds[int(np.argmin(self.cost))])


def plant_figures(counts: VerdictCounts, defect_rate: float, prices: Prices | None = None) -> PlantFigures:
    """Figures of the verdicts at the plant's defect rate.

    Raises ValueError unless 0 <= defect_rate <= 1, and where a class has no scan.
    """
    _check_rate(defect_rate)
    if not counts.abnormal or not counts.normal:
        raise ValueError("figures of a plant need normal and abnormal scans")
    good, bad = counts.normal, counts.abnormal
    passed, found = good - counts.overkill - counts.reviewed_normal, bad - counts.escaped - counts.reviewed_abnormal
    escape, overkill = counts.escaped / bad, counts.overkill / good
    share_bad, share_good = defect_rate, 1 - defect_rate
    of_bad, of_good = counts.reviewed_abnormal / bad, counts.reviewed_normal / good

    value_of_normal = _value(share_good * passed / good, share_bad * escape)
    return PlantFigures(
        defect_rate=defect_rate,
        escapes_ppm=defect_rate * escape * PER_MILLION,
        escapes_ppm_of_normal=(1 - value_of_normal) * PER_MILLION,
        value_of_normal=value_of_normal,
        value_of_abnormal=_value(share_bad * found / bad, share_good * overkill),
        review_share=share_bad * of_bad + share_good * of_good,
        cost_per_scan=_cost(prices, defect_rate, escape, overkill, of_bad, of_good),
        escapes_ppm_bound=defect_rate * upper_bound(counts.escaped, bad) * PER_MILLION,
        value_of_normal_bound=_value(
            share_good * lower_bound(passed, good, _OF_TWO), share_bad * upper_bound(counts.escaped, bad, _OF_TWO)
        ),
        value_of_abnormal_bound=_value(
            share_bad * lower_bound(found, bad, _OF_TWO), share_good * upper_bound(counts.overkill, good, _OF_TWO)
        ),
        cost_per_scan_bound=_cost(
            prices,
            defect_rate,
            upper_bound(counts.escaped, bad, _OF_FOUR),
            upper_bound(counts.overkill, good, _OF_FOUR),
            upper_bound(counts.reviewed_abnormal, bad, _OF_FOUR),
            upper_bound(counts.reviewed_normal, good, _OF_FOUR),
        ),
    )


def plant_bounds(lots: Sequence[VerdictCounts], defect_rate: float, prices: Prices | None = None) -> PlantBounds | None:
    """Limits over lots, one entry each; Bonferroni's where several rates enter. None of a class from one lot alone.

    Raises ValueError unless 0 <= defect_rate <= 1.
    """
    _check_rate(defect_rate)
    bad, good = [lot.abnormal for lot in lots], [lot.normal for lot in lots]
    if min(sum(scans > 0 for scans in of_class) for of_class in (bad, good)) < 2:
        return None

    def ends(hits: Iterable[int], scans: Sequence[int], one_sided: float) -> tuple[float, float]:
        found = share_over_lots(list(hits), scans, 2 * one_sided - 1)
        assert found is not None, "two lots have such scans"
        return found.low, found.high

    def upper(hits: Iterable[int], scans: Sequence[int], one_sided: float) -> float:
        return ends(hits, scans, one_sided)[1]

    escaped, overkill = [lot.escaped for lot in lots], [lot.overkill for lot in lots]
    passed, _ = ends((lot.normal - lot.overkill - lot.reviewed_normal for lot in lots), good, _OF_TWO)
    found, _ = ends((lot.abnormal - lot.escaped - lot.reviewed_abnormal for lot in lots), bad, _OF_TWO)
    share_bad, share_good = defect_rate, 1 - defect_rate
    return PlantBounds(
        escapes_ppm=defect_rate * upper(escaped, bad, CONFIDENCE) * PER_MILLION,
        value_of_normal=_value(share_good * passed, share_bad * upper(escaped, bad, _OF_TWO)),
        value_of_abnormal=_value(share_bad * found, share_good * upper(overkill, good, _OF_TWO)),
        cost_per_scan=_cost(
            prices,
            defect_rate,
            upper(escaped, bad, _OF_FOUR),
            upper(overkill, good, _OF_FOUR),
            upper((lot.reviewed_abnormal for lot in lots), bad, _OF_FOUR),
            upper((lot.reviewed_normal for lot in lots), good, _OF_FOUR),
        ),
    )


def cost_curve(
    p_abnormal: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    is_reviewed: npt.NDArray[np.bool_],
    defect_rate: float,
    prices: Prices,
) -> CostCurve:
    """Cost over the threshold, all arrays shape (n,): abnormal from p >= threshold, reviewed scans stay reviewed.

    `is_reviewed` marks scans another check sends to review whatever the threshold is (gate, exposure, clipping). The
    thresholds are the distinct p and one above them all. Raises ValueError unless both classes are there and p is
    finite.
    """
    _check_rate(defect_rate)
    p, abnormal, reviewed = np.asarray(p_abnormal, np.float64), np.asarray(labels) == 1, np.asarray(is_reviewed, bool)
    if not np.isfinite(p).all() or abnormal.all() or not abnormal.any():
        raise ValueError("a cost curve needs finite scores of normal and of abnormal scans")
    thresholds = np.append(np.unique(p), np.nextafter(p.max(), np.inf))
    escapes = np.sort(p[abnormal & ~reviewed])
    goods = np.sort(p[~abnormal & ~reviewed])
    escape = np.searchsorted(escapes, thresholds, side="left") / np.sum(abnormal)
    overkill = (goods.size - np.searchsorted(goods, thresholds, side="left")) / np.sum(~abnormal)
    review = defect_rate * np.mean(reviewed[abnormal]) + (1 - defect_rate) * np.mean(reviewed[~abnormal])
    cost = (
        prices.escape * defect_rate * escape + prices.overkill * (1 - defect_rate) * overkill + prices.review * review
    )
    return CostCurve(thresholds, cost, escape, overkill)


def _value(right: float, wrong: float) -> float:
    """Share of right verdicts among all of a kind; NaN of none."""
    return right / (right + wrong) if right + wrong > 0 else math.nan


def _cost(
    prices: Prices | None, defect_rate: float, escape: float, overkill: float, of_bad: float, of_good: float
) -> float | None:
    """Expected cost of an electrode at rates of escapes, of overkill, and of reviews of bad and of good ones."""
    if prices is None:
        return None
    review = defect_rate * of_bad + (1 - defect_rate) * of_good
    errors = prices.escape * defect_rate * escape + prices.overkill * (1 - defect_rate) * overkill
    return errors + prices.review * review


def _check_rate(defect_rate: float) -> None:
    if not 0 <= defect_rate <= 1:
        raise ValueError(f"a defect rate of {defect_rate}: expected 0 to 1")
