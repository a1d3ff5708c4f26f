"""Training of the gate at a toy length, its scores and its thresholds."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from edge.conversion import Bounds, Method
from edge.records import Size
from train.checkpoint import load_checkpoint
from train.dataset import load_scans, read_labels
from train.errors import DataError
from train.gate import calibrate, cut, fit, gate_images, learning_rate, patch_pairs, score, train_gate
from train.networks import GateAutoencoder, centre_crop
from train.progress import Reporter
from train.recipe import GateRecipe

torch.set_num_threads(1)

TINY = GateRecipe(size=Size(280, 280), steps=12, plain_steps=6, batch=2, lr=2e-3, seed=1, rotate=False)
BOUNDS = Bounds(1900, 2700)


@pytest.mark.timeout(300)
def test_a_training_lowers_the_loss_and_records_thresholds_that_pass_ordinary_scans(
    small_lot: Path, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(TINY, steps=30, patches="all", calibrate_on="all", perturbation="foreign")
    train_gate(small_lot, tmp_path, recipe, Reporter(), bounds=BOUNDS)
    loaded = load_checkpoint(tmp_path / "gate.pt", "gate")
    assert loaded.thresholds.keys() == {"gate_mean_threshold", "gate_std_threshold"}
    assert loaded.metrics["validation_normal_flagged"] == loaded.metrics["validation_abnormal_flagged"] == 0
    assert loaded.metrics["calibration_scans"] == 8
    assert (loaded.bounds, loaded.size, loaded.recipe["perturbation"]) == (BOUNDS, Size(280, 280), "foreign")
    GateAutoencoder().load_state_dict(loaded.state_dict)


@pytest.mark.timeout(300)
def test_the_same_seed_gives_the_same_losses_and_they_fall(small_lot: Path) -> None:
    scans = load_scans(read_labels(small_lot)[:4], Method.GLOBAL, BOUNDS, TINY.size)
    runs = []
    for _ in range(2):
        torch.manual_seed(1)
        runs.append(fit(GateAutoencoder(), scans.images, scans, TINY, [], Reporter()))
    assert runs[0] == runs[1]
    assert np.mean(runs[0][-3:]) < np.mean(runs[0][:3])


def test_scores_are_the_extremes_over_all_windows() -> None:
    gate = GateAutoencoder()
    image = np.random.default_rng(0).integers(0, 256, (1, 1, 80, 72)).astype(np.uint8)
    means, stds = score(gate, image)
    x = torch.from_numpy(image).float() / 255
    with torch.inference_mode():
        residual = (centre_crop(x) - gate.eval()(x))[0, 0].numpy()
    windows = np.lib.stride_tricks.sliding_window_view(residual, (9, 9))
    assert means[0] == pytest.approx(np.abs(windows.mean(axis=(2, 3))).max(), abs=1e-5)
    assert stds[0] == pytest.approx(windows.std(axis=(2, 3)).max(), abs=1e-4)


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.3])
def test_the_two_thresholds_together_keep_to_the_rate(rate: float) -> None:
    rng = np.random.default_rng(2)
    means, stds = rng.random(200), rng.random(200)
    thresholds = calibrate(means, stds, rate)
    flagged = np.sum((means > thresholds.mean) | (stds > thresholds.std))
    assert flagged <= rate * 200
    assert flagged >= rate * 200 - 2  # and do not waste it


def test_scores_that_agree_share_the_whole_rate() -> None:
    scores = np.arange(100.0)
    thresholds = calibrate(scores, 2 * scores, 0.05)
    assert (thresholds.mean, thresholds.std) == (94.0, 188.0)


def test_a_margin_raises_both_thresholds() -> None:
    scores = np.arange(1.0, 11.0)
    plain, wide = calibrate(scores, scores, 0.0), calibrate(scores, scores, 0.0, margin=1.5)
    assert (wide.mean, wide.std) == (1.5 * plain.mean, 1.5 * plain.std)


def test_no_scans_set_no_thresholds() -> None:
    with pytest.raises(DataError, match="no ordinary scans"):
        calibrate(np.array([]), np.array([]), 0.01)


def test_straight_patches_reach_the_corner_of_the_image() -> None:
    image = np.zeros((250, 220), np.uint8)
    image[0, 0] = 255
    rng = np.random.default_rng(0)
    assert any(cut(image, rng, rotate=False)[0, 0] == 1.0 for _ in range(60))


def test_turned_patches_never_reach_beyond_the_image() -> None:
    """An image with a white rim: a patch that took pixels from outside would repeat it."""
    image = np.zeros((300, 300), np.uint8)
    image[[0, -1]] = image[:, [0, -1]] = 255
    rng = np.random.default_rng(0)
    assert max(float(cut(image, rng, rotate=True)[1:-1, 1:-1].mean()) for _ in range(40)) < 0.02


def test_pairs_differ_only_by_the_perturbation() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 300, 300)).astype(np.uint8)
    clean, perturbed, answer = patch_pairs(images, np.array([0, 1]), "none", False, np.random.default_rng(0), [])
    assert clean.shape == (2, 1, 192, 192)
    assert torch.equal(clean, perturbed)
    assert torch.equal(clean, answer)
    clean, perturbed, answer = patch_pairs(images, np.array([0, 1]), "shapes", False, np.random.default_rng(0), [])
    assert not torch.equal(clean, perturbed)
    assert torch.equal(clean, answer)


def test_the_gate_sees_the_global_channel_of_a_mixed_image() -> None:
    images = np.stack([np.full((1, 4, 4), channel, np.uint8) for channel in range(3)], axis=1)
    assert gate_images(images, Method.MIXED).tolist() == np.ones((1, 1, 4, 4), int).tolist()
    assert gate_images(images[:, :1], Method.GLOBAL).max() == 0


def test_photographs_are_asked_for_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sni perturbations need photographs"):
        train_gate(
            tmp_path / "nowhere", tmp_path, dataclasses.replace(TINY, perturbation="sni"), Reporter(), bounds=BOUNDS
        )


def test_images_too_small_for_a_patch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too small for patches"):
        train_gate(tmp_path, tmp_path, dataclasses.replace(TINY, size=Size(150, 400)), Reporter())


def test_the_gates_rate_warms_up_and_dies_away() -> None:
    recipe = dataclasses.replace(TINY, steps=1000)
    rates = [learning_rate(recipe, step) for step in range(1000)]
    assert rates[0] < 0.1 * max(rates)
    assert max(rates) == pytest.approx(2e-3, rel=0.02)
    assert rates[-1] == pytest.approx(2e-5, rel=0.1)
