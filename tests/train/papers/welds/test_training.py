"""The gate's comparison: its size, its loss, and that it learns."""

import numpy as np
import pytest
import torch

from train.errors import DivergedError
from train.losses import huber_error, patch_loss, squared_error
from train.networks import PatchClassifier
from train.papers.welds import training as training_module
from train.papers.welds.bank import Bank
from train.papers.welds.training import check, learning_rate, train_network
from train.papers.welds.variants import Training, Variant

torch.set_num_threads(1)

D = Variant("classifier-d", "classifier", ("defects",), defective=True)


def small_bank() -> Bank:
    """Dark patches; the perturbation and the defective patches are bright all over."""
    grey = torch.randint(40, 60, (6, 1, 192, 192), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Bank(grey, grey + 100, (torch.full((3, 1, 192, 192), 0.4, dtype=torch.float16),))


def test_the_patch_classifier_has_the_papers_223221_parameters() -> None:
    assert sum(p.numel() for p in PatchClassifier().parameters()) == 223_221


def test_its_four_blocks_have_24_30_34_and_40_filters_and_its_layers_60_50_and_1_units() -> None:
    model = PatchClassifier()
    convolutions = [layer for layer in model.features if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [24, 24, 30, 30, 34, 34, 40, 40]
    assert [layer.out_features for layer in model.head if isinstance(layer, torch.nn.Linear)] == [60, 50, 1]
    assert [layer.p for layer in model.features if isinstance(layer, torch.nn.Dropout)] == [0.1] * 8


def test_a_patch_gives_one_logit() -> None:
    assert PatchClassifier().eval()(torch.rand(3, 1, 192, 192)).shape == (3,)


def test_the_patch_loss_is_binary_cross_entropy() -> None:
    logits, truth = np.array([-2.0, 0.5, 3.0]), np.array([0.0, 1.0, 0.0])
    p = 1 / (1 + np.exp(-logits))
    expected = -(truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean()
    assert float(patch_loss(torch.from_numpy(logits), torch.from_numpy(truth))) == pytest.approx(expected)


def test_the_robust_error_is_the_squared_one_for_noise_and_grows_slower_for_outliers() -> None:
    noise = torch.full((1, 1, 4, 4), 0.01)
    assert float(huber_error(noise)) == pytest.approx(float(squared_error(noise)))
    assert float(huber_error(torch.tensor([0.5]))) == pytest.approx(2 * 0.02 * (0.5 - 0.01))


def test_a_classifier_learns_what_is_bright_and_the_same_seed_learns_the_same() -> None:
    training = Training(batch=2, lr=6e-3)
    first, second = (train_network(small_bank(), D, training, seed=3, steps=14, where="d") for _ in range(2))
    assert np.array_equal(first.losses, second.losses)
    assert first.losses[-3:].mean() < 0.8 * first.losses[:3].mean()
    assert not first.model.training


def test_what_is_perturbed_is_the_accepted_patch_of_the_same_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, seen = small_bank(), []
    monkeypatch.setattr(training_module, "patch_loss", lambda _logits, truth: seen.append(truth))
    images: list[torch.Tensor] = []
    model = PatchClassifier()
    model.register_forward_pre_hook(lambda _model, given: images.append(given[0]))
    training_module.classifier_loss(model, bank, D, 4, torch.Generator().manual_seed(0))
    accepted, defective = images[0][:4], images[0][4:]
    assert seen[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert torch.allclose(defective[:2], accepted[2:] + 0.4, atol=1e-3)  # half of them perturbed, half whole
    assert (defective[2:] > 0.5).all()


def test_a_loss_that_is_no_number_stops_the_training_and_says_where() -> None:
    bank = small_bank()
    broken = Bank(bank.accepted, bank.defective, (torch.full((3, 1, 192, 192), float("nan")),))
    with pytest.raises(DivergedError, match=r"d of fold-1, run 2: the loss is nan at step 0"):
        train_network(broken, D, Training(batch=2), seed=0, steps=3, where="d of fold-1, run 2")


def test_initial_weights_that_lead_to_a_constant_are_replaced_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(batch=1)
    other = train_network(small_bank(), D, training, seed=4, steps=4, where="d")
    looks = iter([0.0])
    monkeypatch.setattr(training_module, "spread_of", lambda *_: next(looks, 1.0))
    monkeypatch.setattr(training_module, "_CHECK_EVERY_STEPS", 1)
    monkeypatch.setattr(training_module, "_WARM_STEPS", 2)
    again = train_network(small_bank(), D, training, seed=3, steps=4, where="d")
    monkeypatch.undo()
    assert (other.starts, again.starts) == (1, 2)
    assert np.array_equal(again.losses, other.losses)


def test_after_five_constants_the_rate_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    other = train_network(small_bank(), D, Training(batch=1, lr=1e-3), seed=8, steps=4, where="d")
    looks = iter([0.0] * 5)
    monkeypatch.setattr(training_module, "spread_of", lambda *_: next(looks, 1.0))
    monkeypatch.setattr(training_module, "_CHECK_EVERY_STEPS", 4)
    monkeypatch.setattr(training_module, "_WARM_STEPS", 2)
    again = train_network(small_bank(), D, Training(batch=1, lr=2e-3), seed=3, steps=4, where="d")
    monkeypatch.undo()
    assert again.starts == 6
    assert np.array_equal(again.losses, other.losses)


def test_a_network_that_says_the_same_of_every_patch_stops_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_module, "_CHECK_EVERY_STEPS", 4)
    monkeypatch.setattr(training_module, "_WARM_STEPS", 2)
    bank = small_bank()
    alike = Bank(torch.full_like(bank.accepted, 50), bank.defective, bank.perturbations)
    with pytest.raises(DivergedError, match=r"d of fold-1: the same answer to every patch, from each of 10 initial"):
        train_network(alike, D, Training(batch=1), seed=0, steps=4, where="d of fold-1")


def test_the_first_wrong_step_is_named() -> None:
    with pytest.raises(DivergedError, match="inf at step 2"):
        check(torch.tensor([1.0, 2.0, float("inf"), float("nan")]), "x")


def test_the_rate_warms_up_and_dies_away_however_few_the_steps() -> None:
    for steps in (8, 1000):
        rates = [learning_rate(2e-3, step, steps) for step in range(steps)]
        assert rates[0] < 0.5 * max(rates)
        assert max(rates) <= 2e-3
        assert rates[-1] < 0.1 * max(rates)
