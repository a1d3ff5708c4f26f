"""Intervals over lots: whole lots are drawn again."""

import numpy as np
import pytest

from edge.validation.statistics import Confusion
from train.classifier.lots import accuracy_difference, accuracy_interval, auroc_interval
from train.report import span_over


def test_an_interval_is_wider_where_the_errors_lie_together_in_few_lots() -> None:
    apart = [Confusion(tp=8, fp=2, tn=8, fn=2)] * 10
    together = [Confusion(tp=10, fp=0, tn=10, fn=0)] * 8 + [Confusion(tp=0, fp=10, tn=0, fn=10)] * 2
    assert accuracy_interval(apart) == pytest.approx((0.8, 0.8))
    low, high = accuracy_interval(together)
    assert low < 0.6 and high == 1.0


def test_what_makes_a_lot_hard_for_both_cancels_out_of_their_difference() -> None:
    good = [Confusion(tp=10 - lot, fp=0, tn=10, fn=lot) for lot in range(10)]
    worse = [Confusion(tp=9 - lot, fp=0, tn=10, fn=lot + 1) for lot in range(9)] + [Confusion(0, 0, 10, 10)]
    found, (low, high) = accuracy_difference(good, worse)
    assert found == pytest.approx(0.05)
    assert high - low < 0.01 < accuracy_interval(good).high - accuracy_interval(good).low


def test_lots_of_one_class_alone_leave_the_interval_unknown() -> None:
    assert accuracy_interval([Confusion(tp=3, fp=0, tn=0, fn=1)] * 3) == (0.0, 1.0)


def test_one_lot_has_no_interval_over_lots() -> None:
    assert accuracy_interval([Confusion(tp=9, fp=1, tn=9, fn=1)]) == (0.0, 1.0)
    assert auroc_interval(np.array([0.2, 0.9]), np.array([0, 1]), ["B1", "B1"]) == (0.0, 1.0)
    assert span_over((0.0, 1.0), 1, "lot") == "no interval: 1 lot"


def test_the_area_under_the_curve_is_drawn_by_lot_too() -> None:
    labels = np.tile([0, 1], 50)
    lots = [f"B{number // 10}" for number in range(100)]
    right = labels.astype(np.float64)
    assert auroc_interval(right, labels, lots) == (1.0, 1.0)
    wrong_in_one = np.where(np.array(lots) == "B3", 1 - right, right)
    low, high = auroc_interval(wrong_in_one, labels, lots)
    assert low < 0.85 and high == 1.0
