"""Detectors of a recipe at equal rates of refusal, each held against one of them pair by pair over the welds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from train.papers.welds.curves import RATES, SETS, Candidate, Curve, added, curve, more_found, rows_markdown
from train.papers.welds.evaluation import ACCEPTED, Detector, SetScores, TestedOf, set_of, split_by_weld
from train.papers.welds.scores import STATISTICS, Scores
from train.papers.welds.task import Task
from train.report import table


def refusal_tables(curves: Mapping[str, Curve], beside: str) -> list[str]:
    """Markdown: all curves, by detector, at nominal and at equal rates, and what each finds more than `beside`."""
    return [
        "## Nominal: thresholds at this rate of the other welds' accepted patches, first run",
        "",
        *rows_markdown(curves, equal=False),
        "",
        "## Equal: at most this rate of the tested accepted patches refused, all folds together",
        "",
        *rows_markdown(curves, equal=True),
        "",
        f"## Found more than by {beside}, at equal refusal",
        "",
        *more_markdown(curves, beside),
    ]


def more_markdown(curves: Mapping[str, Curve], beside: str) -> list[str]:
    """Detectors down, sets across at each rate: points found more than by `beside`, 95 % over welds.

    *At its next*: beside the first point where the other refuses as many as the detector does.
    """
    other = curves[beside]
    parts = {name: name.removeprefix("defects-") for name in SETS}
    heads = [f"{100 * rate:g} %: {part}" for rate in RATES for part in (*parts.values(), "mid, at its next")]
    rows = []
    for name, found in curves.items():
        if name == beside:
            continue
        cells = []
        for rate in RATES:
            place, others = found.at_equal(rate), other.at_equal(rate)
            following = max(others, other.at_least(found.share(ACCEPTED, place)))
            cells += [_more(more_found(found, place, other, others, part)) for part in parts]
            cells.append(_more(more_found(found, place, other, following, "defects-mid")))
        rows.append([name, *cells])
    return table(["detector", *heads], rows)


def _more(found: tuple[float, float, float]) -> str:
    if math.isnan(found[0]):
        return "-"
    more, low, high = (100 * figure for figure in found)
    return f"{more:+.1f} ({low:+.1f} to {high:+.1f})"


def compared(detectors: Sequence[Detector]) -> list[Detector]:
    """Those that a curve can be of: run by run, all thresholds of all welds together."""
    return [detector for detector in detectors if not (detector.ensemble or detector.middle_weld)]


def first_curves(
    detectors: Sequence[Detector],
    tasks: Sequence[Task],
    scores_of: Callable[[Task], SetScores],
    tested_of: Sequence[TestedOf],
) -> dict[str, Curve]:
    """Curve of each detector's first run, by name; a fold's network has the scores `scores_of` gives."""
    curves = {}
    for detector in compared(detectors):
        first = [task for task in tasks if task.run == 1 and task.variant.name == detector.variant]
        curves[detector.name] = curve_of(detector, [scores_of(task) for task in first], tested_of)
    return curves


def curve_of(detector: Detector, folds: Sequence[SetScores], tested_of: Sequence[TestedOf]) -> Curve:
    """The detector's curve, of all folds together: in each, thresholds from what it is calibrated on.

    Columns are read as a `Candidate` reads them.
    """
    candidate = Candidate(detector.name, tuple(STATISTICS.index(name) for name in detector.columns))
    return added([_of_fold(detector, candidate, *fold) for fold in zip(folds, tested_of, strict=True)])


def _of_fold(detector: Detector, candidate: Candidate, scores: SetScores, tested_of: TestedOf) -> Curve:
    welds = list(dict.fromkeys(weld for counts in tested_of.values() for weld in counts))
    none = np.zeros((0, len(STATISTICS)), np.float32)
    tested: dict[str, dict[str, Scores]] = {weld: dict.fromkeys(tested_of, none) for weld in welds}
    for name, counts in tested_of.items():
        for weld, found in split_by_weld(scores[name], counts).items():
            tested[weld][name] = found
    known = {name: {ACCEPTED: found} for name, found in scores.items() if set_of(name) in detector.calibrated_on}
    others = {weld: list(known) for weld in welds}
    return curve(dict.fromkeys(welds, candidate), {**tested, **known}, others)
