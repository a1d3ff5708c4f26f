"""Intervals over lots: coverage by simulation, and what is said of few lots."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from edge.validation.lots import auprc_over_lots, balanced_accuracy_over_lots, share_over_lots, worst_lot
from edge.validation.statistics import wilson


def drawn(
    rng: np.random.Generator, lots: int, rate: float, correlation: float, size: int
) -> tuple[list[int], list[int]]:
    """Beta-binomial counts with this correlation within lots."""
    share = (
        rate if correlation == 0 else rng.beta(rate * (1 / correlation - 1), (1 - rate) * (1 / correlation - 1), lots)
    )
    scans = np.maximum(1, rng.poisson(size, lots))
    return rng.binomial(scans, share).tolist(), scans.tolist()


@pytest.mark.parametrize("correlation", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("rate", [0.02, 0.05, 0.2])
@pytest.mark.parametrize(("lots", "size"), [(6, 30), (12, 8), (12, 30), (24, 30)])
def test_the_interval_covers_the_rate_of_new_lots(lots: int, size: int, rate: float, correlation: float) -> None:
    rng = np.random.default_rng(20)
    covered = 0
    for _ in range(300):
        interval = share_over_lots(*drawn(rng, lots, rate, correlation, size))
        assert interval is not None
        covered += interval.low <= rate <= interval.high

    # 93 % of 300, less two standard errors of the simulation.
    assert covered / 300 >= 0.93 - 2 * np.sqrt(0.93 * 0.07 / 300)


def test_the_interval_of_a_balanced_accuracy_covers_it_where_lots_err_in_both_classes_together() -> None:
    rng = np.random.default_rng(21)
    covered = 0
    for _ in range(300):
        bad = rng.beta(0.9, 8.1, 12)  # one quality of each lot: rate 0.1, correlation 0.1
        found, passed = rng.binomial(8, 1 - bad), rng.binomial(30, 1 - bad)
        interval = balanced_accuracy_over_lots(found.tolist(), [8] * 12, passed.tolist(), [30] * 12)
        assert interval is not None
        covered += interval.low <= 0.9 <= interval.high

    assert covered / 300 >= 0.93 - 2 * np.sqrt(0.93 * 0.07 / 300)


def test_lots_that_differ_make_the_interval_wider_than_wilson() -> None:
    alike = share_over_lots([5] * 12, [30] * 12)
    unlike = share_over_lots([30, 30] + [0] * 10, [30] * 12)
    low, high = wilson(60, 360)

    assert alike is not None and unlike is not None
    assert high - low < alike.high - alike.low < unlike.high - unlike.low
    assert unlike.effective_scans < 20


def test_scans_each_from_a_lot_of_its_own_count_in_full() -> None:
    interval = share_over_lots([1] * 10 + [0] * 90, [1] * 100)

    assert interval is not None
    assert interval.effective_scans == pytest.approx(100, rel=0.02)


def test_no_error_has_a_limit_of_zero_and_one_above() -> None:
    interval = share_over_lots([0] * 12, [10] * 12)

    assert interval is not None
    assert interval.low == 0.0
    assert interval.high > wilson(0, 120).high


def test_one_lot_says_nothing_about_others() -> None:
    interval = share_over_lots([3], [10])

    assert interval is not None
    assert (interval.low, interval.high) == (0.0, 1.0)
    assert interval.note == "1 lot says little about other lots: 8 or more are wanted."
    assert share_over_lots([0], [0]) is None


def test_the_note_ends_at_eight_lots() -> None:
    seven, eight = share_over_lots([1] * 7, [9] * 7), share_over_lots([1] * 8, [9] * 8)

    assert seven is not None and eight is not None
    assert seven.note is not None and seven.note.startswith("7 lots say")
    assert eight.note is None


def test_the_worst_lot_has_the_highest_share_of_errors() -> None:
    worst = worst_lot(["a", "b", "c"], [2, 2, 0], [10, 4, 50])

    assert worst is not None
    assert (worst.lot, worst.errors, worst.scans) == ("b", 2, 4)
    assert worst_lot(["a"], [0], [3]) is None


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and its scans"):
        share_over_lots([4], [3])


def test_average_precision_and_what_each_scan_adds_to_it_are_those_of_sklearn() -> None:
    rng = np.random.default_rng(23)
    labels = (rng.random(60) < 0.4).astype(np.int64)
    scores = np.round(rng.normal(np.where(np.arange(60) < 30, -labels, 3 * labels), 1.0), 1)  # with ties
    each = auprc_over_lots(scores, labels, range(60))
    # A lot that counts a little more: what it adds is what the average precision gains.
    doubled = average_precision_score(labels, scores, sample_weight=1 + 1e-6 * (np.arange(60) < 30))
    halves = auprc_over_lots(scores, labels, [number // 30 for number in range(60)])

    assert each is not None and halves is not None
    assert each.share == pytest.approx(average_precision_score(labels, scores))
    gain = (doubled - each.share) / 1e-6
    assert halves.effective_scans == pytest.approx(each.share * (1 - each.share) / (4 * gain**2), rel=1e-3)


@pytest.mark.parametrize("prevalence", [0.1, 0.5])
@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_the_interval_of_an_average_precision_covers_it_where_lots_shift_the_scores(
    prevalence: float, shift: float
) -> None:
    rng = np.random.default_rng(24)

    def scored(lots: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        lot = np.repeat(np.arange(lots), 15)
        labels = (rng.random(lot.size) < prevalence).astype(np.int64)
        by_lot = rng.normal(0, np.sqrt(shift), (lots, 2))
        return rng.normal(by_lot[lot, labels] + 2 * labels, np.sqrt(1 - shift)), labels, lot

    scores, labels, _ = scored(20_000)
    truth = average_precision_score(labels, scores)
    intervals = [auprc_over_lots(*scored(12)) for _ in range(300)]
    covered = np.mean([one.low <= truth <= one.high for one in intervals if one is not None])

    assert covered >= 0.93 - 2 * np.sqrt(0.93 * 0.07 / 300)
