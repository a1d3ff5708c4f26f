"""Training of the gate at a toy length, its scores and its thresholds."""

import dataclasses
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from edge.images.conversion import Bounds
from edge.images.method import Method
from edge.records import Size
from edge.system.progress import Reporter
from tests.support.lots import write_brighter
from train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from train.cli import main
from train.dataset import load_scans, read_labels
from train.errors import DataError, DivergedError
from train.gate import training
from train.gate.calibration import Examples, calibrate, gate_images, score
from train.gate.layout import Layout
from train.gate.network import Gate, gate_of, state_of
from train.gate.training import add_filter, calibration_sentence, fit, learning_rate, reduced, train_gate
from train.losses import GateLoss
from train.networks import GateAutoencoder, centre_crop
from train.recipe import GateRecipe, flat
from train.resume import Resume

torch.set_num_threads(1)

TINY = GateRecipe(
    size=Size(280, 280), steps=12, plain_steps=6, bank=8, batch=2, lr=2e-3, seed=1, rotate=False, filter=True
)
BOUNDS = Bounds(1900, 2700)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("scores", ["placed", "paper"])
def test_a_training_records_thresholds_that_pass_ordinary_scans(small_lot: Path, tmp_path: Path, scores: str) -> None:
    recipe = dataclasses.replace(TINY, perturbation="foreign", scores=scores, margin=2.0)
    train_gate(small_lot, tmp_path, recipe, Reporter(), bounds=BOUNDS)
    loaded = load_checkpoint(tmp_path / "gate.pt", "gate")
    assert loaded.thresholds.keys() == {"gate_mean_threshold", "gate_std_threshold"}
    assert loaded.metrics["validation_normal_flagged"] == 0
    assert loaded.metrics["calibration_scans"] == loaded.metrics["validation_normal_scans"] == 4
    assert (loaded.bounds, loaded.size, loaded.recipe["perturbation"]) == (BOUNDS, Size(280, 280), "foreign")
    gate = gate_of(loaded)
    assert (gate.greys is None) == (gate.textures is None) == (gate.filter is None) == (scores == "paper")
    scans = load_scans(read_labels(small_lot), Method.GLOBAL, BOUNDS, TINY.size)
    means, stds = score(gate, scans.images)
    passed = (means <= loaded.thresholds["gate_mean_threshold"]) & (stds <= loaded.thresholds["gate_std_threshold"])
    assert passed[scans.labels == 0].all()


