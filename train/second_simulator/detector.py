"""From mass to counts: beam, absorption, quantum noise, the detector's blur and its faults.

The order is that of an indirect flat-panel detector. The tube's spectrum is absorbed (Beer-Lambert, three energies, so
that thick coat hardens the beam), quanta are counted (Poisson), the scintillator blurs them, scatter adds a veil, each
pixel has a gain that the flat field corrected but for a remainder, and the electronics add noise and quantise.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from train.second_simulator.fields import Map, power_law_field
from train.second_simulator.sheet import HEIGHTS, WIDTHS

SPECTRUM = ((0.35, 1.6), (0.40, 1.0), (0.25, 0.55))
"""Share of the signal and absorption, relative to the effective one, of each energy of the tube's spectrum."""
_BORDER = 24
"""Pixels by which a scan is mirrored outwards before it is blurred, so that opposite edges do not mix."""


@dataclass(frozen=True, slots=True)
class Session:
    """Tube and detector as they were while a lot was scanned."""

    seed: int
    """Draws the gains of the pixels."""
    coat_depth: float
    substrate_depth: float
    """Optical depth of the nominal mass at the effective energy."""
    open_beam: float
    """Counts of a pixel without a sheet."""
    quanta: float
    """Quanta that an open pixel of full size counts."""
    core: float
    wide: float
    tail: float
    """Widths of the blur: two Gaussians (deviation) and a Lorentzian tail (half width), pixels."""
    wide_share: float
    tail_share: float
    scatter: float
    """Veil of scattered quanta, share of the signal around."""
    heel: float
    """Remainder of the tube's heel along the height after the flat field, from the middle to an end."""
    falloff: float
    """Remainder of the beam's fall towards the corners."""
    gain_spread: float
    """Deviation of the pixels' gains after the flat field."""
    line_spread: float
    """Deviation of the columns' gains after the flat field."""
    electronic: float
    """Deviation of the electronic noise, counts."""
    hot_share: float
    """Share of pixels that read far too high."""


def draw_session(rng: np.random.Generator) -> Session:
    """Tube and detector for a new lot."""
    return Session(
        seed=int(rng.integers(2**63)),
        coat_depth=rng.uniform(0.17, 0.33),
        substrate_depth=rng.uniform(0.03, 0.06),
        open_beam=rng.uniform(2780, 2960),
        quanta=rng.uniform(1500, 5000),
        core=rng.uniform(0.5, 0.9),
        wide=rng.uniform(1.4, 2.6),
        tail=rng.uniform(2.0, 6.0),
        wide_share=rng.uniform(0.1, 0.35),
        tail_share=rng.uniform(0.03, 0.12),
        scatter=rng.uniform(0.01, 0.05),
        heel=rng.uniform(-0.02, 0.02),
        falloff=rng.uniform(0.0, 0.015),
        gain_spread=rng.uniform(0.001, 0.004),
        line_spread=rng.uniform(0.0, 0.0012),
        electronic=rng.uniform(2, 7),
        hot_share=rng.uniform(2e-6, 2e-5),
    )


def transmission(substrate: Map, coat: Map, session: Session) -> Map:
    """Share of the beam's signal that passes a sheet: 1 where there is none."""
    depth = session.substrate_depth * substrate + session.coat_depth * coat
    passed = np.zeros_like(depth)
    for share, relative in SPECTRUM:
        passed += np.float32(share) * np.exp(np.float32(-relative) * depth)
    return passed


def expose(
    substrate: Map, coat: Map, session: Session, scale: float, rng: np.random.Generator
) -> npt.NDArray[np.uint16]:
    """Scan of a sheet in counts, as the station stores it. A smaller `scale` bins pixels: quanta add up."""
    passed = transmission(substrate, coat, session)
    shape = passed.shape[0], passed.shape[1]
    quanta = np.float32(session.quanta / scale**2)
    counted = rng.poisson(quanta * passed).astype(np.float32) / quanta
    signal = _scintillator(counted, session, scale)
    signal = (1 - session.scatter) * signal + session.scatter * _veil(passed)
    signal *= _beam(shape, session) * _gains(shape, session, scale, rng)
    counts = session.open_beam * signal
    counts += np.float32(session.electronic * scale) * rng.standard_normal(shape, dtype=np.float32)
    _add_hot_pixels(counts, session, rng)
    return np.asarray(np.clip(np.rint(counts), 0, 65535), np.uint16)


