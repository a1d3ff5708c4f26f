"""Thresholds by wish, and the review band's promise."""

import numpy as np
import pytest

from train.classifier.calibrate import left_out
from train.classifier.conformal import (
    Band,
    calibration_error,
    coverage,
    coverage_by_lot,
    reliability,
    review_band,
    threshold_of_balance,
    threshold_of_cost,
    threshold_of_escapes,
)

P = np.array([0.1, 0.2, 0.3, 0.6, 0.4, 0.7, 0.8, 0.9])
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])


def test_a_dear_miss_lowers_the_threshold_and_a_cheap_one_raises_it() -> None:
    assert 0.3 < threshold_of_cost(P, LABELS, miss_cost=5) < 0.4
    assert 0.6 < threshold_of_cost(P, LABELS, miss_cost=0.2) < 0.7


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 0.4), (0.2, 0.4), (0.25, 0.7), (0.5, 0.8), (1.0, 1.0)])
def test_at_most_the_wished_share_of_abnormal_scans_escapes(rate: float, expected: float) -> None:
    threshold = threshold_of_escapes(P, LABELS, rate)
    assert threshold == expected
    assert np.mean(P[LABELS == 1] < threshold) <= rate


def test_an_escape_rate_without_abnormal_scans_is_refused() -> None:
    with pytest.raises(ValueError, match="needs abnormal scans"):
        threshold_of_escapes(P[:4], LABELS[:4], 0.1)


def scores(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    labels = (rng.random(n) < 0.3).astype(np.int64)
    return 1 / (1 + np.exp(-rng.normal(np.where(labels == 1, 1.0, -1.0), 1.2))), labels


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_each_class_is_covered_as_often_as_promised(alpha: float) -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        band = review_band(*scores(rng, 200), alpha, 0.5)
        found = coverage(*scores(rng, 400), band, 0.5)
        covered.append((found.normal.share, found.abnormal.share))
    assert np.all(np.mean(covered, axis=0) >= 1 - alpha - 0.005)


def test_a_smaller_level_reviews_more() -> None:
    p, labels = scores(np.random.default_rng(1), 2000)
    narrow, wide = (review_band(p, labels, alpha, 0.5) for alpha in (0.2, 0.02))
    assert wide.low < narrow.low <= narrow.high < wide.high
    assert wide.holds(p).sum() > narrow.holds(p).sum()


def test_with_too_few_scans_for_the_level_everything_on_that_side_is_reviewed() -> None:
    band = review_band(P, LABELS, 0.05, 0.5)
    assert band == Band(0.0, 1.0)


def test_classes_far_apart_leave_a_band_around_the_threshold() -> None:
    p = np.concatenate([np.linspace(0.01, 0.1, 50), np.linspace(0.9, 0.99, 50)])
    labels = np.repeat([0, 1], 50)
    band = review_band(p, labels, 0.05, 0.5)
    assert 0.09 < band.low < 0.5 < band.high < 0.92
    assert coverage(p, labels, band, 0.5).abnormal.share == 1.0


@pytest.mark.parametrize("alpha", [0.0, 1.0, float("nan")])
def test_a_level_that_is_no_probability_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="level"):
        review_band(P, LABELS, alpha, 0.5)


def test_a_calibrated_score_lies_on_the_diagonal() -> None:
    rng = np.random.default_rng(2)
    p = rng.random(20_000)
    labels = (rng.random(20_000) < p).astype(np.int64)
    assert calibration_error(p, labels) < 0.02
    assert calibration_error(p**3, labels) > 0.1
    assert [rate.total for _, rate in reliability(np.array([0.0, 1.0, 0.95]), np.array([0, 1, 1]))] == [1, 2]


def test_a_lot_unlike_the_others_is_the_one_whose_scans_their_band_does_not_cover() -> None:
    rng = np.random.default_rng(3)
    parts = [scores(rng, 40) for _ in range(24)]
    odd, labels_of_odd = parts[7]
    parts[7] = (np.where(labels_of_odd == 1, 0.001, odd), labels_of_odd)  # its anomalies look like nothing
    p, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    lots = [f"L{number}" for number in range(24) for _ in range(40)]
    found = coverage_by_lot(p, labels, lots, 0.2, threshold_of_balance)
    assert list(found) == list(dict.fromkeys(lots))
    assert found["L7"].abnormal.hits == 0
    report = left_out(found)
    assert report["lots"] == 24
    assert report["worst"]["lot"] == "L7"
    assert report["worst"]["errors"] >= labels_of_odd.sum()
    low, high = report["covered_abnormal"]["interval_over_lots"]
    share = report["covered_abnormal"]["hits"] / report["covered_abnormal"]["total"]
    assert low < share < high
    assert high - low > 0.1  # one lot of 24 is an odd one: the interval over scans would be half as wide


def test_a_lot_with_the_only_scans_of_a_class_is_left_out_of_the_coverage() -> None:
    found = coverage_by_lot(P, LABELS, ["A"] * 4 + ["B"] * 3 + ["C"], 0.2, threshold_of_balance)
    assert list(found) == ["B", "C"]
