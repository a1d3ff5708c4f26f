"""Filters that need no training: a weld less its background, over its noise, averaged in windows.

Images are uint8 (h, w); residuals and noise are float32 (h, w), responses half as high and wide. Dark indications have
negative residuals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import cv2
import numpy as np
import numpy.typing as npt

Noise = Literal["local", "grey", "own"]
Window = Literal["5", "9", "lines"]

NOISES: Final[tuple[Noise, ...]] = ("local", "grey", "own")
"""Noise estimated about each pixel (Immerkaer 1996), a function of the grey level, or the residual's own deviation."""
WINDOWS: Final[tuple[Window, ...]] = ("5", "9", "lines")

_SMOOTH_PX = 3
_NOISE_PX = 49
_OWN_PX = 97
_NOISE_FLOOR = 0.5
"""Grey levels: what 8 bits cannot resolve is no indication, however quiet the image."""
_BEAD_PX = 201
_BEAD_STEP_PX = 4
_BEAD_MOST_DEG = 6.0
_OUTLIER = 2.5
_PASSES = 4
_LINE_PX = (21, 3)
_LINE_ANGLES_DEG = tuple(180 / 8 * step for step in range(8))

Grey = npt.NDArray[np.uint8]
Map = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Filter:
    """A background, a noise and a window; its response is positive where the image is brighter than its background."""

    background: str
    noise: Noise
    window: Window

    @property
    def name(self) -> str:
        return f"{self.background}/{self.noise}/{self.window}"


def box_background(image: Grey, side_px: int) -> Map:
    """Mean over a square."""
    return as_map(cv2.blur(image.astype(np.float32), (side_px, side_px), borderType=cv2.BORDER_REFLECT_101))


def median_background(image: Grey, side_px: int) -> Map:
    """Median over a square, smoothed, for it comes in whole grey levels."""
    edge = side_px // 2  # cv2's median repeats the border pixel, which would make that pixel the median
    wide = cv2.copyMakeBorder(image, edge, edge, edge, edge, cv2.BORDER_REFLECT_101)
    median = cv2.medianBlur(wide, side_px)[edge:-edge, edge:-edge]
    return as_map(cv2.GaussianBlur(median.astype(np.float32), (0, 0), _SMOOTH_PX))


def short_median_background(image: Grey, cell_px: int, cells: int) -> Map:
    """Median of `cells` cell means along rows, then along columns, bilinear between the cells' middles.

    Averages, minima and maxima alone make it, so an ONNX graph can; a median of pixels cannot be one.
    """
    height, width = image.shape
    reach = cells // 2
    short = cv2.resize(image.astype(np.float32), (width // cell_px, height // cell_px), interpolation=cv2.INTER_AREA)
    for axis in (1, 0):
        wide = np.pad(short, [(reach, reach) if along == axis else (0, 0) for along in (0, 1)], mode="reflect")
        short = np.median(np.lib.stride_tricks.sliding_window_view(wide, cells, axis=axis), axis=2)
    return as_map(cv2.resize(short.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR))


def top_hat_background(image: Grey, side_px: int) -> Map:
    """Mean of closing and opening by a disc: between them lies all that the disc fits into.

    Each alone rides on the noise's peaks; the image is smoothed first.
    """
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.0)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side_px, side_px))
    closed = cv2.morphologyEx(smooth, cv2.MORPH_CLOSE, disc)
    opened = cv2.morphologyEx(smooth, cv2.MORPH_OPEN, disc)
    return as_map(cv2.GaussianBlur((closed + opened) / 2, (0, 0), _SMOOTH_PX))