@pytest.mark.timeout(300)
def test_a_gate_without_a_filter_is_given_the_one_its_training_would_have_made(small_lot: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(TINY, steps=2, plain_steps=2, perturbation="none")
    made = train_gate(small_lot, tmp_path / "new", recipe, Reporter(), bounds=BOUNDS)
    state = {name: value for name, value in made.state_dict.items() if not name.startswith("filter.")}
    old = tmp_path / "old.pt"
    save_checkpoint(old, dataclasses.replace(made, state_dict=state, recipe={**made.recipe, "filter": False}))
    assert main(["gate-filter", str(small_lot), "--gate", str(old), "--out", str(tmp_path / "given")]) == 0
    given = load_checkpoint(tmp_path / "given" / "gate.pt", "gate")
    assert given.state_dict.keys() == made.state_dict.keys()
    for name, value in made.state_dict.items():
        torch.testing.assert_close(given.state_dict[name], value, rtol=1e-6, atol=0)
    assert (given.thresholds, given.recipe) == (made.thresholds, made.recipe)
    assert given.metrics["filter_normal_scans"] == 12


def test_a_gate_learns_where_all_scans_are_normal(small_lot: Path, tmp_path: Path) -> None:
    """A new line has no others."""
    normal = write_brighter(small_lot, tmp_path / "normal")
    recipe = dataclasses.replace(TINY, steps=2, plain_steps=2, perturbation="none")
    made = train_gate(normal, tmp_path, recipe, Reporter(), bounds=Bounds(2700, 4000))
    assert (made.metrics["training_scans"], made.metrics["validation_normal_scans"]) == (8, 4)
    given = add_filter(normal, tmp_path / "gate.pt", tmp_path, Reporter())
    assert given.metrics["filter_normal_scans"] == 12


def test_a_filter_is_calibrated_on_what_the_gate_learnt_from_and_on_nothing_else(
    small_lot: Path, tmp_path: Path
) -> None:
    placed = torch.ones(2, 2)
    gate = Gate(GateAutoencoder(), 1, placed, placed, Layout(4, 1), Layout(4, 1), 140)
    facts = {"seed": 1, "data_digest": "e" * 64, "scan_height_px": (1, 2), "scan_width_px": (1, 2), "bounds": BOUNDS}
    made = Checkpoint("gate", state_of(gate), Method.GLOBAL, size=TINY.size, recipe=flat(TINY), **facts)
    save_checkpoint(tmp_path / "gate.pt", made)
    with pytest.raises(DataError, match=r"is not what .*gate\.pt learnt from: digest [0-9a-f]{16}, expected e{16}"):
        add_filter(small_lot, tmp_path / "gate.pt", tmp_path, Reporter())
    save_checkpoint(tmp_path / "gate.pt", dataclasses.replace(made, state_dict=GateAutoencoder().state_dict()))
    with pytest.raises(DataError, match="no filter joins it"):
        add_filter(small_lot, tmp_path / "gate.pt", tmp_path, Reporter())


@pytest.mark.timeout(300)
def test_the_same_seed_gives_the_same_losses(small_lot: Path) -> None:
    scans = load_scans(read_labels(small_lot)[:4], Method.GLOBAL, BOUNDS, TINY.size)
    runs = []
    for _ in range(2):
        torch.manual_seed(1)
        runs.append(_fit(scans.images, TINY))
    assert runs[0] == runs[1]


@pytest.mark.timeout(300)
def test_the_losses_fall() -> None:
    """On scans of one grey, where no patch is easier than another."""
    losses = _fit(np.full((2, 1, 280, 280), 128, np.uint8), dataclasses.replace(TINY, steps=16, perturbation="none"))
    assert max(losses[-3:]) < min(losses[:3])


def test_a_training_that_diverges_says_where() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 280, 280)).astype(np.uint8)
    with pytest.raises(DivergedError, match=r"at step \d+, on patches of scan"):
        _fit(images, dataclasses.replace(TINY, lr=1e30, perturbation="none"))


def _fit(images: np.ndarray, recipe: GateRecipe) -> list[float]:
    names = [f"scan {number}" for number in range(len(images))]
    cpu = torch.device("cpu")
    return fit(GateAutoencoder(), images, recipe, Reporter(), photos=[], names=names, device=cpu)


@pytest.mark.timeout(300)
def test_an_interrupted_training_goes_on_with_the_losses_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 280, 280)).astype(np.uint8)
    recipe = dataclasses.replace(TINY, perturbation="foreign", settle_steps=2)

    def run(key: str) -> list[float]:
        looks = itertools.count(1)
        monkeypatch.setattr(Resume, "is_due", property(lambda _: next(looks) % 4 == 0))
        torch.manual_seed(1)
        cpu, resume = torch.device("cpu"), Resume(tmp_path / "gate-training.pt", key)
        names = ["first", "second"]
        return fit(GateAutoencoder(), images, recipe, Reporter(), photos=[], names=names, device=cpu, resume=resume)

    uninterrupted = run("not stopped")
    plain_losses = training.losses_of
    steps = 0

    def stop(*arguments: Any) -> GateLoss:
        nonlocal steps
        steps += 1
        if steps == 7:
            raise KeyboardInterrupt
        return plain_losses(*arguments)

    monkeypatch.setattr(training, "losses_of", stop)
    with pytest.raises(KeyboardInterrupt):
        run("stopped")
    kept = Resume(tmp_path / "gate-training.pt", "stopped").path.read_bytes()
    steps = 7
    assert run("other options") == uninterrupted
    assert Resume(tmp_path / "gate-training.pt", "stopped").path.read_bytes() == kept
    assert run("stopped") == uninterrupted
    assert steps == 7 + 12 + 8


def test_scores_are_the_extremes_over_all_windows() -> None:
    gate = GateAutoencoder()
    image = np.random.default_rng(0).integers(0, 256, (1, 1, 80, 72)).astype(np.uint8)
    means, stds = score(Gate(gate), image)
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


