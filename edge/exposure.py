"""How a scan is exposed: five numbers of its histogram, and the range of them that a model has seen.

The gate looks at a scan window by window, and an autoencoder this small reproduces any smooth grey surface. What it
cannot see is the whole: a sheet of even grey with air around it. The steps between a few percentiles say that much.
Steps, because a thick coating is darker all over but no less even, while a photograph, a weld or noise spreads its
greys. Taken from the counts themselves, so that it means the same for every conversion and input size; a tube that
ages or a changed exposure time shows here first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from edge.conversion import Histogram, percentile

PERCENTS: Final = (5, 25, 50, 75, 95)


class Exposure(NamedTuple):
    """Of one scan, in counts: its median and the steps between its 5th, 25th, 50th, 75th and 95th percentiles."""

    median: int
    p5_to_p25: int
    p25_to_p50: int
    p50_to_p75: int
    p75_to_p95: int


def exposure(hist: Histogram) -> Exposure:
    """Exposure of a scan with this histogram, int64 (65536,). Raises ValueError for one without pixels."""
    p5, p25, p50, p75, p95 = (percentile(hist, percent) for percent in PERCENTS)
    return Exposure(p50, p25 - p5, p50 - p25, p75 - p50, p95 - p75)


@dataclass(frozen=True, slots=True)
class ExposureRange:
    """The exposures a model was made for, both ends included."""

    lowest: Exposure
    highest: Exposure

    def __str__(self) -> str:
        median, *steps = (f"{low}..{high}" for low, high in zip(self.lowest, self.highest, strict=True))
        return f"median {median}, steps {', '.join(steps)} counts"

    def complaint(self, seen: Exposure) -> str | None:
        """Which number lies outside, and what the model takes; None where all lie inside."""
        for name, value, low, high in zip(Exposure._fields, seen, self.lowest, self.highest, strict=True):
            if not low <= value <= high:
                what = name if name == "median" else f"step {name.replace('_', ' ')}"
                return f"the {what} is {value} counts, the model takes {low} to {high}"
        return None
