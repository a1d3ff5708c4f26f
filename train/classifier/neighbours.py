"""The nearest normal scan, tile by tile: a classifier for a plant's first day, without any abnormal scan.

After PatchCore (Roth et al. 2022): a scan is as abnormal as its oddest tile, a tile as odd as its distance to the
nearest normal one. Here a tile is compared with tiles at its own place, by maxima and means in units of what is usual
there. Where a channel is all but silent the unit is tiny and one faint answer would be a thousand units: what is far is
cut at `LIMIT` units, so that it takes many channels to be odd.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from train.classifier.pooling import CHANNELS, TILE_SHAPE, TILES, Pooled
from train.classifier.selection import LIMIT, floored
from train.errors import DataError

STEEPNESS: Final = 8.0
"""s in p = d^s / (d^s + limit^s): a slope that fits labels (docs/experiments/classifier-first-day.md)."""
MOST_SCANS: Final = 240
"""Normal scans kept, 0.11 MB each in the model; of more, as many of each lot. Fewer find a little less (there)."""
_LEAST_SCANS: Final = 2
_LEAST_LIMIT: Final = 0.1
"""The limit is about a hundred times as great where scans differ."""
_LEAST_DISTANCE = 1e-3
"""Below it nothing is nearer: rounding, and a logarithm that must be finite."""


class Neighbours(nn.Module):
    """Pooled statistics of n images -> logits (n, 2) of normal and abnormal: 0 and the margin."""

    tile_centre: Tensor
    tile_scale: Tensor
    known: Tensor
    """Standardised tiles float16 (TILES, scans, 2 CHANNELS) of normal scans."""
    limit: Tensor
    """Distance () at which p(abnormal) is 0.5."""

    def __init__(self, scans: int) -> None:
        super().__init__()
        self.register_buffer("tile_centre", torch.zeros(TILE_SHAPE))
        self.register_buffer("tile_scale", torch.ones(TILE_SHAPE))
        self.register_buffer("known", torch.zeros(TILES, scans, 2 * CHANNELS, dtype=torch.float16))
        self.register_buffer("limit", torch.tensor(1.0))

    def forward(self, pooled: Pooled) -> Tensor:
        """Logits (n, 2): the farthest tile decides."""
        margin = farthest(self.margins(pooled))
        return torch.stack([torch.zeros_like(margin), margin], dim=1)

    def margins(self, pooled: Pooled) -> Tensor:
        """What log(p / (1 - p)) would be by each tile alone: float (n, TILES)."""
        return STEEPNESS * torch.log(self.distances(pooled.tiles) / self.limit)

    def distances(self, tiles: Tensor) -> Tensor:
        """How far each tile (n, 2, TILES, CHANNELS) is from the nearest known one at its place: float (n, TILES)."""
        new, known = self._standardised(tiles), self.known.float()
        # By products, which a graph computes in a third of the time that differences take.
        squares = known.square().sum(dim=2, keepdim=True) + new.square().sum(dim=2).unsqueeze(1)
        squares = squares - 2 * (known @ new.transpose(1, 2))
        nearest = squares.amin(dim=1).clamp_min(_LEAST_DISTANCE**2).sqrt()
        # An engine's minimum, maximum or clamp may overlook a NaN, 0 x NaN may not.
        return (nearest + 0.0 * squares.sum(dim=1)).T

    def fit(self, tiles: Tensor, lots: Sequence[str]) -> None:
        """Learn what is usual from tiles float16 (n, 2, TILES, CHANNELS) of normal scans, and keep some of them."""
        deviation, centre = torch.std_mean(tiles.float(), dim=0, correction=0)
        self.tile_centre.copy_(centre)
        self.tile_scale.copy_(floored(deviation))
        self.known = self._standardised(tiles[kept(lots, MOST_SCANS)]).half()

    def _standardised(self, tiles: Tensor) -> Tensor:
        """(n, 2, TILES, CHANNELS) -> (TILES, n, 2 CHANNELS)."""
        units = ((tiles.float() - self.tile_centre) / self.tile_scale).clamp(-LIMIT, LIMIT)
        units = units / LIMIT  # so that squared distances, 8 CHANNELS at most, stay within float16
        return units.permute(2, 0, 1, 3).flatten(2)


def farthest(margins: Tensor) -> Tensor:
    """The greatest margin (n,) of those of the tiles (n, TILES); NaN if any is not finite, as in `distances`."""
    return margins.amax(dim=1) + 0.0 * margins.sum(dim=1)


def kept(lots: Sequence[str], most: int) -> list[int]:
    """Numbers of at most so many scans, each of the lot named there: as many of each lot, the first ones."""
    places: dict[str, int] = {}
    order = []
    for number, lot in enumerate(lots):
        places[lot] = places.get(lot, 0) + 1
        order.append((places[lot], number))
    return sorted(number for _, number in sorted(order)[:most])


@dataclass(frozen=True)
class FittedNeighbours:
    """What was learnt from normal scans."""

    neighbours: Neighbours
    p_left_out: npt.NDArray[np.float64]
    """p(abnormal) (scans,) of each of them by what the other lots show."""


@torch.no_grad()
def fit_neighbours(tiles: npt.NDArray[np.float16], lots: Sequence[str], refused: float) -> FittedNeighbours:
    """Learn from the tiles (n, 2, TILES, CHANNELS) of normal scans, each of the lot named beside it.

    A lot that was learnt from is near, and what is usual was measured with it: for the limit each lot is judged by what
    the others show, and the share `refused` of these distances lies above it. Of a single lot one half is judged by
    the other. Raises DataError for a single scan, for features that are not finite, and where most scans are copies of
    each other: no other scan would be near.
    """
    if len(lots) < _LEAST_SCANS:
        raise DataError(
            f"{len(lots)} normal scan to learn from, at least {_LEAST_SCANS} are needed: each is judged by others",
            hint="label more scans as normal",
        )
    names = np.array(lots) if len(set(lots)) > 1 else np.arange(len(lots)) % 2
    shown = torch.from_numpy(tiles)
    apart = torch.empty(len(names))
    for name in np.unique(names):
        own = names == name
        apart[own] = _learnt(shown[~own], names[~own].tolist()).distances(shown[own]).amax(dim=1)
    fitted = _learnt(shown, lots)
    if not (is_finite := torch.isfinite(apart)).all():
        raise DataError(
            f"{int((~is_finite).sum())} of {len(names)} distances between normal scans are no finite numbers",
            hint="compute in float32 (--amp off), or give other --weights",
        )
    limit = float(np.quantile(apart.numpy(), 1 - refused))
    if limit < _LEAST_LIMIT:
        raise DataError(
            f"of {len(names)} normal scans of {len(set(lots))} lots nearly all are alike, as copies of one scan are",
            hint="give scans of different electrodes; `edge-train doctor DATA` names copies",
        )
    fitted.limit.fill_(limit)
    margins = STEEPNESS * torch.log(apart / fitted.limit).double()
    return FittedNeighbours(fitted, torch.sigmoid(margins).numpy())


def _learnt(tiles: Tensor, lots: Sequence[str]) -> Neighbours:
    fitted = Neighbours(0)
    fitted.fit(tiles, lots)
    return fitted.eval()
