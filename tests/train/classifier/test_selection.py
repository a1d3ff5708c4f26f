"""What is made of tiles."""

import numpy as np
import torch

from train.classifier.pooling import TILE_SHAPE
from train.classifier.selection import _median


def test_the_median_over_tiles_is_that_of_sorted_tiles_for_any_order() -> None:
    tiles = np.random.default_rng(2).gamma(2.0, 1.0, (3, *TILE_SHAPE)).astype(np.float32)
    tiles[1] = 0.0  # a channel that is never active
    tiles[2] = -np.sort(tiles[2], axis=1)
    expected = torch.from_numpy(np.median(tiles, axis=2, keepdims=True))
    torch.testing.assert_close(_median(torch.from_numpy(tiles)), expected, rtol=0, atol=1e-6)
