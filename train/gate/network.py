"""The gate as it runs on the line: the autoencoder, what its residual is held against, and the filter beside it.

In the paper's form (L 3.1) the two scores of a scan are the greatest |mean| and the greatest deviation of the residual
over all windows. Over a whole electrode the greatest lie at the rim of the sheet, however good a scan is, and hide
what is foreign in its even middle. In the `placed` form every window is weighed by what ordinary scans show at its
place, and others join: the layouts of the whole (`train.gate.layout`), greys the first score, textures the second, and
the filter (`train.gate.filter`) both. Weights have a mean of 1, layouts and filter are scaled to the thresholds: scores
stay in units of the image in [0, 1].
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.checkpoint import Checkpoint, fitting
from train.gate.filter import FilterStage, first_cell_px
from train.gate.layout import Layout, cell_side_px, grid
from train.networks import FIRST_WINDOW_PX, GateAutoencoder, centre_crop, residual_statistics

MAP_CELL_PX: Final = 16
"""Side of a residual map cell: the map of a 2000 x 1000 scan is 123 x 60 values, 30 kB."""
_WEIGHED = "mean_weight"
_FILTERED = "filter.limits"


class GateScores(NamedTuple):
    """Scores of n scans (n,) each, and the map (n, map_height, map_width) of the greatest |mean| per cell."""

    mean: Tensor
    std: Tensor
    residual_map: Tensor


class Gate(nn.Module):
    """Scores of whole scans; `reduction` is the factor by which the autoencoder sees them smaller: 1, 2 or 4.

    `mean_weight`, `std_weight`: (map_height, map_width), None in the paper's form. `greys`, `textures`: layouts over
    cells of `cell_px`, None without. `filter_stage`: None without.
    """

    mean_weight: Tensor | None
    std_weight: Tensor | None

    def __init__(
        self,
        autoencoder: GateAutoencoder,
        reduction: int = 1,
        mean_weight: Tensor | None = None,
        std_weight: Tensor | None = None,
        greys: Layout | None = None,
        textures: Layout | None = None,
        cell_px: int = 1,
        filter_stage: FilterStage | None = None,
    ) -> None:
        super().__init__()
        if MAP_CELL_PX % reduction:
            raise ValueError(f"a reduction of {reduction} does not divide a map cell of {MAP_CELL_PX} px")
        self.autoencoder = autoencoder
        self.reduction = reduction
        self.greys, self.textures, self.cell_px = greys, textures, cell_px
        self.filter = filter_stage
        self.register_buffer("mean_weight", mean_weight)
        self.register_buffer("std_weight", std_weight)

    def forward(self, images: Tensor) -> GateScores:
        """Scores of images float (n, 1, height, width) in [0, 1]."""
        network, filtered = self.apart(images)
        if filtered is None:
            return network
        before = (FIRST_WINDOW_PX * self.reduction - self.map_offset_px) // MAP_CELL_PX
        after = (
            there - here - before
            for there, here in zip(filtered.residual_map.shape[1:], network.residual_map.shape[1:], strict=True)
        )
        down, right = after
        inner = F.pad(network.residual_map, (before, right, before, down))
        return GateScores(*map(torch.maximum, (network.mean, network.std, inner), filtered))

    def apart(self, images: Tensor) -> tuple[GateScores, GateScores | None]:
        """Scores by the network with its layouts, and by the filter, None without; each with a map of its own."""
        return self._by_network(images), None if self.filter is None else self._by_filter(self.filter, images)

    @property
    def map_cell_px(self) -> int:
        """Side of a cell of the map in the image as the autoencoder sees it."""
        return MAP_CELL_PX // self.reduction

    @property
    def map_offset_px(self) -> int:
        """Where the map's first cell begins in the gate's input: with the filter at the rim or before it.

        Cell (i, j) holds the windows whose centres lie in rows offset + 16 i and the 15 below, columns likewise.
        """
        first_px = FIRST_WINDOW_PX if self.filter is None else first_cell_px(self.filter.cell_px)
        return self.reduction * first_px

    def _by_network(self, images: Tensor) -> GateScores:
        residual = self.residual(images)
        means, stds = self.windows(residual)
        if self.mean_weight is not None and self.std_weight is not None:
            means, stds = means * self.mean_weight, stds * self.std_weight
        mean, std = means.amax(dim=(1, 2)), stds.amax(dim=(1, 2))
        if self.greys is not None:
            mean = torch.maximum(mean, self.greys(grid(images, self.cell_px, "greys")))
        if self.textures is not None:
            std = torch.maximum(std, self.textures(grid(images, self.cell_px, "textures")))
        # A maximum may overlook a NaN, 0 x NaN may not: a score is NaN if any pixel of its residual is not finite.
        poison = (residual * 0.0).sum(dim=(1, 2, 3))
        return GateScores(mean + poison, std + poison, means)

    def _by_filter(self, stage: FilterStage, images: Tensor) -> GateScores:
        means, stds = stage(self.reduced(images))
        return GateScores(means.amax(dim=(1, 2)), stds.amax(dim=(1, 2)), means)

    def reduced(self, images: Tensor) -> Tensor:
        """Images as autoencoder and filter see them."""
        return F.avg_pool2d(images, self.reduction) if self.reduction > 1 else images

    def residual(self, images: Tensor) -> Tensor:
        """What the autoencoder leaves of the centre of the images, pooled by `reduction` (n, 1, h, w)."""
        small = self.reduced(images)
        found: Tensor = centre_crop(small) - self.autoencoder(small)
        return found

    def windows(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Greatest |mean| and deviation of the windows of each cell, unweighed: two maps (n, map_height, map_width)."""
        mean, std = residual_statistics(residual)
        return _greatest(mean.abs(), self.map_cell_px), _greatest(std, self.map_cell_px)


