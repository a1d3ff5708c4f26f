"""Colours of the two maps: that they read without colour, and that noise stays clear."""

from __future__ import annotations

import numpy as np

from edge.evidence.colours import heat_colours, reason_colours


def test_heat_grows_from_clear_to_solid_and_nan_is_the_hottest() -> None:
    heat = heat_colours(np.array([[0.0, 0.5, 1.0, 4.0, 100.0, np.nan]], np.float32))
    assert heat[0, :, 3].tolist() == [0, 0, 140, 230, 230, 230]
    brightness = heat[0, 1:4, :3].astype(int).sum(axis=1)
    assert (np.diff(brightness) < 0).all()  # light to dark, so that it reads without colour


def test_a_reason_grows_with_its_share_of_the_strongest_and_noise_around_the_threshold_stays_pale() -> None:
    strong = reason_colours(np.array([[-3.0, 0.0, 2.0, 6.0]], np.float32))
    assert strong[0, :, 3].tolist() == [0, 0, 115, 217]
    noise = reason_colours(np.array([[-0.1, 0.05, 0.1]], np.float32))
    assert int(noise[..., 3].max()) == 0
