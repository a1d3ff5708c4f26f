"""Where the classifier's answer comes from: a map over the scan, computed beside the answer in the exported graph.

The layers behind the backbone are linear ones with ReLU between them, so around every scan the margin
m = log(p / (1 - p)) is a linear function of the backbone's features, whose slopes g follow from which ReLU are open.

    paper's form   the features are the means of layer 4 over its cells. Cell: m + g . (features of the cell - means):
                   what the layers would say of a sheet that looked like this cell all over, on this linear piece. The
                   class activation map of Zhou et al. 2016 (equation 2), with its constant; for more layers than one
                   the slopes are those of Grad-CAM (Selvaraju et al. 2017, equation 1).
    tiles, sheet   each feature was taken from one tile, the one that stood out most. Cell: m + (what the features of
                   its tile add to m, spread over the tile, times the number of cells) - (what all features add).

    neighbours     each tile has a margin of its own, by its distance to the nearest normal one; that of the farthest
                   tile is m. Cell: that of its tile + m - (their mean over the map): the far tile stands out. Where the
                   tiles of the three layers do not end at the same pixels, a cell lies in several: the farthest counts.

In all of them the mean over the map is m itself: nothing of the answer is left out and nothing is added. What a cell
sees is larger than the cell: the field of view of layer 4 is 899 px wide, though its weight lies in the middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Final

import torch
from torch import Tensor, nn

from edge.images.residual_boxes import MapGeometry
from train.classifier.models import Classifier, PooledClassifier
from train.classifier.neighbours import Neighbours, farthest
from train.classifier.pooling import CHANNELS, GRID, LAYER_CHANNELS, TILES, feature_maps, pool
from train.classifier.selection import Selection
from train.networks import ElectrodeClassifier, p_abnormal_of

CELL_PX: Final = 32
"""Side of a cell in pixels of the network's input: the stride of layer 4."""
STRIDES_PX: Final = {"layer2": 8, "layer3": 16, "layer4": 32}


