"""The gate as a whole: places weighed, layouts joined, resolutions."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edge.images.method import Method
from edge.records import Size
from train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from train.gate.calibration import Examples, calibrated, score
from train.gate.network import MAP_CELL_PX, Gate, gate_of, state_of
from train.networks import GateAutoencoder
from train.recipe import GateRecipe

SIZE = Size(200, 104)


def _blind() -> GateAutoencoder:
    """It reconstructs nothing, and so leaves the image itself as residual."""
    network = GateAutoencoder().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    return network


def _sheets(count: int, seed: int) -> np.ndarray:
    """Dark sheets in bright air, uint8 (count, 1, 200, 104)."""
    rng = np.random.default_rng(seed)
    images = np.full((count, 1, *SIZE), 230.0)
    for image in images[:, 0]:
        top, left = rng.integers(24, 28, 2)
        image[top : 200 - top, left : 104 - left] = rng.uniform(100, 140)
    return np.clip(images + rng.normal(0, 2, images.shape), 0, 255).astype(np.uint8)


def _examples(count: int, seed: int) -> Examples:
    lots, ordinary = [f"B{seed}{i // 4}" for i in range(count)], np.ones(count, np.bool_)
    return Examples(_sheets(count, seed), lots, ordinary, ordinary)


@pytest.fixture(scope="module")
def trained() -> tuple[Gate, float, float]:
    found = calibrated(
        _blind(), _examples(40, 1), _examples(20, 2), GateRecipe(size=SIZE, filter=True), lambda what: _quiet
    )
    assert not found.flagged.any()
    return found.gate.eval(), found.thresholds.mean, found.thresholds.std


def _quiet(done: int, total: int) -> None:
    assert done <= total


def _refused(trained: tuple[Gate, float, float], images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    gate, mean, std = trained
    means, stds = score(gate, images)
    return means > mean, stds > std


def test_ordinary_scans_of_other_lots_pass(trained: tuple[Gate, float, float]) -> None:
    by_mean, by_std = _refused(trained, _sheets(30, 3))
    assert not by_mean.any()
    assert not by_std.any()


def test_an_inverted_and_an_empty_scan_are_refused_for_their_greys(trained: tuple[Gate, float, float]) -> None:
    empty = np.full((1, 1, *SIZE), 230, np.uint8)
    assert _refused(trained, np.concatenate([255 - _sheets(3, 3), empty]))[0].all()


def test_noise_of_the_usual_greys_is_refused_for_its_texture(trained: tuple[Gate, float, float]) -> None:
    """Noise that no single window shows: its deviation is below that of the rim of a good sheet."""
    noisy = _sheets(3, 3).astype(float)
    noisy += np.random.default_rng(0).normal(0, 12, noisy.shape)
    plain = Gate(trained[0].autoencoder)
    rim = score(plain, _sheets(3, 3))[1]
    assert (score(plain, np.clip(noisy, 0, 255).astype(np.uint8))[1] < 1.5 * rim).all()
    assert _refused(trained, np.clip(noisy, 0, 255).astype(np.uint8))[1].all()


def test_a_spot_counts_more_where_scans_are_quiet() -> None:
    residual = Gate(_blind()).residual(torch.zeros(1, 1, *SIZE))
    weight = torch.ones_like(Gate(_blind()).windows(residual)[0][0])
    weight[5:] = 4
    gate = Gate(_blind(), 1, weight, weight)
    images = np.zeros((2, 1, *SIZE), np.uint8)
    images[0, 0, 40:49, 40:49] = images[1, 0, 150:159, 40:49] = 100
    means, stds = score(gate, images)
    assert means[1] == pytest.approx(4 * means[0], rel=1e-4)
    assert stds[1] == pytest.approx(4 * stds[0], rel=1e-4)


@pytest.mark.parametrize("reduction", [1, 2, 4])
def test_a_cell_of_the_map_lies_at_the_same_place_at_every_resolution(reduction: int) -> None:
    gate = Gate(_blind(), reduction)
    image = torch.zeros(1, 1, 400, 400)
    image[0, 0, 240:276, 300:336] = 1
    row, column = divmod(int(gate(image).residual_map[0].argmax()), gate(image).residual_map.shape[2])
    offset = gate.map_offset_px
    assert offset + MAP_CELL_PX * row <= 276
    assert offset + MAP_CELL_PX * (row + 1) >= 240
    assert offset + MAP_CELL_PX * column <= 336
    assert offset + MAP_CELL_PX * (column + 1) >= 300


def test_a_reduction_that_cuts_cells_is_refused() -> None:
    with pytest.raises(ValueError, match="does not divide"):
        Gate(_blind(), 3)


def test_the_gate_comes_back_from_its_checkpoint(trained: tuple[Gate, float, float], tmp_path: Path) -> None:
    for gate, recipe in ((trained[0], {"reduction": 1}), (Gate(_blind(), 2), {"reduction": 2}), (Gate(_blind()), {})):
        facts = {"seed": 0, "data_digest": "d", "scan_height_px": (1, 2), "scan_width_px": (1, 2), "bounds": None}
        made = Checkpoint("gate", state_of(gate), Method.LOCAL, size=SIZE, recipe=recipe, **facts)
        save_checkpoint(tmp_path / "gate.pt", made)
        loaded = gate_of(load_checkpoint(tmp_path / "gate.pt", "gate"))
        images = _sheets(2, 4)
        for one, other in zip(score(gate, images), score(loaded, images), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_pixel_that_is_not_a_number_makes_both_scores_so(trained: tuple[Gate, float, float]) -> None:
    image = torch.full((1, 1, *SIZE), 0.5)
    image[0, 0, 100, 50] = torch.nan
    scores = trained[0](image)
    assert scores.mean.isnan().all()
    assert scores.std.isnan().all()
