"""Sharpness: edges and noise of a scan, blur before and after the noise, and what an operator reads of it."""

from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
import pytest

from edge.images.conversion import histogram
from edge.images.sharpness import Sharpness, _percentile, fit, sharpness
from edge.records import Counts

SHAPE = (400, 300)
Ideal = np.ndarray


def ideal(turn_deg: float = 0.3, air: bool = True) -> Ideal:
    """A coated sheet with bare rims and air around it, before blur and noise; float32."""
    drawn = np.full(SHAPE, 2750 if air else 2500, np.float32)
    if air:
        drawn[10:-10, 10:-10] = 2600
    drawn[45:-40, 38:-42] = 2100
    pose = cv2.getRotationMatrix2D((SHAPE[1] / 2, SHAPE[0] / 2), turn_deg, 1.0)
    turned = cv2.warpAffine(drawn, pose, SHAPE[::-1], borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.GaussianBlur(turned, (0, 0), 0.9), np.float32)


def noisy(drawn: Ideal, noise_counts: float = 10.0, seed: int = 0) -> Counts:
    grains = np.random.default_rng(seed).normal(0, noise_counts, drawn.shape)
    return (drawn + grains).clip(0, 65535).astype(np.uint16)


def gaussian(drawn: np.ndarray, sigma_px: float) -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(drawn.astype(np.float32), (0, 0), sigma_px), np.float32)


def motion(drawn: np.ndarray, length_px: int, axis: int) -> np.ndarray:
    kernel = np.full((length_px, 1) if axis == 0 else (1, length_px), 1 / length_px, np.float32)
    return np.asarray(cv2.filter2D(drawn.astype(np.float32), -1, kernel), np.float32)


def seen(counts: np.ndarray) -> Sharpness:
    counts = counts.astype(np.uint16)
    return sharpness(counts, histogram(counts))


def training() -> tuple[list[Sharpness], list[str]]:
    """Six scans of each of eight lots, turned and noisy as lots are."""
    scans, lots = [], []
    for lot in range(8):
        for scan in range(6):
            scans.append(seen(noisy(ideal(-0.6 + 0.2 * scan), 9 + 0.3 * lot, seed=10 * lot + scan)))
            lots.append(f"B{lot}")
    return scans, lots


MODEL = fit(*training()[:1], 0.99, 1.05, training()[1])


def test_a_gaussian_edge_is_as_wide_as_its_step_over_its_slope() -> None:
    for sigma_px in (2.0, 3.0):
        blurred = seen(noisy(gaussian(ideal(0), (sigma_px**2 - 0.9**2) ** 0.5), 1))
        assert blurred.edge_x_px == pytest.approx(sigma_px * (2 * np.pi) ** 0.5, rel=0.1)
        assert blurred.edge_y_px == pytest.approx(sigma_px * (2 * np.pi) ** 0.5, rel=0.1)


def test_white_noise_is_told_in_counts_and_is_as_strong_near_as_far() -> None:
    for noise_counts in (5.0, 40.0):
        measured = seen(noisy(np.full(SHAPE, 2000), noise_counts))
        assert measured.noise_counts == pytest.approx(noise_counts, rel=0.03)
        assert measured.fineness == pytest.approx(1.0, abs=0.05)


def test_sharp_scans_of_the_same_kind_are_in_spec() -> None:
    for seed in range(12):
        assert MODEL.complaint(seen(noisy(ideal(0.1 * seed - 0.6), 10, 500 + seed))) is None


@pytest.mark.parametrize("sigma_px", [2, 3, 4, 6, 8])
def test_blur_is_seen_before_the_noise_and_after_it(sigma_px: float) -> None:
    for blurred in (noisy(gaussian(ideal(), sigma_px)), gaussian(noisy(ideal()), sigma_px)):
        complaint = MODEL.complaint(seen(blurred))
        assert complaint is not None and complaint.startswith("blurred: edges along x are ")
        assert "px wide, the model takes at most" in complaint and "look at focus, detector and motion" in complaint


@pytest.mark.parametrize("length_px", [5, 10, 20])
@pytest.mark.parametrize(("axis", "words"), [(0, "edges along y"), (1, "edges along x")])
def test_motion_is_seen_along_its_own_axis(length_px: int, axis: int, words: str) -> None:
    complaint = MODEL.complaint(seen(noisy(motion(ideal(), length_px, axis))))
    assert complaint is not None and words in complaint


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda: gaussian(noisy(ideal()), 0.6), "share of the finest noise is"),
        (lambda: noisy(ideal(), 30), "noise is, in counts, "),
        (lambda: noisy(ideal(), 2), "noise is, in counts, "),
    ],
    ids=["filtered", "noisier", "quieter"],
)
def test_noise_that_was_smoothed_or_is_another_is_told(spoil: Callable[[], np.ndarray], words: str) -> None:
    complaint = MODEL.complaint(seen(spoil()))
    assert complaint is not None and words in complaint and "the model takes" in complaint


def test_hot_pixels_are_no_edges_and_make_no_noise() -> None:
    blurred = noisy(gaussian(ideal(), 3))
    plain = seen(blurred)
    rng = np.random.default_rng(3)
    blurred[rng.integers(0, SHAPE[0], 40), rng.integers(0, SHAPE[1], 40)] = 65535
    spotted = seen(blurred)
    assert spotted == pytest.approx(plain, rel=0.1)


