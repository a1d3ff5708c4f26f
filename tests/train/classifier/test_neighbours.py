"""Nearest neighbours: normal scans alone say how far from normal a scan may lie."""

import numpy as np

from train.classifier.neighbours import fit_neighbours
from train.classifier.pooling import TILE_SHAPE

LOTS = tuple(f"B{number // 10}" for number in range(60))


def normal_tiles(seed: int, scans: int = 60) -> np.ndarray:
    """Scans that differ in three ways, the same three for every seed, and a little noise."""
    ways = np.random.default_rng(9).normal(0, 0.3, (3, *TILE_SHAPE))
    rng = np.random.default_rng(seed)
    mixed = np.tensordot(rng.uniform(-1, 1, (scans, 3)), ways, axes=1)
    return (3 + mixed + rng.normal(0, 0.02, mixed.shape)).astype(np.float16)


def test_one_tile_far_from_all_normal_ones_is_enough() -> None:
    found = fit_neighbours(normal_tiles(0), LOTS)
    new = normal_tiles(1, 40)
    odd = new.copy()
    odd[:, 1, 7, :300] -= 2  # fainter, which no maximum would show
    assert (found.p_abnormal(odd) > 0.5).all()
    assert (found.p_abnormal(new) > 0.5).mean() <= 0.2


def test_the_limit_is_set_on_lots_that_were_not_learnt_from() -> None:
    """Each lot answers in channels of its own, in which the others are all alike."""
    tiles = normal_tiles(0, 70)
    lots = [f"B{number // 10}" for number in range(70)]
    for number, lot in enumerate(lots):
        first = 100 * int(lot[1:])
        tiles[number, :, :, first : first + 100] += 1
    found = fit_neighbours(tiles[:60], lots[:60])
    assert (found.p_abnormal(tiles[60:]) < 0.55).all()
    assert fit_neighbours(tiles[:60], ["B0"] * 60).limit < 0.5 * found.limit
