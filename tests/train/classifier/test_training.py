"""Training of the classifier at a toy size: it learns, it repeats itself, it stops at nonsense."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edge.images.conversion import Bounds
from edge.images.method import Method
from edge.records import Size
from edge.system.progress import Reporter
from train.checkpoint import load_checkpoint
from train.classifier import training
from train.classifier.region_task import flip
from train.classifier.training import (
    augment,
    batches,
    build_classifier,
    draw_flips,
    fit,
    learning_rate,
    predict,
    train_classifier,
    training_mode,
)
from train.dataset import load_scans, read_labels
from train.errors import DivergedError, TrainError
from train.networks import ElectrodeClassifier
from train.recipe import ClassifierRecipe, FineTune, Stage, parse_size, parse_size_schedule
from train.resume import Resume

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("shallow")

TINY = ClassifierRecipe(
    size=Size(64, 64), weights="none", fine_tune="all", epochs=3, batch=8, optimizer="adamw", lr=1e-3, seed=1
)
TINIEST = Size(32, 32)


@pytest.mark.timeout(300)
def test_a_training_from_scratch_learns_a_missing_patch_and_records_how(small_lot: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(TINY, epochs=5, schedule="one-cycle", balanced=True, jitter=0.05)
    checkpoint = train_classifier(small_lot, tmp_path, recipe, Reporter())
    report = json.loads((tmp_path / "metrics.json").read_text())
    losses = [epoch["loss"] for epoch in report["epochs"]]
    assert min(losses[2:]) < losses[0]
    loaded = load_checkpoint(tmp_path / "classifier.pt", "classifier")
    assert loaded.thresholds == checkpoint.thresholds
    assert loaded.recipe["schedule"] == "one-cycle"
    assert loaded.recipe["size"] == "64x64"
    assert loaded.bounds == Bounds(2000, 2700)  # without B0, the darkest: it was held back for validation
    assert loaded.scan_height_px == (300, 300)
    assert loaded.metrics["training_bundles"] == 2
    ElectrodeClassifier(loaded.channels).load_state_dict(loaded.state_dict)


def test_other_regions_are_another_training_and_nothing_is_taken_up(
    tiny_lot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_off_at: Callable[[str], set[Path]]
) -> None:
    keys = cut_off_at("train.classifier.training.fit")
    for regions in (0, 0, 255):
        drawn = np.full((2, 8, 8), regions, np.uint8)
        monkeypatch.setattr("train.classifier.training.read_regions", lambda _, drawn=drawn: drawn)
        with pytest.raises(KeyboardInterrupt):
            train_classifier(tiny_lot, tmp_path, dataclasses.replace(TINY, learn_regions=True), Reporter())
    assert len(keys) == 2


def test_scans_in_another_order_are_another_training_and_nothing_is_taken_up(
    tiny_lot: Path, tmp_path: Path, cut_off_at: Callable[[str], set[Path]]
) -> None:
    """Scans are drawn by number: with rows that swapped places the losses are not those of one that was not stopped."""
    keys = cut_off_at("train.classifier.training.fit")
    lot = tmp_path / "lot"
    shutil.copytree(tiny_lot, lot)
    head, first, second, third, *rest = (lot / "labels.csv").read_text().splitlines()
    for rows in ([first, second, third], [first, second, third], [third, second, first]):
        (lot / "labels.csv").write_text("\n".join([head, *rows, *rest]))
        with pytest.raises(KeyboardInterrupt):
            train_classifier(lot, tmp_path / "run", TINY, Reporter(), bounds=Bounds(1900, 2700))
    assert len(keys) == 2


@pytest.mark.timeout(300)
def test_the_same_seed_gives_the_same_losses(small_lot: Path) -> None:
    scans = load_scans(read_labels(small_lot)[:8], Method.GLOBAL, Bounds(1900, 2700), TINIEST)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        recipe = dataclasses.replace(TINY, size=TINIEST, seed=seed, epochs=2)
        history, _ = fit(build_classifier(recipe), scans, scans, recipe, recipe.stages(), Reporter())
        runs.append([figures.loss for figures in history])
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.timeout(300)
def test_a_training_that_is_killed_again_and_again_has_the_losses_of_one_that_was_not(
    small_lot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = load_scans(read_labels(small_lot)[:8], Method.GLOBAL, Bounds(1900, 2700), TINIEST)
    recipe = dataclasses.replace(TINY, size=TINIEST, schedule="one-cycle", epochs=3, batch=4, jitter=0.05)

    def run(resume: Resume | None) -> list[float]:
        torch.manual_seed(1)
        history, _ = fit(build_classifier(recipe), scans, scans, recipe, recipe.stages(), Reporter(), resume)
        return [figures.loss for figures in history]

    uninterrupted = run(None)
    kept = Resume(tmp_path / "training.pt", "this one")
    other = Resume(tmp_path / "training.pt", "another one")
    plain_loss = training.classifier_loss
    steps = 0

    def dying_loss(*arguments: object) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == 4:
            raise KeyboardInterrupt
        return plain_loss(*arguments)

    def killed() -> None:
        nonlocal steps
        steps = 0
        with monkeypatch.context() as patch:
            patch.setattr(training, "classifier_loss", dying_loss)
            with pytest.raises(KeyboardInterrupt):
                run(kept)

    killed()  # in the second epoch
    before = kept.path.read_bytes()
    assert run(other) == uninterrupted  # from the start: the file is not its own
    assert kept.path.read_bytes() == before  # and is not lost
    killed()  # in the third, the second one done
    assert kept.path.read_bytes() != before
    assert run(kept) == uninterrupted


def test_a_loss_that_is_no_number_stops_the_training_with_step_and_files(small_lot: Path) -> None:
    scans = load_scans(read_labels(small_lot)[:4], Method.GLOBAL, Bounds(1900, 2700), Size(64, 64))
    model = build_classifier(TINY)
    with torch.no_grad():
        model.head[-1].bias.fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"step 0, on .*B0_\d\.tif"):
        fit(model, scans, scans, TINY, TINY.stages(), Reporter())


def test_what_is_frozen_stays_as_it_was_batch_norm_statistics_included(small_lot: Path) -> None:
    scans = load_scans(read_labels(small_lot)[:4], Method.GLOBAL, Bounds(1900, 2700), Size(64, 64))
    recipe = dataclasses.replace(TINY, fine_tune="head", epochs=1)
    model = build_classifier(recipe)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fit(model, scans, scans, recipe, recipe.stages(), Reporter())
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(key.startswith(("head.", "backbone.fc.")) for key in changed)


@pytest.mark.parametrize(
    ("weights", "fine_tune", "learns_statistics"),
    [("none", "head", False), ("none", "layer4", False), ("none", "all", True), ("imagenet", "all", False)],
)
def test_only_a_backbone_trained_from_scratch_learns_batch_norm_statistics(
    weights: str, fine_tune: FineTune, learns_statistics: bool
) -> None:
    recipe = dataclasses.replace(TINY, weights=weights, fine_tune=fine_tune)
    model = build_classifier(dataclasses.replace(recipe, weights="none"))
    training_mode(model, recipe)
    norms = [layer for layer in model.backbone.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert {layer.training for layer in norms} == {learns_statistics}


@pytest.mark.parametrize(("weights", "fine_tune"), [("imagenet", "all"), ("none", "layer4")])
def test_statistics_that_the_training_left_frozen_are_not_replaced_at_its_end(
    small_lot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str, fine_tune: FineTune
) -> None:
    monkeypatch.setattr(training, "load_weights", lambda *_: None)
    recipe = dataclasses.replace(TINY, weights=weights, fine_tune=fine_tune, recalibrate_scans=4)
    with pytest.raises(TrainError, match="are frozen"):
        train_classifier(small_lot, tmp_path, recipe, Reporter())


def test_statistics_of_a_training_from_scratch_are_taken_anew_over_training_scans(
    small_lot: Path, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(TINY, size=TINIEST, epochs=1)
    runs = [dataclasses.replace(recipe, recalibrate_scans=scans) for scans in (0, 8)]
    kept, anew = (train_classifier(small_lot, tmp_path / str(i), run, Reporter()) for i, run in enumerate(runs))
    changed = [name for name in kept.state_dict if not torch.equal(kept.state_dict[name], anew.state_dict[name])]
    assert changed
    assert all("running_" in name or "num_batches" in name for name in changed)


def test_the_papers_rate_falls_tenfold_every_ten_epochs() -> None:
    paper = ClassifierRecipe()
    assert (paper.epochs, paper.batch, paper.optimizer, paper.fine_tune) == (50, 16, "adam", "head")
    assert [learning_rate(paper, epoch, 0.0) for epoch in (0, 9, 10, 49)] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-7])


def test_a_one_cycle_rate_rises_to_its_peak_and_falls_to_a_hundredth() -> None:
    recipe = dataclasses.replace(TINY, schedule="one-cycle")
    rates = [learning_rate(recipe, 0, done) for done in np.linspace(0.001, 1, 500)]
    peak = int(np.argmax(rates))
    assert rates[peak] == pytest.approx(1e-3, rel=0.01)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] == pytest.approx(1e-5)


def test_every_scan_comes_once_an_epoch() -> None:
    drawn = np.concatenate(list(batches(np.array([0] * 30 + [1] * 7), TINY, np.random.default_rng(0))))
    assert sorted(drawn) == list(range(37))


def test_balanced_drawing_shows_both_classes_equally_often() -> None:
    labels = np.array([0] * 30 + [1] * 6)
    recipe = dataclasses.replace(TINY, balanced=True)
    drawn = np.concatenate(list(batches(labels, recipe, np.random.default_rng(0))))
    assert np.bincount(labels[drawn]).tolist() == [18, 18]
    assert np.bincount(drawn[labels[drawn] == 1])[30:].tolist() == [3] * 6


def test_certain_flips_turn_every_image_around() -> None:
    x = torch.arange(24.0).view(1, 1, 4, 6).repeat(2, 3, 1, 1)
    torch.testing.assert_close(flip(x, draw_flips(2, 1.0, np.random.default_rng(0))), x.flip(-1).flip(-2))
    torch.testing.assert_close(flip(x, draw_flips(2, 0.0, np.random.default_rng(0))), x)


def test_each_image_is_flipped_on_its_own() -> None:
    x = torch.arange(24.0).view(1, 1, 4, 6).repeat(2, 3, 1, 1)
    flipped = flip(x, (torch.tensor([True, False]), torch.tensor([False, False])))
    torch.testing.assert_close(flipped[0], x[0].flip(-1))
    torch.testing.assert_close(flipped[1], x[1])


def test_the_early_sizes_are_means_of_the_full_one() -> None:
    x = torch.rand(1, 3, 8, 8)
    small = augment(x, Size(4, 4), 0.0, np.random.default_rng(0))
    torch.testing.assert_close(small, x.unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(4, 5)))


def test_a_size_schedule_ends_at_the_full_size() -> None:
    recipe = dataclasses.replace(TINY, size=Size(128, 128), epochs=10, size_schedule="64x64:4,96x96:3")
    assert recipe.stages() == [Stage(Size(64, 64), 4), Stage(Size(96, 96), 3), Stage(Size(128, 128), 3)]


@pytest.mark.parametrize("schedule", ["64x64:10", "256x256:2", "64x64", "64:3", "64x64:0"])
def test_a_size_schedule_that_does_not_add_up_is_refused(schedule: str) -> None:
    with pytest.raises(TrainError):
        dataclasses.replace(TINY, size=Size(128, 128), epochs=10, size_schedule=schedule).stages()


def test_sizes_are_written_height_first() -> None:
    assert parse_size("2000x1000") == Size(2000, 1000)
    assert parse_size_schedule("") == []
    with pytest.raises(TrainError, match="is not a size"):
        parse_size("big")


def test_predictions_are_probabilities_in_the_order_of_the_scans() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 64, 64)).astype(np.uint8)
    model = build_classifier(TINY)
    p = predict(model, images, Size(64, 64))
    assert p.shape == (5,)
    assert np.all((p >= 0) & (p <= 1))
    np.testing.assert_allclose(predict(model, images[3:4], Size(64, 64)), p[3:4], atol=1e-5)
