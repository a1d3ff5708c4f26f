"""What a number of scans can prove about a rate: exact binomial bounds, and sentences that say them.

Clopper and Pearson 1934: limits of a share from the beta distribution. They never cover less than they claim, whatever
the rate, for independent scans; over lots see `edge.validation.lots`.
"""

from __future__ import annotations

import math

from edge.validation.distributions import beta_quantile

CONFIDENCE = 0.95
"""Confidence of the one-sided bounds."""


def upper_bound(hits: int, total: int, confidence: float = CONFIDENCE) -> float:
    """Exact one-sided upper limit of a share; 1 of nothing. Raises ValueError where hits are no part of the total."""
    _check(hits, total)
    return 1.0 if hits == total else beta_quantile(confidence, hits + 1, total - hits)


def lower_bound(hits: int, total: int, confidence: float = CONFIDENCE) -> float:
    """Exact one-sided lower limit of a share; 0 of nothing. Raises ValueError where hits are no part of the total."""
    _check(hits, total)
    return 0.0 if hits == 0 else beta_quantile(1 - confidence, hits, total - hits + 1)


def scans_to_show(rate: float) -> int:
    """Fewest scans that, with no error among them, show an error rate of at most `rate`: 1 % takes 299.

    The least n with (1 - rate)^n <= 1 - CONFIDENCE. Raises ValueError unless 0 < rate < 1.
    """
    if not 0 < rate < 1:
        raise ValueError(f"a rate of {rate} cannot be shown by a finite number of scans: expected 0 < rate < 1")
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-rate))


def bound_sentence(hits: int, total: int, errors: str) -> str:
    """What the count excludes, for instance "0 escapes of 60: more than 4.9 % is excluded (95 % confidence)."."""
    if total == 0:
        return f"No scan could show any {errors}."
    bound = upper_bound(hits, total)
    counted = f"{hits} {errors.removesuffix('s') if hits == 1 else errors} of {total}"
    if bound >= 1:
        return f"{counted}: no rate is excluded."
    return f"{counted}: more than {_percent(bound)} is excluded ({CONFIDENCE * 100:.3g} % confidence)."


def size_sentence(hits: int, total: int, errors: str, target: float) -> str:
    """How many scans without an error would show `target`, and whether these already do."""
    needed = scans_to_show(target)
    if total and upper_bound(hits, total) <= target:
        return f"This shows that {errors} stay below {_percent(target)}."
    return f"{needed} scans without one would show at most {_percent(target)}; this set has {total} with {hits}."


def _percent(share: float) -> str:
    """Two significant digits at least, rounded up: a bound must not look tighter than it is."""
    percent = share * 100
    digits = 1 if percent >= 1 else 1 - math.floor(math.log10(percent))
    step = 10.0**-digits
    return f"{math.ceil(percent / step - 1e-6) * step:.{digits}f}".rstrip("0").removesuffix(".") + " %"


def _check(hits: int, total: int) -> None:
    if not 0 <= hits <= total:
        raise ValueError(f"{hits} of {total} is no share")
