"""The nearest normal scan, tile by tile: what frozen features say without any abnormal scan to learn from.

After PatchCore (Roth et al. 2022): a scan is as abnormal as its oddest tile, a tile as odd as its distance to the
nearest normal one. Here a tile is compared with tiles at its own place, by maxima and means in units of what is usual
there. What labels are worth is what a recipe finds beyond this; it needs none, so a plant has it on its first day.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.classifier.selection import floored

REFUSED: Final = 0.05
"""Share of the normal training scans beyond the threshold, each judged without its own lot."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The normal scans learnt from, and the distance at which a scan is called abnormal."""

    centre: Tensor
    scale: Tensor
    known: Tensor
    """Standardised tiles (tiles, scans, 2 channels) of normal scans."""
    limit: float

    def p_abnormal(self, tiles: npt.NDArray[np.float16]) -> npt.NDArray[np.float64]:
        """Distances of scans with tiles (n, 2, tiles, channels), as probabilities: 0.5 at the limit, in (0, 1)."""
        distances = self.distances(tiles)
        return distances / (distances + self.limit)

    def distances(self, tiles: npt.NDArray[np.float16]) -> npt.NDArray[np.float64]:
        """How far the oddest tile of each scan is from the nearest known one: (n,)."""
        new = _standardised(torch.from_numpy(tiles).float(), self.centre, self.scale)
        farthest: npt.NDArray[np.float64] = torch.cdist(new, self.known).amin(dim=2).amax(dim=0).double().numpy()
        return farthest


def fit_neighbours(tiles: npt.NDArray[np.float16], lots: Sequence[str]) -> Neighbours:
    """Learn from the tiles (n, 2, tiles, channels) of normal scans, each of the lot named beside it.

    A lot that was learnt from is near, and what is usual was measured with it: where the limit is set, each lot is
    judged by what the others show. Of a single lot one half is judged by the other.
    """
    names = np.array(lots) if len(set(lots)) > 1 else np.arange(len(lots)) % 2
    apart = np.empty(len(names))
    for name in np.unique(names):
        own = names == name
        apart[own] = _learnt(tiles[~own], 1.0).distances(tiles[own])
    return _learnt(tiles, float(np.quantile(apart, 1 - REFUSED)))


def _learnt(tiles: npt.NDArray[np.float16], limit: float) -> Neighbours:
    normal = torch.from_numpy(tiles).float()
    centre, scale = normal.mean(dim=0), floored(normal.std(dim=0, correction=0))
    return Neighbours(centre, scale, _standardised(normal, centre, scale), limit)


def _standardised(tiles: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    """(n, 2, tiles, channels) -> (tiles, n, 2 channels)."""
    return ((tiles - centre) / scale).permute(2, 0, 1, 3).flatten(2)
