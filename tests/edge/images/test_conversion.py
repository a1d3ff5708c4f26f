"""Bounds, the four conversions, and the resize, each against a plain independent formula."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from edge.images import conversion
from edge.images.conversion import (
    LEVELS,
    Bounds,
    clipped_fraction,
    convert,
    global_bounds,
    histogram,
    naive_table,
    percentile,
    pooled_bounds,
    prepare,
    resize,
    scan_bounds,
    stretch_table,
)
from edge.images.method import Method
from edge.records import Counts, Size

EVERY_COUNT: Counts = np.arange(LEVELS, dtype=np.uint16).reshape(256, 256)
PAPER = Bounds(1700, 2800)
SEVERAL_BOUNDS = [
    PAPER,
    Bounds(0, 65535),
    Bounds(0, 1),
    Bounds(2200, 2201),
    Bounds(65534, 65535),
    Bounds(1000, 1256),
    Bounds(1000, 1257),
    Bounds(0, 3),
    Bounds(123, 65001),
    Bounds(1700, 28000),
]


def electrode(seed: int = 0, shape: tuple[int, int] = (90, 70)) -> Counts:
    return np.random.default_rng(seed).normal(2250, 180, shape).clip(0, 65535).astype(np.uint16)


def stretched_in_floats(counts: Counts, lo: int, hi: int) -> np.ndarray:
    x = counts.astype(np.float64)
    return np.minimum(255, np.floor((np.clip(x, lo, hi) - lo) / (hi - lo) * 256)).astype(np.uint8)


@pytest.fixture(params=["opencv", "numpy"])
def _look_up(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "numpy":
        monkeypatch.setattr(conversion, "_opencv_maps_16_bit", lambda: False)
    elif not conversion._opencv_maps_16_bit():
        pytest.skip("this OpenCV does not look 16-bit pixels up")


@pytest.mark.usefixtures("_look_up")
class TestConvert:
    @pytest.mark.parametrize("bounds", SEVERAL_BOUNDS, ids=str)
    def test_global_equals_the_plain_formula_for_every_one_of_the_65536_counts(self, bounds: Bounds) -> None:
        image = convert(EVERY_COUNT, Method.GLOBAL, bounds)
        expected = stretched_in_floats(EVERY_COUNT, bounds.lo_counts, bounds.hi_counts)
        assert image.shape == (1, 256, 256)
        np.testing.assert_array_equal(image[0], expected)

    def test_naive_keeps_the_upper_eight_bits_of_every_count(self) -> None:
        image = convert(EVERY_COUNT, Method.NAIVE, None)
        np.testing.assert_array_equal(image[0], np.arange(256, dtype=np.uint8)[:, None].repeat(256, axis=1))

    def test_local_stretches_between_the_scans_own_percentiles(self) -> None:
        scan = electrode()
        lo, hi = np.percentile(scan, [0.01, 99.99], method="inverted_cdf")
        np.testing.assert_array_equal(convert(scan, Method.LOCAL, None)[0], stretched_in_floats(scan, int(lo), int(hi)))

    def test_mixed_stacks_naive_global_and_local_in_this_order(self) -> None:
        scan = electrode()
        image = convert(scan, Method.MIXED, PAPER)
        parts = [convert(scan, method, PAPER) for method in (Method.NAIVE, Method.GLOBAL, Method.LOCAL)]
        np.testing.assert_array_equal(image, np.concatenate(parts))

    @pytest.mark.parametrize("view", ["reversed", "every second", "transposed", "read-only"])
    def test_the_memory_layout_of_the_counts_does_not_matter(self, view: str) -> None:
        scan = electrode()
        scan.flags.writeable = False
        counts = {
            "reversed": scan[::-1, ::-1],
            "every second": scan[::2, ::2],
            "transposed": scan.T,
            "read-only": scan,
        }[view]
        np.testing.assert_array_equal(convert(counts, Method.GLOBAL, PAPER)[0], stretched_in_floats(counts, 1700, 2800))

    def test_a_hot_pixel_is_white_and_a_dead_one_black(self) -> None:
        """The paper's wrapping cast would turn the hot one black."""
        image = convert(np.array([[0, 1700, 2799, 2800, 65535]], np.uint16), Method.GLOBAL, PAPER)
        assert image.tolist() == [[[0, 0, 255, 255, 255]]]


