"""Sorts judged scans by size or severity of their anomalies, for the curves of `edge.validation.detection`. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edge.records import Policy
from edge.validation.agreement import most_errors, tally_of
from edge.validation.detection import PodCurve, SizeScale, hit_miss, signal_response
from edge.validation.labels import Label, LabelRow
from edge.validation.lots import WorstLot
from edge.validation.reliability import CURVE_POINTS, CURVES, Detection
from edge.validation.table import ScanRow, select

SEVERITY = "severity"
STOPPED = "Stopped by the line (abnormal, review or unreadable)"
CALLED = "Called abnormal"
P_SIGNAL = "Probability over size (signal response)"
GATE_SIGNAL = "Gate score over size (signal response)"

Measures = tuple[tuple[str, Callable[[LabelRow], Sequence[float]]], ...]
"""Sizes of anomalies by their unit, the best first."""

LENGTHS: Measures = (
    ("mm", lambda truth: truth.sizes_mm),
    ("px", lambda truth: truth.sizes_px),
    (SEVERITY, lambda truth: truth.severities),
)
AREAS: Measures = (("mm²", lambda truth: truth.areas_mm2), ("px²", lambda truth: truth.areas_px))

_P_CLIP = 1e-6
"""Probabilities nearer to 0 or 1 than this are censored: single precision does not tell them apart."""

Sized = Sequence[tuple[ScanRow, float]]
"""Scans with the size, area or severity of their largest anomaly."""


@dataclass(frozen=True, slots=True)
class SizedScans:
    """Labelled scans by what the labels say of their anomalies, in the best measure that they have."""

    abnormal: Sequence[ScanRow]
    size_name: str | None
    """Measure of `sized`; None where no size and no severity is known."""
    sized: Sized
    area_name: str | None
    with_area: Sized
    graded: Sized
    """By severity, scans whose anomalies the label tolerates among them."""

    @classmethod
    def of(cls, labelled: Sequence[ScanRow], truths: Mapping[str, LabelRow]) -> SizedScans:
        """The scans of `labelled` that have a size in the rows of their files."""
        abnormal = select(labelled, lambda row: row.label is Label.ABNORMAL)
        size_name, sized = _with_size(abnormal, truths, LENGTHS)
        area_name, with_area = _with_size(abnormal, truths, AREAS)
        return cls(abnormal, size_name, sized, area_name, with_area, _with_severity(labelled, truths))

    def detections(self, policy: Policy, scale: SizeScale) -> tuple[Detection, ...]:
        """Curves over severity, over size and over area, as far as the labels know them."""
        if self.size_name == SEVERITY:
            found = [*_hits(self.graded, SEVERITY, scale), *_signals(self.graded, SEVERITY, policy, scale)]
        else:
            found = _hits(self.graded, SEVERITY, scale) if self.graded else []
            if self.size_name is not None:
                over_size = _hits(self.sized, self.size_name, scale)
                over_size += _signals(self.sized, self.size_name, policy, scale)
                found += [_without_size(item, self.abnormal, self.sized) for item in over_size]
        if self.area_name is not None:
            over_area = _hits(self.with_area, self.area_name, scale)
            found += [_without_size(item, self.abnormal, self.with_area) for item in over_area]
        return tuple(found)

    def figures(self, detections: Sequence[Detection]) -> dict[str, float | None]:
        """Figures of every curve of CURVES; None where there is no curve."""
        of_curves = {
            "stopped": (STOPPED, self.size_name),
            "called": (CALLED, self.size_name),
            "severity": (STOPPED, SEVERITY),
            "severity_called": (CALLED, SEVERITY),
            "area": (STOPPED, self.area_name),
            "area_called": (CALLED, self.area_name),
            "p": (P_SIGNAL, self.size_name),
            "gate": (GATE_SIGNAL, self.size_name),
        }
        found = {(item.name, item.unit): item.curve for item in detections}
        figures: dict[str, float | None] = {}
        for name in CURVES:
            title, unit = of_curves[name]
            curve = None if unit is None else found.get((title, unit))
            for point in CURVE_POINTS:
                figures[f"{name}_{point}"] = getattr(curve, point) if isinstance(curve, PodCurve) else None
        return figures


def _with_size(
    abnormal: Sequence[ScanRow], truths: Mapping[str, LabelRow], measures: Measures
) -> tuple[str | None, list[tuple[ScanRow, float]]]:
    """Abnormal scans with the size of their largest anomaly, in the best measure that most of them have."""
    best: tuple[str | None, list[tuple[ScanRow, float]]] = (None, [])
    for name, measure in measures:
        found = [
            (row, size)
            for row in abnormal
            if (truth := truths.get(row.file)) is not None and (size := max(measure(truth), default=0.0)) > 0
        ]
        if len(found) > 2 * len(best[1]):  # a poorer measure must know many more scans
            best = (name, found)
    return best


def _with_severity(labelled: Sequence[ScanRow], truths: Mapping[str, LabelRow]) -> list[tuple[ScanRow, float]]:
    """Scans with the severity of their worst anomaly, those whose anomalies the label tolerates among them.

    Severity is one scale for all kinds, on which the label is a boundary: a curve over it needs both sides. Sizes are
    none: a long smear may be tolerated, a short cut not.
    """
    severities = ((row, max(truths[row.file].severities, default=0.0)) for row in labelled if row.file in truths)
    return [(row, severity) for row, severity in severities if severity > 0]


def _hits(sized: Sized, unit: str, scale: SizeScale) -> list[Detection]:
    """Curves of hit or miss."""
    sizes = np.array([size for _, size in sized], np.float64)
    rows = [row for row, _ in sized]
    tolerated = sum(row.label is Label.NORMAL for row in rows)
    found = []
    for name, hits in ((STOPPED, [row.is_stopped for row in rows]), (CALLED, [row.is_called for row in rows])):
        curve = hit_miss(sizes, np.array(hits, bool), scale, [row.lot_name for row in rows])
        if tolerated and isinstance(curve, PodCurve):
            note = f"{tolerated} of them are tolerated (label normal): those found are false calls."
            curve = replace(curve, notes=(*curve.notes, note))
        found.append(Detection(name, unit, curve, _worst_missed(rows, hits)))
    return found


def _worst_missed(rows: Sequence[ScanRow], hits: Sequence[bool]) -> WorstLot | None:
    return most_errors(tally_of((not is_hit, row.lot_name) for row, is_hit in zip(rows, hits, strict=True)))


def _without_size(item: Detection, abnormal: Sequence[ScanRow], sized: Sized) -> Detection:
    """The curve, with a word on the abnormal scans that it lacks."""
    if len(sized) == len(abnormal) or not isinstance(item.curve, PodCurve):
        return item
    note = (
        f"{len(abnormal) - len(sized)} of {len(abnormal)} abnormal scans have no size in {item.unit} and are left out."
    )
    return replace(item, curve=replace(item.curve, notes=(*item.curve.notes, note)))


def _signals(sized: Sized, unit: str, policy: Policy, scale: SizeScale) -> list[Detection]:
    """Curves of the probability and of the gate score."""
    found = []
    scored = [(size, row.p_abnormal, row) for row, size in sized if row.p_abnormal is not None]
    if scored and 0 < policy.threshold < 1:
        end = _log_odds(1 - _P_CLIP)
        found.append(
            Detection(
                P_SIGNAL,
                unit,
                signal_response(
                    np.array([size for size, _, _ in scored]),
                    np.array([_log_odds(p) for _, p, _ in scored]),
                    _log_odds(policy.threshold),
                    -end,
                    end,
                    scale,
                    [row.lot_name for _, _, row in scored],
                ),
                _worst_missed([row for _, _, row in scored], [p >= policy.threshold for _, p, _ in scored]),
            )
        )
    gated = [(size, ratio, row) for row, size in sized if (ratio := _gate_ratio(row, policy)) is not None]
    if gated:
        found.append(
            Detection(
                GATE_SIGNAL,
                unit,
                signal_response(
                    np.array([size for size, _, _ in gated]),
                    np.log([ratio for _, ratio, _ in gated]),
                    0.0,
                    scale=scale,
                    lots=[row.lot_name for _, _, row in gated],
                ),
                _worst_missed([row for _, _, row in gated], [ratio > 1 for _, ratio, _ in gated]),
            )
        )
    return found


def _gate_ratio(row: ScanRow, policy: Policy) -> float | None:
    """The gate's worse score as a multiple of its threshold."""
    ratios = [
        score / threshold
        for score, threshold in (
            (row.gate_mean_max, policy.gate_mean_threshold),
            (row.gate_std_max, policy.gate_std_threshold),
        )
        if score is not None and threshold > 0
    ]
    ratio = max(ratios, default=0.0)
    return ratio if 0 < ratio < math.inf else None


def _log_odds(p: float) -> float:
    clipped = min(max(p, _P_CLIP), 1 - _P_CLIP)
    return math.log(clipped / (1 - clipped))