def _scintillator(counted: Map, session: Session, scale: float) -> Map:
    """Blur by a modulation transfer function: two Gaussians and the exponential of a Lorentzian tail."""
    border = min(_BORDER, *(length - 1 for length in counted.shape))
    height, width = (cv2.getOptimalDFTSize(length + 2 * border) for length in counted.shape)
    padded = cv2.copyMakeBorder(
        counted,
        border,
        height - counted.shape[0] - border,
        border,
        width - counted.shape[1] - border,
        cv2.BORDER_REFLECT_101,
    )
    along = np.fft.fftfreq(height).astype(np.float32)[:, None]
    across = np.fft.rfftfreq(width).astype(np.float32)[None, :]
    squared = along**2 + across**2
    core, wide = (
        np.exp(np.float32(-2 * (np.pi * sigma * scale) ** 2) * squared) for sigma in (session.core, session.wide)
    )
    tail = np.exp(np.float32(-2 * np.pi * session.tail * scale) * np.sqrt(squared))
    transfer = (1 - session.wide_share - session.tail_share) * core
    transfer += session.wide_share * wide + session.tail_share * tail
    sharp = np.fft.rfft2(padded) * transfer
    spread = np.fft.irfft2(sharp, s=(height, width)).astype(np.float32)
    return spread[border : border + counted.shape[0], border : border + counted.shape[1]]


def _veil(passed: Map) -> Map:
    """What scatter makes of the picture: its mean over about a sixth of the width."""
    small = cv2.resize(passed, (48, 84), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), 8, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(small, passed.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def _beam(shape: tuple[int, int], session: Session) -> Map:
    """Remainder of heel and fall-off that the flat field left: it was taken when the tube was cooler."""
    along = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    across = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    heel = session.heel * along * (1 + 0.3 * along)
    return np.asarray(1 + heel - session.falloff * (along**2 + across**2) / 2, np.float32)


def _gains(shape: tuple[int, int], session: Session, scale: float, rng: np.random.Generator) -> Map:
    """Gains of the pixels under a scan: the detector's are fixed for the lot, the sheet lies anywhere on it."""
    fixed = np.random.default_rng(session.seed)
    size = round((HEIGHTS[1] + 24) * scale) + 32, round((WIDTHS[1] + 24) * scale) + 32
    gains = 1 + session.gain_spread * scale * fixed.standard_normal(size, dtype=np.float32)
    gains += session.line_spread * fixed.standard_normal(size[1], dtype=np.float32)[None, :]
    coarse = (size[0] // 16 + 1, size[1] // 16 + 1)
    cloudy = power_law_field(coarse, fixed, exponent=3, longest=max(coarse), shortest=1)
    gains += 0.002 * cv2.resize(cloudy, size[::-1], interpolation=cv2.INTER_LINEAR)
    top, left = (int(rng.integers(0, size[axis] - shape[axis] + 1)) for axis in (0, 1))
    return np.asarray(gains[top : top + shape[0], left : left + shape[1]], np.float32)


def _add_hot_pixels(counts: Map, session: Session, rng: np.random.Generator) -> None:
    """Let single pixels read several times too much, and a few short runs along a row."""
    for _ in range(1 + rng.poisson(session.hot_share * counts.size)):
        row, column = (int(rng.integers(length)) for length in counts.shape)
        length = 1 if rng.random() < 0.85 else int(rng.integers(2, 5))
        counts[row, column : column + length] = rng.uniform(4000, 60000)
