"""Patches of welds: what they show, what they keep clear of, and how defects are measured and cut out."""

import cv2
import numpy as np
import pytest

from tests.train.papers.welds.weld_images import HEIGHT_PX, WIDTH_PX, seam, three_welds, weld
from train.errors import DataError
from train.gate.perturb import PATCH_PX
from train.papers.welds import patches
from train.papers.welds.images import Weld
from train.papers.welds.patches import (
    ACCEPTED_MARGIN_PX,
    DEFECT_LEAST_PX,
    RIM_PX,
    AcceptedSampler,
    Pose,
    accepted_patches,
    contrast_table,
    defect_patches,
    half_extent_px,
    shares,
)
from train.papers.welds.regions import additive_map, find_regions, fitted, label_regions


def test_an_unturned_pose_cuts_out_the_pixels_around_its_middle() -> None:
    image = np.random.default_rng(0).integers(0, 256, (400, 500), np.uint8)
    patch = Pose(200 + 0.5, 250 + 0.5, 0.0, 0, False).cut(image)
    np.testing.assert_array_equal(patch, image[105:297, 155:347])
    np.testing.assert_array_equal(
        Pose(200.5, 250.5, 0.0, 3, True).cut(image), np.rot90(image[105:297, 155:347], 3)[:, ::-1]
    )


def test_a_turned_pose_finds_a_mark_where_geometry_puts_it() -> None:
    image = np.zeros((400, 500), np.uint8)
    image[200, 290] = 255  # 40 px to the right of the middle
    patch = cv2.GaussianBlur(Pose(200, 250, 30.0, 0, False).cut(image).astype(np.float32), (0, 0), 1)
    row, column = np.unravel_index(int(patch.argmax()), patch.shape)
    # OpenCV turns against the clock; the patch's own middle is 95.5.
    assert abs(column - (95.5 + 40 * np.cos(np.pi / 6))) <= 1
    assert abs(row - (95.5 - 40 * np.sin(np.pi / 6))) <= 1


def test_no_patch_reaches_beyond_its_weld() -> None:
    """A weld of 255 everywhere: whatever was filled in would be darker."""
    white = Weld("white", np.full((290, 800), 255, np.uint8), np.zeros((290, 800), np.bool_))
    patches = accepted_patches(white, 200, np.random.default_rng(1))
    assert patches.shape == (200, PATCH_PX, PATCH_PX)
    assert patches.min() == 255


def test_patches_are_drawn_at_any_angle_in_all_right_angles_and_flips(monkeypatch: pytest.MonkeyPatch) -> None:
    poses: list[Pose] = []

    def watched(*values: float) -> Pose:
        poses.append(Pose(*values))
        return poses[-1]

    monkeypatch.setattr(patches, "Pose", watched)
    accepted_patches(
        Weld("w", np.zeros((300, 900), np.uint8), np.zeros((300, 900), np.bool_)), 100, np.random.default_rng(0)
    )
    assert {(pose.quarters, pose.flip) for pose in poses} == {(n, flip) for n in range(4) for flip in (False, True)}
    assert np.histogram([pose.angle_deg for pose in poses], bins=6, range=(0, 360))[0].min() > len(poses) / 12


def test_turned_patches_span_what_trigonometry_says() -> None:
    assert half_extent_px(0) == pytest.approx(95.5 + 1)
    assert half_extent_px(45) == pytest.approx(95.5 * np.sqrt(2) + 1)
    assert half_extent_px(-30) == pytest.approx(half_extent_px(120))


def test_an_accepted_patch_keeps_its_margin_from_every_defect() -> None:
    """Defects and all within the margin of them are 255 in an image of 100."""
    mask = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
    for column in (80, 450, 700):
        cv2.circle(mask, (column, 150), 5, 1, -1)
    near = cv2.distanceTransform(1 - mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) < ACCEPTED_MARGIN_PX - 1
    made = Weld("marked", np.where(near, 255, 100).astype(np.uint8), mask.astype(np.bool_))
    patches = accepted_patches(made, 300, np.random.default_rng(2))
    assert len(patches) == 300
    assert patches.max() == 100


