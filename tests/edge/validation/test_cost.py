"""What errors cost at a plant's own defect rate."""

from __future__ import annotations

import numpy as np
import pytest

from edge.validation.cost import Prices, VerdictRates, cost_curve, plant_figures

PRICES = Prices(escape=500, overkill=10, review=1)


def test_rates_of_a_test_set_become_shares_of_the_plant() -> None:
    """1,000,000 electrodes at 2 %: 20,000 defective, of these 200 pass; of 980,000 good 49,000 are rejected."""
    figures = plant_figures(VerdictRates(0.01, 0.09, 0.05, 0.05), defect_rate=0.02, prices=PRICES)

    assert figures.escapes_ppm == pytest.approx(200)
    assert figures.value_of_normal == pytest.approx(882_000 / 882_200)
    assert figures.escapes_ppm_of_normal == pytest.approx(200 / 882_200 * 1e6)
    assert figures.value_of_abnormal == pytest.approx(18_000 / 67_000)
    assert figures.review_share == pytest.approx(0.02 * 0.09 + 0.98 * 0.05)
    assert figures.cost_per_scan == pytest.approx(500 * 0.0002 + 10 * 0.049 + 0.0508)


def test_without_prices_there_is_no_cost() -> None:
    assert plant_figures(VerdictRates(0.01, 0, 0.05, 0), 0.02).cost_per_scan is None


def test_the_cost_curve_is_the_cost_of_deciding_again_at_each_threshold() -> None:
    rng = np.random.default_rng(50)
    p, labels = rng.random(60).round(2), rng.integers(0, 2, 60)
    reviewed = rng.random(60) < 0.2
    curve = cost_curve(p, labels, reviewed, 0.02, PRICES)

    for threshold, cost in zip(curve.thresholds, curve.cost, strict=True):
        called = p >= threshold
        abnormal, normal = labels == 1, labels == 0
        rates = VerdictRates(
            float((~called & ~reviewed)[abnormal].mean()),
            float(reviewed[abnormal].mean()),
            float((called & ~reviewed)[normal].mean()),
            float(reviewed[normal].mean()),
        )
        assert plant_figures(rates, 0.02, PRICES).cost_per_scan == pytest.approx(cost)
    assert curve.cost.min() == curve.cost[curve.thresholds == curve.cheapest][0]


def test_a_dearer_escape_moves_the_cheapest_threshold_down() -> None:
    rng = np.random.default_rng(51)
    labels = np.repeat([0, 1], 200)
    p = np.clip(rng.normal(0.35 + 0.3 * labels, 0.15), 0, 1)
    dear, cheap = (
        cost_curve(p, labels, np.zeros(400, bool), 0.02, Prices(price, 10, 1)).cheapest for price in (5000, 50)
    )

    assert dear < cheap


def test_one_class_alone_has_no_cost_curve() -> None:
    with pytest.raises(ValueError, match="normal and of abnormal"):
        cost_curve(np.array([0.1, 0.2]), np.array([0, 0]), np.zeros(2, bool), 0.02, PRICES)
    with pytest.raises(ValueError, match="expected 0 to 1"):
        plant_figures(VerdictRates(0, 0, 0, 0), 1.2)
