"""Intervals over lots: scans of one coating lot resemble each other, so the lots are what was drawn, not the scans.

The percentile bootstrap over 12 lots covers 58 to 92 % at a nominal 95, least where errors are rare and lots differ.
Used instead: a Wilson interval at the effective number of scans (Korn and Graubard 1998: the variance between lots
says how many independent scans these are worth), with Student's t in place of the normal point. Three guards, as rare
errors hide how they cluster: the scans are never worth more than at a correlation within lots of 0.1; degrees of
freedom come from the lots that hold an error, at most all lots and at least six; no errors at all is bounded by the
same correlation. In simulation (4 to 50 lots of 8 or 30 scans, rates 2 to 20 %, correlation 0 to 0.3) it covers 93.8
% in the worst of 90 settings and is wide where scans are independent.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge.validation.distributions import t_quantile
from edge.validation.statistics import wilson

Floats = npt.NDArray[np.float64]

NO_LOT = "no lot"
"""Name that scans of no lot go by together."""

FEW_LOTS = 8
"""Lots below which an interval over lots carries a warning."""

CONFIDENCE = 0.95

_PARTS = re.compile(r"\d+|[^\W\d_]+|[^\w\s./-]")
"""Parts of a lot's name that tell it from others: numbers, words, signs."""
_LEAST_CORRELATION = 0.1
_LEAST_DEGREES = 5


@dataclass(frozen=True, slots=True)
class LotInterval:
    """A share with its 95 % interval over lots."""

    share: float
    low: float
    high: float
    lots: int
    effective_scans: float
    """Independent scans the interval is as wide as."""

    @property
    def note(self) -> str | None:
        """What to say of an interval over few lots."""
        if self.lots >= FEW_LOTS:
            return None
        lots = "1 lot says" if self.lots == 1 else f"{self.lots} lots say"
        return f"{lots} little about other lots: {FEW_LOTS} or more are wanted."


@dataclass(frozen=True, slots=True)
class WorstLot:
    """The lot with the most errors for its size."""

    lot: str
    errors: int
    scans: int


def alike(lots: Iterable[str]) -> list[list[str]]:
    """Names that a person may have meant as one: the same but for case, leading zeros and separators."""
    found: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for lot in lots:
        parts = _PARTS.findall(unicodedata.normalize("NFKC", lot).casefold())
        found[tuple(part.lstrip("0") if part.isdecimal() else part for part in parts)].append(lot)
    return [names for names in found.values() if len(names) > 1]


def share_over_lots(hits: Sequence[int], totals: Sequence[int], confidence: float = CONFIDENCE) -> LotInterval | None:
    """Share of all hits among all scans, with its interval over lots; one entry a lot, empty lots are left out.

    None where no lot holds a scan. Of one lot the interval is 0 to 1: nothing is known about others. Raises ValueError
    where hits are no part of their total.
    """
    x, n = np.asarray(hits, np.float64), np.asarray(totals, np.float64)
    if x.shape != n.shape or (x < 0).any() or (x > n).any():
        raise ValueError("hits of a lot are between 0 and its scans")
    x, n = x[n > 0], n[n > 0]
    if n.size == 0:
        return None
    scans = float(n.sum())
    share = float(x.sum()) / scans
    with_error = int(min((x > 0).sum(), (x < n).sum()))
    return interval_over_lots(share, (x - share * n) / scans, most_scans(n), n.size, with_error, confidence)


def interval_over_lots(
    share: float, residuals: Floats, most: float, lots: int, with_error: int, confidence: float = CONFIDENCE
) -> LotInterval:
    """Wilson's interval of a share at the number of scans that the variance between lots is worth.

    `residuals`: what each lot adds to the share beyond its part, float64 (lots,), in all 0; `most`: independent scans
    that the share is worth at best; `lots`, and of these `with_error`, say what Student's t may rest on.
    """
    if lots < 2:
        return LotInterval(share, 0.0, 1.0, lots, most)
    variance = residuals.size / (residuals.size - 1) * float(residuals @ residuals)
    effective = min(most, share * (1 - share) / variance) if variance > 0 and 0 < share < 1 else most
    degrees = max(min(lots - 1, _LEAST_DEGREES), min(lots, with_error) - 1)
    low, high = wilson_at(share, effective, t_quantile((1 + confidence) / 2, degrees))
    return LotInterval(share, 0.0 if share == 0 else low, 1.0 if share == 1 else high, lots, effective)


