"""What detectors of the weld benchmark find: thresholds from accepted patches of other welds, rates on every test set.

A detector is a network and the statistics it is read by. Its thresholds are set fold by fold, then the decisions of all
folds are added up; the paper reports the mean over three trainings and (max - min) / 2.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edge.validation.lots import auroc_over_lots, share_over_lots
from edge.validation.statistics import Rate, auroc
from train.metrics import joint_thresholds, threshold_with_above
from train.papers.welds.scores import STATISTICS, Scores

_Kind = TypeVar("_Kind", bound=np.generic)

PATCH_FPR = 0.001
CHECKED = "checked"
ACCEPTED = "accepted"
VALIDATION_DEFECTS = "checked-defects"
"""Accepted validation patches with the training welds' defects in them: what a recipe is chosen on."""

LEARNT = "learnt"
"""Accepted patches of the training welds."""
OF_WELD = "/"
"""Between the name of a set and that of the weld its patches are of, where a set comes weld by weld."""

TestedOf = Mapping[str, Mapping[str, int]]
"""`FoldData.tested_of`."""

Excesses = npt.NDArray[np.float64]
"""How far patches (n,) are above their thresholds, see `excesses`."""

SetScores = Mapping[str, Scores]
"""Scores float32 (n, k) of each set of one fold: `checked/WELD`, `learnt/WELD`, `checked-defects` and the test sets."""


@dataclass(frozen=True, slots=True)
class Detector:
    """A trained variant and how its scores are read."""

    name: str
    variant: str
    columns: tuple[str, ...] = ("mean9", "std9")
    """Names from STATISTICS; empty for the patch classifier, which has one score."""
    ensemble: bool = False
    """The mean residual of all runs, in place of each run's own."""
    calibrated_on: tuple[str, ...] = (CHECKED, LEARNT)
    """Sets of accepted patches whose scores set the thresholds. What one weld shows says little about the next, so the
    training welds count too; the classifier has seen their labels, and is calibrated on validation welds alone."""

    middle_weld: tuple[str, ...] = ()
    """Columns whose threshold is that of the middle weld (median), each weld having set one of its own.
    Unmarked indications along one weld would otherwise decide what is found on all others."""

    def read(self, scores: Scores) -> Scores:
        """The detector's columns (n, k) of a network's scores."""
        return scores[:, [STATISTICS.index(name) for name in self.columns]] if self.columns else scores


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run of a detector over all folds."""

    flagged: dict[str, Rate]
    """Rate of patches above the thresholds that accepted patches of other welds set, by set."""
    flagged_own: dict[str, Rate]
    """Rate of patches above the thresholds that accepted test patches set, by set, as the paper's tables may be read.

    The accepted test patches are those of all folds, since one fold has too few for a rate of 0.1 %."""
    auroc: dict[str, float]
    """AUROC of every set of anomalies against the accepted test patches."""
    by_weld: dict[str, dict[str, Rate]]
    """`flagged` of the test sets of real patches, by the weld that they are of."""
    own_by_weld: dict[str, dict[str, Rate]]
    """`flagged_own` of them."""
    auroc_over_welds: dict[str, tuple[float, float]] = field(default_factory=dict)
    """95 % interval of `auroc` over other welds, of the sets in `by_weld` that two welds have patches of."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A share in a table: mean and half spread over the runs, and its interval.

    Over other welds, by the first run, where the welds of the patches are known; else by one run's number of patches,
    which is too narrow, for patches of one weld resemble each other. Of one weld there is none: 0 to 1.
    """

    mean: float
    half_spread: float
    total: int
    low: float
    high: float
    welds: int | None = None
    """Welds that have such patches; None where it is not known which they are of."""


def thresholds_of(detector: Detector, scores: SetScores, fpr: float = PATCH_FPR) -> npt.NDArray[np.float64]:
    """Thresholds (k,) of one fold: at most `fpr` of the patches it is calibrated on exceed any of them.

    Those of `Detector.middle_weld` are exceeded by no more of the middle weld's patches.
    """
    accepted = calibration_scores(detector, scores)
    thresholds = _joint_thresholds(np.concatenate(accepted), fpr)
    middle = [detector.columns.index(name) for name in detector.middle_weld]
    if middle:
        each = [_joint_thresholds(of_weld[:, middle], fpr) for of_weld in accepted if len(of_weld)]
        thresholds[middle] = np.median(each, axis=0)
    return thresholds


def calibration_scores(detector: Detector, scores: SetScores) -> list[Scores]:
    """The detector's columns (n, k) of the accepted patches that its thresholds are set on, weld by weld."""
    return [detector.read(found) for name, found in scores.items() if set_of(name) in detector.calibrated_on]


def set_of(name: str) -> str:
    """The set that the patches of one weld belong to."""
    return name.partition(OF_WELD)[0]


def _joint_thresholds(scores: Scores, fpr: float) -> npt.NDArray[np.float64]:
    return joint_thresholds(scores, math.floor(fpr * len(scores)))


