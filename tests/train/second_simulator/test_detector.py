"""Physics of the second simulator's detector."""

from dataclasses import replace

import numpy as np
import pytest

from train.second_simulator.detector import Session, draw_session, expose, transmission

SESSION = replace(
    draw_session(np.random.default_rng(0)),
    scatter=0.0,
    heel=0.0,
    falloff=0.0,
    gain_spread=0.0,
    line_spread=0.0,
    electronic=0.0,
    hot_share=0.0,
)
EVEN = np.ones((400, 300), np.float32)


def test_thick_coat_hardens_the_beam() -> None:
    """One energy would square the transmission where the mass doubles; a spectrum lets more through."""
    once = transmission(EVEN, 2 * EVEN, SESSION)
    twice = transmission(2 * EVEN, 4 * EVEN, SESSION)
    assert (twice > 1.002 * once**2).all() and (twice < once).all()


def noise_of(quanta: float) -> float:
    session = replace(SESSION, quanta=quanta)
    first, second = (expose(EVEN, EVEN, session, 1.0, np.random.default_rng(seed)).astype(float) for seed in (1, 2))
    difference = (first - second)[20:-20, 20:-20]
    return float(np.median(np.abs(difference))) * 1.4826 / np.sqrt(2)


def test_four_times_the_quanta_halve_the_noise() -> None:
    assert noise_of(1000) / noise_of(4000) == pytest.approx(2, rel=0.1)


def test_the_scintillator_spreads_an_edge_and_makes_neighbours_noise_alike() -> None:
    half = EVEN.copy()
    half[:, 150:] = 0
    counts = expose(half, half, replace(SESSION, quanta=1e6), 1.0, np.random.default_rng(0)).astype(float)
    profile = np.median(counts, 0)
    low, high = profile[40], profile[-40]
    assert low + 0.15 * (high - low) < profile[149] < profile[150] < high - 0.15 * (high - low)
    assert profile[156] < high - 2, "the tail reaches several pixels"
    even = expose(EVEN, EVEN, SESSION, 1.0, np.random.default_rng(0)).astype(float)
    even = np.clip(even, *np.quantile(even, (0.001, 0.999)))
    assert np.corrcoef(even[:, :-1].ravel(), even[:, 1:].ravel())[0, 1] > 0.3


def likeness_of_gains(first: Session, second: Session) -> float:
    """Greatest correlation, over all shifts, of two scans with next to no quantum noise: the sheet lies anywhere."""
    sheet = EVEN[:230, :140]
    scans = [
        expose(sheet, sheet, session, 0.1, np.random.default_rng(place)).astype(float).clip(0, 3500)
        for place, session in enumerate((first, second))
    ]
    spectra = [np.fft.rfft2((scan - scan.mean()) / scan.std(), s=(512, 320)) for scan in scans]
    return float(np.fft.irfft2(spectra[0] * spectra[1].conj()).max() / sheet.size)


def test_gains_of_the_pixels_stay_within_a_session_and_differ_between_sessions() -> None:
    small = replace(SESSION, quanta=1e7, gain_spread=0.2, hot_share=0.0)
    assert likeness_of_gains(small, small) > 3 * likeness_of_gains(small, replace(small, seed=small.seed + 1))
