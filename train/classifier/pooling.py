"""What is kept of the frozen backbone's feature maps: a few numbers per channel instead of a map per channel.

The paper keeps the mean of layer 4 (J 2.4). A scratch that covers one cell in two thousand moves that mean by nothing;
it does move the greatest value of its neighbourhood. So the maxima of an 8 x 4 grid of tiles are kept too, of the last
three layers: earlier layers see smaller things. What is faint and wide moves no maximum, but the mean of its tile.
Every recipe reads its part of the same numbers, so one backbone pass serves them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYER_CHANNELS: Final = {"layer2": 128, "layer3": 256, "layer4": 512}
"""Layers looked at, with their channels in ResNet-34."""
CHANNELS: Final = sum(LAYER_CHANNELS.values())
GRID: Final = (8, 4)
"""Tiles down and across; nearly square on a sheet twice as high as wide."""
TILES: Final = GRID[0] * GRID[1]
TILE_SHAPE: Final = (2, TILES, CHANNELS)
"""Maxima and means of the tiles of an image."""
STATISTICS: Final = "layer2-3-4: mean, max, std; max, mean of 8 x 4 tiles: 2"
"""Names what is kept, as part of the cache's key; the number rises when the arithmetic changes."""


@dataclass(frozen=True, slots=True)
class Pooled:
    """Statistics of n images: `whole` float (n, 3, CHANNELS), mean, maximum and deviation of the maps;
    `tiles` (n, 2, TILES, CHANNELS), maximum and mean of each tile.

    Channels are those of layer 2, 3 and 4 in this order.
    """

    whole: Tensor
    tiles: Tensor


def feature_maps(backbone: nn.Module, x: Tensor) -> list[Tensor]:
    """Outputs of layer 2, 3 and 4 of a torchvision ResNet for normalised images (n, 3, height, width)."""
    for name in ("conv1", "bn1", "relu", "maxpool", "layer1"):
        x = backbone.get_submodule(name)(x)
    maps = []
    for name in LAYER_CHANNELS:
        x = backbone.get_submodule(name)(x)
        maps.append(x)
    return maps


def pool(maps: Sequence[Tensor]) -> Pooled:
    """Statistics of feature maps (n, channels, h, w), none of them negative."""
    maps = [x.float() for x in maps]
    # Nothing is trained through the deviation: where a map is flat its gradient is no finite number.
    wholes = [torch.stack([x.mean(dim=(2, 3)), x.amax(dim=(2, 3)), _deviation(x.detach())], dim=1) for x in maps]
    return Pooled(torch.cat(wholes, dim=2), torch.cat([_tiles(x) for x in maps], dim=3))


def _deviation(x: Tensor) -> Tensor:
    mean = x.mean(dim=(2, 3), keepdim=True)
    return (x - mean).square().mean(dim=(2, 3)).sqrt()


def _tiles(x: Tensor) -> Tensor:
    """Maxima and means (n, 2, TILES, channels) of a grid of equal tiles; the map is padded to fill the last ones."""
    height, width = x.shape[-2:]
    tile = (-(-height // GRID[0]), -(-width // GRID[1]))
    # Zeros never win: behind a ReLU nothing is negative.
    padded = F.pad(x, (0, tile[1] * GRID[1] - width, 0, tile[0] * GRID[0] - height))
    # Not max_pool2d: onnxruntime would merge it with the padding, and refuse where a small map is padded by a tile.
    tiles = padded.unflatten(3, (GRID[1], tile[1])).unflatten(2, (GRID[0], tile[0]))
    filled = torch.outer(_filled(height, tile[0], GRID[0]), _filled(width, tile[1], GRID[1])).to(x.device)
    both = torch.stack([tiles.amax(dim=(3, 5)), tiles.sum(dim=(3, 5)) / filled], dim=1)
    return both.flatten(3).transpose(2, 3)


def _filled(length: int, tile: int, count: int) -> Tensor:
    """Cells of the map float (count,) in each of its tiles, at least 1: small maps leave the last tiles empty."""
    return torch.tensor([float(min(max(length - place * tile, 1), tile)) for place in range(count)])
