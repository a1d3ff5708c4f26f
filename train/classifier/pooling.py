"""What is kept of the frozen backbone's feature maps: a few numbers per channel instead of a map per channel.

The paper keeps the mean of layer 4 (J 2.4). A scratch that covers one cell in two thousand moves that mean by nothing;
it does move the greatest value of its neighbourhood. So the maxima of an 8 x 4 grid of tiles are kept too, of the last
three layers: earlier layers see smaller things. Every recipe reads its part of the same numbers, so one backbone pass
serves them all.
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
STATISTICS: Final = "layer2-3-4: mean, max, std; max of 8 x 4 tiles: 1"
"""Names what is kept, as part of the cache's key; the number rises when the arithmetic changes."""


@dataclass(frozen=True, slots=True)
class Pooled:
    """Statistics of n images: `whole` float (n, 3, CHANNELS), mean, maximum, deviation; `tiles` (n, TILES, CHANNELS).

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
    return Pooled(torch.cat(wholes, dim=2), torch.cat([_tile_maxima(x) for x in maps], dim=2))


def _deviation(x: Tensor) -> Tensor:
    mean = x.mean(dim=(2, 3), keepdim=True)
    return (x - mean).square().mean(dim=(2, 3)).sqrt()


def _tile_maxima(x: Tensor) -> Tensor:
    """Maxima (n, TILES, channels) of a grid of equal tiles; the map is padded to fill the last ones."""
    height, width = x.shape[-2:]
    tile = (-(-height // GRID[0]), -(-width // GRID[1]))
    # Zeros never win: behind a ReLU nothing is negative.
    padded = F.pad(x, (0, tile[1] * GRID[1] - width, 0, tile[0] * GRID[0] - height))
    # Not max_pool2d: onnxruntime would merge it with the padding, and refuse where a small map is padded by a tile.
    tiles: Tensor = padded.unflatten(3, (GRID[1], tile[1])).unflatten(2, (GRID[0], tile[0])).amax(dim=(3, 5))
    return tiles.flatten(2).transpose(1, 2)