def most_scans(sizes: Floats) -> float:
    """Independent scans that lots of these sizes, none empty, are worth at best."""
    scans = float(sizes.sum())
    mean_size = float(sizes @ sizes) / scans  # of the lot of a scan drawn at random
    return scans / (1 + (mean_size - 1) * _LEAST_CORRELATION)


def lot_limits(name: str, interval: LotInterval | None, row: str = "") -> dict[str, float | None]:
    """The interval's ends as figures NAME_low and NAME_high, of a row of a table; None of one lot, which says nothing
    of others.
    """
    known = interval if interval is not None and interval.lots >= 2 else None
    return {
        f"{name}_low{row}": None if known is None else known.low,
        f"{name}_high{row}": None if known is None else known.high,
    }


def share_figures(
    name: str, hits: int, total: int, over_lots: LotInterval | None, row: str = ""
) -> dict[str, float | None]:
    """A share as figure NAME with its limits over scans (Wilson) and over lots; None of nothing."""
    ends = wilson(hits, total) if total else None
    return {
        f"{name}{row}": hits / total if total else None,
        f"{name}_low{row}": None if ends is None else ends.low,
        f"{name}_high{row}": None if ends is None else ends.high,
        **lot_limits(f"{name}_lots", over_lots, row),
    }


def balanced_accuracy_over_lots(
    found: Sequence[int], abnormal: Sequence[int], passed: Sequence[int], normal: Sequence[int]
) -> LotInterval | None:
    """Mean of sensitivity and specificity with its interval over lots; one entry a lot. None unless both exist.

    The two intervals are combined by the distances of their limits (Zou and Donner 2008), with the correlation of the
    two rates over the lots where it is positive: a lot that is bad in both widens the interval. A negative one is not
    trusted to narrow it.
    """
    sensitivity, specificity = share_over_lots(found, abnormal), share_over_lots(passed, normal)
    if sensitivity is None or specificity is None:
        return None
    middle = (sensitivity.share + specificity.share) / 2
    together = max(
        0.0,
        _correlation(
            np.asarray(found, np.float64) - sensitivity.share * np.asarray(abnormal, np.float64),
            np.asarray(passed, np.float64) - specificity.share * np.asarray(normal, np.float64),
        ),
    )
    below = _combine(sensitivity.share - sensitivity.low, specificity.share - specificity.low, together)
    above = _combine(sensitivity.high - sensitivity.share, specificity.high - specificity.share, together)
    return LotInterval(
        share=middle,
        low=max(0.0, middle - below / 2),
        high=min(1.0, middle + above / 2),
        lots=min(sensitivity.lots, specificity.lots),
        effective_scans=min(sensitivity.effective_scans, specificity.effective_scans),
    )


def auroc_over_lots(
    scores: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], lots: Sequence[str | int]
) -> LotInterval | None:
    """Area under the ROC curve with its interval over lots; all of shape (n,), labels 1 abnormal, 0 normal.

    The variance is that of the scans' placements, those of one lot together (Obuchowski 1997, after DeLong 1988); the
    interval is Wilson's at the number of scans that variance is worth, with the guards of the others. None unless both
    labels are there; 0 to 1 where a label is of one lot alone. Scans that are lots of their own count as independent.
    """
    values, is_abnormal = np.asarray(scores, np.float64), np.asarray(labels) == 1
    if is_abnormal.all() or not is_abnormal.any():  # of no scans, too
        return None
    placements = placements_of(values, is_abnormal)
    area, adds = float(placements[is_abnormal].mean()), np.empty_like(values)
    for mine in (is_abnormal, ~is_abnormal):
        adds[mine] = (placements[mine] - area) / mine.sum()
    return _area_over_lots(area, adds, placements, is_abnormal, lots)


