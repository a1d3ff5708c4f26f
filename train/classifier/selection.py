"""What the trained layers see of the pooled statistics. A part of the network: what it learns travels with it.

`mean`, `mean+max` and `layers` merely choose. `tiles` asks how far a place stands out. Sheets lie much alike, so every
tile has its own idea of normal: the mean and deviation, over normal training scans, of the greatest answer of each
channel there; edges of the coating, however strong, are normal at the edge. What is left is taken against the mean of
the same sheet's tiles, because a whole lot may answer more strongly than those of the training, and of all tiles
the one that stands out most counts: an anomaly is local, and a mean would hide it.

`sheet` goes on from there. Maxima and means of tiles, means for what is faint and wide; against the sheet's own median,
which an anomaly hardly moves, in units of the sheet's own spread, so that a lot whose texture answers twice as strongly
is not taken for abnormal; and to both sides, because bare metal answers less than coating.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from train.classifier.pooling import CHANNELS, LAYER_CHANNELS, TILE_SHAPE, TILES, Pooled

if TYPE_CHECKING:  # recipes need readers of scans and settings, networks do not
    from train.classifier.experiment import Features

FLOOR = 1e-3
"""Least deviation that is divided by, relative to the mean one: a channel that is never active stays quiet."""
TO_DEVIATION = 1.4826
"""Deviation of normal values in median absolute ones."""
LIMIT = 6.0
"""Standardised features are cut at this many deviations: one odd tile shall not decide alone."""
_AT_ONCE = 16
"""Images whose tiles are compared at once: their intermediate values stay in a processor's cache."""
_LAYER4 = slice(CHANNELS - LAYER_CHANNELS["layer4"], CHANNELS)


class Selection(nn.Module):
    """Pooled statistics of n images -> features float (n, width), standardised if asked for."""

    tile_centre: Tensor
    tile_scale: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(self, features: Features, *, standardise: bool) -> None:
        super().__init__()
        self.features, self.standardise = features, standardise
        self.width = width_of(features)
        if self.has_places:
            shape = TILE_SHAPE if features == "sheet" else TILE_SHAPE[1:]
            self.register_buffer("tile_centre", torch.zeros(shape))
            self.register_buffer("tile_scale", torch.ones(shape))
        if standardise:
            self.register_buffer("centre", torch.zeros(self.width))
            self.register_buffer("scale", torch.ones(self.width))

    def fit(self, pooled: Pooled, is_normal: Tensor) -> Tensor:
        """Learn what is normal from training scans, of which a bool tensor (n,) says which are; their features."""
        if self.has_places:
            self.fit_places(pooled.tiles[is_normal])
        parts = zip(pooled.whole.split(_AT_ONCE), pooled.tiles.split(_AT_ONCE), strict=True)
        raw = torch.cat([self._raw(Pooled(*part)) for part in parts])
        if self.standardise:
            self.centre.copy_(raw.mean(dim=0))
            self.scale.copy_(floored(raw.std(dim=0, correction=0)))
        return self._standardised(raw)

    @property
    def has_places(self) -> bool:
        """Whether it holds what is normal at each place."""
        return self.features in ("tiles", "sheet")

    def fit_places(self, tiles: Tensor) -> None:
        """Learn what is normal at each place from tiles (n, 2, TILES, CHANNELS) of normal scans; all else stays."""
        normal = tiles if self.features == "sheet" else tiles[:, 0]
        deviation, centre = torch.std_mean(normal.float(), dim=0, correction=0)
        self.tile_centre.copy_(centre)
        self.tile_scale.copy_(floored(deviation))

    def forward(self, pooled: Pooled) -> Tensor:
        """Features float (n, width)."""
        return self._standardised(self._raw(pooled))

    def _standardised(self, raw: Tensor) -> Tensor:
        if not self.standardise:
            return raw
        return ((raw - self.centre) / self.scale).clamp(-LIMIT, LIMIT)

    def _raw(self, pooled: Pooled) -> Tensor:
        mean, greatest = pooled.whole[:, 0], pooled.whole[:, 1]
        if self.features == "mean":
            return mean[:, _LAYER4]
        if self.features == "mean+max":
            return torch.cat([mean[:, _LAYER4], greatest[:, _LAYER4]], dim=1)
        if self.features == "layers":
            return torch.cat([mean, greatest], dim=1)
        out = self._standing_out(pooled)
        if self.features == "tiles":
            return out.amax(dim=1)
        return torch.cat([out.amax(dim=2), -out.amin(dim=2)], dim=1).flatten(1)

    def tiles_of(self, pooled: Pooled) -> Tensor:
        """The tile that each feature was taken from: int64 (n, width); for `tiles` and `sheet` alone."""
        out = self._standing_out(pooled)
        if self.features == "tiles":
            return out.argmax(dim=1)
        return torch.cat([out.argmax(dim=2), out.argmin(dim=2)], dim=1).flatten(1)

    def _standing_out(self, pooled: Pooled) -> Tensor:
        """How far each tile stands out: float (n, TILES, CHANNELS), for `sheet` (n, 2, TILES, CHANNELS)."""
        if self.features == "tiles":
            out = (pooled.tiles[:, 0].float() - self.tile_centre) / self.tile_scale
            return out - out.mean(dim=1, keepdim=True)
        out = (pooled.tiles.float() - self.tile_centre) / self.tile_scale
        out = out - _median(out)
        return out / (TO_DEVIATION * _median(out.abs())).clamp_min(1.0)  # 1: the spread between scans


def width_of(features: Features) -> int:
    """Number of features."""
    layer4 = LAYER_CHANNELS["layer4"]
    tiles = {"tiles": CHANNELS, "sheet": 4 * CHANNELS}
    return {"mean": layer4, "mean+max": 2 * layer4, "layers": 2 * CHANNELS, **tiles}[features]


def _median(tiles: Tensor) -> Tensor:
    """Median over the tiles of (n, 2, TILES, CHANNELS), kept as a side of 1.

    In graphs by TopK, which every engine has; here by a sorting network, the same values in a tenth of the time.
    """
    if torch.compiler.is_exporting():
        upper: Tensor = tiles.topk(TILES // 2 + 1, dim=2).values[:, :, -2:]
        return upper.mean(dim=2, keepdim=True)
    rows = list(tiles.unbind(dim=2))
    for one, other in _comparisons(TILES):
        rows[one], rows[other] = torch.minimum(rows[one], rows[other]), torch.maximum(rows[one], rows[other])
    return torch.stack(rows[TILES // 2 - 1 : TILES // 2 + 1], dim=2).mean(dim=2, keepdim=True)


@cache
def _comparisons(count: int) -> tuple[tuple[int, int], ...]:
    """Pairs of places that sort `count` values, a power of 2, when each pair is put in order (Batcher 1968)."""
    found = []
    run = 1
    while run < count:
        step = run
        while step:
            for start in range(step % run, count - step, 2 * step):
                for place in range(start, start + step):
                    if place // (2 * run) == (place + step) // (2 * run):
                        found.append((place, place + step))
            step //= 2
        run *= 2
    return tuple(found)


def floored(deviation: Tensor) -> Tensor:
    """Deviations that may be divided by."""
    return deviation + FLOOR * deviation.mean() + 1e-6
