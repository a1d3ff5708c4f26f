"""Intervals over lots: as wide as lots differ, never of no width, and true in simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from edge.validation.statistics import Confusion
from train.classifier.lots import accuracy_difference, accuracy_interval, auroc_difference, auroc_interval
from train.report import span_over

SETS = 300
LEAST_COVERAGE = 0.93 - 2 * math.sqrt(0.93 * 0.07 / SETS)
"""93 %, less two standard errors of the simulation."""


def test_an_interval_is_wider_where_the_errors_lie_together_in_few_lots() -> None:
    apart = accuracy_interval([Confusion(tp=8, fp=2, tn=8, fn=2)] * 10)
    together = accuracy_interval([Confusion(tp=10, fp=0, tn=10, fn=0)] * 8 + [Confusion(tp=0, fp=10, tn=0, fn=10)] * 2)
    assert 0.65 < apart.low < 0.8 < apart.high < 0.9
    assert together.low < 0.6 and together.high > 0.9


def test_what_makes_a_lot_hard_for_both_cancels_out_of_their_difference() -> None:
    good = [Confusion(tp=100 - 10 * lot, fp=0, tn=100, fn=10 * lot) for lot in range(10)]
    worse = [Confusion(tp=99 - 10 * lot, fp=0, tn=100, fn=10 * lot + 1) for lot in range(9)]
    found, (low, high) = accuracy_difference(good, [*worse, Confusion(9, 0, 100, 91)])
    assert found == pytest.approx(0.005)
    assert low < 0.005 < high
    assert high - low < 0.01 < accuracy_interval(good).high - accuracy_interval(good).low


def test_the_same_gain_in_every_lot_has_an_interval_all_the_same() -> None:
    """Six scans of each label exclude 45.9 % on one side, and so a change of half their combined width."""
    right, blind = [Confusion(tp=1, fp=0, tn=1, fn=0)] * 6, [Confusion(tp=0, fp=0, tn=1, fn=1)] * 6
    found, ends = accuracy_difference(right, blind)
    assert found == 0.5
    assert tuple(ends) == pytest.approx((0.5 - 0.459258 / math.sqrt(2), 0.5 + 0.459258 / math.sqrt(2)), abs=1e-5)


def test_lots_of_one_class_alone_leave_the_interval_unknown() -> None:
    assert accuracy_interval([Confusion(tp=3, fp=0, tn=0, fn=1)] * 3) == (0.0, 1.0)


def test_one_lot_has_no_interval_over_lots() -> None:
    assert accuracy_interval([Confusion(tp=9, fp=1, tn=9, fn=1)]) == (0.0, 1.0)
    assert auroc_interval(np.array([0.2, 0.9]), np.array([0, 1]), ["B1", "B1"]) == (0.0, 1.0)
    assert span_over((0.0, 1.0), 1, "lot") == "no interval: 1 lot"


def test_an_area_under_the_curve_without_error_is_not_certain() -> None:
    labels = np.tile([0, 1], 50)
    lots = [f"B{number // 10}" for number in range(100)]
    right = labels.astype(np.float64)
    sure = auroc_interval(right, labels, lots)
    assert 0.8 < sure.low < 0.95 and sure.high == 1.0
    wrong_in_one = auroc_interval(np.where(np.array(lots) == "B3", 1 - right, right), labels, lots)
    assert wrong_in_one.low < 0.75 and 0.9 < wrong_in_one.high < 1.0


def test_the_interval_of_an_area_under_the_curve_holds_that_of_new_lots() -> None:
    rng = np.random.default_rng(31)
    labels = np.tile(np.repeat([1, 0], [8, 30]), 12)
    lots = [f"B{lot:02}" for lot in range(12) for _ in range(38)]
    truth = stats.norm.cdf(2.5 / math.sqrt(2 + 2 * 0.5**2))
    covered = 0
    for _ in range(SETS):
        scores = 2.5 * labels + np.repeat(rng.normal(0, 0.5, 12), 38) + rng.normal(0, 1, labels.size)
        low, high = auroc_interval(scores, labels, lots)
        covered += low <= truth <= high
    assert covered / SETS >= LEAST_COVERAGE


@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_the_interval_of_a_difference_holds_that_of_new_lots(spread: float) -> None:
    """Two decisions on 12 lots: right on 80 % and 85 % of both labels, by lots that differ by `spread`."""
    rng = np.random.default_rng(32)
    covered = 0
    for _ in range(SETS):
        columns = []
        for mean in (0.85, 0.80):
            right = np.clip(mean + spread * rng.uniform(-1, 1, 12), 0, 1)
            found, passed = rng.binomial(8, right), rng.binomial(30, right)
            columns.append(
                [Confusion(tp, 30 - tn, tn, 8 - tp) for tp, tn in zip(found.tolist(), passed.tolist(), strict=True)]
            )
        _, (low, high) = accuracy_difference(*columns)
        covered += low <= 0.05 <= high
    assert covered / SETS >= LEAST_COVERAGE


def test_a_difference_of_two_areas_is_paired_and_holds_that_of_new_lots() -> None:
    """Two scores that share what makes a lot and a scan hard: the second sees the class a little better."""
    rng = np.random.default_rng(33)
    labels = np.tile(np.repeat([1, 0], [8, 12]), 12)
    lots = [f"B{lot:02}" for lot in range(12) for _ in range(20)]
    covered, widths, apart = 0, [], []
    deviation = math.sqrt(0.5**2 + 1 + 0.5**2)
    truth = stats.norm.cdf(2.0 / deviation / math.sqrt(2)) - stats.norm.cdf(1.5 / deviation / math.sqrt(2))
    for _ in range(SETS):
        shared = np.repeat(rng.normal(0, 0.5, 12), 20) + rng.normal(0, 1, labels.size)
        one, other = (gain * labels + shared + rng.normal(0, 0.5, labels.size) for gain in (2.0, 1.5))
        found, (low, high) = auroc_difference(one, other, labels, lots)
        assert low <= found <= high
        covered += low <= truth <= high
        widths.append(high - low)
        ends = auroc_interval(one, labels, lots)
        apart.append(ends.high - ends.low)
    assert covered / SETS >= LEAST_COVERAGE
    assert np.mean(widths) < np.mean(apart)
    assert auroc_difference(one, one, labels, lots)[0] == 0
