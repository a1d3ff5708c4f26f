"""Exposure: nine percentiles, their distance from the training scans, and what an operator reads when they are off."""

import numpy as np
import pytest

from edge.images.conversion import LEVELS, histogram
from edge.images.exposure import Exposure, exposure, fit

STEPS = np.array([-60, -40, -30, -12, 0, 12, 150, 380, 430])


def sheets(n: int = 200, seed: int = 1) -> list[Exposure]:
    """Exposures of electrodes: medians of many coatings, steps that vary by a fifth."""
    rng = np.random.default_rng(seed)
    return [
        tuple(np.sort(rng.uniform(1900, 2300) + STEPS * rng.uniform(0.8, 1.2, 9)).round().astype(int).tolist())
        for _ in range(n)
    ]


MODEL = fit(sheets(), share=0.99, margin=1.05)


def test_the_percentiles_are_those_of_the_counts() -> None:
    counts = np.arange(2001, 2101, dtype=np.uint16).reshape(10, 10)  # the p-th percentile is 2000 + p
    assert exposure(histogram(counts)) == (2001, 2005, 2010, 2025, 2050, 2075, 2090, 2095, 2099)


def test_the_distance_is_mahalanobis_worked_out_plainly() -> None:
    def features(seen: Exposure) -> np.ndarray:
        return np.log([seen[4], *np.maximum(np.diff(seen), 3)])

    training = np.array([features(seen) for seen in sheets()])
    covariance = np.cov(training.T, bias=True)
    shrunk = 0.99 * covariance + 0.01 * np.diag(np.diag(covariance)) + 1e-4 * np.eye(9)
    off = features(sheets(1, seed=7)[0]) - training.mean(axis=0)
    assert MODEL.distance(sheets(1, seed=7)[0]) == pytest.approx(np.sqrt(off @ np.linalg.inv(shrunk) @ off))


def test_sheets_of_the_same_kind_are_in_spec_and_few_of_them_are_not() -> None:
    out = sum(MODEL.complaint(seen) is not None for seen in sheets(400, seed=2))
    assert out <= 12
    assert 0.01 * 200 >= sum(MODEL.distance(seen) > MODEL.spread.limit / 1.05 for seen in sheets()) >= 1


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (tuple((2900 + STEPS).tolist()), "the median is 2900 counts"),
        (tuple((2100 + 6 * STEPS).tolist()), "counts, usual are"),
        ((2100,) * 9, "is 3 counts, usual are"),
    ],
    ids=["another exposure time", "spread", "flat"],
)
def test_what_is_exposed_otherwise_is_told_in_counts(seen: Exposure, words: str) -> None:
    complaint = MODEL.complaint(seen)
    assert complaint is not None and words in complaint
    assert "greys are spread as in no training scan: distance" in complaint


def test_a_model_of_one_scan_has_an_inverse_and_takes_that_scan() -> None:
    seen = sheets(1)[0]
    model = fit([seen], share=0.99, margin=1.05)
    assert model.complaint(seen) is None
    assert model.complaint(tuple(2 * count for count in seen)) is not None


def test_no_scans_make_no_model_and_no_pixels_no_exposure() -> None:
    with pytest.raises(ValueError, match="no scans"):
        fit([], share=0.99, margin=1.05)
    with pytest.raises(ValueError, match="without pixels"):
        exposure(np.zeros(LEVELS, np.int64))


def lots_of(seed: int, count: int, scans: int = 6) -> tuple[list[Exposure], list[str]]:
    """Lots that differ from each other by much more than the scans of one do."""
    rng = np.random.default_rng(seed)
    seen, lots = [], []
    for number in range(count):
        median, factors = rng.uniform(1900, 2300), rng.uniform(0.7, 1.3, 9)
        for _ in range(scans):
            counts = np.sort(median + rng.normal(0, 4) + STEPS * factors * rng.uniform(0.97, 1.03, 9))
            seen.append(tuple(counts.round().astype(int).tolist()))
            lots.append(f"B{number}")
    return seen, lots


def test_good_scans_of_new_lots_are_in_spec_also_where_few_lots_were_learnt_from() -> None:
    held_out, in_sample = [], []
    for draw in range(24):
        seen, lots = lots_of(draw, 12)
        new, _ = lots_of(1000 + draw, 24)
        for refused, of in ((held_out, lots), (in_sample, [])):
            model = fit(seen, 0.99, 1.05, of)
            refused.append(np.mean([model.complaint(one) is not None for one in new]))
    assert np.mean(held_out) <= 0.02 < np.mean(in_sample)