@pytest.mark.parametrize("method", list(Method))
def test_a_method_yields_as_many_channels_as_it_says(method: Method) -> None:
    assert convert(electrode(), method, PAPER).shape[0] == method.channels


@pytest.mark.parametrize("method", [Method.GLOBAL, Method.MIXED])
def test_a_method_that_needs_bounds_refuses_to_guess_them(method: Method) -> None:
    assert method.needs_bounds
    with pytest.raises(ValueError, match="needs the bounds of the training scans"):
        convert(electrode(), method, None)


@pytest.mark.parametrize("method", [Method.NAIVE, Method.LOCAL])
def test_a_method_that_needs_no_bounds_ignores_them(method: Method) -> None:
    assert not method.needs_bounds
    np.testing.assert_array_equal(convert(electrode(), method, None), convert(electrode(), method, Bounds(0, 1)))


@pytest.mark.parametrize(
    "counts",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4), np.int16),
        np.zeros((4, 4), ">u2"),
        np.zeros((4, 4), np.float32),
        np.zeros(16, np.uint16),
        np.zeros((2, 2, 4), np.uint16),
        np.zeros((0, 4), np.uint16),
        np.zeros((4, 0), np.uint16),
    ],
    ids=lambda counts: f"{counts.dtype} {counts.shape}",
)
def test_anything_but_native_16_bit_counts_is_refused(counts: Counts) -> None:
    for refuses in (
        lambda: convert(counts, Method.NAIVE, None),
        lambda: histogram(counts),
        lambda: clipped_fraction(counts, PAPER),
    ):
        with pytest.raises(ValueError, match="expected"):
            refuses()


