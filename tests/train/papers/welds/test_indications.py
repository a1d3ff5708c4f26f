"""Natural indications against the paper's sampling rules, and synthetic anomalies against plain geometry."""

import cv2
import numpy as np
import pytest

from tests.train.papers.welds.weld_images import photographs
from train.gate.perturb import PATCH_PX, lorentzian, walked_region
from train.papers.welds import indications
from train.papers.welds.indications import (
    AMPLITUDE,
    ELONGATION,
    GAUSSIAN_SIGMA_PX,
    LEARNT,
    LORENTZIAN_HALF_WIDTH_PX,
    PRINTED_SIGMA_PX,
    REGION_PX,
    REGIONS,
    SHARP_SIGMA_PX,
    TESTED,
    Anomaly,
    anomaly,
    bar,
    dogbone,
    natural_indications,
    raster,
    ring,
    turned_grid,
)
from train.papers.welds.patches import RIM_PX


def test_the_sampling_rules_are_the_papers() -> None:
    assert (REGIONS, REGION_PX, ELONGATION) == ((1, 4), (10, 8000), (1.0, 40.0))
    assert (AMPLITUDE, GAUSSIAN_SIGMA_PX, LORENTZIAN_HALF_WIDTH_PX) == ((0.05, 0.2), (2.0, 9.0), (0.15, 0.4))
    assert (PRINTED_SIGMA_PX, SHARP_SIGMA_PX) == (9.0, 2.0)


@pytest.mark.parametrize("size_px", [1, 10, 777, 8000])
@pytest.mark.parametrize("elongation", [1.0, 40.0])
def test_a_region_has_exactly_its_number_of_pixels_and_is_one_piece(size_px: int, elongation: float) -> None:
    region = walked_region(np.random.default_rng(size_px), PATCH_PX, size_px, elongation)
    assert region.shape == (PATCH_PX, PATCH_PX)
    assert region.sum() == size_px
    pieces, _ = cv2.connectedComponents(region.astype(np.uint8), connectivity=8)
    assert pieces == 2  # the background and the region


def test_a_region_is_the_pixels_of_a_walk_taken_step_by_step() -> None:
    """The walk takes equal random numbers one step at a time."""
    for seed, size_px, elongation in ((0, 50, 3.0), (1, 400, 20.0), (2, 10, 1.0)):
        rng = np.random.default_rng(seed)
        across = int(rng.integers(2))
        place = [int(side) for side in rng.integers(0, 30, size=2)]
        visited = {tuple(place)}
        block = 4 * size_px + 64
        while len(visited) < size_px:
            moves = rng.integers(-1, 2, size=(2, block), dtype=np.int8)
            still = rng.random(block, dtype=np.float32) < elongation / (elongation + 2)
            found, facing = len(visited), [1, 1]
            for step in range(block):
                for axis in range(2):
                    move = 0 if axis == across and still[step] else int(moves[axis, step])
                    place[axis] += facing[axis] * move
                    if not 0 <= place[axis] < 30:  # reflected: it stays on the border pixel, and faces about
                        place[axis] -= facing[axis] * move
                        facing[axis] *= -1
                if len(visited) < size_px:
                    visited.add(tuple(place))
            block = max(block, (size_px - found) * 4)
        region = walked_region(np.random.default_rng(seed), 30, size_px, elongation)
        assert {tuple(pixel) for pixel in np.argwhere(region).tolist()} == visited


def test_elongation_stretches_a_region_along_either_axis() -> None:
    def stretch(elongation: float) -> list[float]:
        ratios = []
        for seed in range(60):
            rows, columns = np.nonzero(walked_region(np.random.default_rng(seed), 300, 200, elongation))
            ratios.append(float(np.log(np.ptp(rows) + 1) - np.log(np.ptp(columns) + 1)))
        return ratios

    long, round_ = stretch(40.0), stretch(0.0)
    assert np.median(np.abs(long)) > np.log(2.5) > np.median(np.abs(round_))
    assert min(long) < 0 < max(long)