def test_accepted_patches_lie_all_along_the_weld_and_at_all_angles() -> None:
    """Grey levels tell the column, and their slope the angle."""
    ramp = np.tile(np.linspace(0, 255, WIDTH_PX), (HEIGHT_PX, 1)).round().astype(np.uint8)
    made = Weld("ramp", ramp, np.zeros(ramp.shape, np.bool_))
    patches = accepted_patches(made, 300, np.random.default_rng(3)).astype(float)
    columns = patches[:, 95:97, 95:97].mean(axis=(1, 2)) / 255 * (WIDTH_PX - 1)
    assert np.histogram(columns, bins=4, range=(96, WIDTH_PX - 96))[0].min() > 40
    down = (patches[:, 120:].mean(axis=(1, 2)) - patches[:, :72].mean(axis=(1, 2))) / 120
    right = (patches[:, :, 120:].mean(axis=(1, 2)) - patches[:, :, :72].mean(axis=(1, 2))) / 120
    angles = np.rad2deg(np.arctan2(down, right))
    assert np.histogram(angles, bins=8, range=(-180, 180))[0].min() > 15


def test_a_weld_full_of_defects_gives_no_accepted_patch() -> None:
    mask = np.zeros((300, 600), np.bool_)
    mask[::50, ::50] = True
    full = Weld("full", np.full(mask.shape, 90, np.uint8), mask)
    assert accepted_patches(full, 5, np.random.default_rng(0)).shape == (0, PATCH_PX, PATCH_PX)
    assert AcceptedSampler(full).draw(np.random.default_rng(0)) is None


def test_a_defective_patch_shows_enough_of_a_defect_where_it_is_reconstructed() -> None:
    """Defects are 255 on 0, so that they can be counted in the patches."""
    mask = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
    cv2.circle(mask, (300, 150), 9, 1, -1)
    mask[140:142, 700:703] = 1  # 6 px: smaller than the least, so as a whole
    made = Weld("dots", mask * 255, mask.astype(np.bool_))
    patches, _ = defect_patches(made, find_regions(made), 120, np.random.default_rng(4))
    shown = (patches[:, RIM_PX:-RIM_PX, RIM_PX:-RIM_PX] > 127).sum(axis=(1, 2))
    assert len(patches) == 120
    assert shown.min() >= 3
    assert np.all((shown <= 10) | (shown >= DEFECT_LEAST_PX - 4))  # linear against nearest interpolation at rims
    assert (shown <= 10).sum() > 30 < (shown > 10).sum()  # each defect as likely as the other


@pytest.mark.parametrize(("contrast", "depth"), [("high", 60), ("mid", 9), ("low", 3)])
def test_a_patch_of_a_contrast_shows_no_stronger_defect(contrast: str, depth: float) -> None:
    made = three_welds()[0]
    regions = find_regions(made)
    assert [region.contrast for region in sorted(regions, key=lambda r: r.box[1])] == ["high", "mid", "low"]
    _, deltas = defect_patches(made, regions, 40, np.random.default_rng(5), contrast)
    assert len(deltas) == 40
    deepest = -255 * deltas[:, RIM_PX:-RIM_PX, RIM_PX:-RIM_PX].astype(float).min(axis=(1, 2))
    assert np.all(np.abs(deepest - depth) < 9)


def test_a_contrast_that_a_weld_has_not_gives_no_patch() -> None:
    made = weld("plain", 0, [(150, 450, 8, 60.0)])
    images, deltas = defect_patches(made, find_regions(made), 5, np.random.default_rng(0), "low")
    assert images.shape == deltas.shape == (0, PATCH_PX, PATCH_PX)


