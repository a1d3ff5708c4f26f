"""Agreement of people with each other and with the line, beyond what chance gives; repeatability over rescans.

Kappa: 1 is full agreement, 0 what chance gives. Cohen 1960 for two raters, Fleiss 1971 for any number. The attribute
table is that of the measurement systems analysis manual of the AIAG.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge.validation.distributions import normal_quantile

Counts = npt.NDArray[np.int64]
_Z = normal_quantile(0.975)


@dataclass(frozen=True, slots=True)
class Kappa:
    """Agreement beyond chance with its 95 % interval; NaN where chance alone would agree always."""

    kappa: float
    low: float
    high: float
    subjects: int
    observed: float
    """Share of agreement that was seen."""


@dataclass(frozen=True, slots=True)
class AttributeRow:
    """One appraiser against the reference: counts, and None for a share of nothing.

    As in the manual, a part that was judged more than once is right only if it was so every time; misses and false
    alarms are counted by decision.
    """

    appraiser: str
    parts: int
    right: int
    """Parts of which every decision was right."""
    defective: int
    """Decisions on defective parts."""
    missed: int
    good: int
    """Decisions on good parts."""
    false_alarms: int

    @property
    def decisions(self) -> int:
        """Decisions on all parts."""
        return self.defective + self.good

    @property
    def effectiveness(self) -> float | None:
        """Share of parts that were always judged rightly."""
        return self.right / self.parts if self.parts else None

    @property
    def miss_rate(self) -> float | None:
        """Share of decisions on defective parts that called them good."""
        return self.missed / self.defective if self.defective else None

    @property
    def false_alarm_rate(self) -> float | None:
        """Share of decisions on good parts that called them defective."""
        return self.false_alarms / self.good if self.good else None

    @property
    def verdict(self) -> str:
        """The manual's grade: acceptable from 90 % effectiveness, 2 % missed, 5 % false alarms; marginal to 80, 5, 10.

        The worst of the figures decides.
        """
        effectiveness, missed, alarms = self.effectiveness, self.miss_rate or 0.0, self.false_alarm_rate or 0.0
        if effectiveness is None:
            return "not measured"
        if effectiveness >= 0.90 and missed <= 0.02 and alarms <= 0.05:
            return "acceptable"
        return "marginal" if effectiveness >= 0.80 and missed <= 0.05 and alarms <= 0.10 else "unacceptable"


@dataclass(frozen=True, slots=True)
class Repeatability:
    """How the line judged parts that were scanned more than once."""

    parts: int
    scans: int
    flipped: tuple[str, ...]
    """Parts whose scans were not all given the same verdict."""

    p_deviation: float | None
    """Standard deviation of p within a part, pooled over parts; None where no part has two scans with p."""

    p_widest: float | None
    """Largest difference of p between two scans of one part."""

    p_widest_part: str | None


def cohen_kappa(table: npt.NDArray[np.integer]) -> Kappa | None:
    """Two raters; `table[i, j]` counts subjects that the first put in class i and the second in j. None of no subjects.

    The interval uses the large-sample variance of Fleiss, Cohen and Everitt (1969), not Cohen's first one.
    """
    counts = np.asarray(table, np.float64)
    n = counts.sum()
    if n == 0:
        return None
    share = counts / n
    row, column = share.sum(1), share.sum(0)
    observed, chance = float(np.trace(share)), float(row @ column)
    if chance >= 1:
        return Kappa(math.nan, math.nan, math.nan, int(n), observed)
    kappa = (observed - chance) / (1 - chance)
    diagonal = np.diag(share) @ (1 - (row + column) * (1 - kappa)) ** 2
    weights = (column[:, None] + row[None, :]) ** 2
    off = share * weights
    others = (1 - kappa) ** 2 * (off.sum() - np.trace(off))
    variance = (diagonal + others - (kappa - chance * (1 - kappa)) ** 2) / (n * (1 - chance) ** 2)
    return _with_interval(kappa, float(variance), int(n), observed)


def fleiss_kappa(table: npt.NDArray[np.integer]) -> Kappa | None:
    """Any raters; `table[i, j]` counts raters that put subject i in class j. None unless some subject has two raters.

    Subjects may have different numbers of raters: each gives its share of agreeing pairs, and classes count by subject
    (equal to Fleiss 1971 where the numbers are equal). The interval is a jackknife
    over subjects, as Fleiss' own variance holds only where there is no agreement.
    """
    counts = np.asarray(table, np.float64)
    counts = counts[counts.sum(1) >= 2]
    n = counts.shape[0]
    if n == 0:
        return None
    raters = counts.sum(1)
    agreeing = (counts * (counts - 1)).sum(1) / (raters * (raters - 1))
    observed = float(agreeing.mean())
    chance = float(((counts.sum(0) / counts.sum()) ** 2).sum())
    if chance >= 1:
        return Kappa(math.nan, math.nan, math.nan, n, observed)
    kappa = (observed - chance) / (1 - chance)
    if n < 3:
        return Kappa(kappa, -1.0, 1.0, n, observed)
    without_observed = (agreeing.sum() - agreeing) / (n - 1)
    without_shares = (counts.sum(0) - counts) / (counts.sum() - raters)[:, None]
    without_chance = (without_shares**2).sum(1)
    if (without_chance >= 1).any():
        return Kappa(kappa, -1.0, 1.0, n, observed)
    without = (without_observed - without_chance) / (1 - without_chance)
    variance = (n - 1) / n * float(((without - without.mean()) ** 2).sum())
    return _with_interval(kappa, variance, n, observed)


def attribute_row(
    appraiser: str,
    calls: Sequence[bool | None],
    reference: Sequence[bool | None],
    parts: Sequence[str | None],
) -> AttributeRow:
    """One appraiser against the reference, a scan each; True means defective, what either does not know is left out.

    `parts` names the part of each scan; scans without a name are parts of their own.
    """
    pairs: list[tuple[bool, bool]] = []
    always_right: dict[str | int, bool] = {}
    for number, (call, truth, part) in enumerate(zip(calls, reference, parts, strict=True)):
        if call is not None and truth is not None:
            pairs.append((call, truth))
            name = number if part is None else part
            always_right[name] = always_right.get(name, True) and call == truth
    return AttributeRow(
        appraiser=appraiser,
        parts=len(always_right),
        right=sum(always_right.values()),
        defective=sum(truth for _, truth in pairs),
        missed=sum(truth and not call for call, truth in pairs),
        good=sum(not truth for _, truth in pairs),
        false_alarms=sum(call and not truth for call, truth in pairs),
    )


def pair_table(first: Sequence[bool | None], second: Sequence[bool | None]) -> Counts:
    """Counts of two raters' classes, shape (2, 2), for `cohen_kappa`; subjects one of them left open are left out."""
    table = np.zeros((2, 2), np.int64)
    for one, other in zip(first, second, strict=True):
        if one is not None and other is not None:
            table[int(one), int(other)] += 1
    return table


