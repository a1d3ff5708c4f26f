"""How sharp a scan is and how it is grained, and how far that may be from what a model has learnt from.

A scan out of focus shows fewer anomalies than its sheet has, and neither the gate nor the percentiles of its counts
(edge/images/exposure.py) see anything strange in it. Blur that comes before the quantum noise (focal spot, motion,
a scintillator out of place) leaves the noise as fine as ever but widens the rims of sheet and coating; blur after it
(resampling, filters, lossy compression) takes away the finest noise first. So four figures are measured: the width of
the steepest edges along x and along y, the size of the finest noise, and its ratio to the noise a few pixels apart.
They are ratios and counts of the scan itself, whatever the conversion and the input size. Edges and noise are looked
at in a fixed number of places, so a large scan costs little more than a small one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from edge.images.conversion import Histogram, percentiles
from edge.images.spread import fit as fit_spread
from edge.records import Counts

EDGE_PERCENT: Final = 10
"""Percentile of the widths over the strips: a damaged rim is ragged in places, a blurred one is wide everywhere."""
LEAST_FACTOR: Final = 1.25
"""A figure may always differ from the training scans' mean by this factor."""

_PIECES = 16
"""Strips that edges are looked for in, along each axis; patches for noise stand where strips of both axes cross."""
_PIECE_PX = 16
"""Rows averaged to a profile: noise falls to a quarter, and a sheet turned by 2 degrees widens an edge by half a px."""
_REACH_PX = 6
"""An edge is a step between means this far on either side of it; wider edges all count as 12 px wide."""
_LAG_PX = 4
"""Pixels this far apart give the coarser noise."""
_LEAST_SIDE_PX = 32
_LEAST_STEP_COUNTS = 1e-3
_LEAST_NOISE_COUNTS = 0.3
"""Rounding to whole counts alone makes so much."""
_CLIPPED_PERCENTS = (1, 99)
"""Hot and dead pixels are no edges: profiles are of counts clipped to these percentiles."""

_Profiles = npt.NDArray[np.float32]


class Sharpness(NamedTuple):
    """The four figures of one scan, each above zero."""

    edge_x_px: float
    """Width of the steepest edges along x: the step over the steepest slope, 2.5 sigma of a Gaussian edge."""
    edge_y_px: float
    noise_counts: float
    """Standard deviation of white noise with as large second differences."""
    fineness: float
    """That noise over the one from pixels 4 px apart: 1 where the noise is white, less once it was smoothed."""


@dataclass(frozen=True, slots=True)
class SharpnessModel:
    """The scans a model was made for: see `fit`."""

    max_edge_px: tuple[float, float]
    """Greatest width along x and along y."""
    noise_counts: tuple[float, float]
    """Least and greatest."""
    fineness: tuple[float, float]
    """Least and greatest."""

    def complaint(self, seen: Sharpness) -> str | None:
        """What is wrong with focus or noise, and where to look; None where the scan is in spec."""
        for axis, width, most in zip("xy", (seen.edge_x_px, seen.edge_y_px), self.max_edge_px, strict=True):
            if not width <= most:
                return (
                    f"blurred: edges along {axis} are {width:.1f} px wide, the model takes at most {most:.1f} px; "
                    "look at focus, detector and motion"
                )
        for words, value, (least, most), digits, where in (
            ("share of the finest noise is", seen.fineness, self.fineness, 2, "what resamples, filters or compresses"),
            ("noise is, in counts,", seen.noise_counts, self.noise_counts, 1, "tube, exposure time and detector"),
        ):
            if not least <= value <= most:
                return (
                    f"{words} {value:.{digits}f}, the model takes {least:.{digits}f} to {most:.{digits}f}; "
                    f"look at {where}"
                )
        return None


def sharpness(counts: Counts, hist: Histogram) -> Sharpness:
    """Sharpness of a scan, counts uint16 (height_px, width_px) with histogram `hist`, int64 (65536,).

    Without any edge the widths are 12 px, without noise `noise_counts` is 0.3. A scan under 32 px is first drawn out by
    its own border.
    """
    lacking = [max(0, _LEAST_SIDE_PX - side) for side in counts.shape]
    if any(lacking):
        bordered = cv2.copyMakeBorder(counts, 0, lacking[0], 0, lacking[1], cv2.BORDER_REPLICATE)
        counts = np.asarray(bordered, np.uint16)
    lo, hi = percentiles(hist, _CLIPPED_PERCENTS)
    rows, columns = map(_places, counts.shape)
    along_x = np.concatenate([counts[at : at + _PIECE_PX] for at in rows])
    along_y = np.concatenate([cv2.transpose(counts[:, at : at + _PIECE_PX]) for at in columns])
    patches = sliding_window_view(counts, (_PIECE_PX, _PIECE_PX))[rows[:, None], columns]
    fine, coarse = _noise(patches.astype(np.float32))
    return Sharpness(_edge_px(along_x.clip(lo, hi)), _edge_px(along_y.clip(lo, hi)), fine, fine / coarse)


