"""Perturbations: in range, in place, and repeatable."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from train.errors import DataError
from train.perturb import (
    PATCH_PX,
    foreign_patch,
    grown_region,
    indications,
    leaves,
    lorentzian,
    perturb,
    read_photos,
    turned,
)


def _scan() -> np.ndarray:
    image = np.full((400, 300), 230, np.uint8)
    image[30:370, 30:270] = 120
    return image


def test_indications_leave_most_of_a_patch_alone_and_stay_within_the_papers_amplitude() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        delta = indications(rng, leaves(rng, PATCH_PX))
        assert delta.shape == (PATCH_PX, PATCH_PX)
        assert np.abs(delta).max() <= 4 * 0.2 + 1e-6  # up to four regions may overlap
        assert np.mean(np.abs(delta) > 1e-3) < 0.9
        assert np.abs(delta).max() > 0


def test_a_grown_region_is_one_piece() -> None:
    for seed in range(10):
        region = grown_region(np.random.default_rng(seed), 100, 500)
        pieces, _ = cv2.connectedComponents(region.astype(np.uint8), connectivity=8)
        assert pieces == 2  # the background and the region
        assert 1 < region.sum() <= 500


def test_the_lorentzian_kernel_keeps_the_sum_and_falls_by_half_at_its_half_width() -> None:
    kernel = lorentzian(2.0)
    assert kernel.sum() == pytest.approx(1.0, abs=1e-5)
    assert kernel[7, 9] / kernel[7, 7] == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("kind", ["shapes", "foreign", "none"])
def test_the_same_seed_perturbs_alike(kind: str) -> None:
    clean = np.full((PATCH_PX, PATCH_PX), 0.5, np.float32)
    first, second = (perturb(clean, kind, np.random.default_rng(4), [_scan()]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert all(patch.dtype == np.float32 for patch in first)


def test_only_none_leaves_the_patch_as_it_is() -> None:
    clean = np.full((PATCH_PX, PATCH_PX), 0.5, np.float32)
    for kind in ("shapes", "foreign"):
        assert not np.array_equal(perturb(clean, kind, np.random.default_rng(1), [_scan()])[0], clean)
    assert perturb(clean, "none", np.random.default_rng(1), [])[0] is clean


def test_the_answer_is_the_clean_patch_and_to_foreign_content_black_if_asked_for() -> None:
    clean = np.full((PATCH_PX, PATCH_PX), 0.5, np.float32)
    for seed in range(20):
        for kind in ("shapes", "foreign"):
            assert perturb(clean, kind, np.random.default_rng(seed), [_scan()])[1] is clean
        foreign, answer = perturb(clean, "foreign", np.random.default_rng(seed), [_scan()], answer="black")
        assert np.all((answer == 0) | (foreign == clean))
        assert (answer == 0).any()


def test_every_foreign_patch_is_an_image_in_range() -> None:
    for seed in range(60):
        patch = foreign_patch(np.random.default_rng(seed), PATCH_PX, [_scan()])
        assert patch.shape == (PATCH_PX, PATCH_PX)
        assert patch.min() > -0.1
        assert patch.max() < 1.1


def test_an_unturned_square_is_cut_where_it_was_asked_for() -> None:
    image = np.arange(400 * 300, dtype=np.uint32).reshape(400, 300).astype(np.uint8)
    patch = turned(image, (200.0, 150.0), 0.0, 64)
    np.testing.assert_allclose(patch, image[168:232, 118:182].astype(np.float32) / 255, atol=1e-6)


def test_photographs_are_read_grey_and_small_ones_passed_over(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "large.png"), np.full((200, 220, 3), 128, np.uint8))
    cv2.imwrite(str(tmp_path / "small.png"), np.full((100, 220, 3), 128, np.uint8))
    (photo,) = read_photos(tmp_path)
    assert photo.shape == (200, 220)
    black = np.zeros((PATCH_PX, PATCH_PX), np.float32)
    assert np.abs(perturb(black, "sni", np.random.default_rng(0), [], [photo])[0]).max() > 0


def test_a_folder_without_photographs_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_photos(tmp_path)
    assert "--perturbation shapes" in caught.value.hint
