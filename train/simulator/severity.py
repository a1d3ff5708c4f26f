"""Severity: the one scale on which mild and severe anomalies differ, and what it does to sizes and counts."""

import numpy as np

# Between the two nothing is drawn: on the line, too, an inspector's "acceptable" and "reject" leave a grey zone
# that no person labels with confidence. A scan is abnormal if one of its anomalies is severe.
MILD_SEVERITY_MAX = 0.30
SEVERE_SEVERITY_MIN = 0.55

# The share of its range that a size or contrast has reached: flat while mild, then over the grey zone to half.
_AT_SEVERITY = (0.0, MILD_SEVERITY_MAX, SEVERE_SEVERITY_MIN, 1.0)
_SHARE = (0.0, 0.13, 0.5, 1.0)


def ramp(severity: float, low: float, high: float) -> float:
    """A size or contrast from `low` (severity 0) to `high` (severity 1), monotone, steepest between mild and severe."""
    return low + (high - low) * float(np.interp(severity, _AT_SEVERITY, _SHARE))


def count(severity: float, low: int, high: int) -> int:
    """How many of a thing: whole number from `low` (severity 0) to `high` (severity 1)."""
    return round(ramp(severity, low, high))