@lru_cache(maxsize=16)
def _places(side_px: int) -> npt.NDArray[np.int64]:
    """Where the pieces along a side begin: int64 (16,)."""
    places = np.linspace(0, side_px - _PIECE_PX, _PIECES).astype(np.int64)
    places.setflags(write=False)
    return places


def fit(seen: Sequence[Sharpness], share: float, margin: float, lots: Sequence[str] = ()) -> SharpnessModel:
    """Limits of each figure by itself from the training scans, with `lots` by leaving each lot out.

    See `edge.images.spread.fit`; none is nearer to the mean than LEAST_FACTOR. A scan that is sharper than any is in
    spec. Raises ValueError for no scans.
    """
    if not seen:
        raise ValueError("sharpness model of no scans")
    ranges = []
    for figures in np.log(np.array(seen, np.float64)).T:
        spread = fit_spread(figures[:, None], share, margin, lots)
        deviation = spread.inverse_covariance[0][0] ** -0.5
        factor = max(LEAST_FACTOR, float(np.exp(spread.limit * deviation)))
        usual = float(np.exp(spread.mean[0]))
        ranges.append((usual / factor, usual * factor))
    (_, edge_x), (_, edge_y), noise, fineness = ranges
    return SharpnessModel((edge_x, edge_y), noise, fineness)


def _edge_px(strips: Counts) -> float:
    """Width of the edges that strips, one below the other (16 * 16, length_px), show along their length, in px.

    The largest step of each half of a strip counts, with the steepest slope within it: a half because two edges that
    lie near each other, of the sheet and of its coating, make one wide step, but seldom at both ends of the sheet.
    """
    whole: _Profiles = strips.reshape(_PIECES, _PIECE_PX, -1).sum(axis=1, dtype=np.float32) / _PIECE_PX
    middle = (whole.shape[1] + 1) // 2
    profiles = np.concatenate([whole[:, :middle], whole[:, -middle:]])
    every = np.arange(len(profiles))
    steps = np.abs(profiles[:, 2 * _REACH_PX :] - profiles[:, : -2 * _REACH_PX])
    at = steps.argmax(axis=1)
    step = np.maximum(steps[every, at], _LEAST_STEP_COUNTS)
    around = profiles[every[:, None], at[:, None] + np.arange(2 * _REACH_PX + 1)]
    steepest = np.abs(around[:, 2:] - around[:, :-2]).max(axis=1) / 2
    widths = step / np.maximum(steepest, step / (2 * _REACH_PX))
    is_edge = step >= _percentile(step, 75) / 2  # beside the sheet there is noise alone, which is always steep
    return float(_percentile(widths[is_edge], EDGE_PERCENT))


def _percentile(values: npt.NDArray[np.float32], percent: float) -> np.float32:
    """As numpy.percentile of a few values (n,), to the bit and without what that does for many: half of `_edge_px`."""
    ordered = np.sort(values)
    place = (len(values) - 1) * percent / 100
    share, low, high = place % 1, ordered[math.floor(place)], ordered[math.ceil(place)]
    between: np.float32 = low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)
    return between


def _noise(patches: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Noise in counts from neighbours and from pixels 4 px apart: the median over patches (16, 16, 16 px, 16 px).

    Second differences across both axes see neither slopes nor stripes along an axis (Immerkaer 1996).
    """
    sizes = [
        np.abs(_second(_second(patches, lag).swapaxes(2, 3), lag)).mean(axis=(2, 3)).ravel() for lag in (1, _LAG_PX)
    ]
    middle = np.sort(sizes, axis=1)[:, _PIECES**2 // 2 - 1 : _PIECES**2 // 2 + 1]
    fine, coarse = middle.mean(axis=1).tolist()  # as numpy.median, without what that does for NaN and masks
    per_deviation = 6 * (2 / np.pi) ** 0.5  # mean size of such differences of white noise of deviation 1
    return max(fine / per_deviation, _LEAST_NOISE_COUNTS), max(coarse / per_deviation, _LEAST_NOISE_COUNTS)


def _second(patches: npt.NDArray[np.float32], lag: int) -> npt.NDArray[np.float32]:
    """Second differences of patches (16, 16, height_px, width_px) along their height, of values `lag` px apart."""
    differences: npt.NDArray[np.float32] = (
        patches[:, :, 2 * lag :] - 2 * patches[:, :, lag:-lag] + patches[:, :, : -2 * lag]
    )
    return differences