def vote_table(votes: Sequence[Sequence[bool | None]]) -> Counts:
    """Votes by class and subject, shape (subjects, 2), for `fleiss_kappa`; `votes` holds one sequence a rater."""
    known = np.array([[vote is not None for vote in rater] for rater in votes], bool)
    defective = np.array([[bool(vote) for vote in rater] for rater in votes], bool)
    return np.stack([(known & ~defective).sum(0), (known & defective).sum(0)], axis=1).astype(np.int64)


def repeatability(
    parts: Sequence[str | None], verdicts: Sequence[str], p_abnormal: Sequence[float | None]
) -> Repeatability | None:
    """Verdicts and p over scans of the same part; scans without a part are left out. None where no part came twice."""
    by_part: dict[str, list[int]] = {}
    for index, part in enumerate(parts):
        if part is not None:
            by_part.setdefault(part, []).append(index)
    repeated = {part: rows for part, rows in by_part.items() if len(rows) > 1}
    if not repeated:
        return None
    squares, degrees, widest, widest_part = 0.0, 0, None, None
    for part, rows in repeated.items():
        p = np.array([value for row in rows if (value := p_abnormal[row]) is not None], np.float64)
        if p.size < 2:
            continue
        squares += float(((p - p.mean()) ** 2).sum())
        degrees += p.size - 1
        if widest is None or float(np.ptp(p)) > widest:
            widest, widest_part = float(np.ptp(p)), part
    return Repeatability(
        parts=len(repeated),
        scans=sum(len(rows) for rows in repeated.values()),
        flipped=tuple(part for part, rows in repeated.items() if len({verdicts[row] for row in rows}) > 1),
        p_deviation=math.sqrt(squares / degrees) if degrees else None,
        p_widest=widest,
        p_widest_part=widest_part,
    )


def _with_interval(kappa: float, variance: float, subjects: int, observed: float) -> Kappa:
    half = _Z * math.sqrt(max(variance, 0.0))
    return Kappa(kappa, max(-1.0, kappa - half), min(1.0, kappa + half), subjects, observed)
