"""Colours of the two maps, as the report and the desk draw them over a scan."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Stops = tuple[tuple[float, tuple[int, int, int], float], ...]
"""Value, colour (red, green, blue), opacity; straight lines between.

From light to dark and from clear to solid, so that it reads in grey and by the colour-blind.
"""

HEAT_STOPS: Stops = (
    (0.5, (255, 221, 87), 0.0),
    (1.0, (255, 176, 46), 0.55),
    (2.0, (226, 73, 51), 0.75),
    (4.0, (110, 0, 120), 0.9),
)
"""Residual as a multiple of the gate's threshold."""

REASON_STOPS: Stops = (
    (0.1, (196, 226, 80), 0.0),
    (0.33, (94, 201, 98), 0.45),
    (0.67, (33, 145, 140), 0.65),
    (1.0, (68, 20, 110), 0.85),
)
"""What a place says beyond the threshold, as a share of what the strongest one says."""
LEAST_STRONGEST = 1.0
"""Log odds that the darkest colour stands for at least: noise around the threshold shall not look like a finding."""


def heat_colours(ratio: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Residual over threshold (h, w) to red, green, blue, opacity uint8 (h, w, 4); NaN shows as the worst."""
    return _colours(ratio, HEAT_STOPS)


def reason_colours(beyond: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Log odds beyond the threshold (h, w) to red, green, blue, opacity uint8 (h, w, 4)."""
    return _colours(beyond / max(float(beyond.max()), LEAST_STRONGEST), REASON_STOPS)


def _colours(values: npt.NDArray[np.float32], stops: Stops) -> npt.NDArray[np.uint8]:
    places = np.array([stop for stop, _, _ in stops])
    channels = np.array([[*colour, 255.0 * opacity] for _, colour, opacity in stops])
    safe = np.nan_to_num(values.astype(np.float64), nan=np.inf)
    return np.stack([np.interp(safe, places, channel) for channel in channels.T], axis=-1).round().astype(np.uint8)
