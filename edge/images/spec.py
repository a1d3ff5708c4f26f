"""Which scans a model takes, and what they become for its networks."""

from __future__ import annotations

from dataclasses import dataclass

from edge.images.conversion import Bounds
from edge.images.exposure import ExposureModel
from edge.images.method import Method
from edge.images.sharpness import SharpnessModel
from edge.records import Size


@dataclass(frozen=True, slots=True)
class ScanSpec:
    """The range of scans a model was made for; anything else is for a person to look at."""

    height_px: tuple[int, int]
    width_px: tuple[int, int]
    max_clipped_fraction: float
    sharpness: SharpnessModel
    exposure: ExposureModel


@dataclass(frozen=True, slots=True)
class InputSpec:
    """How counts become the networks' input: everything the model says before its graphs begin."""

    method: Method
    bounds: Bounds | None
    size: Size
    scan_spec: ScanSpec
