"""How the greys of a scan are spread, and how far that is from what a model has learnt from.

The gate looks at a scan window by window, and an autoencoder that small reproduces any smooth grey surface. What it
cannot see is the whole: a sheet of even grey with air around it. Nine percentiles of the counts say that much, and the
Mahalanobis distance (Mahalanobis 1936) says whether they belong together as they do in the training scans: a thick
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
import numpy.typing as npt

from edge.images.conversion import Histogram, percentiles

PERCENTS: Final = (1, 5, 10, 25, 50, 75, 90, 95, 99)
FEATURES: Final = ("median", *(f"step p{low} to p{high}" for low, high in pairwise(PERCENTS)))

SHARE: Final = 0.99
"""Share of training scans whose distance sets the limit."""
MARGIN: Final = 1.05
"""Least factor between that distance and the limit."""
FEW_LOTS_MARGIN: Final = 2.25
"""How much a small number of lots widens the limit (`fit`), set on simulated scans of 12 lots."""

Exposure = tuple[int, ...]
"""The nine percentiles of one scan, in counts, ascending."""

_LEAST_STEP_COUNTS = 3
"""Smaller steps between percentiles differ by rounding only."""
_SHRINKAGE = 0.01
"""Share of the variances alone in the covariance, so that few scans have an inverse too (Ledoit, Wolf 2004)."""
_LEAST_VARIANCE = 1e-4
"""A relative deviation of 1 %: what was the same in all training scans may still differ by that."""


@dataclass(frozen=True, slots=True)
class ExposureModel:
    """The exposures a model was made for: see `fit`."""

    mean: tuple[float, ...]
    """Mean of the features (9,): logarithms of the median and of the eight steps, in counts."""
    inverse_covariance: tuple[tuple[float, ...], ...]
    """Inverse covariance of the features, (9, 9)."""
    limit: float
    """Greatest distance that is in spec."""

    def distance(self, seen: Exposure) -> float:
        """Mahalanobis distance of one scan's exposure from the training scans."""
        return float(np.sqrt(max(0.0, self._shares(seen).sum())))

    def complaint(self, seen: Exposure) -> str | None:
        """What is unusual about the exposure, in counts; None where it is in spec."""
        distance = self.distance(seen)
        if distance <= self.limit:
            return None
        oddest = int(np.argmax(self._shares(seen)))
        counts, usual = (round(float(np.exp(values[oddest]))) for values in (_features([seen])[0], self.mean))
        return (
            f"greys are spread as in no training scan: distance {distance:.1f}, the model takes at most "
            f"{self.limit:.1f}; the {FEATURES[oddest]} is {counts} counts, usual are {usual}"
        )

    def _shares(self, seen: Exposure) -> npt.NDArray[np.float64]:
        """What each feature adds to the squared distance (9,)."""
        off = _features([seen])[0] - np.array(self.mean)
        shares: npt.NDArray[np.float64] = off * (np.array(self.inverse_covariance) @ off)
        return shares


def exposure(hist: Histogram) -> Exposure:
    """Exposure of a scan with this histogram, int64 (65536,). Raises ValueError for one without pixels."""
    return percentiles(hist, PERCENTS)


def fit(exposures: Sequence[Exposure], share: float, margin: float, lots: Sequence[str] = ()) -> ExposureModel:
    """The model whose limit is `margin` times the distance that `share` of these training scans do not exceed.

    With `lots`, the lot of each scan, distances are from the scans of all other lots: a new lot is such a one. How far
    lots can lie apart is known the worse the fewer there are, so the margin is then at least 1 + 2.25 / sqrt(lots).
    Raises ValueError for no scans.
    """
    if not exposures:
        raise ValueError("exposure model of no scans")
    model = _unlimited(exposures)
    names = sorted(set(lots))
    if len(names) < 2:
        distances = [model.distance(seen) for seen in exposures]
    else:
        pairs = list(zip(exposures, lots, strict=True))
        distances = []
        for name in names:
            others = _unlimited([seen for seen, lot in pairs if lot != name])
            distances += [others.distance(seen) for seen, lot in pairs if lot == name]
        margin = max(margin, 1 + FEW_LOTS_MARGIN / len(names) ** 0.5)
    least = len(model.mean) ** 0.5  # its mean over normal deviates
    limit = max(margin * float(np.quantile(distances, share)), least)
    return ExposureModel(model.mean, model.inverse_covariance, limit)


def _unlimited(exposures: Sequence[Exposure]) -> ExposureModel:
    """Mean and covariance of the exposures, with a limit that is yet to be set."""
    features = _features(exposures)
    mean = features.mean(axis=0)
    covariance = (features - mean).T @ (features - mean) / len(features)
    variances = np.diag(np.diag(covariance))
    shrunk = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * variances + _LEAST_VARIANCE * np.eye(len(mean))
    inverse = np.linalg.inv(shrunk)
    return ExposureModel(tuple(mean.tolist()), tuple(tuple(row) for row in inverse.tolist()), 1.0)


def _features(exposures: Sequence[Exposure]) -> npt.NDArray[np.float64]:
    """Logarithms of medians and steps (n, 9): a darker or brighter tube changes all counts by one factor."""
    counts = np.array(exposures, np.float64)
    median = counts[:, PERCENTS.index(50)]
    steps = np.diff(counts, axis=1).clip(_LEAST_STEP_COUNTS)
    features: npt.NDArray[np.float64] = np.log(np.column_stack([median.clip(1), steps]))
    return features
