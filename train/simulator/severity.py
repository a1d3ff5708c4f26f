"""Severity: the one scale on which mild and severe anomalies differ, and what it does to sizes and counts."""

import numpy as np

ABNORMAL_FROM = 0.425
"""A scan is abnormal if one of its anomalies is at least so severe. Here sizes and contrasts grow fastest."""

GREY_ZONE = (0.30, 0.55)
"""Severities about which people disagree. A lot without them is easier than any real one."""

# The share of its range that a size or contrast has reached: flat while mild, then over the grey zone to half.
_AT_SEVERITY = (0.0, *GREY_ZONE, 1.0)
_SHARE = (0.0, 0.13, 0.5, 1.0)


def ramp(severity: float, low: float, high: float) -> float:
    """A size or contrast from `low` (severity 0) to `high` (severity 1), monotone, steepest in the grey zone."""
    return low + (high - low) * float(np.interp(severity, _AT_SEVERITY, _SHARE))


def count(severity: float, low: int, high: int) -> int:
    """How many of a thing: whole number from `low` (severity 0) to `high` (severity 1)."""
    return round(ramp(severity, low, high))
