"""Pretraining: what is shown belongs to what is asked, the loss falls, a killed training ends in the same weights."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import train.pretraining.backbone
import train.resume
from edge.images.method import Method
from edge.records import Size
from edge.system.progress import Reporter
from train.classifier.features import open_backbone
from train.classifier.training import build_classifier
from train.errors import DivergedError, TrainError
from train.pretraining.backbone import FACTS_FILE, WEIGHTS_FILE, CellTask, pretrain, shown
from train.pretraining.marked_scans import CELL_PX, MarkedScans
from train.recipe import ClassifierRecipe, Pretraining
from train.runner import Here
from train.simulator.simulate import KINDS

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("shallow")

RECIPE = Pretraining(lots=2, scans_per_lot=3, size=Size(64, 64), steps=6, batch=4, amp="off")
CPU = torch.device("cpu")


def taught(out: Path, recipe: Pretraining = RECIPE) -> tuple[str, tuple[float, ...]]:
    with Reporter() as reporter:
        came = pretrain(recipe, out, Here(), reporter)
    return came.sha256, came.losses


def test_what_is_written_is_a_file_of_first_weights_and_says_what_taught_it(tmp_path: Path) -> None:
    sha256, losses = taught(tmp_path)
    backbone = open_backbone(str(tmp_path / WEIGHTS_FILE), Size(64, 64), seed=0, amp=False, device="cpu")
    assert backbone.sha256 == sha256
    facts = json.loads((tmp_path / FACTS_FILE).read_text())
    assert facts["sha256"] == sha256 and facts["scans"] == 12 and facts["final_loss"] == pytest.approx(np.mean(losses))
    assert facts["recipe"]["simulator"] == "both" and facts["recipe"]["size"] == "64x64" and facts["from"] == "none"
    assert sorted(path.name for path in tmp_path.iterdir()) == [FACTS_FILE, WEIGHTS_FILE]


def test_every_layer_that_recipes_read_is_taught_and_fc_is_not(tmp_path: Path) -> None:
    taught(tmp_path)
    torch.manual_seed(0)
    before = build_classifier(ClassifierRecipe(method=Method.GLOBAL, weights="none")).backbone.state_dict()
    after = torch.load(tmp_path / WEIGHTS_FILE, weights_only=True)
    for name in ("conv1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight", "layer4.0.bn2.running_mean"):
        assert not torch.equal(before[name], after[name]), name
    torch.testing.assert_close(before["fc.weight"], after["fc.weight"])
    assert all(value.isfinite().all() for value in after.values())


def test_it_learns_which_kind_lies_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.pretraining.backbone, "draw_marked_scans", lambda *_: _squares())
    _, losses = taught(tmp_path, replace(RECIPE, steps=60, batch=8))
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_a_killed_training_ends_in_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, losses = taught(tmp_path / "whole")
    monkeypatch.setattr(train.pretraining.backbone, "take_statistics", _killed)  # within seconds of the last step
    with pytest.raises(KeyboardInterrupt):
        taught(tmp_path / "killed")
    monkeypatch.undo()
    monkeypatch.setattr(train.pretraining.backbone, "finite", _counted(counted := []))
    assert taught(tmp_path / "killed") == (whole, losses)
    assert not counted  # all steps were done before
    other, _ = taught(tmp_path / "killed", replace(RECIPE, seed=1))
    assert other != whole and len(counted) == RECIPE.steps


def test_a_kill_leaves_no_facts_beside_weights_that_they_are_not_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _ = taught(tmp_path)
    monkeypatch.setattr(train.pretraining.backbone, "write_json", _killed)
    with pytest.raises(KeyboardInterrupt):
        taught(tmp_path, replace(RECIPE, seed=1))
    weights = open_backbone(str(tmp_path / WEIGHTS_FILE), Size(64, 64), seed=0, amp=False, device="cpu")
    assert weights.sha256 != before and not (tmp_path / FACTS_FILE).exists()


def test_it_goes_on_from_the_middle_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, losses = taught(tmp_path / "whole")
    steps = itertools.count()
    monkeypatch.setattr(train.resume.Resume, "is_due", property(lambda _: next(steps) == 1))
    monkeypatch.setattr(train.pretraining.backbone, "finite", _counted([], killed_at=3))
    with pytest.raises(KeyboardInterrupt):
        taught(tmp_path / "killed")
    monkeypatch.setattr(train.pretraining.backbone, "finite", _counted(counted := []))
    assert taught(tmp_path / "killed") == (whole, losses)
    assert counted == [2, 3, 4, 5]


def test_weights_that_are_not_there_are_told_before_a_scan_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"nowhere.pth"):
        taught(tmp_path, replace(RECIPE, weights=str(tmp_path / "nowhere.pth"), lots=10**6))


def test_weights_that_the_result_would_replace_are_refused(tmp_path: Path) -> None:
    before, _ = taught(tmp_path)
    with pytest.raises(TrainError, match=r"take the place of .*backbone\.pth"):
        taught(tmp_path, replace(RECIPE, weights=str(tmp_path / "sub" / ".." / WEIGHTS_FILE)))
    assert json.loads((tmp_path / FACTS_FILE).read_text())["sha256"] == before
    taught(tmp_path / "on", replace(RECIPE, weights=str(tmp_path / WEIGHTS_FILE)))
    assert json.loads((tmp_path / "on" / FACTS_FILE).read_text())["from"] == before


def test_a_training_that_diverges_names_the_step_and_leaves_no_weights(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"at step \d+, on simulated scan \d+"):
        taught(tmp_path, replace(RECIPE, lr=float("inf")))
    assert not (tmp_path / WEIGHTS_FILE).exists()


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss is known to be finite before its step, what the last step leaves is not."""

    def overflow(backbone: torch.nn.Module, *_: object) -> None:
        next(backbone.parameters()).data.fill_(float("inf"))

    monkeypatch.setattr(train.pretraining.backbone, "take_statistics", overflow)
    with pytest.raises(DivergedError, match=r"not finite in 1 tensors, such as conv1\.weight"):
        taught(tmp_path)
    assert not (tmp_path / WEIGHTS_FILE).exists()


