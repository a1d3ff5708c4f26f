"""The gate's first stage: a filter that learns only what is usual where. A scan less its background, over its noise.

It sees the image at half its size, means of 2 x 2 px. The background is a short median: cells of 2 x 2 of those means
are averaged, the median of 7 cells is taken along rows, then along columns, and the map is interpolated back. Mean and
deviation of the residual in windows of 3 x 3 means are held against the noise of the image there, the mean size of
second differences, which slopes and straight edges do not have (Immerkaer 1996).

A median of pixels has no ONNX operator, but one of 7 maps is a network of minima and maxima: with averages and one
interpolation that is all an engine is asked for. Every border is replicated, so the stage sees to the rim, where the
autoencoder does not. How it was chosen and what it finds: docs/experiments/gate-filter.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.networks import FIRST_WINDOW_PX

CELL_PX: Final = 4
"""Side of a cell of the background, a multiple of the 2 px of a mean."""
MEDIAN_CELLS: Final = 7
WINDOW_MEANS: Final = 3
_NOISE_FLOOR = 0.5 / 255
"""What 8 bits cannot resolve is no indication, however quiet the image."""
_ROWS, _COLUMNS = 2, 3


class FilterStage(nn.Module):
    """What the filter says of every place, weighed by what is usual there and over its limits.

    `mean_weight`, `std_weight`: (map_height, map_width), each with a mean of 1. `cell_px`: side of a map's cell, even.
    Calibrated in `train.gate.calibration`.
    """

    mean_weight: Tensor
    std_weight: Tensor
    limits: Tensor
    """Limits (2,) of mean and deviation, divided by the thresholds of the scores they join."""

    def __init__(self, mean_weight: Tensor, std_weight: Tensor, cell_px: int) -> None:
        super().__init__()
        self.cell_px = cell_px
        self.register_buffer("mean_weight", mean_weight)
        self.register_buffer("std_weight", std_weight)
        self.register_buffer("limits", torch.ones(2))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Means and deviations of images (n, 1, height, width) in [0, 1]: two maps (n, map_height, map_width)."""
        means, stds = window_maps(images, self.cell_px)
        return means * (self.mean_weight / self.limits[0]), stds * (self.std_weight / self.limits[1])


def first_cell_px(cell_px: int) -> int:
    """Where the first cell begins, 0 or less: the autoencoder's first window, further in, begins a cell too."""
    return -(-FIRST_WINDOW_PX % cell_px)


def window_maps(images: Tensor, cell_px: int) -> tuple[Tensor, Tensor]:
    """Greatest |mean| and deviation of the windows centred in each cell, over the noise: (n, map_height, map_width)."""
    height, width = images.shape[-2:]
    if height % CELL_PX or width % CELL_PX:
        images = F.pad(images, (0, -width % CELL_PX, 0, -height % CELL_PX), mode="replicate")
    half = F.avg_pool2d(images, 2)
    side, before = cell_px // 2, -first_cell_px(cell_px) // 2
    height, width = half.shape[-2:]
    pads = (before, (-before - width) % side, before, (-before - height) % side)

    def greatest(values: Tensor) -> Tensor:
        return F.max_pool2d(F.pad(values, pads), side)  # zeros never win, for none is negative

    residual = half - background(half, CELL_PX // 2)
    mean = _box(residual)
    square = mean * mean
    variance = _box(residual * residual) - square
    sizes = F.avg_pool2d(F.pad(_second_differences(images).abs(), (1, 1, 0, 0), mode="replicate"), (1, 2))
    noise = _noise(F.pad(sizes, pads, mode="replicate"), side)
    # Roots come last, where there are few values.
    means, stds = (greatest(values).clamp_min(0.0).sqrt() / noise for values in (square, variance))
    return means.squeeze(1), stds.squeeze(1)


def background(images: Tensor, side: int) -> Tensor:
    """Short median of images (n, 1, height, width), both multiples of `side`, that of its cells.

    Bilinear between the cells' middles.
    """
    cells = F.avg_pool2d(images, side)
    for dim in (_COLUMNS, _ROWS):
        cells = _running_median(cells, dim)
    return F.interpolate(cells, scale_factor=side, mode="bilinear", align_corners=False)


def _running_median(cells: Tensor, dim: int) -> Tensor:
    reach = MEDIAN_CELLS // 2
    wide = F.pad(cells, (reach, reach, 0, 0) if dim == _COLUMNS else (0, 0, reach, reach), mode="replicate")
    return median_of([wide.narrow(dim, start, cells.shape[dim]) for start in range(MEDIAN_CELLS)])


def median_of(values: Sequence[Tensor]) -> Tensor:
    """Median, element by element, of an odd number of maps (three or more), by minima and maxima alone.

    What is least or greatest among more than half of the values is not the median: such pairs are put aside, another
    value comes in, until one is left.
    """
    half = len(values) // 2 + 2
    held, waiting = list(values[:half]), list(values[half:])
    while len(held) > 1:
        for other in range(1, len(held)):
            held[0], held[other] = torch.minimum(held[0], held[other]), torch.maximum(held[0], held[other])
        for other in range(1, len(held) - 1):
            held[other], held[-1] = torch.minimum(held[other], held[-1]), torch.maximum(held[other], held[-1])
        held = held[1:-1] + waiting[:1]
        del waiting[:1]
    return held[0]


def _second_differences(images: Tensor) -> Tensor:
    """Along columns at every second row, then along rows: (n, 1, height / 2, width - 2) of an even height."""
    wide = F.pad(images, (0, 0, 0, 1), mode="replicate")
    above, at, below = wide[:, :, :-2:2], wide[:, :, 1:-1:2], wide[:, :, 2::2]
    down = above + below - 2 * at
    return down[..., :-2] + down[..., 2:] - 2 * down[..., 1:-1]


def _noise(sizes: Tensor, side: int) -> Tensor:
    """Deviation of the noise in each cell and its eight neighbours, at least half a grey level."""
    cells = F.pad(F.avg_pool2d(sizes, side), (1, 1, 1, 1), mode="replicate")
    return F.avg_pool2d(cells, 3, stride=1) * (math.sqrt(math.pi / 2) / 6) + _NOISE_FLOOR


def _box(values: Tensor) -> Tensor:
    """Mean over the window about every place, the border replicated."""
    return F.avg_pool2d(F.pad(values, (WINDOW_MEANS // 2,) * 4, mode="replicate"), WINDOW_MEANS, stride=1)
