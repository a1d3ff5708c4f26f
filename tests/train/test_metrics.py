"""Figures and thresholds against cases small enough to count by hand."""

import numpy as np
import pytest

from edge.validation.statistics import auroc, confusion, wilson
from train.metrics import auroc_interval, best_threshold, severity_thirds, third_of, threshold_with_above


def test_severities_fall_into_thirds_and_one_on_a_border_into_the_upper() -> None:
    thirds = severity_thirds([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    assert thirds == [(pytest.approx(low), pytest.approx(low + 0.2)) for low in (0.1, 0.3, 0.5)]
    assert [third_of(severity, thirds) for severity in (0.0, 0.2, thirds[1][0], 0.45, thirds[2][0], 0.9)] == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]
    assert severity_thirds([0.1, 0.2]) == []


def test_decisions_are_counted_at_the_threshold_itself() -> None:
    counted = confusion(np.array([0.2, 0.5, 0.5, 0.9]), np.array([0, 0, 1, 1]), 0.5)
    assert (counted.tp, counted.fp, counted.tn, counted.fn) == (2, 1, 1, 0)
    assert counted.balanced_accuracy == 0.75


def test_a_class_that_is_absent_leaves_the_other_ones_rate() -> None:
    assert confusion(np.array([0.1, 0.9, 0.2]), np.array([0, 0, 0]), 0.5).balanced_accuracy == pytest.approx(2 / 3)


def test_the_threshold_lies_in_the_gap_between_the_classes() -> None:
    threshold = best_threshold(np.array([0.01, 0.02, 0.9, 0.99]), np.array([0, 0, 1, 1]))
    assert 0.02 < threshold < 0.9


def test_the_threshold_has_the_greatest_balanced_accuracy_there_is() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    p = np.clip(0.3 * labels + rng.random(60) * 0.7, 0, 1)
    best = max(confusion(p, labels, t).balanced_accuracy for t in np.linspace(0, 1, 2001))
    assert confusion(p, labels, best_threshold(p, labels)).balanced_accuracy >= best


def test_a_threshold_for_useless_scores_decides_all_scans_alike() -> None:
    p = np.full(6, 0.4)
    counted = confusion(p, np.array([0, 1, 0, 1, 0, 1]), best_threshold(p, np.array([0, 1, 0, 1, 0, 1])))
    assert counted.balanced_accuracy == 0.5


def test_a_threshold_from_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="both classes"):
        best_threshold(np.array([0.1, 0.2]), np.array([1, 1]))


def test_a_threshold_from_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        best_threshold(np.array([0.1, np.nan]), np.array([0, 1]))


def test_the_area_counts_pairs_in_the_right_order_and_ties_half() -> None:
    assert auroc(np.array([0.1, 0.5, 0.5, 0.9]), np.array([0, 0, 1, 1])) == pytest.approx(3.5 / 4)


@pytest.mark.parametrize("above", [0, 1, 5])
def test_exactly_so_many_scores_exceed_the_threshold(above: int) -> None:
    scores = np.random.default_rng(1).permutation(20).astype(float)
    assert np.sum(scores > threshold_with_above(scores, above)) == above


def test_the_wilson_interval_of_nothing_wrong_in_100_still_allows_a_few() -> None:
    low, high = wilson(0, 100)
    assert low == 0.0
    assert high == pytest.approx(0.037, abs=1e-3)


@pytest.mark.parametrize(("area", "positives", "negatives"), [(0.9, 20, 30), (0.5, 50, 50), (0.99, 500, 4500)])
def test_the_limits_of_an_area_lie_so_many_of_their_own_errors_away(
    area: float, positives: int, negatives: int
) -> None:
    mean = (positives + negatives) / 2
    limits = auroc_interval(area, positives, negatives)
    assert limits.low < area < limits.high
    for a in limits:
        # Hanley and McNeil's variance, written out.
        q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
        variance = (a * (1 - a) + (mean - 1) * (q1 - a * a) + (mean - 1) * (q2 - a * a)) / (positives * negatives)
        assert abs(area - a) == pytest.approx(1.959964 * variance**0.5, rel=1e-5)


def test_a_perfect_area_is_not_taken_for_certain() -> None:
    assert auroc_interval(1.0, 20, 30).high == 1.0
    assert 0.8 < auroc_interval(1.0, 20, 30).low < 0.95 < auroc_interval(1.0, 500, 500).low
    assert auroc_interval(0.0, 20, 30).high == pytest.approx(1 - auroc_interval(1.0, 20, 30).low)
    assert auroc_interval(float("nan"), 0, 30) == (0.0, 1.0)
