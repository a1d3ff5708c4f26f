"""Filters without training, on drawn welds."""

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from train.papers.welds.filters import (
    BACKGROUNDS,
    NOISES,
    WINDOWS,
    bead_angle_deg,
    line_kernel,
    local_noise,
    plane_background,
    responses,
)

HEIGHT, WIDTH = 300, 400
PORE = (slice(140, 152), slice(200, 212))


def weld(*, pore: float = 0.0, fall_deg: float = 0.0) -> npt.NDArray[np.uint8]:
    """A bead with a bright middle under film noise of 2 grey levels, dark by `pore` in one place."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    across = rows - HEIGHT / 2 - (columns - WIDTH / 2) * np.tan(np.deg2rad(fall_deg))
    image = 80 + 60 * np.exp(-((across / 90) ** 2)) + np.random.default_rng(0).normal(0, 2, (HEIGHT, WIDTH))
    image[PORE] -= pore
    return np.asarray(np.clip(image, 0, 255).round(), np.uint8)


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_a_dark_pore_is_the_greatest_dark_response_of_every_filter(background: str) -> None:
    for filter_, _, dark in responses(weld(pore=15), background):
        row, column = np.unravel_index(int(dark.argmax()), dark.shape)
        assert 67 <= row <= 79 and 97 <= column <= 109, filter_.name


def test_a_background_brings_each_noise_with_each_window_once() -> None:
    found = [(filter_.noise, filter_.window) for filter_, _, _ in responses(weld(), "box33")]
    assert found == [(noise, window) for noise in NOISES for window in WINDOWS]


def test_a_robust_plane_is_not_pulled_by_the_pore_it_lies_under() -> None:
    clean, pored = (plane_background(weld(pore=dark), 12, 12)[PORE].mean() for dark in (0, 30))
    pulled = cv2.GaussianBlur(weld(pore=30).astype(np.float32), (0, 0), 12)[PORE].mean()
    plain = cv2.GaussianBlur(weld().astype(np.float32), (0, 0), 12)[PORE].mean()
    assert abs(pored - clean) < 0.3 * abs(pulled - plain)


@pytest.mark.parametrize("fall_deg", [-2.0, 0.0, 3.0])
def test_the_fall_of_a_bead_is_found(fall_deg: float) -> None:
    assert bead_angle_deg(weld(fall_deg=fall_deg)) == pytest.approx(fall_deg, abs=0.75)


def test_noise_is_estimated_on_a_slope_as_on_a_plain() -> None:
    assert local_noise(weld())[20:-20, 20:-20].mean() == pytest.approx(2.0 + 0.5, rel=0.1)


def test_lines_of_all_directions_weigh_alike() -> None:
    for angle in (0, 22.5, 45, 90):
        kernel = line_kernel(angle)
        assert kernel.sum() == pytest.approx(1.0)
        assert 1 / (kernel**2).sum() == pytest.approx(20, rel=0.35)  # pixels that share the mean
