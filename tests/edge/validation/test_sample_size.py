"""Exact bounds and the sentences made of them."""

from __future__ import annotations

import pytest
from statsmodels.stats.proportion import proportion_confint

from edge.validation.sample_size import bound_sentence, lower_bound, scans_to_show, size_sentence, upper_bound


@pytest.mark.parametrize(("hits", "total"), [(0, 60), (1, 60), (7, 20), (20, 20), (3, 500)])
def test_the_one_sided_bounds_are_the_ends_of_statsmodels_exact_90_percent_interval(hits: int, total: int) -> None:
    low, high = proportion_confint(hits, total, alpha=0.10, method="beta")

    assert lower_bound(hits, total) == pytest.approx(low, abs=1e-9)
    assert upper_bound(hits, total) == pytest.approx(high, abs=1e-9)


def test_nothing_is_known_of_no_scan() -> None:
    assert (lower_bound(0, 0), upper_bound(0, 0)) == (0.0, 1.0)


@pytest.mark.parametrize(("rate", "scans"), [(0.01, 299), (0.05, 59), (0.10, 29)])
def test_the_scans_that_show_a_rate_are_the_known_numbers(rate: float, scans: int) -> None:
    assert scans_to_show(rate) == scans
    assert upper_bound(0, scans) <= rate < upper_bound(0, scans - 1)


def test_a_sentence_says_what_is_excluded_and_never_rounds_a_bound_down() -> None:
    assert bound_sentence(0, 60, "escapes") == "0 escapes of 60: more than 4.9 % is excluded (95 % confidence)."
    assert bound_sentence(0, 299, "escapes") == "0 escapes of 299: more than 1 % is excluded (95 % confidence)."
    assert bound_sentence(0, 1000, "escapes") == "0 escapes of 1000: more than 0.3 % is excluded (95 % confidence)."
    assert bound_sentence(3, 3, "escapes") == "3 escapes of 3: no rate is excluded."
    assert bound_sentence(1, 16, "escapes").startswith("1 escape of 16: more than 26.4 %")


def test_a_sentence_says_how_many_scans_a_target_needs() -> None:
    assert "299 scans without one would show at most 1 %; this set has 60 with 0" in size_sentence(
        0, 60, "escapes", 0.01
    )
    assert size_sentence(0, 299, "escapes", 0.01) == "This shows that escapes stay below 1 %."


def test_impossible_counts_and_rates_are_refused() -> None:
    with pytest.raises(ValueError, match="no share"):
        upper_bound(3, 2)
    with pytest.raises(ValueError, match="expected 0 < rate < 1"):
        scans_to_show(0.0)
