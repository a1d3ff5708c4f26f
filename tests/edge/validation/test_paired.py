"""Two models on the same scans."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar

from edge.validation.paired import difference_over_lots, mcnemar_exact, paired_table


@pytest.mark.parametrize(("one", "other"), [(0, 0), (0, 1), (3, 12), (12, 3), (7, 7), (0, 20), (121, 59)])
def test_the_exact_test_is_that_of_statsmodels(one: int, other: int) -> None:
    expected = mcnemar([[10, one], [other, 10]], exact=True).pvalue

    assert mcnemar_exact(one, other) == pytest.approx(expected, abs=1e-12)


def test_a_paired_table_counts_who_was_right() -> None:
    table = paired_table(np.array([1, 1, 1, 0, 0], bool), np.array([1, 0, 0, 1, 0], bool))

    assert (table.both, table.only_first, table.only_second, table.neither) == (1, 2, 1, 1)
    assert table.total == 5
    assert table.p_value == 1.0


def test_the_difference_over_lots_covers_the_true_one() -> None:
    rng = np.random.default_rng(30)
    covered = 0
    for _ in range(400):
        gain = rng.normal(0.1, 0.05, 12)  # lots gain differently
        first = rng.random((12, 30)) < 0.7
        second = np.where(
            first, rng.random((12, 30)) < 0.9, rng.random((12, 30)) < ((0.7 + gain - 0.63) / 0.3)[:, None]
        )
        difference = difference_over_lots(
            first.ravel(), second.ravel(), [f"L{i}" for i in np.repeat(np.arange(12), 30)]
        )
        assert difference is not None and difference.lots_low is not None and difference.lots_high is not None
        covered += difference.lots_low <= 0.1 <= difference.lots_high

    assert covered / 400 >= 0.93 - 2 * np.sqrt(0.93 * 0.07 / 400)


def test_no_changed_decision_does_not_prove_that_there_is_none() -> None:
    right = np.ones(40, bool)
    difference = difference_over_lots(right, right, [f"L{i % 4}" for i in range(40)])

    assert difference is not None and difference.lots_low is not None and difference.lots_high is not None
    assert difference.difference == 0
    assert difference.lots_low < -0.05 < 0.05 < difference.lots_high


@pytest.mark.parametrize("changed", [1, 10])
def test_lots_that_happen_to_be_alike_do_not_make_a_difference_certain(changed: int) -> None:
    """Three lots of ten scans, in each as many set right: the lots do not vary, the scans do."""
    second = np.tile(np.arange(10) < changed, 3)
    difference = difference_over_lots(np.zeros(30, bool), second, [f"L{i // 10}" for i in range(30)])

    assert difference is not None and difference.lots_low is not None and difference.lots_high is not None
    assert difference.difference == pytest.approx(changed / 10)
    assert difference.lots_low < changed / 10 - 0.05
    assert difference.lots_high == 1.0 if changed == 10 else difference.lots_high > 0.15


def test_one_lot_has_a_difference_without_interval() -> None:
    difference = difference_over_lots(np.array([True, False]), np.array([True, True]), ["A", "A"])

    assert difference is not None
    assert (difference.difference, difference.lots_low, difference.lots_high) == (0.5, None, None)
    assert difference.low < 0.5 < difference.high


def test_models_on_different_scans_are_refused() -> None:
    with pytest.raises(ValueError, match="the same scans"):
        paired_table(np.ones(3, bool), np.ones(4, bool))
