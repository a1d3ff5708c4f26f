"""Spread: distances from training scans, and the limit a scan of a new lot keeps."""

import numpy as np
import pytest

from edge.images.spread import fit


def test_the_distance_of_one_feature_is_its_deviation_in_standard_deviations() -> None:
    features = np.random.default_rng(1).normal(3.0, 0.5, (2000, 1))
    spread = fit(features, share=0.99, margin=1.05)
    assert spread.distance(np.array([3.0 + 2 * 0.5])) == pytest.approx(2.0, rel=0.05)
    assert spread.limit == pytest.approx(1.05 * 2.576, rel=0.1)  # 99 % of normal deviates lie within 2.576


def test_lots_that_lie_apart_widen_the_limit_and_few_of_them_widen_it_more() -> None:
    rng = np.random.default_rng(2)
    limits = {}
    for count in (6, 60):
        centres = rng.normal(0, 1, count).repeat(10)
        features = (centres + rng.normal(0, 0.01, len(centres)))[:, None]
        lots = [f"B{number // 10}" for number in range(len(centres))]
        limits[count] = fit(features, 0.99, 1.05, lots).limit / fit(features, 0.99, 1.05).limit
    assert limits[6] > limits[60] > 1


def test_one_lot_widens_the_limit_the_most() -> None:
    features = np.random.default_rng(3).normal(0, 1, (200, 1))
    alone = fit(features, 0.99, 1.05, ["B1"] * 200).limit
    assert alone == pytest.approx(fit(features, 0.99, 1 + 2.25).limit)


def test_no_scans_have_no_spread() -> None:
    with pytest.raises(ValueError, match="no scans"):
        fit(np.empty((0, 1)), share=0.99, margin=1.05)
