"""Which scans a model is for: what its networks learnt from, and a little more."""

from __future__ import annotations

from typing import Final

from edge.images import exposure, sharpness
from edge.images.spread import MARGIN, SHARE
from edge.model.manifest import ExposureSpec, ScanRange, SharpnessSpec
from export.errors import ExportError
from train.checkpoint import Checkpoint

SIZE_MARGIN: Final = 0.05
"""Scans may be this much smaller or larger than any the networks learnt from before a person has to look."""
MIN_CLIPPED_FRACTION: Final = 0.02
"""A scan may always have this share of pixels outside the bounds; else twice the most seen in training."""
LARGE_CLIPPED_FRACTION: Final = 0.1
"""Beyond it a scan lost what a person sees on it: hot pixels and the rim are far less, a sheet is half."""
ENOUGH_LOTS: Final = 24
"""From here up the training lots say what others will be like."""


def scan_range(classifier: Checkpoint, gate: Checkpoint) -> ScanRange:
    """Sizes, clipping, exposures and sharpness that either network has seen, widened. Raises ExportError."""
    clipped = max(classifier.max_clipped_fraction, gate.max_clipped_fraction)
    return ScanRange(
        height_px=_widened(classifier.scan_height_px, gate.scan_height_px),
        width_px=_widened(classifier.scan_width_px, gate.scan_width_px),
        max_clipped_fraction=min(1.0, max(MIN_CLIPPED_FRACTION, 2 * clipped)),
        exposure=exposure_spec(classifier, gate),
        sharpness=sharpness_spec(classifier, gate),
    )


def clipping_warning(classifier: Checkpoint, gate: Checkpoint) -> str | None:
    """What to say where the bounds cut much of a scan that was learnt from; None where they do not."""
    clipped = max(classifier.max_clipped_fraction, gate.max_clipped_fraction)
    if clipped <= LARGE_CLIPPED_FRACTION:
        return None
    bounds = classifier.bounds
    where = "the bounds" if bounds is None else f"{bounds.lo_counts} to {bounds.hi_counts} counts"
    return (
        f"warning: of one scan that was learnt from {clipped:.0%} of the pixels lie outside {where}: what they show is"
        " lost, and as much may be of any scan on the line; learn from more lots, or with a recipe of its own that has"
        ' bounds_mode = "per_scan"'
    )


def exposure_spec(*networks: Checkpoint) -> ExposureSpec:
    """How the scans of all networks were exposed. Raises ExportError where no checkpoint tells."""
    seen = [one for network in networks for one in network.exposures]
    lots = [lot for network in networks for lot in network.exposure_lots]
    if not seen:
        raise ExportError("neither checkpoint says how its scans were exposed", hint="train again with this release")
    spread = exposure.fit(seen, SHARE, MARGIN, lots if len(lots) == len(seen) else ()).spread
    return ExposureSpec(mean=spread.mean, inverse_covariance=spread.inverse_covariance, limit=spread.limit)


def sharpness_spec(*networks: Checkpoint) -> SharpnessSpec:
    """How sharp the scans of all networks were. Raises ExportError where a checkpoint does not tell."""
    for network in networks:
        if len(network.sharpnesses) != len(network.exposures):
            raise ExportError(
                f"the {network.kind}'s checkpoint says of {len(network.sharpnesses)} of its {len(network.exposures)} "
                "scans how sharp they are",
                hint="train again with this release",
            )
    seen = [one for network in networks for one in network.sharpnesses]
    lots = [lot for network in networks for lot in network.exposure_lots]
    model = sharpness.fit(seen, SHARE, MARGIN, lots if len(lots) == len(seen) else ())
    return SharpnessSpec(max_edge_px=model.max_edge_px, noise_counts=model.noise_counts, fineness=model.fineness)


def _widened(*ranges: tuple[int, int]) -> tuple[int, int]:
    """All of the ranges in px and a margin, outwards."""
    lowest, highest = min(low for low, _ in ranges), max(high for _, high in ranges)
    return max(1, int(lowest * (1 - SIZE_MARGIN))), round(highest * (1 + SIZE_MARGIN))
