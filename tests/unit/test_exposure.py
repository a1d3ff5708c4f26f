"""Exposure: what the steps between percentiles say, and what an operator reads when they are off."""

import numpy as np
import pytest

from edge.conversion import LEVELS, histogram
from edge.exposure import Exposure, ExposureRange, exposure

RANGE = ExposureRange(Exposure(2000, 0, 0, 0, 0), Exposure(2200, 30, 30, 30, 400))


def test_the_five_numbers_are_the_median_and_the_steps_between_percentiles() -> None:
    counts = np.arange(2001, 2101, dtype=np.uint16).reshape(10, 10)  # the p-th percentile is 2000 + p
    assert exposure(histogram(counts)) == Exposure(2050, 20, 25, 25, 20)


def test_an_even_scan_has_no_steps_wherever_its_grey_lies() -> None:
    for level in (0, 1800, 65535):
        assert exposure(histogram(np.full((4, 5), level, np.uint16))) == Exposure(level, 0, 0, 0, 0)


def test_both_ends_of_the_range_are_taken() -> None:
    assert RANGE.complaint(RANGE.lowest) is None
    assert RANGE.complaint(RANGE.highest) is None


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (Exposure(1999, 0, 0, 0, 0), "the median is 1999 counts, the model takes 2000 to 2200"),
        (Exposure(2201, 0, 0, 0, 0), "the median is 2201 counts, the model takes 2000 to 2200"),
        (Exposure(2100, 0, 31, 0, 0), "the step p25 to p50 is 31 counts, the model takes 0 to 30"),
        (Exposure(2100, 0, 0, 0, 401), "the step p75 to p95 is 401 counts, the model takes 0 to 400"),
    ],
)
def test_a_scan_outside_is_told_by_number(seen: Exposure, words: str) -> None:
    assert RANGE.complaint(seen) == words


def test_a_histogram_without_pixels_has_no_exposure() -> None:
    with pytest.raises(ValueError, match="without pixels"):
        exposure(np.zeros(LEVELS, np.int64))
