"""What holds for every scan and every bounds, not only for those somebody thought of."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge.images.conversion import (
    LEVELS,
    Bounds,
    clipped_fraction,
    convert,
    global_bounds,
    histogram,
    percentile,
    pooled_bounds,
    prepare,
    scan_bounds,
    stretch_table,
)
from edge.images.method import Method
from edge.records import Counts, Size

shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)
scans = hnp.arrays(np.uint16, shapes, elements=st.one_of(st.integers(0, 65535), st.integers(1700, 2800)))
bounds = (
    st.tuples(st.integers(0, 65535), st.integers(0, 65535))
    .filter(lambda pair: pair[0] != pair[1])
    .map(lambda pair: Bounds(min(pair), max(pair)))
)


@given(bounds)
@settings(max_examples=50, deadline=None)
def test_a_stretch_equals_the_papers_formula_in_exact_fractions_and_in_floats(between: Bounds) -> None:
    lo, hi = between.lo_counts, between.hi_counts
    table = stretch_table(between)
    x = np.arange(LEVELS, dtype=np.float64)
    in_floats = np.minimum(255, np.floor((np.clip(x, lo, hi) - lo) / (hi - lo) * 256))
    np.testing.assert_array_equal(table, in_floats)
    for count in {0, lo, lo + 1, (lo + hi) // 2, hi - 1, hi, 65535}:
        exact = Fraction(min(max(count, lo), hi) - lo, hi - lo) * 256 // 1
        assert table[count] == min(255, exact)


@given(scans, st.decimals(0, 100, places=2).map(float))
@settings(max_examples=100, deadline=None)
def test_a_percentile_is_a_count_of_the_scan_with_the_right_share_on_each_side(counts: Counts, percent: float) -> None:
    found = percentile(histogram(counts), percent)
    share = Fraction(str(percent)) / 100
    assert found in counts
    assert Fraction(int((counts <= found).sum()), counts.size) >= share
    below = int((counts < found).sum())
    assert Fraction(below, counts.size) < share or below == 0


@given(scans, st.integers(0, 24))
@settings(max_examples=100, deadline=None)
def test_histograms_of_parts_add_up_to_the_histogram_of_the_whole(counts: Counts, row: int) -> None:
    parts = [part for part in (counts[:row], counts[row:]) if part.size]
    np.testing.assert_array_equal(sum(histogram(part) for part in parts), histogram(counts))


@given(st.lists(scans, min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_training_bounds_do_not_depend_on_the_order_of_the_scans(lot: list[Counts]) -> None:
    hists = [histogram(counts) for counts in lot]
    backwards = hists[::-1]
    per_scan = global_bounds([scan_bounds(hist) for hist in hists])
    assert per_scan == global_bounds([scan_bounds(hist) for hist in backwards])
    pooled = pooled_bounds(sum(hists[1:], hists[0]))
    assert pooled == pooled_bounds(sum(backwards[1:], backwards[0]))
    for found in (per_scan, pooled):
        assert found.lo_counts % 100 == 0
    assert per_scan.hi_counts % 100 == 0
    assert pooled.hi_counts % 100 == 0 or pooled.hi_counts == LEVELS - 1
    merged = histogram(np.concatenate([counts.reshape(-1, 1) for counts in lot]))
    assert clipped_fraction(merged, pooled) <= 0.0002  # what lies outside the two percentiles


@given(scans, bounds)
@settings(max_examples=100, deadline=None)
def test_conversion_keeps_the_order_of_counts_and_clips_what_lies_outside(counts: Counts, between: Bounds) -> None:
    grey = convert(counts, Method.GLOBAL, between)[0]
    in_order = np.argsort(counts, axis=None, kind="stable")
    assert (np.diff(grey.ravel()[in_order].astype(int)) >= 0).all()
    assert (grey[counts <= between.lo_counts] == 0).all()
    assert (grey[counts >= between.hi_counts] == 255).all()


@given(scans, bounds)
@settings(max_examples=100, deadline=None)
def test_the_clipped_fraction_counts_the_pixels_outside(counts: Counts, between: Bounds) -> None:
    outside = int(((counts < between.lo_counts) | (counts > between.hi_counts)).sum()) / counts.size
    assert clipped_fraction(counts, between) == outside
    assert clipped_fraction(histogram(counts), between) == outside


@given(scans, bounds, st.sampled_from(Method), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_a_prepared_image_has_the_size_asked_for_and_stays_between_its_darkest_and_brightest_pixel(
    counts: Counts, between: Bounds, method: Method, height: int, width: int
) -> None:
    converted = convert(counts, method, between)
    image = prepare(counts, method, between, Size(height, width))
    assert image.shape == (method.channels, height, width)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    for before, after in zip(converted, image, strict=True):
        assert before.min() <= after.min()
        assert after.max() <= before.max()