@pytest.mark.parametrize(("lo", "hi"), [(5, 5), (6, 5), (-1, 5), (0, 65536)])
def test_bounds_that_are_no_interval_of_counts_are_refused(lo: int, hi: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= lower < upper <= 65535"):
        Bounds(lo, hi)


def test_tables_cannot_be_changed_by_a_caller() -> None:
    for table in (naive_table(), stretch_table(PAPER)):
        with pytest.raises(ValueError, match="read-only"):
            table[0] = 1


def test_a_stretch_never_falls_as_counts_rise() -> None:
    for bounds in SEVERAL_BOUNDS:
        table = stretch_table(bounds).astype(int)
        assert all(lower <= upper for lower, upper in pairwise(table))
        assert (table[0], table[-1]) == (0, 255)


class TestBounds:
    def test_a_histogram_counts_every_pixel_in_int64(self) -> None:
        scan = electrode()
        scan[0, 0], scan[0, 1] = 0, 65535
        hist = histogram(scan)
        assert hist.dtype == np.int64
        np.testing.assert_array_equal(hist, np.bincount(scan.ravel(), minlength=LEVELS))

    def test_every_count_falls_into_its_own_bin(self) -> None:
        np.testing.assert_array_equal(histogram(EVERY_COUNT), np.ones(LEVELS, np.int64))

    def test_a_scan_of_more_than_2_to_the_24_equal_pixels_is_counted_exactly(self) -> None:
        """A float32 holds no odd number that large."""
        flat = np.full((4099, 4099), 2200, np.uint16)
        assert histogram(flat)[2200] == 4099 * 4099

    def test_the_histogram_of_a_strided_view_counts_the_view(self) -> None:
        scan = electrode()
        np.testing.assert_array_equal(
            histogram(scan[::2, 1::3]), np.bincount(scan[::2, 1::3].ravel(), minlength=LEVELS)
        )

    @pytest.mark.parametrize(
        ("percent", "expected"),
        [(0, 10), (0.01, 10), (20, 10), (20.01, 20), (50, 30), (80, 40), (99.99, 50), (100, 50)],
    )
    def test_a_percentile_is_the_count_of_nearest_rank(self, percent: float, expected: int) -> None:
        assert percentile(histogram(np.array([[10, 20, 30, 40, 50]], np.uint16)), percent) == expected

    def test_the_rank_of_a_decimal_percentage_does_not_suffer_from_binary_rounding(self) -> None:
        """As a binary fraction 0.01 is a little more, which would ask for one pixel more."""
        hist = np.zeros(LEVELS, np.int64)
        hist[7], hist[9] = 10_000, 99_990_000
        assert percentile(hist, 0.01) == 7
        hist[7], hist[9] = 9_999, 99_990_001
        assert percentile(hist, 0.01) == 9

    @pytest.mark.parametrize("percent", [-0.1, 100.1, float("nan")])
    def test_a_percentage_outside_0_to_100_is_refused(self, percent: float) -> None:
        with pytest.raises(ValueError, match="expected 0 to 100"):
            percentile(histogram(electrode()), percent)

    def test_an_empty_histogram_has_no_percentile(self) -> None:
        with pytest.raises(ValueError, match="without pixels"):
            percentile(np.zeros(LEVELS, np.int64), 50)

    @pytest.mark.parametrize("hist", [np.zeros(LEVELS, np.int32), np.zeros(256, np.int64)])
    def test_a_histogram_of_other_type_or_length_is_refused(self, hist: conversion.Histogram) -> None:
        with pytest.raises(ValueError, match="expected int64"):
            percentile(hist, 50)
        with pytest.raises(ValueError, match="expected int64"):
            clipped_fraction(hist, PAPER)

    def test_scan_bounds_are_the_outer_percentiles_and_leave_hot_pixels_out(self) -> None:
        scan = electrode(shape=(1000, 1000))
        scan[0, :50] = 60000
        lo, hi = np.percentile(scan, [0.01, 99.99], method="inverted_cdf")
        assert scan_bounds(histogram(scan)) == Bounds(int(lo), int(hi))
        assert hi < 3500

    @pytest.mark.parametrize(("value", "expected"), [(0, (0, 1)), (2200, (2200, 2201)), (65535, (65534, 65535))])
    def test_a_flat_scan_has_bounds_and_one_grey_level(self, value: int, expected: tuple[int, int]) -> None:
        flat = np.full((5, 5), value, np.uint16)
        assert scan_bounds(histogram(flat)) == Bounds(*expected)
        assert np.unique(convert(flat, Method.LOCAL, None)).size == 1

    def test_global_bounds_are_the_extremes_rounded_to_hundreds(self) -> None:
        assert global_bounds([Bounds(1731, 2500), Bounds(1669, 2760), Bounds(1900, 2849)]) == PAPER

    def test_halves_round_upwards(self) -> None:
        assert global_bounds([Bounds(1650, 2750)]) == PAPER
        assert global_bounds([Bounds(1649, 2749)]) == Bounds(1600, 2700)

    @pytest.mark.parametrize(
        ("scan", "expected"),
        [
            ((2210, 2230), (2200, 2300)),
            ((65510, 65535), (65400, 65500)),
            ((0, 3), (0, 100)),
            ((0, 65535), (0, 65500)),
        ],
    )
    def test_bounds_that_round_to_the_same_hundred_are_drawn_apart(
        self, scan: tuple[int, int], expected: tuple[int, int]
    ) -> None:
        assert global_bounds([Bounds(*scan)]) == Bounds(*expected)

    def test_no_scans_have_no_global_bounds(self) -> None:
        with pytest.raises(ValueError, match="no scans"):
            global_bounds([])

    def test_one_hot_scan_moves_the_per_scan_bounds_but_not_the_pooled_ones(self) -> None:
        scans = [electrode(seed, (400, 400)) for seed in range(12)]
        hists = [histogram(scan) for scan in scans]
        hot = scans[0].copy()
        hot.ravel()[:17] = 60_000  # 17 of 160,000 px: just above this scan's 0.01 %
        with_hot = [histogram(hot), *hists[1:]]
        assert global_bounds([scan_bounds(hist) for hist in with_hot]).hi_counts == 60_000
        assert pooled_bounds(sum(with_hot[1:], with_hot[0])) == pooled_bounds(sum(hists[1:], hists[0]))

    @pytest.mark.parametrize(
        ("lowest", "highest", "expected"),
        [
            (1880, 2720, (1800, 2800)),
            (1800, 2800, (1800, 2800)),
            (1801, 2801, (1800, 2900)),
            (2200, 2200, (2200, 2300)),
            (0, 65535, (0, 65535)),
            (65535, 65535, (65500, 65535)),
        ],
    )
    def test_pooled_bounds_are_rounded_outwards_and_cut_no_sheet_of_a_dark_lot(
        self, lowest: int, highest: int, expected: tuple[int, int]
    ) -> None:
        """1880, rounded to 1900, cuts a whole lot that lies there."""
        assert pooled_bounds(histogram(np.array([[lowest, highest]], np.uint16))) == Bounds(*expected)

    def test_the_clipped_fraction_is_the_same_from_counts_and_from_their_histogram(self) -> None:
        counts = np.array([[1699, 1700, 2800, 2801], [0, 65535, 2000, 2100]], np.uint16)
        assert clipped_fraction(counts, PAPER) == 0.5
        assert clipped_fraction(histogram(counts), PAPER) == 0.5

    def test_a_histogram_without_pixels_has_no_clipped_fraction(self) -> None:
        with pytest.raises(ValueError, match="without pixels"):
            clipped_fraction(np.zeros(LEVELS, np.int64), PAPER)


def bilinear_in_floats(channel: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear interpolation at pixel centres, edges repeated: written from the definition."""

    def axis(length: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = ((np.arange(target) + 0.5) * length / target - 0.5).clip(0, length - 1)
        below = np.floor(at).astype(int)
        return below, np.minimum(below + 1, length - 1), at - below

    y0, y1, fy = axis(channel.shape[0], height)
    x0, x1, fx = axis(channel.shape[1], width)
    c = channel.astype(np.float64)
    upper = c[y0][:, x0] * (1 - fx) + c[y0][:, x1] * fx
    lower = c[y1][:, x0] * (1 - fx) + c[y1][:, x1] * fx
    return upper * (1 - fy)[:, None] + lower * fy[:, None]


class TestResize:
    @pytest.mark.parametrize("size", [Size(200, 100), Size(53, 41), Size(300, 251), Size(1, 1), Size(207, 50)])
    def test_it_is_bilinear_within_one_grey_level(self, size: Size) -> None:
        image = np.random.default_rng(1).integers(0, 256, (3, 207, 114)).astype(np.uint8)
        resized = resize(image, size)
        assert resized.shape == (3, *size)
        assert resized.dtype == np.uint8
        assert resized.flags.c_contiguous
        for got, channel in zip(resized, image, strict=True):
            assert np.abs(got - bilinear_in_floats(channel, *size)).max() <= 1

    def test_an_image_that_has_the_size_already_is_unchanged(self) -> None:
        image = convert(electrode(), Method.MIXED, PAPER)
        np.testing.assert_array_equal(resize(image, Size(90, 70)), image)

    @pytest.mark.parametrize("shape", [(207, 114), (1, 0, 114), (0, 20, 20)])
    def test_an_array_that_is_no_image_is_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="expected uint8"):
            resize(np.zeros(shape, np.uint8), Size(10, 10))

    def test_an_empty_size_is_refused(self) -> None:
        with pytest.raises(ValueError, match="expected at least 1 x 1"):
            resize(np.zeros((1, 5, 5), np.uint8), Size(0, 5))

    def test_prepare_converts_before_it_resizes(self) -> None:
        """A hot pixel resized first would spread over its neighbours and whiten them."""
        scan = electrode(shape=(207, 114))
        scan[100, 50] = 65535
        prepared = prepare(scan, Method.GLOBAL, PAPER, Size(100, 50))
        np.testing.assert_array_equal(prepared, resize(convert(scan, Method.GLOBAL, PAPER), Size(100, 50)))
        without = scan.copy()
        without[100, 50] = 2800
        np.testing.assert_array_equal(prepared, prepare(without, Method.GLOBAL, PAPER, Size(100, 50)))