def test_the_ratio_is_contrast_over_noise_on_a_slope_and_whatever_the_sign() -> None:
    """Grey levels climb by 0.4 a pixel; a defect of 20 in noise of 2 has a ratio of 10, and the stronger half more."""
    slope = 60 + 0.4 * np.arange(300) + np.random.default_rng(6).normal(0, 2, (300, 300))
    mask = cv2.circle(np.zeros((300, 300), np.uint8), (150, 150), 9, 1, -1).astype(np.bool_)
    for sign in (-1, 1):
        image = np.clip(np.rint(slope + sign * 20 * mask), 0, 255).astype(np.uint8)
        (region,) = find_regions(Weld("slope", image, mask))
        assert region.cnr == pytest.approx(10.8, abs=1.0)  # half of normal noise lies 0.8 deviations above its mean
    (nothing,) = find_regions(Weld("slope", np.rint(slope).astype(np.uint8), mask))
    assert nothing.cnr == pytest.approx(0.8, abs=0.4)
    assert nothing.contrast == "low"


def test_the_fit_continues_a_plane_into_a_hole() -> None:
    rows, columns = np.mgrid[0:120, 0:120].astype(np.float32)
    plane = 30 + 0.5 * rows - 0.3 * columns
    hole = np.zeros((120, 120), np.bool_)
    hole[50:70, 45:75] = True
    levels = fitted(np.where(hole, 255, plane).astype(np.float32), ~hole, 12.0, hole)
    np.testing.assert_allclose(levels[hole], plane[hole], atol=0.6)
    assert np.all(levels[~hole] == 0)


def test_regions_touching_at_a_corner_are_one() -> None:
    mask = np.zeros((20, 20), np.bool_)
    mask[5, 5] = mask[6, 6] = mask[10, 10] = True
    count, labels = label_regions(mask)
    assert count == 2
    assert labels[5, 5] == labels[6, 6] != labels[10, 10]


def test_what_a_defect_adds_is_the_image_less_the_mean_of_its_border() -> None:
    image = np.random.default_rng(7).integers(50, 200, (240, 260), np.uint8)
    mask = np.zeros(image.shape, np.bool_)
    mask[100:103, 50:54] = mask[0:2, 0:3] = True
    mask[103, 54] = True  # at a corner of the first: the same region
    expected = np.zeros(image.shape)
    for pixels in ([(r, c) for r in range(100, 103) for c in range(50, 54)] + [(103, 54)], _box(2, 3)):
        around = {(r + dr, c + dc) for r, c in pixels for dr in (-1, 0, 1) for dc in (-1, 0, 1)} - set(pixels)
        border = np.mean([image[r, c] for r, c in around if r >= 0 and c >= 0])
        for r, c in pixels:
            expected[r, c] = (image[r, c] - border) / 255
    np.testing.assert_allclose(additive_map(Weld("w", image, mask)), expected, atol=1e-6)


def _box(height: int, width: int) -> list[tuple[int, int]]:
    return [(row, column) for row in range(height) for column in range(width)]


def test_shares_add_up_and_follow_their_weights() -> None:
    assert shares(10, [1, 1, 1]) == [3, 3, 4]
    assert shares(600, [10, 0, 50]) == [100, 0, 500]
    assert shares(7, [0, 0]) == [0, 0]


def test_the_table_counts_regions_by_contrast_and_weld() -> None:
    made = three_welds()
    area = int(made[0].mask.sum()) if made[0].mask is not None else 0
    table = contrast_table([*made, Weld("unknown", seam(1).astype(np.uint8), None)])
    assert f"| weld-1 | 300 x 900 | 1 | 1 | 1 | {area} |" in table
    assert f"| all |  | 3 | 3 | 3 | {3 * area} |" in table
    with pytest.raises(DataError, match="no weld has a mask"):
        contrast_table([Weld("unknown", seam(1).astype(np.uint8), None)])
