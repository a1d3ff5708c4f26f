"""Rates, intervals and curves against counted and published figures."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.validation.statistics import Confusion, Interval, Rate, auprc, auroc, confusion, roc, wilson

TIED_P = np.array([0.1, 0.5, 0.5, 0.9])
TIED_LABELS = np.array([0, 0, 1, 1])

scored = st.integers(2, 40).flatmap(
    lambda n: st.tuples(
        st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.3000001, 0.7, 1.0]), min_size=n, max_size=n),
        st.lists(st.integers(0, 1), min_size=n, max_size=n),
    )
)


def test_a_score_equal_to_the_threshold_is_a_positive_decision() -> None:
    assert confusion(TIED_P, TIED_LABELS, 0.5) == Confusion(tp=2, fp=1, tn=1, fn=0)


def test_confusions_of_lots_add_up_before_the_accuracy_is_taken() -> None:
    first, second = Confusion(tp=1, fp=0, tn=0, fn=0), Confusion(tp=0, fp=1, tn=8, fn=1)
    assert (first + second).balanced_accuracy == pytest.approx((1 / 2 + 8 / 9) / 2)


def test_balanced_accuracy_of_one_class_is_the_rate_of_that_class() -> None:
    assert Confusion(tp=3, fp=0, tn=0, fn=1).balanced_accuracy == 0.75
    assert Confusion(tp=3, fp=0, tn=0, fn=1).balanced_accuracy_interval == wilson(3, 4)


def test_figures_of_nothing_are_not_numbers_and_their_intervals_know_nothing() -> None:
    nothing = Confusion(0, 0, 0, 0)
    assert math.isnan(nothing.balanced_accuracy)
    assert math.isnan(nothing.accuracy)
    assert math.isnan(Rate(0, 0).share)
    assert nothing.balanced_accuracy_interval == Rate(0, 0).interval == Interval(0.0, 1.0)


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_equal_those_newcombe_published(successes: int, total: int, low: float, high: float) -> None:
    """Newcombe 1998, Two-sided confidence intervals for the single proportion, table I, method 3."""
    interval = wilson(successes, total)
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


def test_a_share_that_is_none_of_its_total_has_no_interval() -> None:
    with pytest.raises(ValueError, match="5 of 4"):
        wilson(5, 4)


def test_a_perfect_result_still_has_an_uncertain_lower_end() -> None:
    low, high = Confusion(tp=10, fp=0, tn=40, fn=0).balanced_accuracy_interval
    assert 0.8 < low < 0.9
    assert high == 1.0


@pytest.mark.parametrize(
    ("sensitivity", "n_abnormal", "specificity", "n_normal"), [(0.9, 40, 0.95, 150), (0.75, 20, 0.8, 30)]
)
def test_the_balanced_accuracy_interval_holds_the_truth_about_95_times_in_100(
    sensitivity: float, n_abnormal: int, specificity: float, n_normal: int
) -> None:
    rng = np.random.default_rng(11)
    truth, trials = (sensitivity + specificity) / 2, 4000
    held = 0
    for tp, tn in zip(
        rng.binomial(n_abnormal, sensitivity, trials), rng.binomial(n_normal, specificity, trials), strict=True
    ):
        counts = Confusion(tp=int(tp), fp=n_normal - int(tn), tn=int(tn), fn=n_abnormal - int(tp))
        low, high = counts.balanced_accuracy_interval
        held += low <= truth <= high
    assert 0.93 < held / trials < 0.975


@given(st.tuples(*[st.integers(0, 60)] * 4).map(lambda counts: Confusion(*counts)))
def test_a_balanced_accuracy_lies_in_its_interval(counts: Confusion) -> None:
    low, high = counts.balanced_accuracy_interval
    assert 0.0 <= low <= high <= 1.0
    if counts.total:
        assert low - 1e-12 <= counts.balanced_accuracy <= high + 1e-12


def test_the_roc_curve_takes_tied_scores_in_one_step() -> None:
    curve = roc(TIED_P, TIED_LABELS)
    assert curve is not None
    assert curve.thresholds.tolist() == [np.inf, 0.9, 0.5, 0.1]
    assert curve.fpr.tolist() == [0.0, 0.0, 0.5, 1.0]
    assert curve.tpr.tolist() == [0.0, 0.5, 1.0, 1.0]


def test_areas_of_a_small_case_equal_those_counted_by_hand() -> None:
    assert auroc(TIED_P, TIED_LABELS) == pytest.approx(3.5 / 4)
    assert auprc(TIED_P, TIED_LABELS) == pytest.approx(0.5 * 1.0 + 0.5 * (2 / 3))


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]])
def test_curves_need_both_classes(labels: list[int]) -> None:
    p = np.array([0.1, 0.2, 0.3])
    assert roc(p, np.array(labels)) is None
    assert math.isnan(auroc(p, np.array(labels)))
    assert math.isnan(auprc(p, np.array(labels)))


@settings(max_examples=60, deadline=None)
@given(scored)
def test_the_area_is_the_chance_of_the_right_order(sample: tuple[list[float], list[int]]) -> None:
    p, labels = np.array(sample[0]), np.array(sample[1])
    above, below = p[labels == 1], p[labels == 0]
    if not above.size or not below.size:
        return
    pairs = np.sign(above[:, None] - below[None, :])
    assert auroc(p, labels) == pytest.approx(float(np.mean((pairs + 1) / 2)))


@settings(max_examples=60, deadline=None)
@given(scored, st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0]))
def test_every_threshold_is_a_point_of_the_roc_curve(sample: tuple[list[float], list[int]], threshold: float) -> None:
    p, labels = np.array(sample[0]), np.array(sample[1])
    curve = roc(p, labels)
    if curve is None:
        return
    counts = confusion(p, labels, threshold)
    here = (1.0 - counts.specificity.share, counts.sensitivity.share)
    assert any(here == pytest.approx(point) for point in zip(curve.fpr.tolist(), curve.tpr.tolist(), strict=True))


@pytest.mark.parametrize(
    ("p", "labels", "complaint"),
    [
        ([0.1, math.nan], [0, 1], "1 of 2 scores are not finite"),
        ([0.1, 0.2], [0], "same length"),
        ([0.1, 0.2], [0, 2], "labels are 0"),
    ],
)
def test_scores_that_mean_nothing_are_refused(p: list[float], labels: list[int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        confusion(np.array(p), np.array(labels), 0.5)
