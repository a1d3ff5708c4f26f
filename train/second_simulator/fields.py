"""Random fields and curves that textures and anomalies are made of. Lengths in pixels."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Map = npt.NDArray[np.float32]
"""Height x width, or broadcastable to it."""


def power_law_field(
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    exponent: float,
    longest: float,
    shortest: float,
    stretch: float = 1.0,
) -> Map:
    """Gaussian random field of mean 0 and deviation 1 whose power falls as frequency ** -exponent.

    Waves longer than `longest` or shorter than `shortest` pixels are damped; `stretch` > 1 draws the field out along
    the height, the way the sheet was coated.
    """
    height, width = (cv2.getOptimalDFTSize(length) for length in shape)
    along = np.fft.fftfreq(height).astype(np.float32)[:, None] * np.float32(stretch)
    across = np.fft.rfftfreq(width).astype(np.float32)[None, :]
    squared = along**2 + across**2
    amplitude = (squared + np.float32(longest**-2)) ** np.float32(-exponent / 4)
    amplitude *= np.exp(-squared * np.float32(shortest**2))
    amplitude[0, 0] = 0
    white = rng.standard_normal((height, width), dtype=np.float32)
    field = np.fft.irfft2(np.fft.rfft2(white) * amplitude, s=(height, width)).astype(np.float32)
    field = field[: shape[0], : shape[1]]
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-6), np.float32)


def smooth_curve(length: int, rng: np.random.Generator, wavelength: float) -> Map:
    """Smooth random curve, `length` long, mean 0 and deviation 1 over many draws; varies over about `wavelength`."""
    sigma = max(wavelength / 4, 0.5)
    margin = int(4 * sigma) + 1
    white = rng.standard_normal(length + 2 * margin)
    offsets = np.arange(-margin, margin + 1)
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    kernel /= np.sqrt((kernel**2).sum())
    padded = len(white) + len(kernel)
    curve = np.fft.irfft(np.fft.rfft(white, padded) * np.fft.rfft(kernel, padded), padded)
    return curve[2 * margin : 2 * margin + length].astype(np.float32)


def smooth_step(values: npt.NDArray[np.floating]) -> Map:
    """0 below 0, 1 above 1, a cubic between."""
    clipped = np.clip(values, 0, 1, dtype=np.float32)
    return np.asarray(clipped * clipped * (3 - 2 * clipped), np.float32)


def blurred(values: npt.NDArray[np.floating], sigma: float) -> Map:
    """Gaussian blur that mirrors the values at the border."""
    return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REFLECT), np.float32)
