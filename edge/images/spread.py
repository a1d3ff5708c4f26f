"""How figures of scans lie about those of the training scans, and how far a scan of a new lot may lie from them.

The Mahalanobis distance (Mahalanobis 1936) says whether figures belong together as they do in the training scans; of
one figure alone it is the deviation in standard deviations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

SHARE: Final = 0.99
"""Share of training scans whose distance sets the limit."""
MARGIN: Final = 1.05
"""Least factor between that distance and the limit."""
FEW_LOTS_MARGIN: Final = 2.25
"""How much a small number of lots widens the limit (`fit`), set on simulated scans of 12 lots."""

Features = npt.NDArray[np.float64]
"""Logarithms of figures: (k,) of one scan, (n, k) of several. A relative change then counts the same everywhere."""

_SHRINKAGE = 0.01
"""Share of the variances alone in the covariance, so that few scans have an inverse too (Ledoit, Wolf 2004)."""
_LEAST_VARIANCE = 1e-4
"""A relative deviation of 1 %: what was the same in all training scans may still differ by that."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Where the training scans lie: see `fit`."""

    mean: tuple[float, ...]
    """Mean of the features (k,)."""
    inverse_covariance: tuple[tuple[float, ...], ...]
    """Inverse covariance of the features, (k, k)."""
    limit: float
    """Greatest distance that is in spec."""

    def distance(self, features: Features) -> float:
        """Mahalanobis distance of one scan's features (k,) from the training scans."""
        return float(np.sqrt(max(0.0, self.shares(features).sum())))

    def shares(self, features: Features) -> Features:
        """What each feature adds to the squared distance (k,)."""
        off = features - np.array(self.mean)
        shares: Features = off * (np.array(self.inverse_covariance) @ off)
        return shares


def fit(features: Features, share: float, margin: float, lots: Sequence[str] = ()) -> Spread:
    """The spread whose limit is `margin` times the distance that `share` of the training scans (n, k) do not exceed.

    With `lots`, the lot of each scan, distances are from the scans of all other lots: a new lot is such a one; of one
    lot, from its own. How far lots can lie apart is known the worse the fewer there are, so the margin is then at least
    1 + 2.25 / sqrt(lots).
    Raises ValueError for no scans.
    """
    if not len(features):
        raise ValueError("spread of no scans")
    whole = _spread_of(features)
    names = sorted(set(lots))
    if len(names) < 2:
        distances = [whole.distance(one) for one in features]
    else:
        of_lot = np.array(lots)
        distances = []
        for name in names:
            others = _spread_of(features[of_lot != name])
            distances += [others.distance(one) for one in features[of_lot == name]]
    if names:
        margin = max(margin, 1 + FEW_LOTS_MARGIN / len(names) ** 0.5)
    least = len(whole.mean) ** 0.5  # its mean over normal deviates
    limit = max(margin * float(np.quantile(distances, share)), least)
    return Spread(whole.mean, whole.inverse_covariance, limit)


def _spread_of(features: Features) -> Spread:
    """Mean and covariance of the features (n, k), with a limit that is yet to be set."""
    mean = features.mean(axis=0)
    covariance = (features - mean).T @ (features - mean) / len(features)
    variances = np.diag(np.diag(covariance))
    shrunk = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * variances + _LEAST_VARIANCE * np.eye(len(mean))
    inverse = np.linalg.inv(shrunk)
    return Spread(tuple(mean.tolist()), tuple(tuple(row) for row in inverse.tolist()), 1.0)