def reason_geometry(network: Classifier) -> MapGeometry | None:
    """Where the cells of a network's map lie; None for a form that has no map."""
    if isinstance(network, ElectrodeClassifier):
        return MapGeometry(CELL_PX, -CELL_PX // 2)  # a cell of layer 4 looks at the pixel 32 times its number
    if isinstance(network.selection, Neighbours):
        return MapGeometry(CELL_PX, 0)
    last = network.head[-1]
    has_tiles = network.selection.features in ("tiles", "sheet")
    return MapGeometry(CELL_PX, 0) if has_tiles and isinstance(last, nn.Linear) and last.out_features == 2 else None


def explain(network: Classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """p_abnormal (n,) and its map (n, map_height, map_width) of normalised images (n, 3, height, width).

    For networks that have a `reason_geometry`.
    """
    maps = feature_maps(network.backbone, x)
    if isinstance(network, PooledClassifier):
        if isinstance(network.selection, Neighbours):
            return _of_neighbours(network.selection, maps)
        return _of_tiles(network, network.selection, maps)
    deep = maps[-1].flatten(2)
    means = deep.mean(dim=2)
    logits, slopes = _linear_piece([network.backbone.fc, *network.head], means)
    deviations = torch.matmul(slopes.unsqueeze(1), deep - means.unsqueeze(2))
    return p_abnormal_of(logits), _margin(logits) + deviations.unflatten(2, maps[-1].shape[2:]).squeeze(1)


def _of_neighbours(neighbours: Neighbours, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    by_tile = neighbours.margins(pool(maps))
    margin = farthest(by_tile)
    height, width = (int(side) for side in maps[-1].shape[2:])
    tiles = _tiles_of_cells(maps)
    cells = by_tile[:, tiles.flatten()].unflatten(1, (height, width, -1)).amax(dim=3)
    return torch.sigmoid(margin), cells + (margin - cells.mean(dim=(1, 2)))[:, None, None]


def _tiles_of_cells(maps: Sequence[Tensor]) -> Tensor:
    """Numbers of the tiles in each cell by any layer: int64 (cells, most), one repeated where there are fewer."""
    height, width = (int(side) for side in maps[-1].shape[2:])
    found: list[set[int]] = [set() for _ in range(height * width)]
    for name, x in zip(LAYER_CHANNELS, maps, strict=True):
        rows, columns = (
            _meeting(count, STRIDES_PX[name] * -(-int(length) // count), cells)
            for count, length, cells in zip(GRID, x.shape[2:], (height, width), strict=True)
        )
        for (row, tile_row), (column, tile_column) in product(rows, columns):
            found[row * width + column].add(tile_row * GRID[1] + tile_column)
    most = max(map(len, found))
    return torch.tensor([[*tiles, *[min(tiles)] * (most - len(tiles))] for tiles in map(sorted, found)])


def _meeting(tiles: int, tile_px: int, cells: int) -> list[tuple[int, int]]:
    """Cells and tiles, by number, that share pixels along one side."""
    pairs = product(range(cells), range(tiles))
    return [(cell, tile) for cell, tile in pairs if -tile_px < tile * tile_px - cell * CELL_PX < CELL_PX]


def _of_tiles(network: PooledClassifier, selection: Selection, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    pooled = pool(maps)
    features = selection(pooled)
    logits, slopes = _linear_piece(list(network.head), features)
    added = slopes * features
    is_of_tile = selection.tiles_of(pooled).unsqueeze(1) == torch.arange(TILES).view(1, TILES, 1)
    # By tile, kind of feature, channel; the kinds are no matter here.
    of_tiles = torch.where(is_of_tile, added.unsqueeze(1), torch.zeros(())).unflatten(2, (-1, CHANNELS)).sum(dim=2)
    height, width = (int(side) for side in maps[-1].shape[2:])
    spread = []
    for name, x, of_layer in zip(
        LAYER_CHANNELS, maps, of_tiles.split(list(LAYER_CHANNELS.values()), dim=2), strict=True
    ):
        rows, columns = (
            _shares(count, STRIDES_PX[name] * -(-int(length) // count), cells)
            for count, length, cells in zip(GRID, x.shape[2:], (height, width), strict=True)
        )
        spread.append(rows.T @ of_layer.sum(dim=2).unflatten(1, GRID) @ columns)
    cells = height * width * torch.stack(spread).sum(dim=0) - added.sum(dim=1)[:, None, None]
    return p_abnormal_of(logits), _margin(logits) + cells


def _margin(logits: Tensor) -> Tensor:
    """What the abnormal logit is ahead: (n, 1, 1)."""
    return (logits[:, 1] - logits[:, 0])[:, None, None]


def _linear_piece(layers: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (n, 2) of features (n, width), and the slopes (n or 1, width) of their difference there."""
    values = []
    for layer in layers:
        x = layer(x)
        values.append(x)
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    slopes = (last.weight[1] - last.weight[0]).unsqueeze(0)
    for layer, value in zip(layers[-2::-1], values[-2::-1], strict=True):
        # The sign of what a ReLU lets through is its slope, 0 or 1.
        slopes = slopes @ layer.weight if isinstance(layer, nn.Linear) else slopes * value.sign()
    return x, slopes


def _shares(tiles: int, tile_px: int, cells: int) -> Tensor:
    """Share of each tile in each cell along one side: float (tiles, cells), rows sum to 1.

    Tiles of the three layers end at the same pixel only where they divide the side evenly.
    """
    rows = []
    for tile in range(tiles):
        ends = [min((tile + 1) * tile_px, (cell + 1) * CELL_PX) for cell in range(cells)]
        overlaps = [max(0, end - max(tile * tile_px, cell * CELL_PX)) for cell, end in enumerate(ends)]
        if not any(overlaps):  # a small map leaves the last tiles empty
            overlaps[-1] = 1
        rows.append([overlap / sum(overlaps) for overlap in overlaps])
    return torch.tensor(rows)
