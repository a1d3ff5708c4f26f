"""Two models on the same scans: which decisions changed, and whether the change is more than chance.

McNemar 1947: only scans on which exactly one model is right tell the two apart. The exact test takes these as tosses
of a fair coin. It counts scans as independent; the interval of the difference takes the lots as what was drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge.validation.distributions import beta_cdf
from edge.validation.lots import half_width
from edge.validation.sample_size import upper_bound
from edge.validation.statistics import Z_95

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class PairedTable:
    """Counts of scans by which of the two models was right."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def total(self) -> int:
        """All scans of the comparison."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def p_value(self) -> float:
        """Two-sided exact p of McNemar's test; 1 where the models never differ."""
        return mcnemar_exact(self.only_first, self.only_second)


@dataclass(frozen=True, slots=True)
class Difference:
    """Share of the second model less that of the first, with its 95 % intervals."""

    difference: float
    low: float
    high: float
    """Ends of the interval that takes scans as independent."""
    lots_low: float | None
    lots_high: float | None
    """Ends of the interval over lots; None of a single lot."""
    lots: int


def paired_table(first_right: Flags, second_right: Flags) -> PairedTable:
    """The table of two models on the same scans, flags of shape (n,)."""
    first, second = np.asarray(first_right, bool), np.asarray(second_right, bool)
    if first.shape != second.shape:
        raise ValueError(f"{first.shape} and {second.shape}: two models are compared on the same scans")
    return PairedTable(
        both=int((first & second).sum()),
        only_first=int((first & ~second).sum()),
        only_second=int((~first & second).sum()),
        neither=int((~first & ~second).sum()),
    )


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact p: twice the binomial tail of the smaller count at one half, at most 1."""
    fewer, more = sorted((only_first, only_second))
    if fewer == more:
        return 1.0
    # The tail of a binomial up to k is the beta function I_1/2(n - k, k + 1).
    return min(1.0, 2 * beta_cdf(0.5, more, fewer + 1))


def difference_over_lots(first_right: Flags, second_right: Flags, lots: Sequence[str | None]) -> Difference | None:
    """Difference of the shares of right decisions (second less first); all of shape (n,). None of no scans.

    Of independent scans the interval is that of Bonett and Price (2012); where no decision changed, the exact bound on
    how often one could have: a set without a change does not prove that there is none. Over lots it is Student's t on
    the lots' residuals, and no narrower than the other: lots that happen to be alike would leave it no width.
    """
    change = np.asarray(second_right, np.int64) - np.asarray(first_right, np.int64)
    if change.size == 0:
        return None
    names = sorted({lot or "" for lot in lots})
    place = np.searchsorted(names, [lot or "" for lot in lots])
    by_lot = np.bincount(place, weights=change, minlength=len(names))
    scans = np.bincount(place, minlength=len(names))
    mean = float(change.mean())
    more, fewer = (((change == sign).sum() + 1) / (change.size + 2) for sign in (1, -1))
    half = Z_95 * math.sqrt((more + fewer - (more - fewer) ** 2) / (change.size + 2))
    if not change.any():
        half = max(half, upper_bound(0, change.size, 0.975))
    ends = max(-1.0, mean - half), min(1.0, mean + half)
    if len(names) < 2:
        return Difference(mean, *ends, None, None, len(names))
    half = max(half, half_width((by_lot - mean * scans) / change.size))
    return Difference(mean, *ends, max(-1.0, mean - half), min(1.0, mean + half), len(names))