def _greatest(values: Tensor, cell_px: int) -> Tensor:
    """Greatest value of every cell (n, rows, columns) of (n, 1, h, w), none of them negative."""
    height, width = values.shape[-2:]
    padded = F.pad(values, (0, -width % cell_px, 0, -height % cell_px))  # zeros never win
    return F.max_pool2d(padded, cell_px, cell_px).squeeze(1)


@fitting
def gate_of(checkpoint: Checkpoint) -> Gate:
    """The trained gate, in eval mode; a checkpoint in the paper's form holds the autoencoder alone.

    Raises CheckpointError where the checkpoint holds none.
    Its weights lie channels last: with so few channels a CPU then takes less than half the time for the same scores.
    """
    state, reduction = checkpoint.state_dict, int(checkpoint.recipe.get("reduction") or 1)
    if _WEIGHED not in state:
        gate = Gate(GateAutoencoder(), reduction)
        gate.autoencoder.load_state_dict(state)
    else:
        gate = Gate(
            GateAutoencoder(),
            reduction,
            torch.empty_like(state[_WEIGHED]),
            torch.empty_like(state["std_weight"]),
            _layout_like(state["greys.axes"]),
            _layout_like(state["textures.axes"]),
            cell_side_px(checkpoint.size),
            _filter_like(state, reduction) if _FILTERED in state else None,
        )
        gate.load_state_dict(state)
    gate.autoencoder.to(memory_format=torch.channels_last)
    return gate.eval()


def _layout_like(axes: Tensor) -> Layout:
    """An empty layout to load one with such axes (components, cells) into."""
    components, cells = axes.shape
    return Layout(cells, components)


def _filter_like(state: dict[str, Tensor], reduction: int) -> FilterStage:
    """An empty stage to load that of a checkpoint into."""
    mean_weight, std_weight = (torch.empty_like(state[f"filter.{name}"]) for name in ("mean_weight", "std_weight"))
    return FilterStage(mean_weight, std_weight, MAP_CELL_PX // reduction)


def state_of(gate: Gate) -> dict[str, Tensor]:
    """What `gate_of` loads."""
    return gate.autoencoder.state_dict() if gate.mean_weight is None else gate.state_dict()