def bead_background(image: Grey) -> Map:
    """Median over a line of 201 px along the bead."""
    angle = bead_angle_deg(image)
    turned, back = _turned(image.astype(np.float32), angle)
    short = cv2.resize(turned, (turned.shape[1] // _BEAD_STEP_PX, turned.shape[0]), interpolation=cv2.INTER_AREA)
    reach = _BEAD_PX // _BEAD_STEP_PX // 2
    wide = np.pad(short, ((0, 0), (reach, reach)), mode="reflect")
    median = np.median(np.lib.stride_tricks.sliding_window_view(wide, 2 * reach + 1, axis=1), axis=2)
    full = cv2.resize(median.astype(np.float32), turned.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return back(cv2.GaussianBlur(full, (0, 0), 1.0))


def plane_background(image: Grey, along_px: float, across_px: float) -> Map:
    """Level of a plane fitted about every pixel, Gaussian weights, outliers taken out in passes.

    A pixel more than 2.5 local deviations off the last fit no longer counts, so that an indication does not pull the
    background it is judged by. Weights unequal along and across follow the bead. Computed at half the scale.
    """
    height, width = image.shape
    half = as_map(cv2.resize(image.astype(np.float32), (width // 2, height // 2), interpolation=cv2.INTER_AREA))
    angle = 0.0 if along_px == across_px else bead_angle_deg(image)
    turned, back = _turned(half, angle)
    level = back(_robust_planes(turned, along_px / 2, across_px / 2))
    return as_map(cv2.resize(level, (width, height), interpolation=cv2.INTER_LINEAR))


BACKGROUNDS: Final[dict[str, Callable[[Grey], Map]]] = {
    "box33": partial(box_background, side_px=33),
    "median31": partial(median_background, side_px=31),
    "median51": partial(median_background, side_px=51),
    "top-hat31": partial(top_hat_background, side_px=31),
    "bead201": bead_background,
    "plane8": partial(plane_background, along_px=8.0, across_px=8.0),
    "plane12": partial(plane_background, along_px=12.0, across_px=12.0),
    "plane24x6": partial(plane_background, along_px=24.0, across_px=6.0),
    "short28": partial(short_median_background, cell_px=4, cells=7),
}
AFTERWARDS: Final = ("short28",)
"""Backgrounds proposed after the plan's run: rows of their own, never chosen on inner folds."""


def responses(image: Grey, background: str) -> Iterator[tuple[Filter, Map, Map]]:
    """Bright and dark response of every filter with this background, in the order of `NOISES` and `WINDOWS`.

    Both float32 (h // 2, w // 2): the greatest of every 2 x 2 px.
    """
    residual = image.astype(np.float32) - BACKGROUNDS[background](image)
    for noise in NOISES:
        scaled = residual / noise_of(image, residual, noise)
        for window in WINDOWS:
            bright, dark = windowed(scaled, window)
            yield Filter(background, noise, window), bright, dark


def noise_of(image: Grey, residual: Map, noise: Noise) -> Map:
    """Deviation of the noise at every pixel, at least half a grey level."""
    if noise == "local":
        return local_noise(image)
    if noise == "grey":
        return grey_noise(image, residual)
    return own_deviation(residual)


def local_noise(image: Grey) -> Map:
    """From the mean size of second differences within 49 px: slopes and straight edges have none (Immerkaer 1996)."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    differences = np.abs(cv2.filter2D(image.astype(np.float32), -1, kernel, borderType=cv2.BORDER_REFLECT_101))
    size = cv2.blur(differences, (_NOISE_PX, _NOISE_PX), borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(size * (math.sqrt(math.pi / 2) / 6) + _NOISE_FLOOR, np.float32)


def grey_noise(image: Grey, residual: Map) -> Map:
    """Median deviation of the residual at each grey level of the smoothed image, a straight line in its square."""
    level = cv2.GaussianBlur(image.astype(np.float32), (0, 0), _SMOOTH_PX)
    edges = np.quantile(level, np.linspace(0, 1, 33))
    place = np.clip(np.searchsorted(edges, level.ravel(), side="right") - 1, 0, 31)
    size = np.abs(residual.ravel())
    middles = np.array([level.ravel()[place == bin_].mean() if (place == bin_).any() else np.nan for bin_ in range(32)])
    medians = np.array([np.median(size[place == bin_]) if (place == bin_).any() else np.nan for bin_ in range(32)])
    known = np.isfinite(middles)
    slope, offset = np.polyfit(middles[known], (1.4826 * medians[known]) ** 2, 1) if known.sum() > 1 else (0.0, 1.0)
    least = float(np.nanmin((1.4826 * medians) ** 2))
    return np.asarray(np.sqrt(np.maximum(slope * level + offset, least)) + _NOISE_FLOOR, np.float32)


def own_deviation(residual: Map) -> Map:
    """Deviation of the residual within 97 px, what lies beyond 2.5 of it clipped: ripples count as noise.

    In windows of 5 px, as they are read: noise of single pixels averages out there, ripples do not.
    """
    smooth = cv2.blur(residual, (5, 5), borderType=cv2.BORDER_REFLECT_101)
    square = (_OWN_PX, _OWN_PX)
    deviation = np.sqrt(cv2.blur(smooth * smooth, square, borderType=cv2.BORDER_REFLECT_101)) + 1e-6
    for _ in range(2):
        clipped = np.clip(smooth, -_OUTLIER * deviation, _OUTLIER * deviation)
        deviation = np.sqrt(cv2.blur(clipped * clipped, square, borderType=cv2.BORDER_REFLECT_101)) + 1e-6
    return np.asarray(deviation + _NOISE_FLOOR / 5, np.float32)


def windowed(scaled: Map, window: Window) -> tuple[Map, Map]:
    """Bright and dark means over windows (h // 2, w // 2); of lines the greatest among eight directions."""
    if window != "lines":
        side = int(window)
        mean = as_map(cv2.blur(scaled, (side, side), borderType=cv2.BORDER_REFLECT_101))
        return halved(mean), halved(-mean)
    small = as_map(cv2.resize(scaled, (scaled.shape[1] // 2, scaled.shape[0] // 2), interpolation=cv2.INTER_AREA))
    bright, dark = np.zeros_like(small), np.zeros_like(small)
    for angle in _LINE_ANGLES_DEG:
        mean = as_map(cv2.filter2D(small, -1, line_kernel(angle), borderType=cv2.BORDER_REFLECT_101))
        np.maximum(bright, mean, out=bright)
        np.maximum(dark, -mean, out=dark)
    return bright, dark


def as_map(values: npt.NDArray[np.generic]) -> Map:
    """What OpenCV answers, as float32."""
    return np.asarray(values, np.float32)


def halved(values: Map) -> Map:
    """The greatest of every 2 x 2 px; an odd last row or column is left out."""
    height, width = values.shape[0] // 2, values.shape[1] // 2
    return np.asarray(values[: 2 * height, : 2 * width].reshape(height, 2, width, 2).max(axis=(1, 3)))


def line_kernel(angle_deg: float) -> Map:
    """A line of 21 x 3 px through the middle of a square at half the scale, its sum 1."""
    length, width = _LINE_PX[0] / 2, _LINE_PX[1] / 2
    reach = math.ceil(length / 2)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    angle = math.radians(angle_deg)
    along = columns * math.cos(angle) + rows * math.sin(angle)
    across = -columns * math.sin(angle) + rows * math.cos(angle)
    kernel = (np.abs(along) <= length / 2) * np.clip(width / 2 + 0.5 - np.abs(across), 0, 1)
    return np.asarray(kernel / kernel.sum(), np.float32)


def bead_angle_deg(image: Grey) -> float:
    """By how much the bead falls to the right: the turn after which the means of rows differ most."""
    small = cv2.resize(image, None, fx=0.125, fy=0.125, interpolation=cv2.INTER_AREA).astype(np.float32)
    small -= small.mean()
    angles = np.arange(-_BEAD_MOST_DEG, _BEAD_MOST_DEG + 0.01, 0.25)
    spread = []
    for angle in angles:
        turned, _ = _turned(small, float(angle))
        edge = int(abs(math.tan(math.radians(float(angle)))) * turned.shape[1] / 2) + 1
        inner = turned[edge : turned.shape[0] - edge] if turned.shape[0] > 4 * edge else turned
        spread.append(float(inner.mean(axis=1).var()))
    return float(angles[int(np.argmax(spread))])


def _turned(image: Map, angle_deg: float) -> tuple[Map, Callable[[Map], Map]]:
    """The image turned so that the bead lies level, and what turns a map back."""
    height, width = image.shape
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle_deg, 1.0)

    def warped(values: Map, flags: int) -> Map:
        return np.asarray(
            cv2.warpAffine(values, turn, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101), np.float32
        )

    def back(values: Map) -> Map:
        return values if angle_deg == 0 else warped(values, cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)

    return (image if angle_deg == 0 else warped(image, cv2.INTER_LINEAR)), back


def _robust_planes(grey: Map, along_px: float, across_px: float) -> Map:
    """The level of local planes (h, w): weighted least squares, 0 or 1 for each pixel, again and again."""
    kernels_along, kernels_across = _moment_kernels(along_px), _moment_kernels(across_px)

    def moment(values: Map, along: int, across: int) -> Map:
        return np.asarray(
            cv2.sepFilter2D(
                values, cv2.CV_32F, kernels_along[along], kernels_across[across], borderType=cv2.BORDER_REFLECT_101
            )
        )

    weights = np.ones_like(grey)
    middle = float(np.median(grey))
    centred = grey - middle
    level = moment(centred, 0, 0)
    for _ in range(_PASSES):
        residual = centred - level
        size = own_size(residual * weights, weights)
        weights = (np.abs(cv2.blur(residual, (3, 3))) <= _OUTLIER * size).astype(np.float32)
        values = centred * weights
        one = moment(weights, 0, 0) + 1e-3
        x, y = moment(weights, 1, 0), moment(weights, 0, 1)
        xx, yy, xy = moment(weights, 2, 0), moment(weights, 0, 2), moment(weights, 1, 1)
        ridge = 0.05 * one
        xx, yy = xx + ridge, yy + ridge
        v, vx, vy = moment(values, 0, 0), moment(values, 1, 0), moment(values, 0, 1)
        # Cramer's rule: the level at the pixel itself is the plane's constant.
        minor = xx * yy - xy * xy
        first = x * yy - xy * y
        second = x * xy - xx * y
        level = (v * minor - vx * first + vy * second) / (one * minor - x * first + y * second)
    return level + middle


def own_size(residual: Map, weights: Map) -> Map:
    """Deviation of what counts of a residual at half the scale, in means of 3 of its px, within 97 px."""
    square = (_OWN_PX // 2 + 1, _OWN_PX // 2 + 1)
    smooth = cv2.blur(residual, (3, 3), borderType=cv2.BORDER_REFLECT_101)
    total = cv2.blur(smooth * smooth, square, borderType=cv2.BORDER_REFLECT_101)
    share = cv2.blur(weights, square, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(np.sqrt(total / np.maximum(share, 0.1)) + _NOISE_FLOOR / 3, np.float32)


def _moment_kernels(sigma_px: float) -> tuple[npt.NDArray[np.float64], ...]:
    """A Gaussian, and it times the place and its square, in sigmas."""
    reach = math.ceil(3 * sigma_px)
    steps = np.arange(-reach, reach + 1) / sigma_px
    bell = np.exp(-(steps**2) / 2)
    bell /= bell.sum()
    return bell, bell * steps, bell * steps**2
