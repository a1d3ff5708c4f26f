"""Judged scans, counted for what they mean at the plant: see `edge.validation.cost`. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from edge.records import Outcome
from edge.validation.cost import (
    CostCurve,
    PlantBounds,
    PlantFigures,
    VerdictCounts,
    cost_curve,
    plant_bounds,
    plant_figures,
)
from edge.validation.labels import Label
from edge.validation.reliability import Plant
from edge.validation.table import ScanRow


def measure_plant(
    abnormal: Sequence[ScanRow], normal: Sequence[ScanRow], plant: Plant
) -> tuple[PlantFigures | None, PlantBounds | None, CostCurve | None]:
    """Figures, their limits over lots and the curve; None without a defect rate, prices, or scans of both labels."""
    if plant.defect_rate is None or not abnormal or not normal:
        return None, None, None
    labelled = [*abnormal, *normal]
    figures = plant_figures(_verdicts(labelled), plant.defect_rate, plant.prices)
    lots: dict[str | None, list[ScanRow]] = {}
    for row in labelled:
        lots.setdefault(row.lot, []).append(row)
    over_lots = plant_bounds([_verdicts(rows) for rows in lots.values()], plant.defect_rate, plant.prices)
    if plant.prices is None:
        return figures, over_lots, None
    curve = cost_curve(
        np.array([1.0 if row.p_abnormal is None else row.p_abnormal for row in labelled]),
        np.array([row.label is Label.ABNORMAL for row in labelled], np.int64),
        np.array([_is_for_person(row) or row.p_abnormal is None for row in labelled], bool),
        plant.defect_rate,
        plant.prices,
    )
    return figures, over_lots, curve


def _verdicts(labelled: Sequence[ScanRow]) -> VerdictCounts:
    count = Counter((row.label, row.outcome) for row in labelled)
    scans = {label: sum(count[label, outcome] for outcome in Outcome) for label in Label}
    reviewed = {label: count[label, Outcome.REVIEW] + count[label, Outcome.UNREADABLE] for label in Label}
    return VerdictCounts(
        abnormal=scans[Label.ABNORMAL],
        escaped=count[Label.ABNORMAL, Outcome.NORMAL],
        reviewed_abnormal=reviewed[Label.ABNORMAL],
        normal=scans[Label.NORMAL],
        overkill=count[Label.NORMAL, Outcome.ABNORMAL],
        reviewed_normal=reviewed[Label.NORMAL],
    )


def _is_for_person(row: ScanRow) -> bool:
    return row.outcome in (Outcome.REVIEW, Outcome.UNREADABLE)
