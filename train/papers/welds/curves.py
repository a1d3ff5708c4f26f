"""What a reading of scores finds at every rate of refusal, its thresholds set on other welds than the tested ones.

A candidate reads one or two columns of a weld's scores. Nothing here knows where scores come from.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from edge.validation.lots import WorstLot, half_width, worst_lot
from edge.validation.statistics import Rate
from train.errors import DataError
from train.papers.welds.evaluation import ACCEPTED, interval_over_welds
from train.report import table

RATES: Final = (0.001, 0.003, 0.01)
"""Rates of refusal in the tables."""
SETS: Final = ("defects-high", "defects-mid", "defects-low")
_SWEEP: Final = np.unique(np.concatenate([np.geomspace(2e-4, 0.3, 400), RATES]))
"""Nominal rates: share of the calibrating patches above the threshold."""
_BEYOND: Final = np.arange(20.0, 0.0, -0.05)
"""Before the sweep, at a nominal rate of 0: thresholds so many deviations above all calibrating patches."""

Scores = npt.NDArray[np.float32]
WeldScores = Mapping[str, Scores]
"""Scores (n, k) of one weld's patches by set: accepted, defects-high, -mid, -low."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to read scores.

    One column is taken as it is. Of several without weights a patch counts by the column in which it is rarest among
    the calibrating patches: a threshold each, at the same rank. With weights their standardised sum counts.
    """

    name: str
    columns: tuple[int, ...]
    weights: tuple[float, ...] = ()

    def read(self, scores: Scores, calibrating: Scores) -> npt.NDArray[np.float64]:
        """One score (n,) of each patch."""
        chosen = scores[:, self.columns].astype(np.float64)
        if len(self.columns) == 1:
            return chosen[:, 0]
        reference = calibrating[:, self.columns].astype(np.float64)
        scale = reference.std(axis=0) + 1e-12
        if self.weights:
            return np.asarray(((chosen - reference.mean(axis=0)) / scale) @ np.array(self.weights))
        columns = zip(reference.T, chosen.T, strict=True)
        below = np.stack([np.searchsorted(np.sort(known), new, side="left") for known, new in columns], axis=1)
        rareness = -np.log1p(-below / (len(reference) + 1))
        beyond = np.maximum(0.0, (chosen - reference.max(axis=0)) / scale)
        return np.asarray((rareness + beyond).max(axis=1))


@dataclass(frozen=True, slots=True)
class Curve:
    """Patches above the thresholds, by set: (rates, welds); thresholds fall as the nominal rate grows."""

    welds: tuple[str, ...]
    hits: dict[str, npt.NDArray[np.int64]]
    totals: dict[str, npt.NDArray[np.int64]]
    """(welds,)."""

    def at_nominal(self, rate: float) -> int:
        """Place in the sweep where this share of the calibrating patches is refused."""
        return len(_BEYOND) + int(np.argmin(np.abs(_SWEEP - rate)))

    def at_equal(self, rate: float) -> int:
        """Last place in the sweep where at most this share of the tested accepted patches is refused."""
        refused = self.hits[ACCEPTED].sum(axis=1) / self.totals[ACCEPTED].sum()
        return max(0, int(np.searchsorted(refused, rate, side="right")) - 1)

    def at_least(self, rate: float) -> int:
        """First place in the sweep where at least this share of the tested accepted patches is refused, or the last."""
        refused = self.hits[ACCEPTED].sum(axis=1) / self.totals[ACCEPTED].sum()
        return min(len(refused) - 1, int(np.searchsorted(refused, rate, side="left")))

    def share(self, name: str, place: int) -> float:
        """Share of a set above the thresholds; NaN of an empty one."""
        total = self.totals[name].sum()
        return float(self.hits[name][place].sum() / total) if total else float("nan")

    def interval(self, name: str, place: int) -> tuple[float, float]:
        """Its 95 % interval over other welds."""
        return interval_over_welds(
            [Rate(int(hit), int(total)) for hit, total in zip(self.hits[name][place], self.totals[name], strict=True)]
        )

    def worst(self, name: str, place: int) -> WorstLot | None:
        """The weld with most accepted patches refused, or fewest defects found; None where none has an error."""
        hits, totals = self.hits[name][place], self.totals[name]
        errors = hits if name == ACCEPTED else totals - hits
        return worst_lot(self.welds, errors.tolist(), totals.tolist())

    def welds_with(self, name: str) -> int:
        """How many welds have a patch of a set."""
        return int(np.sum(self.totals[name] > 0))

    def points(self) -> list[tuple[float, dict[str, float]]]:
        """Nominal rate and shares of all sets, place by place."""
        rates = np.concatenate([np.zeros(len(_BEYOND)), _SWEEP])
        return [
            (float(rate), {name: self.share(name, place) for name in self.totals}) for place, rate in enumerate(rates)
        ]


def curve(
    candidates: Mapping[str, Candidate], scores: Mapping[str, WeldScores], others: Mapping[str, Sequence[str]]
) -> Curve:
    """The curve of tested welds, each by its candidate and thresholds from the accepted patches of `others[weld]`."""
    names = list(next(iter(scores.values())))
    hits = {name: np.zeros((len(_BEYOND) + len(_SWEEP), len(others)), np.int64) for name in names}
    totals = {name: np.zeros(len(others), np.int64) for name in names}
    for place, (weld, calibrators) in enumerate(others.items()):
        candidate = candidates[weld]
        calibrating = np.concatenate([scores[other][ACCEPTED] for other in calibrators])
        known = np.sort(candidate.read(calibrating, calibrating))
        thresholds = known[np.maximum(0, len(known) - 1 - np.floor(_SWEEP * len(known) + 1e-9).astype(int))]
        thresholds = np.concatenate([known[-1] + _BEYOND * known.std(), thresholds])
        for name, found in scores[weld].items():
            ordered = np.sort(candidate.read(found, calibrating)) if len(found) else np.zeros(0)
            hits[name][:, place] = len(ordered) - np.searchsorted(ordered, thresholds, side="right")
            totals[name][place] = len(ordered)
    return Curve(tuple(others), hits, totals)


def added(parts: Sequence[Curve]) -> Curve:
    """The curve of several parts' patches together; a weld may be tested in some of them."""
    welds = tuple(dict.fromkeys(weld for part in parts for weld in part.welds))
    hits = {name: np.zeros((len(found), len(welds)), np.int64) for name, found in parts[0].hits.items()}
    totals = {name: np.zeros(len(welds), np.int64) for name in hits}
    for part in parts:
        places = [welds.index(weld) for weld in part.welds]
        for name in hits:
            hits[name][:, places] += part.hits[name]
            totals[name][places] += part.totals[name]
    return Curve(welds, hits, totals)