def test_a_ragged_or_covered_rim_does_not_make_a_scan_blurred() -> None:
    damaged = ideal()
    damaged[45:150] = gaussian(damaged, 8)[45:150]  # a quarter of the sheet with a soft flow of ink
    assert MODEL.complaint(seen(noisy(damaged))) is None


def test_a_double_step_at_one_end_is_not_taken_for_a_wide_edge() -> None:
    drawn = np.full(SHAPE, 2750, np.float32)
    drawn[10:-10, 10:-10] = 2600
    drawn[18:-40, 18:-42] = 2100  # 8 px of bare rim: both steps within reach
    assert MODEL.complaint(seen(noisy(gaussian(drawn, 0.9)))) is None


def test_a_model_of_scans_without_a_rim_takes_such_scans() -> None:
    def rimless(seed: int, blur_px: float = 0.9) -> Counts:
        grain = gaussian(np.random.default_rng(seed).normal(0, 1, SHAPE), 3)
        return noisy(gaussian(2100 + 60 * grain / grain.std(), blur_px), 6, seed)

    model = fit([seen(rimless(seed)) for seed in range(40)], 0.99, 1.05)
    assert sum(model.complaint(seen(rimless(seed))) is not None for seed in range(100, 120)) <= 1


@pytest.mark.parametrize("shape", [(1, 1), (5, 200), (31, 33), (400, 300)])
@pytest.mark.parametrize("counts", [0, 2000, 65535])
def test_scans_without_anything_in_them_have_finite_figures(shape: tuple[int, int], counts: int) -> None:
    flat = seen(np.full(shape, counts))
    assert flat == (12.0, 12.0, pytest.approx(0.3), 1.0)
    assert MODEL.complaint(flat) is not None


def test_counts_at_both_ends_of_16_bit_do_not_overflow() -> None:
    board = np.where(np.indices(SHAPE).sum(0) % 2, 65535, 0)
    assert all(np.isfinite(seen(board))) and seen(board).noise_counts > 10_000


def test_the_figures_do_not_depend_on_the_brightness() -> None:
    dark, bright = noisy(ideal()), noisy(ideal()).astype(np.int64) + 30_000
    assert seen(bright) == pytest.approx(seen(dark), rel=0.01)


def test_the_work_does_not_grow_with_the_area(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []
    reduce = cv2.reduce

    def counted(strip: Counts, *args: int, **kwargs: int) -> np.ndarray:
        looked_at.append(strip.size)
        return np.asarray(reduce(strip, *args, **kwargs))

    monkeypatch.setattr(cv2, "reduce", counted)
    totals = []
    for side in (1000, 4000):
        looked_at.clear()
        seen(np.full((side, side), 2000))
        totals.append(sum(looked_at))
    assert totals[1] <= 4 * totals[0]  # as the side, not as its square


def test_every_limit_leaves_room_where_all_training_scans_are_alike() -> None:
    model = fit([Sharpness(3.0, 4.0, 10.0, 1.0)] * 20, 0.99, 1.05)
    assert model.max_edge_px == pytest.approx((3.75, 5.0))
    assert model.noise_counts == pytest.approx((8.0, 12.5))
    assert model.fineness == pytest.approx((0.8, 1.25))
    assert model.complaint(Sharpness(1.0, 1.0, 10.0, 1.0)) is None  # sharper is no fault


def test_limits_hold_for_scans_of_new_lots() -> None:
    def lots_of(seed: int, count: int) -> tuple[list[Sharpness], list[str]]:
        rng = np.random.default_rng(seed)
        scans, lots = [], []
        for number in range(count):
            centre = np.exp(rng.normal(0, 0.15, 4)) * (3.0, 3.0, 10.0, 1.0)
            for _ in range(6):
                scans.append(Sharpness(*(centre * np.exp(rng.normal(0, 0.02, 4))).tolist()))
                lots.append(f"B{number}")
        return scans, lots

    refused = []
    for draw in range(12):
        scans, lots = lots_of(draw, 12)
        model = fit(scans, 0.99, 1.05, lots)
        refused += [model.complaint(one) is not None for one in lots_of(100 + draw, 24)[0]]
    assert np.mean(refused) <= 0.02


def test_wider_blur_is_never_read_as_less() -> None:
    widths = [seen(noisy(gaussian(ideal(), sigma_px))).edge_x_px for sigma_px in (0.3, 1, 2, 4, 8)]
    assert all(before < after + 0.5 for before, after in pairwise(widths))


def test_no_scans_make_no_model() -> None:
    with pytest.raises(ValueError, match="no scans"):
        fit([], share=0.99, margin=1.05)


@pytest.mark.parametrize("percent", [10, 75])
def test_a_percentile_of_a_few_values_is_numpys_to_the_bit(percent: int) -> None:
    rng = np.random.default_rng(0)
    for count in range(1, 33):
        for scale in (1e-3, 1.0, 1e4):
            values = (rng.random(count) * scale).astype(np.float32)
            assert _percentile(values, percent) == np.percentile(values, percent)
