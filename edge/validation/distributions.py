"""Distributions the intervals need: normal, Student's t, beta. Plain Python and numpy, as the line PC has no SciPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_FAR_TAIL = -30.0
"""Below this point erfc nears its underflow (at -38) and the asymptotic series is exact to 1e-6 of the log."""


def normal_quantile(probability: float) -> float:
    """Point below which a standard normal value lies with this probability; 0 < probability < 1."""
    return NormalDist().inv_cdf(probability)


def normal_cdf(z: float) -> float:
    """Probability of a standard normal value up to z."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def log_normal_cdf(z: Floats) -> Floats:
    """Logarithm of the normal distribution function, finite far into the lower tail; same shape as z."""
    flat = [
        math.log(normal_cdf(value))
        if value > _FAR_TAIL
        else -value * value / 2 - _LOG_SQRT_2PI - math.log(-value) - 1 / (value * value)
        for value in z.ravel().tolist()
    ]
    return np.array(flat, np.float64).reshape(z.shape)


def log_normal_density(z: Floats) -> Floats:
    """Logarithm of the standard normal density; same shape as z."""
    return -0.5 * z * z - _LOG_SQRT_2PI


def beta_cdf(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function I_x(a, b) for a, b > 0.

    Lentz's method on the continued fraction, which converges fast below the mean
    of the distribution; above it the symmetry I_x(a, b) = 1 - I_1-x(b, a) is used.
    """
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - beta_cdf(1.0 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) / (a * _beta_fraction(x, a, b))


def beta_quantile(probability: float, a: float, b: float) -> float:
    """Point below which a beta(a, b) value lies with this probability."""
    return _bisect(lambda x: beta_cdf(x, a, b) - probability, 0.0, 1.0)


def t_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t with `degrees` > 0 degrees of freedom; 0 < probability < 1.

    From the beta distribution: with t of `degrees`, degrees / (degrees + t^2) is beta(degrees / 2, 1 / 2).
    """
    if probability < 0.5:
        return -t_quantile(1 - probability, degrees)
    ratio = beta_quantile(2 * (1 - probability), degrees / 2, 0.5)
    return math.inf if ratio == 0.0 else math.sqrt(degrees * (1 - ratio) / ratio)


def chi2_quantile(probability: float) -> float:
    """Quantile of chi-squared of one degree of freedom."""
    return normal_quantile((1 + probability) / 2) ** 2


def _beta_fraction(x: float, a: float, b: float) -> float:
    tiny = 1e-300
    value, c, d = 1.0, 1.0, 0.0
    for step in range(1, 20_000):
        m = step // 2
        if step % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / ((1 + term * d) or tiny)
        c = (1 + term / c) or tiny
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def _bisect(rises: Callable[[float], float], low: float, high: float) -> float:
    """Root of a function that rises from low to high, to the last bit but a few."""
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if rises(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
