"""What errors cost at a plant's own defect rate."""

from __future__ import annotations

import numpy as np
import pytest

from edge.validation.cost import Prices, VerdictCounts, cost_curve, plant_figures

PRICES = Prices(escape=500, overkill=10, review=1)


def test_rates_of_a_test_set_become_shares_of_the_plant() -> None:
    """1,000,000 electrodes at 2 %: 20,000 defective, of these 200 pass; of 980,000 good 49,000 are rejected."""
    figures = plant_figures(VerdictCounts(100, 1, 9, 100, 5, 5), defect_rate=0.02, prices=PRICES)

    assert figures.escapes_ppm == pytest.approx(200)
    assert figures.value_of_normal == pytest.approx(882_000 / 882_200)
    assert figures.escapes_ppm_of_normal == pytest.approx(200 / 882_200 * 1e6)
    assert figures.value_of_abnormal == pytest.approx(18_000 / 67_000)
    assert figures.review_share == pytest.approx(0.02 * 0.09 + 0.98 * 0.05)
    assert figures.cost_per_scan == pytest.approx(500 * 0.0002 + 10 * 0.049 + 0.0508)


def test_without_prices_there_is_no_cost() -> None:
    assert plant_figures(VerdictCounts(100, 1, 0, 100, 5, 0), 0.02).cost_per_scan is None


def test_each_figure_of_the_plant_has_a_limit_that_holds_the_true_one() -> None:
    """Sets of 60 and 80 scans of a line that lets 10 % pass, rejects 5 % and sends 10 % of both to a person."""
    rng, sets = np.random.default_rng(52), 400
    truth = plant_figures(VerdictCounts(1000, 100, 100, 1000, 50, 100), 0.02, PRICES)
    assert truth.cost_per_scan is not None
    held = np.zeros(4)
    for _ in range(sets):
        bad, good = rng.multinomial(60, (0.1, 0.1, 0.8)), rng.multinomial(80, (0.05, 0.1, 0.85))
        found = plant_figures(VerdictCounts(60, *map(int, bad[:2]), 80, *map(int, good[:2])), 0.02, PRICES)
        assert found.cost_per_scan_bound is not None
        held += (
            found.escapes_ppm_bound >= truth.escapes_ppm,
            found.value_of_normal_bound <= truth.value_of_normal,
            found.value_of_abnormal_bound <= truth.value_of_abnormal,
            found.cost_per_scan_bound >= truth.cost_per_scan,
        )
    assert (held / sets >= 0.95 - 2 * np.sqrt(0.95 * 0.05 / sets)).all()


def test_the_cost_curve_is_the_cost_of_deciding_again_at_each_threshold() -> None:
    rng = np.random.default_rng(50)
    p, labels = rng.random(60).round(2), rng.integers(0, 2, 60)
    reviewed = rng.random(60) < 0.2
    curve = cost_curve(p, labels, reviewed, 0.02, PRICES)

    for threshold, cost in zip(curve.thresholds, curve.cost, strict=True):
        called = p >= threshold
        abnormal, normal = labels == 1, labels == 0
        counts = VerdictCounts(
            int(abnormal.sum()),
            int((~called & ~reviewed)[abnormal].sum()),
            int(reviewed[abnormal].sum()),
            int(normal.sum()),
            int((called & ~reviewed)[normal].sum()),
            int(reviewed[normal].sum()),
        )
        assert plant_figures(counts, 0.02, PRICES).cost_per_scan == pytest.approx(cost)
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
        plant_figures(VerdictCounts(1, 0, 0, 1, 0, 0), 1.2)
