"""The filter beside the network: a short median by minima and maxima, noise, places, limits."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from tests.train.gate.test_network import SIZE, _blind, _examples, _quiet, _sheets
from train.gate.calibration import Calibrated, Examples, calibrated, score, scores_apart
from train.gate.filter import FilterStage, background, first_cell_px, median_of, window_maps
from train.gate.network import MAP_CELL_PX, Gate
from train.recipe import GateRecipe

SPOT_PX = 6


def _noisy(count: int, deviation: float, seed: int = 0) -> torch.Tensor:
    """Even sheets of 128 grey levels, noise on them: float (count, 1, 200, 104) in [0, 1]."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(128, deviation, (count, 1, *SIZE)).round().astype(np.float32)) / 255


@pytest.mark.parametrize("count", [3, 5, 7])
def test_minima_and_maxima_find_the_median_of_every_order(count: int) -> None:
    orders = torch.tensor(list(itertools.permutations(range(count))), dtype=torch.float32).T
    assert (median_of(list(orders)) == count // 2).all()


def test_the_background_of_a_slope_is_the_slope_and_a_small_spot_is_no_part_of_it() -> None:
    slope = torch.linspace(0, 1, 100).expand(1, 1, 80, 100)
    spotted = slope.clone()
    spotted[..., 30:36, 40:46] = 1
    assert (background(slope, 2) - slope).abs()[..., 8:-8].max() < 1e-5
    assert (background(spotted, 2) - slope).abs()[..., 8:-8].max() < 0.02


def test_a_quieter_sheet_shows_the_same_spot_more() -> None:
    """Over the noise: a spot of as many deviations looks alike, whatever the noise."""
    maps = []
    for deviation in (2.0, 4.0):
        images = _noisy(1, deviation)
        images[..., 100:106, 50:56] += 5 * deviation / 255
        maps.append(float(window_maps(images, MAP_CELL_PX)[0].amax()))
    assert maps[0] > 3
    assert maps[0] == pytest.approx(maps[1], rel=0.2)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("y_px", "x_px"), [(0, 0), (97, 0), (0, 51), (194, 98), (100, 50)])
def test_a_spot_is_seen_to_the_rim_in_the_cell_over_it(y_px: int, x_px: int, sign: int) -> None:
    images = _noisy(2, 2.0)
    images[0, 0, y_px : y_px + SPOT_PX, x_px : x_px + SPOT_PX] += sign * 30 / 255
    means, _ = window_maps(images, MAP_CELL_PX)
    row, column = divmod(int(means[0].argmax()), means.shape[2])
    offset = first_cell_px(MAP_CELL_PX)
    for cell, place in ((row, y_px + SPOT_PX // 2), (column, x_px + SPOT_PX // 2)):
        assert offset + MAP_CELL_PX * cell - 4 <= place < offset + MAP_CELL_PX * (cell + 1) + 4
    assert means[0].max() > 2 * means[1].max()


def test_the_map_of_both_lies_where_each_of_them_lies() -> None:
    """A spot further in is the network's hottest cell and the filter's: in the joined map they are one."""
    blind = _blind()
    shape = window_maps(_noisy(1, 2.0), MAP_CELL_PX)[0].shape[1:]
    stage = FilterStage(torch.ones(shape), torch.ones(shape), MAP_CELL_PX)
    images = torch.zeros(1, 1, *SIZE)
    images[..., 120:136, 56:72] = 1
    plain, both = Gate(blind)(images), Gate(blind, filter_stage=stage).eval()
    joined = both(images)
    moved = (Gate(blind).map_offset_px - both.map_offset_px) // MAP_CELL_PX
    row, column = divmod(int(plain.residual_map[0].argmax()), plain.residual_map.shape[2])
    assert divmod(int(joined.residual_map[0].argmax()), joined.residual_map.shape[2]) == (row + moved, column + moved)
    stage.limits.fill_(1e9)
    found = both(images)
    assert (found.mean, found.std) == (plain.mean, plain.std)
    assert found.residual_map[:, moved:, moved:][:, : plain.residual_map.shape[1]].amax() == plain.residual_map.amax()


def _spotted(images: np.ndarray) -> np.ndarray:
    """Images uint8 (n, 1, h, w) with a small dark spot on every sheet, each elsewhere."""
    spotted = images.copy()
    for number, image in enumerate(spotted[:, 0]):
        y_px, x_px = 50 + 7 * number % 90, 40 + 5 * number % 20
        image[y_px : y_px + SPOT_PX, x_px : x_px + SPOT_PX] -= 60
    return spotted


def _half_spotted(examples: Examples) -> Examples:
    """Every second scan has a spot: none the gate shall refuse, but none that is normal."""
    normal = np.arange(len(examples.images)) % 2 == 0
    images = examples.images.copy()
    images[~normal] = _spotted(images[~normal])
    return dataclasses.replace(examples, images=images, normal=normal)


@pytest.fixture(scope="module")
def gates() -> dict[bool, Calibrated]:
    """Calibrated on all scans, spots included, with and without the filter."""
    parts = _half_spotted(_examples(48, 1)), _half_spotted(_examples(24, 2))
    recipe = GateRecipe(size=SIZE, image_fpr=0.04)
    return {
        has: calibrated(_blind(), *parts, dataclasses.replace(recipe, filter=has), lambda what: _quiet)
        for has in (True, False)
    }


def _refused(found: Calibrated, images: np.ndarray) -> np.ndarray:
    means, stds = score(found.gate, images)
    return (means > found.thresholds.mean) | (stds > found.thresholds.std)


def test_the_filter_refuses_what_no_normal_scan_shows_though_the_gate_was_told_to_accept_it(
    gates: dict[bool, Calibrated],
) -> None:
    sheets = _sheets(12, 3)
    assert not _refused(gates[False], _spotted(sheets)).any()
    assert _refused(gates[True], _spotted(sheets)).all()
    assert not _refused(gates[True], sheets).any()
    assert gates[True].flagged.tolist() == [number % 2 == 1 for number in range(24)]


def test_with_the_filter_thresholds_and_network_are_the_same(gates: dict[bool, Calibrated]) -> None:
    assert gates[True].thresholds == gates[False].thresholds
    images = _spotted(_sheets(3, 4))
    by_network, by_filter = scores_apart(gates[True].gate, images)
    np.testing.assert_array_equal(by_network, np.stack(score(gates[False].gate, images), axis=1))
    np.testing.assert_array_equal(np.maximum(by_network, by_filter), np.stack(score(gates[True].gate, images), axis=1))
    assert (scores_apart(gates[False].gate, images)[1] == 0).all()