def test_scans_are_mirrored_together_with_what_is_asked_of_them() -> None:
    rng = np.random.default_rng(0)
    counts = np.full((1, 64, 32), 2000, np.uint16)
    severities = np.zeros((1, len(KINDS), 8, 4), np.uint8)
    counts[0, 8:16, 0:8], severities[0, 3, 1, 0] = 2900, 204
    scans = MarkedScans(counts, severities, np.array([[1500, 3000]], np.float32))
    places = set()
    for _ in range(40):
        x, asked = shown(scans, np.zeros(1, np.int64), rng, CPU)
        ((_, kind, row, column),) = torch.nonzero(asked).tolist()
        assert kind == 3 and float(asked.max()) == pytest.approx(0.8)
        of_cell = x[0, 0].unfold(0, CELL_PX, CELL_PX).unfold(1, CELL_PX, CELL_PX).mean(dim=(2, 3))
        assert divmod(int(of_cell.argmax()), 4) == (row, column)
        places.add((row, column))
    assert places == {(1, 0), (1, 3), (6, 0), (6, 3)}


def test_bounds_move_and_noise_comes_and_goes() -> None:
    rng = np.random.default_rng(0)
    flat = MarkedScans(
        np.full((1, 64, 32), 2250, np.uint16),
        np.zeros((1, len(KINDS), 8, 4), np.uint8),
        np.array([[1500, 3000]], np.float32),
    )
    x, _ = shown(flat, np.zeros(400, np.int64), rng, CPU)
    means, deviations = x[:, 0].mean(dim=(1, 2)), x[:, 0].std(dim=(1, 2))
    greys = means * 0.229 + 0.485
    assert float(greys.min()) < 0.48 < 0.52 < float(greys.max())
    assert 120 < int((deviations == 0).sum()) < 260


def test_a_right_answer_costs_less_than_a_wrong_or_misplaced_one() -> None:
    task, severities = CellTask(), torch.zeros(1, len(KINDS), 4, 3)
    severities[0, 2, 1, 1] = 1.0
    maps = [torch.zeros(1, width, rows, columns) for width, rows, columns in ((128, 4, 3), (256, 2, 2), (512, 1, 1))]

    def loss(row: int, kind: int) -> float:
        with torch.no_grad():
            for layer in task.layers:
                layer.weight.zero_()
                layer.weight[[kind, -1], 0] = 8.0
            for of_layer, (down, across) in zip(maps, ((row, 1), (row // 2, 0), (0, 0)), strict=True):
                of_layer.zero_()
                of_layer[0, 0, down, across] = 1.0
            return float(task(maps, severities))

    right = loss(1, 2)
    assert right < loss(1, 3)
    assert right < loss(3, 2)


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def _counted(steps: list[int], killed_at: int | None = None):  # type: ignore[no-untyped-def]
    def finite(loss: torch.Tensor, step: int, _: object) -> float:
        if step == killed_at:
            raise KeyboardInterrupt
        steps.append(step)
        return loss.item()

    return finite


def _squares() -> MarkedScans:
    """Noise with a bright or a dark square in one cell of each scan: two kinds, severity 1."""
    rng = np.random.default_rng(1)
    counts = rng.normal(2200, 20, (32, 64, 64))
    severities = np.zeros((32, len(KINDS), 8, 8), np.uint8)
    for number in range(32):
        row, column, kind = *rng.integers(0, 8, 2), number % 2
        counts[number, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 800 * kind - 400
        severities[number, kind, row, column] = 255
    return MarkedScans(counts.astype(np.uint16), severities, np.full((32, 2), (1500, 3000), np.float32))
