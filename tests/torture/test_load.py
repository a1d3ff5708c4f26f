"""The soaks' bar on memory: a leak is found in what an hour carries, and what is flat is not taken for one."""

from __future__ import annotations

import numpy as np
import pytest

from tests.torture.load import Row, hourly_slope, slope_after


def series(scans: int, leak_bytes_per_scan: float, span_s: int = 2400, seed: int = 0) -> list[Row]:
    """A worker on a real engine: a heap that fills, an allocator that moves by pages and peaks, and perhaps a leak."""
    chance = np.random.default_rng(seed)
    at_s = np.arange(span_s)
    verdicts = at_s * scans // span_s
    own_mb = 900 + 60 * (1 - np.exp(-at_s / 120)) + chance.normal(0, 0.3, span_s)
    own_mb += 8 * (chance.random(span_s) < 0.02)
    own_mb += verdicts * leak_bytes_per_scan / 1e6
    return [
        {"at_s": float(at), "verdicts": int(count), "own_mb": round(float(own), 2)}
        for at, count, own in zip(at_s, verdicts, own_mb, strict=True)
    ]


@pytest.mark.parametrize("scans", [1_300, 3_600, 40_000])
@pytest.mark.parametrize("seed", range(5))
def test_a_leak_of_a_kilobyte_a_scan_turns_an_hours_soak_red_and_none_does_not(scans: int, seed: int) -> None:
    leaking, flat = hourly_slope(series(scans, 1000, seed=seed)), hourly_slope(series(scans, 0, seed=seed))
    assert leaking is not None
    assert flat is not None
    assert not leaking.is_flat, leaking
    assert flat.is_flat, flat


def test_the_bar_is_the_strict_one_where_the_scans_are_enough_for_it() -> None:
    few, many = hourly_slope(series(4_000, 300)), hourly_slope(series(16_000, 300))
    assert (few and few.limit_bytes, many and many.limit_bytes) == (5e6, 1e6)
    assert few and few.is_flat
    assert many and not many.is_flat


def test_too_few_scans_carry_no_slope() -> None:
    assert hourly_slope(series(1_000, 0)) is None
    assert slope_after(series(12_000, 0), 10_000) is None


def test_peaks_do_not_pass_for_growth_in_the_long_soak() -> None:
    rows = series(20_000, 0)
    for row in rows[-40:]:
        row["own_mb"] += 30
    slope = slope_after(rows, 10_000)
    assert slope is not None
    assert slope.is_flat, slope


@pytest.mark.parametrize("scans", [20_000, 30_000, 40_000])
def test_a_soak_that_goes_on_tells_a_leak_from_a_step_that_the_allocator_takes_once(scans: int) -> None:
    leaking, stepping = series(scans, 150), series(scans, 0)
    for row in stepping:
        row["own_mb"] += 1.6 * (row["verdicts"] > 10_500) + 1.5 * (row["verdicts"] > 13_000)
    leak, steps = slope_after(leaking, 10_000), slope_after(stepping, 10_000)
    assert leak is not None
    assert steps is not None
    assert not leak.is_flat, leak
    assert steps.is_flat is (scans > 20_000), steps