def test_steps_are_zero_in_one_dimension_with_probability_e_over_e_plus_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a very long walk across a wide plane, its variance across is 2/3 (1 - e / (e + 2)) of a pixel a step."""
    walked = {}
    real = np.cumsum

    def recorded(moves: np.ndarray, axis: int, dtype: type) -> np.ndarray:
        walked["moves"] = np.array(moves)
        return real(moves, axis=axis, dtype=dtype)

    monkeypatch.setattr(indications.np, "cumsum", recorded)
    walked_region(np.random.default_rng(3), 1000, 8000, 6.0)
    moved = np.sort((walked["moves"] != 0).mean(axis=1))
    assert moved == pytest.approx([2 / 3 * (1 - 6 / 8), 2 / 3], abs=0.02)
    assert set(np.unique(walked["moves"])) == {-1, 0, 1}


def test_indications_are_bright_within_the_amplitudes_and_blurred_in_both_ways() -> None:
    texture = photographs()[0][:PATCH_PX, :PATCH_PX]
    peaks, softest = [], []
    for seed in range(60):
        delta = natural_indications(texture, np.random.default_rng(seed))
        assert delta.dtype == np.float32
        assert delta.shape == (PATCH_PX, PATCH_PX)
        assert delta.min() > -1e-6
        peaks.append(float(delta.max()))
        softest.append(float(np.abs(np.diff(delta, axis=0)).max() / delta.max()))
    assert 0 < min(peaks) < 0.05  # blur takes most of a small region away
    assert 0.2 < max(peaks) <= 4 * AMPLITUDE[1]  # regions may overlap
    # A Gaussian of 2 px and more leaves no step of a fifth of the peak; a narrow Lorentzian leaves them nearly whole.
    assert 15 < sum(step > 0.4 for step in softest) < 45
    assert 15 < sum(step < 0.25 for step in softest) < 45


def test_one_region_of_a_flat_photograph_has_the_amplitude_before_its_blur(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indications, "REGIONS", (1, 1))
    monkeypatch.setattr(indications, "AMPLITUDE", (0.13, 0.13))
    for grey in (0.0, 0.6):
        flat = np.full((PATCH_PX, PATCH_PX), grey, np.float32)
        for seed in range(12):
            delta = natural_indications(flat, np.random.default_rng(seed))
            assert delta.max() <= 0.13 + 1e-5
            rng = np.random.default_rng(seed)
            rng.integers(1, 2)
            size_px = int(rng.integers(10, 8001))
            # Blur moves grey levels about and, beyond the patch's border, out of it or back in.
            assert delta.sum() == pytest.approx(0.13 * size_px, rel=0.6)


def test_the_lorentzian_has_half_its_height_at_its_half_width() -> None:
    kernel = lorentzian(2.0)
    assert kernel[7, 9] == pytest.approx(kernel[7, 7] / 2)


def _plain_shapes() -> dict[str, tuple[object, float]]:
    """What lies in each shape, written as a person would, and its area in pixels."""

    def in_ring(x: float, y: float) -> bool:
        return 9 <= (x * x + y * y) ** 0.5 <= 18

    def in_dogbone(x: float, y: float) -> bool:
        ends = min((x - 11) ** 2 + y * y, (x + 11) ** 2 + y * y) <= 16
        return ends or (abs(x) <= 11 and abs(y) <= 2)

    def in_bar(x: float, y: float) -> bool:
        return abs(x) <= 12.5 and abs(y) <= 2.5

    def in_raster(x: float, y: float) -> bool:
        return any((x - a) ** 2 + (y - b) ** 2 <= 49 for a in (-18, 0, 18) for b in (-18, 0, 18))

    return {
        "ring": (in_ring, np.pi * (18**2 - 9**2)),
        "dogbone": (in_dogbone, 2 * np.pi * 16 + 22 * 4 - 2 * 4 * 3.7),
        "bar": (in_bar, 25 * 5),
        "raster": (in_raster, 9 * np.pi * 49),
    }


@pytest.mark.parametrize("name", ["ring", "dogbone", "bar", "raster"])
def test_a_shape_covers_the_pixels_that_plain_geometry_says(name: str) -> None:
    inside, area_px = _plain_shapes()[name]
    row, column, angle_deg = 90.3, 100.8, 37.0
    along, across = turned_grid(row, column, angle_deg)
    drawn = {"ring": ring, "dogbone": dogbone, "bar": lambda u, v: bar(u, v, 25, 5), "raster": raster}[name](
        along, across
    )
    cosine, sine = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    expected = np.zeros((PATCH_PX, PATCH_PX), np.bool_)
    for r in range(PATCH_PX):
        for c in range(PATCH_PX):
            x, y = c - column, r - row
            expected[r, c] = inside(x * cosine + y * sine, y * cosine - x * sine)  # type: ignore[operator]
    assert (drawn != expected).sum() <= 2  # float32 against float64 at a rim
    assert drawn.sum() == pytest.approx(area_px, rel=0.06)


def test_an_arc_covers_its_share_of_the_ring() -> None:
    along, across = turned_grid(95.5, 95.5, 0.0)
    whole = ring(along, across).sum()
    for spread_deg in (10, 90, 180):
        assert ring(along, across, spread_deg).sum() == pytest.approx(whole * spread_deg / 360, abs=8)


@pytest.mark.parametrize(
    ("kind", "amplitude", "least_px", "most_px"),
    [
        ("circular-hollow-inclusion", 0.2, 763, 763),
        ("dogbone", 0.2, 155, 190),
        ("elongated", 0.2, 125, 125),
        ("partial-circle", 0.1, 763 * 10 / 360, 763 / 2),
        ("raster", 0.2, 9 * 154, 9 * 154),
        ("circular-indication", -0.1, 314, 2827),
    ],
)
def test_an_anomaly_has_its_amplitude_and_size_before_and_its_sum_after_the_blur(
    kind: Anomaly, amplitude: float, least_px: float, most_px: float
) -> None:
    sizes = []
    for seed in range(30):
        sharp = anomaly(kind, np.random.default_rng(seed), 0.05)  # a blur that leaves every pixel alone
        values = np.unique(sharp)
        np.testing.assert_allclose(values, sorted({0.0, float(np.float32(amplitude))}), atol=1e-6)
        rows, columns = np.nonzero(sharp)
        assert min(rows.min(), columns.min()) >= RIM_PX - 1
        assert max(rows.max(), columns.max()) <= PATCH_PX - RIM_PX
        sizes.append(int((sharp != 0).sum()))
        blurred = anomaly(kind, np.random.default_rng(seed), SHARP_SIGMA_PX)
        np.testing.assert_allclose(blurred, cv2.GaussianBlur(sharp, (0, 0), SHARP_SIGMA_PX), atol=1e-6)
        assert blurred.sum() == pytest.approx(sharp.sum(), rel=0.01)
    assert least_px * 0.9 - 6 <= min(sizes)
    assert max(sizes) <= most_px * 1.1 + 6


def test_anomalies_lie_at_all_places_and_angles() -> None:
    middles, angles = [], []
    for seed in range(80):
        rows, columns = np.nonzero(anomaly("elongated", np.random.default_rng(seed), 0.05))
        middles.append((rows.mean(), columns.mean()))
        _, vectors = np.linalg.eigh(np.cov(columns, rows))
        angles.append(np.rad2deg(np.arctan2(vectors[1, 1], vectors[0, 1])) % 180)
    for axis in range(2):
        assert np.histogram(np.array(middles)[:, axis], bins=4, range=(31, 161))[0].min() >= 8
    assert np.histogram(angles, bins=4, range=(0, 180))[0].min() >= 8


def test_the_printed_blur_leaves_of_the_elongated_inclusion_a_fifth_and_the_sharp_one_most() -> None:
    printed, sharp = (anomaly("elongated", np.random.default_rng(1), s) for s in (PRINTED_SIGMA_PX, SHARP_SIGMA_PX))
    assert 0.03 < printed.max() < 0.045
    assert 0.15 < sharp.max() < 0.2


def test_what_is_learnt_and_what_is_tested_are_the_papers_six() -> None:
    assert {*LEARNT, *TESTED} == {
        "circular-hollow-inclusion",
        "dogbone",
        "elongated",
        "partial-circle",
        "raster",
        "circular-indication",
    }
    assert "circular-indication" not in TESTED
