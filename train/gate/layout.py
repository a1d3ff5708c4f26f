"""The layout of a scan: where there is air, bare sheet and coating, how grey and how rough, against ordinary scans.

The autoencoder looks through windows of 9x9 px and reproduces any smooth surface; it cannot see that a sheet is
missing, lies askew or is a photograph. Here the scan is pooled to some fifty rows of cells, once to their mean greys
and once to their textures. The principal components of either over ordinary scans (Jackson, Mudholkar 1979, as in
process monitoring) leave two distances: Hotelling's T, how unusual the mixture of known variations is (all dark where
all should be bright), and Q, how much of the scan those variations do not explain. Both are taken per cell in units of
what is usual there, so that the rim of the sheet, which lies elsewhere on every scan, weighs less than its middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge.records import Size

Sight = Literal["greys", "textures"]

ROWS: Final = 50
"""Cells along the height: 40 px of a full scan, some 1250 cells in all."""
MOST_COMPONENTS: Final = 12
"""Beyond, components describe single lots: on simulated lots twice as many made lots not yet seen less usual."""
FOLDS: Final = 6
_LEAST_SPREAD = 0.1
"""Least spread of a cell, in mean spreads of all cells: air that was always the same grey may still differ by that."""
_LEAST_REST = 0.3
"""Least spread of what the components leave, in its mean spread."""
_LEAST_VARIANCE = 1e-5
"""Least variance of the greys of a cell in [0, 1]: a deviation of 0.8 of 255 grey levels, which rounding makes."""


class Layout(nn.Module):
    """Distances of scans from ordinary ones; made by `fit_layout`, or empty to be loaded."""

    centre: Tensor
    spread: Tensor
    axes: Tensor
    """Axes of the components, each of unit length, over cells in units of their spread."""
    axis_spread: Tensor
    rest_spread: Tensor
    limits: Tensor
    """Limits (2,) of T and Q, divided by the threshold of the score they join."""

    def __init__(self, cells: int, components: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(cells))
        self.register_buffer("spread", torch.ones(cells))
        self.register_buffer("axes", torch.zeros(components, cells))
        self.register_buffer("axis_spread", torch.ones(components))
        self.register_buffer("rest_spread", torch.ones(cells))
        self.register_buffer("limits", torch.ones(2))

    def forward(self, grids: Tensor) -> Tensor:
        """The greater of T and Q of grids (n, cells), each over its limit: (n,)."""
        unusual, unexplained = self.distances(grids)
        return torch.maximum(unusual / self.limits[0], unexplained / self.limits[1])

    def distances(self, grids: Tensor) -> tuple[Tensor, Tensor]:
        """T and Q of grids (n, cells), each (n,), both 1 (root mean square) over the scans it was fitted on.

        Written without matrix products: the export computes those, like convolutions, in fewer bits where asked to.
        """
        off = (grids - self.centre) / self.spread
        along = (off.unsqueeze(1) * self.axes).sum(dim=2)
        rest = (off - (along.unsqueeze(2) * self.axes).sum(dim=1)) / self.rest_spread
        return (along / self.axis_spread).square().mean(dim=1).sqrt(), rest.square().mean(dim=1).sqrt()


@dataclass(frozen=True, slots=True)
class LayoutScores:
    """T and Q, float64 (n,) each, of scans by a layout fitted without their lots."""

    unusual: npt.NDArray[np.float64]
    unexplained: npt.NDArray[np.float64]


def cell_side_px(size: Size) -> int:
    """Side of a cell on an image of this size."""
    return max(1, size.height_px // ROWS)


def grid(images: Tensor, cell_px: int, sight: Sight) -> Tensor:
    """Mean grey, or logarithm of the deviation, of every cell (n, cells) of images float (n, 1, height, width)."""
    height, width = images.shape[-2:]
    pad_y, pad_x = -height % cell_px, -width % cell_px
    if pad_y or pad_x:
        images = F.pad(images, (0, pad_x, 0, pad_y), mode="replicate")
    mean = F.avg_pool2d(images, cell_px)
    if sight == "greys":
        return mean.flatten(1)
    variance = F.avg_pool2d(images * images, cell_px) - mean * mean
    return 0.5 * variance.clamp_min(_LEAST_VARIANCE).log().flatten(1)


def components_for(lots: int, scans: int) -> int:
    """How many components so many scans can carry: what they vary in is mostly their lot."""
    return max(1, min(MOST_COMPONENTS, lots // 2, scans - 1))


def fit_layout(grids: Tensor, lots: Sequence[str]) -> Layout:
    """The layout of ordinary scans with grids float (n, cells); limits of 1."""
    values = grids.double()
    layout = Layout(values.shape[1], components_for(len(set(lots)), len(values)))
    centre, spread = values.mean(dim=0), values.std(dim=0, correction=0)
    spread = spread + _LEAST_SPREAD * spread.mean().clamp_min(1e-6)
    off = (values - centre) / spread
    variances, axes = _principal(off, len(layout.axes))
    rest = (off - off @ axes.T @ axes).square().mean(dim=0).sqrt()
    rest = rest + _LEAST_REST * rest.mean().clamp_min(1e-6)
    axis_spread = variances.clamp_min(1e-12).sqrt()
    found = {"centre": centre, "spread": spread, "axes": axes, "axis_spread": axis_spread, "rest_spread": rest}
    layout.load_state_dict({**{name: value.float() for name, value in found.items()}, "limits": torch.ones(2)})
    return layout.to(grids.device)


def _principal(off: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The greatest variances (count,) of deviations (n, cells) and their directions (count, cells)."""
    if len(off) > off.shape[1]:
        variances, directions = torch.linalg.eigh(off.T @ off / len(off))  # the least variance first
        return variances[-count:].flip(0), directions[:, -count:].flip(1).T
    variances, mixtures = torch.linalg.eigh(off @ off.T / len(off))  # of fewer scans than cells: the same, sooner
    axes = (off.T @ mixtures[:, -count:].flip(1)).T
    return variances[-count:].flip(0), axes / axes.norm(dim=1, keepdim=True).clamp_min(1e-12)


def folds_of(lots: Sequence[str]) -> npt.NDArray[np.int_]:
    """Number of the fold of every scan (n,): lots are dealt to `FOLDS` of them, or fewer."""
    names = sorted(set(lots))
    fold_of = {name: place % min(FOLDS, len(names)) for place, name in enumerate(names)}
    return np.array([fold_of[name] for name in lots])


def scores_without_own_lot(grids: Tensor, lots: Sequence[str], learns: npt.NDArray[np.bool_]) -> LayoutScores:
    """T and Q of every scan by layouts that have not seen its lot; `learns` (n,) marks the scans they are fitted on.

    So limits hold for lots to come, though all lots are learnt from in the end. With two folds and more.
    """
    fold = folds_of(lots)
    scores = np.empty((2, len(lots)))
    for number in range(fold.max() + 1):
        others, own = torch.from_numpy((fold != number) & learns), torch.from_numpy(fold == number)
        layout = fit_layout(grids[others], [b for b, other in zip(lots, others, strict=True) if other])
        for row, found in enumerate(layout.distances(grids[own])):
            scores[row, own.numpy()] = found.double().cpu().numpy()
    return LayoutScores(scores[0], scores[1])
