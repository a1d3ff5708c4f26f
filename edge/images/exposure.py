"""How the greys of a scan are spread, and how far that is from what a model has learnt from.

The gate looks at a scan window by window, and an autoencoder that small reproduces any smooth grey surface. What it
cannot see is the whole: a sheet of even grey with air around it. Nine percentiles of the counts say that much, and
their distance from the training scans (edge/images/spread.py) says whether they belong together: a thick
coating moves the median, an ink flow draws out one flank, but a photograph, a weld or noise spreads all of them.
Taken from the counts, so that it means the same for every conversion and input size; a tube that ages or a changed
exposure time shows here first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from edge.images import spread
from edge.images.conversion import Histogram, percentiles
from edge.images.spread import Features, Spread

PERCENTS: Final = (1, 5, 10, 25, 50, 75, 90, 95, 99)
FEATURES: Final = ("median", *(f"step p{low} to p{high}" for low, high in pairwise(PERCENTS)))

Exposure = tuple[int, ...]
"""The nine percentiles of one scan, in counts, ascending."""

_LEAST_STEP_COUNTS = 3
"""Smaller steps between percentiles differ by rounding only."""


@dataclass(frozen=True, slots=True)
class ExposureModel:
    """The exposures a model was made for: see `fit`."""

    spread: Spread
    """Nine features: the median and the eight steps, in counts."""

    def distance(self, seen: Exposure) -> float:
        """Mahalanobis distance of one scan's exposure from the training scans."""
        return self.spread.distance(_features([seen])[0])

    def complaint(self, seen: Exposure) -> str | None:
        """What is unusual about the exposure, in counts; None where it is in spec."""
        distance = self.distance(seen)
        if distance <= self.spread.limit:
            return None
        features = _features([seen])[0]
        oddest = int(np.argmax(self.spread.shares(features)))
        counts, usual = (round(float(np.exp(values[oddest]))) for values in (features, self.spread.mean))
        return (
            f"greys are spread as in no training scan: distance {distance:.1f}, the model takes at most "
            f"{self.spread.limit:.1f}; the {FEATURES[oddest]} is {counts} counts, usual are {usual}"
        )


def exposure(hist: Histogram) -> Exposure:
    """Exposure of a scan with this histogram, int64 (65536,). Raises ValueError for one without pixels."""
    return percentiles(hist, PERCENTS)


def fit(exposures: Sequence[Exposure], share: float, margin: float, lots: Sequence[str] = ()) -> ExposureModel:
    """The model of these training scans; see `edge.images.spread.fit`. Raises ValueError for no scans."""
    if not exposures:
        raise ValueError("exposure model of no scans")
    return ExposureModel(spread.fit(_features(exposures), share, margin, lots))


def _features(exposures: Sequence[Exposure]) -> Features:
    """Logarithms of medians and steps (n, 9): a darker or brighter tube changes all counts by one factor."""
    counts = np.array(exposures, np.float64)
    median = counts[:, PERCENTS.index(50)]
    steps = np.diff(counts, axis=1).clip(_LEAST_STEP_COUNTS)
    features: Features = np.log(np.column_stack([median.clip(1), steps]))
    return features