def excesses(detector: Detector, scores: SetScores, fpr: float = PATCH_FPR) -> dict[str, Excesses]:
    """Excess (n,) of each patch over its thresholds, by set; above 0 is anomalous.

    In deviations of the scores it is calibrated on, the greatest over the columns: one scale for all folds.
    """
    thresholds = thresholds_of(detector, scores, fpr)
    scale = np.concatenate(calibration_scores(detector, scores)).astype(np.float64).std(axis=0) + 1e-12
    parts: defaultdict[str, list[Excesses]] = defaultdict(list)
    for name, found in scores.items():
        parts[set_of(name)].append(((detector.read(found) - thresholds) / scale).max(axis=1))
    return {name: np.concatenate(of_welds) for name, of_welds in parts.items()}


def evaluate(
    detector: Detector,
    folds: Sequence[SetScores],
    tested_of: Sequence[TestedOf] = (),
    fpr: float = PATCH_FPR,
) -> Outcome:
    """One run over all folds; `tested_of` is given for each, or for none. A weld may be tested in several folds."""
    of_folds = [excesses(detector, scores, fpr) for scores in folds]
    names = list(dict.fromkeys(name for fold in of_folds for name in fold))
    flagged, flagged_own, areas = {}, {}, {}
    accepted = np.concatenate([fold[ACCEPTED] for fold in of_folds])
    own = threshold_with_above(accepted, math.floor(fpr * len(accepted))) if len(accepted) else math.inf
    for name in names:
        parts = [fold[name] for fold in of_folds]
        total = sum(len(part) for part in parts)
        flagged[name] = Rate(sum(int(np.sum(part > 0)) for part in parts), total)
        flagged_own[name] = Rate(sum(int(np.sum(part > own)) for part in parts), total)
        if name not in (CHECKED, LEARNT, ACCEPTED):
            labels = np.repeat([0, 1], [len(accepted), total])
            areas[name] = auroc(np.concatenate([accepted, *parts]), labels)
    of_welds = _by_weld(of_folds, tested_of)
    by_weld, own_by_weld = (
        {
            name: {weld: Rate(int(np.sum(found > threshold)), len(found)) for weld, found in welds.items()}
            for name, welds in of_welds.items()
        }
        for threshold in (0.0, own)
    )
    over_welds = {
        name: interval
        for name, welds in of_welds.items()
        if name in areas and (interval := auroc_over_welds(welds, of_welds.get(ACCEPTED, {}))) is not None
    }
    return Outcome(flagged, flagged_own, areas, by_weld, own_by_weld, over_welds)


def _by_weld(
    of_folds: Sequence[Mapping[str, Excesses]], tested_of: Sequence[TestedOf]
) -> dict[str, dict[str, Excesses]]:
    """Excesses (n,) by set and weld, those of all folds together."""
    parts: dict[str, dict[str, list[Excesses]]] = {}
    for fold, of_sets in zip(of_folds, tested_of, strict=False):
        for name, counts in of_sets.items():
            for weld, found in split_by_weld(fold[name], counts).items():
                parts.setdefault(name, {}).setdefault(weld, []).append(found)
    return {name: {weld: np.concatenate(found) for weld, found in welds.items()} for name, welds in parts.items()}


def split_by_weld(found: npt.NDArray[_Kind], counts: Mapping[str, int]) -> dict[str, npt.NDArray[_Kind]]:
    """What is known of the patches of a set (n, ...), weld by weld: so many of each, in this order."""
    ends = np.cumsum(list(counts.values()), dtype=int)
    return dict(zip(counts, np.split(found, ends)[:-1], strict=True))


def auroc_over_welds(found: Mapping[str, Excesses], accepted: Mapping[str, Excesses]) -> tuple[float, float] | None:
    """95 % interval of the AUROC of anomalous against accepted patches, both by weld, had other welds been tested.

    None unless two welds have anomalous patches, and one an accepted one; 0 to 1 where that is the only one.
    """
    if sum(len(part) > 0 for part in found.values()) < 2 or not any(len(part) for part in accepted.values()):
        return None
    parts = [(weld, part, label) for label, of in ((1, found), (0, accepted)) for weld, part in of.items()]
    over = auroc_over_lots(
        np.concatenate([part for _, part, _ in parts]),
        np.concatenate([np.full(len(part), label) for _, part, label in parts]),
        [weld for weld, part, _ in parts for _ in part],
    )
    return None if over is None else (over.low, over.high)


def interval_over_welds(rates: Sequence[Rate]) -> tuple[float, float]:
    """95 % interval of the share of all, had other welds of the same kind been tested.

    Of fewer than two welds with a patch there is none: 0 to 1.
    """
    over = share_over_lots([rate.hits for rate in rates], [rate.total for rate in rates])
    return (0.0, 1.0) if over is None else (over.low, over.high)


def entry(rates: Sequence[Rate], welds: Sequence[Rate] = ()) -> Entry:
    """The runs' rates of one set as the paper's tables give them; `welds`: those of the first run, weld by weld."""
    shares = [rate.share for rate in rates]
    total = rates[0].total
    if not total:
        return Entry(math.nan, math.nan, 0, 0.0, 1.0)
    mean = float(np.mean(shares))
    low, high = interval_over_welds(welds) if welds else Rate(round(mean * total), total).interval
    count = sum(rate.total > 0 for rate in welds) if welds else None
    return Entry(mean, (max(shares) - min(shares)) / 2, total, low, high, count)