def auprc_over_lots(
    scores: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], lots: Sequence[str | int]
) -> LotInterval | None:
    """Average precision with its interval over lots, as `auroc_over_lots`.

    What a scan adds is the derivative of the average precision by its weight: its own precision, and what it changes in
    the precision of the abnormal scans that are ranked no higher.
    """
    values, is_abnormal = np.asarray(scores, np.float64), np.asarray(labels) == 1
    if is_abnormal.all() or not is_abnormal.any():
        return None
    ranked, rank = np.unique(-values, return_inverse=True)  # the highest score first
    seen = np.cumsum(np.bincount(rank, minlength=ranked.size))
    hits = np.bincount(rank[is_abnormal], minlength=ranked.size)
    precision = np.cumsum(hits) / seen
    area = float(hits @ precision / hits.sum())
    # Sums over the abnormal scans that are ranked no higher.
    below, precise_below = (np.cumsum((hits * each / seen)[::-1])[::-1] for each in (1.0, precision))
    adds = (is_abnormal * (precision[rank] - area + below[rank]) - precise_below[rank]) / hits.sum()
    return _area_over_lots(area, adds, placements_of(values, is_abnormal), is_abnormal, lots)


def placements_of(values: Floats, is_abnormal: npt.NDArray[np.bool_]) -> Floats:
    """Share of the other label's scans that are ranked rightly beside each, shape (n,)."""
    placements = np.empty_like(values)
    for mine, sign in ((is_abnormal, 1.0), (~is_abnormal, -1.0)):
        others = np.sort(sign * values[~mine])
        below, upto = (np.searchsorted(others, sign * values[mine], side=side) for side in ("left", "right"))
        placements[mine] = (below + upto) / (2 * others.size)
    return placements


def _area_over_lots(
    area: float, adds: Floats, placements: Floats, is_abnormal: npt.NDArray[np.bool_], lots: Sequence[str | int]
) -> LotInterval:
    """Interval of an area to which each scan adds `adds` beyond its part; all shape (n,)."""
    names, place = np.unique(np.asarray(lots), return_inverse=True)
    most, spread = math.inf, names.size
    for mine in (is_abnormal, ~is_abnormal):
        sizes = np.bincount(place[mine], minlength=names.size)
        most = min(most, most_scans(sizes[sizes > 0].astype(np.float64)))
        spread = min(spread, int((sizes > 0).sum()))
    residuals = np.asarray(np.bincount(place, weights=adds, minlength=names.size), np.float64)
    with_error = int((np.bincount(place, weights=1 - placements, minlength=names.size) > 0).sum())
    return interval_over_lots(area, residuals, most, spread, with_error)


def half_width(residuals: Floats) -> float:
    """Half of the 95 % interval of a figure whose lots leave these residuals, which add up to 0: Student's t."""
    lots = residuals.size
    return t_quantile((1 + CONFIDENCE) / 2, lots - 1) * math.sqrt(lots / (lots - 1) * float(residuals @ residuals))


def worst_lot(lots: Sequence[str], errors: Sequence[int], totals: Sequence[int]) -> WorstLot | None:
    """Lot with the highest share of errors; among equals the one with more scans, then the first by name.

    None where no lot has an error.
    """
    found = [
        (errors_here / scans, scans, lot, errors_here)
        for lot, errors_here, scans in zip(lots, errors, totals, strict=True)
        if errors_here
    ]
    if not found:
        return None
    _, scans, lot, errors_here = min(found, key=lambda item: (-item[0], -item[1], item[2]))
    return WorstLot(lot, errors_here, scans)


def _combine(one: float, other: float, correlation: float) -> float:
    return math.sqrt(one * one + other * other + 2 * correlation * one * other)


def _correlation(one: Floats, other: Floats) -> float:
    scale = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / scale if scale > 0 else 0.0


def wilson_at(share: float, scans: float, t: float) -> tuple[float, float]:
    """Wilson's interval of a share of `scans` independent scans, which need not be a whole number, at the point `t`."""
    middle = (share + t * t / (2 * scans)) / (1 + t * t / scans)
    half = t / (1 + t * t / scans) * math.sqrt(share * (1 - share) / scans + t * t / (4 * scans * scans))
    return max(0.0, middle - half), min(1.0, middle + half)
