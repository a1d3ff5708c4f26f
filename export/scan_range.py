"""Which scans a model is for: what its networks learnt from, and a little more."""

from __future__ import annotations

import math
from typing import Final

from edge.conversion import LEVELS
from edge.exposure import ExposureRange
from edge.manifest import ExposureLimits, ScanRange
from export.errors import ExportError
from train.checkpoint import Checkpoint

SIZE_MARGIN: Final = 0.05
"""Scans may be this much smaller or larger than any the networks learnt from before a person has to look."""
EXPOSURE_MARGIN: Final = 0.15
"""Of the range of exposures seen in training, that a scan may lie beyond either end of it;"""
MIN_EXPOSURE_MARGIN: Final = 0.01
"""or this share of the brightest median, where a training set is so uniform that its range says little."""
MIN_CLIPPED_FRACTION: Final = 0.02
"""A scan may always have this share of pixels outside the bounds; else twice the most seen in training."""


def scan_range(classifier: Checkpoint, gate: Checkpoint) -> ScanRange:
    """Sizes, clipping and exposures that either network has seen, widened. Raises ExportError."""
    clipped = max(classifier.max_clipped_fraction, gate.max_clipped_fraction)
    return ScanRange(
        height_px=_widened(classifier.scan_height_px, gate.scan_height_px),
        width_px=_widened(classifier.scan_width_px, gate.scan_width_px),
        max_clipped_fraction=min(1.0, max(MIN_CLIPPED_FRACTION, 2 * clipped)),
        exposure=exposure_limits(classifier.exposure, gate.exposure),
    )


def exposure_limits(*ranges: ExposureRange | None) -> ExposureLimits:
    """All exposures seen by either network and a margin, in counts. Raises ExportError where neither tells."""
    seen = [one for one in ranges if one is not None]
    if not seen:
        raise ExportError("neither checkpoint says how its scans were exposed", hint="train again with this release")
    lowest = [min(values) for values in zip(*(one.lowest for one in seen), strict=True)]
    highest = [max(values) for values in zip(*(one.highest for one in seen), strict=True)]
    least_counts = math.ceil(MIN_EXPOSURE_MARGIN * highest[0])
    margins = [
        max(least_counts, math.ceil(EXPOSURE_MARGIN * (high - low))) for low, high in zip(lowest, highest, strict=True)
    ]
    return ExposureLimits(
        lowest=tuple(max(0, low - margin) for low, margin in zip(lowest, margins, strict=True)),
        highest=tuple(min(LEVELS - 1, high + margin) for high, margin in zip(highest, margins, strict=True)),
    )


def _widened(*ranges: tuple[int, int]) -> tuple[int, int]:
    """All of the ranges in px and a margin, outwards."""
    lowest, highest = min(low for low, _ in ranges), max(high for _, high in ranges)
    return max(1, int(lowest * (1 - SIZE_MARGIN))), round(highest * (1 + SIZE_MARGIN))
