"""Perturbations: in range, in place, and repeatable."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from train.errors import DataError
from train.gate import perturb
from train.gate.perturb import (
    PATCH_PX,
    draw_perturbation,
    foreign_patch,
    indications,
    leaves,
    lorentzian,
    read_photos,
    rotate,
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


def test_a_region_has_the_pixels_the_paper_draws_not_as_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    walked, sizes_px, elongations = perturb.walked_region, [], []

    def watched(rng: np.random.Generator, side_px: int, size_px: int, elongation: float) -> np.ndarray:
        region = walked(rng, side_px, size_px, elongation)
        assert region.sum() == size_px
        sizes_px.append(size_px)
        elongations.append(elongation)
        return region

    monkeypatch.setattr(perturb, "walked_region", watched)
    texture = np.random.default_rng(0).random((PATCH_PX, PATCH_PX), np.float32)
    for seed in range(30):
        indications(np.random.default_rng(seed), texture)
    assert min(sizes_px) < 1000 and max(sizes_px) > 7000 and 3000 < np.mean(sizes_px) < 5000
    assert min(elongations) < 5 and max(elongations) > 35


def test_the_lorentzian_kernel_keeps_the_sum_and_falls_by_half_at_its_half_width() -> None:
    kernel = lorentzian(2.0)
    assert kernel.sum() == pytest.approx(1.0, abs=1e-5)
    assert kernel[7, 9] / kernel[7, 7] == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("kind", ["shapes", "foreign"])
def test_the_same_seed_draws_alike_and_another_otherwise(kind: str) -> None:
    (first, where), (second, there), (third, _) = (
        draw_perturbation(kind, np.random.default_rng(seed), [_scan()]) for seed in (4, 4, 5)
    )
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(where, there)
    assert first.dtype == np.float32
    assert not np.array_equal(first, third)


def test_foreign_content_is_black_where_it_replaces_nothing() -> None:
    for seed in range(20):
        added, replaces = draw_perturbation("foreign", np.random.default_rng(seed), [_scan()])
        assert replaces.any()
        assert np.all(added[~replaces] == 0)
        assert not draw_perturbation("shapes", np.random.default_rng(seed))[1].any()


def test_every_foreign_patch_is_an_image_in_range() -> None:
    for seed in range(60):
        patch = foreign_patch(np.random.default_rng(seed), PATCH_PX, [_scan()])
        assert patch.shape == (PATCH_PX, PATCH_PX)
        assert patch.min() > -0.1
        assert patch.max() < 1.1


def test_an_unturned_square_is_cut_where_it_was_asked_for() -> None:
    image = np.arange(400 * 300, dtype=np.uint32).reshape(400, 300).astype(np.uint8)
    patch = rotate(image, (200.0, 150.0), 0.0, 64)
    np.testing.assert_allclose(patch, image[168:232, 118:182].astype(np.float32) / 255, atol=1e-6)


def test_photographs_are_read_grey_and_small_ones_passed_over(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "large.png"), np.full((200, 220, 3), 128, np.uint8))
    cv2.imwrite(str(tmp_path / "small.png"), np.full((100, 220, 3), 128, np.uint8))
    (photo,) = read_photos(tmp_path)
    assert photo.shape == (200, 220)
    assert np.abs(draw_perturbation("sni", np.random.default_rng(0), photos=[photo])[0]).max() > 0


def test_a_folder_without_photographs_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_photos(tmp_path)
    assert "--perturbation shapes" in caught.value.hint