def more_found(found: Curve, place: int, other: Curve, other_place: int, name: str) -> tuple[float, float, float]:
    """By how much the share of a set is above another curve's, of the same patches, and its 95 % interval over welds.

    Student's t over the welds that have such a patch; of fewer than two -1 to 1.
    """
    totals = found.totals[name][found.totals[name] > 0]
    more = (found.hits[name][place] - other.hits[name][other_place])[found.totals[name] > 0]
    share = float(more.sum() / totals.sum()) if totals.size else float("nan")
    if totals.size < 2:
        return share, -1.0, 1.0
    half = half_width((more - share * totals) / totals.sum())
    return share, share - half, share + half


def merit(found: Curve) -> float:
    """What a choice is made by: mean share of the mid contrast where 0.3 and 1 % of accepted patches are refused."""
    return float(np.mean([found.share("defects-mid", found.at_equal(rate)) for rate in (0.003, 0.01)]))


def leave_one_out(candidate: Candidate, scores: Mapping[str, WeldScores], welds: Sequence[str]) -> Curve:
    """Each of these welds tested by thresholds from the rest of them."""
    others = {weld: [other for other in welds if other != weld] for weld in welds}
    return curve(dict.fromkeys(welds, candidate), scores, others)


def choose(
    candidates: Sequence[Candidate], scores: Mapping[str, WeldScores], welds: Sequence[str]
) -> tuple[Candidate, float]:
    """The candidate of greatest merit on these welds alone, the first of equals, and its merit.

    Raises DataError where the welds show none, for want of patches.
    """
    merits = [merit(leave_one_out(candidate, scores, welds)) for candidate in candidates]
    if np.isnan(merits).all():
        raise DataError(
            f"no filter can be chosen on {', '.join(welds)}: none of their patches has a defect of mid contrast",
            hint="add welds with such defects to the folder, or take a greater --patch-share",
        )
    best = int(np.nanargmax(merits))
    return candidates[best], merits[best]


def fusions(best: Candidate, partners: Sequence[Candidate]) -> list[Candidate]:
    """Sums of two single columns, the best one's with each partner's, in three weights."""
    return [
        Candidate(
            f"{weights[0]:g} {best.name} + {weights[1]:g} {partner.name}", (*best.columns, *partner.columns), weights
        )
        for partner in partners
        if partner.columns != best.columns
        for weights in ((1.0, 1.0), (2.0, 1.0), (1.0, 2.0))
    ]


def rows_markdown(rows: Mapping[str, Curve], *, equal: bool) -> list[str]:
    """One table: filters down, contrasts across at each rate of refusal, with interval over welds and worst weld."""
    heads = [f"{100 * rate:g} %: {part}" for rate in RATES for part in ("high", "mid", "low", "refused")]
    lines = []
    for name, found in rows.items():
        cells = []
        for rate in RATES:
            place = found.at_equal(rate) if equal else found.at_nominal(rate)
            for part, digits in (*((name, 0) for name in SETS), (ACCEPTED, 1)):
                if not found.welds_with(part):
                    cells.append("-")
                    continue
                low, high = (100 * end for end in found.interval(part, place))
                several = found.welds_with(part) > 1
                over = f"{low:.{digits}f} to {high:.{digits}f}" if several else "no interval: 1 weld"
                worst = found.worst(part, place)
                named = "" if worst is None else f"; worst {worst.lot}"
                cells.append(f"{100 * found.share(part, place):.{digits + 1}f} ({over}{named})")
        lines.append([name, *cells])
    counts = [f"{next(iter(rows.values())).welds_with(part)}" for _ in RATES for part in (*SETS, ACCEPTED)]
    return table(["filter", *heads], [*lines, ["*welds with such patches*", *counts]])


def curves_csv(rows: Mapping[str, Curve]) -> str:
    """Found and refused of every row at every nominal rate."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("filter", "nominal", "refused", "high", "mid", "low"))
    for name, found in rows.items():
        for rate, shares in found.points():
            figures = (rate, shares["accepted"], *(shares[part] for part in SETS))
            writer.writerow([name, *(f"{figure:.5f}" for figure in figures)])
    return text.getvalue()