def test_patches_of_a_smaller_image_are_its_pooled_greys() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 8, 12)).astype(np.uint8)
    blocks = images.reshape(2, 1, 4, 2, 6, 2).mean(axis=(3, 5))
    assert np.abs(reduced(images, 2) - blocks).max() <= 0.5
    assert reduced(images, 1) is images


def test_the_gate_sees_the_global_channel_of_a_mixed_image() -> None:
    images = np.stack([np.full((1, 4, 4), channel, np.uint8) for channel in range(3)], axis=1)
    assert gate_images(images, Method.MIXED).tolist() == np.ones((1, 1, 4, 4), int).tolist()
    assert gate_images(images[:, :1], Method.GLOBAL).max() == 0
    assert [method.gate_channel for method in Method] == [0, 0, 0, 1, 0, 0]


def test_a_training_says_on_how_few_lots_its_thresholds_rest() -> None:
    images = np.zeros((6, 1, 4, 4), np.uint8)
    ordinary = np.array([True, True, True, True, False, False])
    said = calibration_sentence(Examples(images, ["B1", "B1", "B2", "B2", "B3", "B3"], ordinary, ordinary))
    assert "4 ordinary scans of 2 lots" in said
    assert said.endswith("they may refuse 78% of others")  # 1 - 0.05 ** (1 / 2)


def test_photographs_are_asked_for_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sni perturbations need photographs"):
        train_gate(
            tmp_path / "nowhere", tmp_path, dataclasses.replace(TINY, perturbation="sni"), Reporter(), bounds=BOUNDS
        )


def test_other_photographs_are_another_training_and_nothing_is_taken_up(
    small_lot: Path, tmp_path: Path, cut_off_at: Callable[[str], set[Path]]
) -> None:
    keys = cut_off_at("train.gate.training.fit")
    sni = dataclasses.replace(TINY, perturbation="sni")
    for grey in (9, 9, 90):
        cv2.imwrite(str(tmp_path / "photo.png"), np.full((200, 200), grey, np.uint8))
        with pytest.raises(KeyboardInterrupt):
            train_gate(small_lot, tmp_path / "run", sni, Reporter(), bounds=BOUNDS, photos=tmp_path)
    assert len(keys) == 2


def test_scans_in_another_order_are_another_training_and_nothing_is_taken_up(
    small_lot: Path, tmp_path: Path, cut_off_at: Callable[[str], set[Path]]
) -> None:
    """Scans are drawn by number: with rows that swapped places the losses are not those of one that was not stopped."""
    keys = cut_off_at("train.gate.training.fit")
    lot = tmp_path / "lot"
    shutil.copytree(small_lot, lot)
    head, first, second, third, *rest = (lot / "labels.csv").read_text().splitlines()
    for rows in ([first, second, third], [first, second, third], [third, second, first]):
        (lot / "labels.csv").write_text("\n".join([head, *rows, *rest]))
        with pytest.raises(KeyboardInterrupt):
            train_gate(lot, tmp_path / "run", TINY, Reporter(), bounds=BOUNDS)
    assert len(keys) == 2


def test_photographs_that_would_not_be_used_are_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "photo.png"), np.full((200, 200), 9, np.uint8))
    with pytest.raises(DataError, match="photographs are for sni perturbations, not for shapes"):
        train_gate(tmp_path, tmp_path, dataclasses.replace(TINY, perturbation="shapes"), Reporter(), photos=tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"size": Size(150, 400)}, {"size": Size(260, 400), "rotate": True}, {"size": Size(400, 370), "reduction": 2}],
)
def test_images_too_small_for_a_patch_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(DataError, match="too small for patches"):
        train_gate(tmp_path, tmp_path, dataclasses.replace(TINY, **changes), Reporter())


def test_the_gates_rate_warms_up_and_dies_away() -> None:
    recipe = dataclasses.replace(TINY, steps=1000)
    rates = [learning_rate(recipe, step) for step in range(1000)]
    assert rates[0] < 0.1 * max(rates)
    assert max(rates) == pytest.approx(2e-3, rel=0.02)
    assert rates[-1] == pytest.approx(2e-5, rel=0.1)
