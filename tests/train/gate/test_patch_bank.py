"""Patches and perturbations on the device."""

import numpy as np
import pytest
import torch

from train.gate.patch_bank import PatchBank, draw_perturbations
from train.gate.perturb import PATCH_PX

CPU = torch.device("cpu")


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator(CPU).manual_seed(seed)


def _quiet(done: int, total: int) -> None:
    assert done <= total


def _cut(images: np.ndarray, times: int, *, rotate: bool) -> torch.Tensor:
    return PatchBank(images[:, None], CPU).cut(torch.arange(times) % len(images), rotate, _rng())


def test_a_straight_patch_is_a_piece_of_the_scan_it_was_picked_from() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 200, 196)).astype(np.uint8)
    for number, patch in enumerate((_cut(images, 8, rotate=False) * 255).round().byte().numpy()[:, 0]):
        ways = [patch[::down, ::across] for down in (1, -1) for across in (1, -1)]
        windows = np.lib.stride_tricks.sliding_window_view(images[number % 2], (PATCH_PX, PATCH_PX))
        assert any(np.array_equal(way, window) for way in ways for row in windows for window in row)


def test_straight_patches_reach_the_corner_of_the_image() -> None:
    image = np.zeros((1, 250, 220), np.uint8)
    image[0, 0, 0] = 255
    corners = _cut(image, 60, rotate=False)[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 1).any()


def test_turned_patches_never_reach_beyond_the_image_and_lie_at_every_angle() -> None:
    """An image with a white rim: a patch that took pixels from outside would repeat it."""
    image = np.zeros((1, 300, 300), np.uint8)
    image[:, [0, -1]] = image[:, :, [0, -1]] = 255
    assert _cut(image, 40, rotate=True)[:, 0, 1:-1, 1:-1].mean(dim=(1, 2)).max() < 0.02
    slope = np.broadcast_to(np.arange(300) // 2, (1, 300, 300)).astype(np.uint8)  # grey rises to the right alone
    patches = _cut(slope, 60, rotate=True)[:, 0].numpy() * 255
    across = (patches[:, 96, -1] - patches[:, 96, 0]) / (PATCH_PX - 1)
    down = (patches[:, -1, 96] - patches[:, 0, 96]) / (PATCH_PX - 1)
    assert across.min() < -0.45
    assert across.max() > 0.45
    np.testing.assert_allclose(np.hypot(across, down), 0.5, atol=0.02)


def test_a_shape_is_added_and_the_answer_stays_clean() -> None:
    images = np.full((2, 1, 300, 300), 128, np.uint8)
    drawn = draw_perturbations("shapes", 6, images, [], "clean", 1, CPU, progress=_quiet)
    assert drawn is not None
    clean = torch.full((4, 1, PATCH_PX, PATCH_PX), 0.5)
    pairs = drawn.on(clean, _rng(), 5)
    assert pairs.answer is clean
    assert (pairs.perturbed != clean).flatten(1).any(dim=1).all()
    assert (pairs.perturbed == clean).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("answer", ["clean", "black"])
def test_foreign_content_takes_the_place_of_the_patch(answer: str) -> None:
    images = np.full((2, 1, 300, 300), 128, np.uint8)
    drawn = draw_perturbations("foreign", 12, images, [], answer, 1, CPU, progress=_quiet)
    assert drawn is not None
    first, second = (drawn.on(torch.full((8, 1, PATCH_PX, PATCH_PX), grey), _rng(), 6) for grey in (0.25, 0.75))
    replaced = first.perturbed == second.perturbed
    assert replaced.flatten(1).any(dim=1).all()  # what is foreign is the same upon either
    assert (first.perturbed == 0.25)[~replaced].all()
    if answer == "clean":
        assert (first.answer == 0.25).all()
    else:
        assert torch.equal(first.answer == 0, replaced)


def test_processes_draw_what_one_alone_draws() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 220, 210)).astype(np.uint8)
    one, two = (
        draw_perturbations("foreign", 20, images, [], "clean", 4, CPU, jobs=jobs, progress=_quiet) for jobs in (1, 2)
    )
    assert one is not None
    assert two is not None
    assert torch.equal(one.added, two.added)
    assert one.kept is not None
    assert two.kept is not None
    assert torch.equal(one.kept, two.kept)


def test_no_perturbation_is_none() -> None:
    images = np.zeros((1, 1, 200, 200), np.uint8)
    assert draw_perturbations("none", 4, images, [], "clean", 0, CPU, progress=_quiet) is None
