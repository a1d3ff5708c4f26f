"""Measures the figures of `edge.validation.reliability` on judged scans and their labels. Pure.

Each figure comes from the calculation modules beside this one; here the scans are sorted into what those take.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edge.records import Outcome, Policy
from edge.validation.agreement import (
    AttributeRow,
    Kappa,
    attribute_row,
    cohen_kappa,
    fleiss_kappa,
    pair_table,
    repeatability,
    vote_table,
)
from edge.validation.detection import PodCurve, SizeScale, hit_miss, signal_response
from edge.validation.labels import Label, LabelRow
from edge.validation.lots import (
    NO_LOT,
    LotInterval,
    auprc_over_lots,
    auroc_over_lots,
    balanced_accuracy_over_lots,
    share_over_lots,
    worst_lot,
)
from edge.validation.plant import measure_plant
from edge.validation.reliability import (
    CURVE_POINTS,
    CURVES,
    Detection,
    GroupRecall,
    LotError,
    Plant,
    Reliability,
    ReliabilityFigures,
)
from edge.validation.sample_size import bound_sentence, lower_bound, size_sentence, upper_bound
from edge.validation.statistics import none_if_nan, wilson
from edge.validation.table import ScanRow, select

SEVERITY = "severity"
STOPPED = "Stopped by the line (abnormal, review or unreadable)"
CALLED = "Called abnormal"
P_SIGNAL = "Probability over size (signal response)"
GATE_SIGNAL = "Gate score over size (signal response)"
SHOWN_RATE = 0.01
"""Escape rate that the sample-size sentence aims at."""

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


def measure_reliability(
    rows: Sequence[ScanRow],
    truths: Mapping[str, LabelRow],
    policy: Policy,
    plant: Plant,
    scale: SizeScale = SizeScale.LOG,
) -> Reliability:
    """All of it, from the judged scans and the label rows of their files; `scale` is what curves run over."""
    abnormal = select(rows, lambda row: row.label is Label.ABNORMAL)
    normal = select(rows, lambda row: row.label is Label.NORMAL)
    escapes, overkill = sum(row.is_escape for row in abnormal), sum(row.is_overkill for row in normal)
    size_name, sized = _with_size(abnormal, truths, LENGTHS)
    area_name, with_area = _with_size(abnormal, truths, AREAS)
    graded = _with_severity(select(rows, lambda row: row.label is not None), truths)
    if size_name == SEVERITY:
        detections = _detections(graded, SEVERITY, policy, scale)
    else:
        detections = () if size_name is None else _detections(sized, size_name, policy, scale)
        detections = tuple(_without_size(item, abnormal, sized) for item in detections)
        detections = (*_hits(graded, SEVERITY, scale), *detections) if graded else detections
    if area_name is not None:
        over_area = (_without_size(item, abnormal, with_area) for item in _hits(with_area, area_name, scale))
        detections = (*detections, *over_area)
    kinds = _by_kind(abnormal, truths)
    scored = select(rows, lambda row: row.label is not None and row.p_abnormal is not None)
    lot_errors = (
        _lot_error("Escapes", abnormal, lambda row: row.is_escape),
        _lot_error("Overkill", normal, lambda row: row.is_overkill),
        _lot_error("Sent to review", rows, lambda row: row.outcome is Outcome.REVIEW),
        _lot_error("Unreadable", rows, lambda row: row.outcome is Outcome.UNREADABLE),
        _lot_error("Called wrongly by the classifier", scored, lambda row: _is_called_wrongly(row, policy.threshold)),
    )
    alone = _accuracy(scored, lambda row: row.p_abnormal is not None and row.p_abnormal >= policy.threshold)
    decided = _accuracy(rows, lambda row: _DECIDED.get(row.outcome))
    scores = np.array([row.p_abnormal for row in scored], np.float64)
    classes = np.array([row.label is Label.ABNORMAL for row in scored], np.int64)
    lots_of_scores = [_lot(row) for row in scored]
    area, precision = (over(scores, classes, lots_of_scores) for over in (auroc_over_lots, auprc_over_lots))
    each = range(len(scores))  # a scan as a lot of its own: independent scans
    area_of_scans, precision_of_scans = (over(scores, classes, each) for over in (auroc_over_lots, auprc_over_lots))
    of_plant, plant_over_lots, costs = measure_plant(abnormal, normal, plant)
    listed = select(rows, lambda row: row.file in truths)
    people, kappas, attributes = _agreement(listed, truths)
    by_line = attributes[0]
    line_kappa = cohen_kappa(
        pair_table(
            [_is_stopped(row) for row in listed],
            [_defective(row.label) for row in listed],
            [_lot(row) for row in listed],
        )
    )
    if line_kappa is not None:
        kappas = (("Line and label (Cohen)", line_kappa), *kappas)
    repeats = repeatability(
        [truths[row.file].part_id for row in listed],
        [row.outcome for row in listed],
        [row.p_abnormal for row in listed],
    )
    figures = ReliabilityFigures(
        escape_rate_bound=upper_bound(escapes, len(abnormal)) if abnormal else None,
        detection_rate_bound=lower_bound(len(abnormal) - escapes, len(abnormal)) if abnormal else None,
        false_call_rate=overkill / len(normal) if normal else None,
        false_call_rate_bound=upper_bound(overkill, len(normal)) if normal else None,
        lots_count=len({_lot(row) for row in rows if row.label is not None}),
        escape_rate_lots_low=_low(lot_errors[0].interval),
        escape_rate_lots_high=_high(lot_errors[0].interval),
        overkill_rate_lots_low=_low(lot_errors[1].interval),
        overkill_rate_lots_high=_high(lot_errors[1].interval),
        review_rate_lots_low=_low(lot_errors[2].interval),
        review_rate_lots_high=_high(lot_errors[2].interval),
        unreadable_rate_lots_low=_low(lot_errors[3].interval),
        unreadable_rate_lots_high=_high(lot_errors[3].interval),
        balanced_accuracy_lots_low=_low(alone.balanced),
        balanced_accuracy_lots_high=_high(alone.balanced),
        sensitivity_lots_low=_low(alone.sensitivity),
        sensitivity_lots_high=_high(alone.sensitivity),
        specificity_lots_low=_low(alone.specificity),
        specificity_lots_high=_high(alone.specificity),
        balanced_accuracy_decided_lots_low=_low(decided.balanced),
        balanced_accuracy_decided_lots_high=_high(decided.balanced),
        auroc_low=_low(area_of_scans),
        auroc_high=_high(area_of_scans),
        auroc_lots_low=_low(area),
        auroc_lots_high=_high(area),
        auprc_low=_low(precision_of_scans),
        auprc_high=_high(precision_of_scans),
        auprc_lots_low=_low(precision),
        auprc_lots_high=_high(precision),
        escape_rate_worst_lot=_worst_share(lot_errors[0], bool(abnormal)),
        overkill_rate_worst_lot=_worst_share(lot_errors[1], bool(normal)),
        review_rate_worst_lot=_worst_share(lot_errors[2], bool(rows)),
        unreadable_rate_worst_lot=_worst_share(lot_errors[3], bool(rows)),
        wrong_calls_worst_lot=_worst_share(lot_errors[4], bool(scored)),
        recall_worst_kind=min((kind.stopped / kind.scans for kind in kinds), default=None),
        recall_worst_kind_low=min((kind.over_lots.low for kind in kinds), default=None),
        escapes_ppm=None if of_plant is None else of_plant.escapes_ppm,
        escapes_ppm_bound=None if of_plant is None else of_plant.escapes_ppm_bound,
        escapes_ppm_lots_bound=None if plant_over_lots is None else plant_over_lots.escapes_ppm,
        value_of_normal=None if of_plant is None else none_if_nan(of_plant.value_of_normal),
        value_of_normal_bound=None if of_plant is None else none_if_nan(of_plant.value_of_normal_bound),
        value_of_normal_lots_bound=None if plant_over_lots is None else none_if_nan(plant_over_lots.value_of_normal),
        value_of_abnormal=None if of_plant is None else none_if_nan(of_plant.value_of_abnormal),
        value_of_abnormal_bound=None if of_plant is None else none_if_nan(of_plant.value_of_abnormal_bound),
        value_of_abnormal_lots_bound=None
        if plant_over_lots is None
        else none_if_nan(plant_over_lots.value_of_abnormal),
        cost_per_scan=None if of_plant is None else of_plant.cost_per_scan,
        cost_per_scan_bound=None if of_plant is None else of_plant.cost_per_scan_bound,
        cost_per_scan_lots_bound=None if plant_over_lots is None else plant_over_lots.cost_per_scan,
        cheapest_threshold=None if costs is None else costs.cheapest,
        cheapest_cost_per_scan=None if costs is None else float(costs.cost.min()),
        people_count=sum(row.appraiser.startswith("Person") and row.parts > 0 for row in attributes),
        kappa_people=None if people is None else none_if_nan(people.kappa),
        kappa_people_low=None if people is None else none_if_nan(people.low),
        kappa_people_high=None if people is None else none_if_nan(people.high),
        kappa_people_lots_low=_low(None if people is None else people.over_lots),
        kappa_people_lots_high=_high(None if people is None else people.over_lots),
        kappa_line=None if line_kappa is None else none_if_nan(line_kappa.kappa),
        kappa_line_low=None if line_kappa is None else none_if_nan(line_kappa.low),
        kappa_line_high=None if line_kappa is None else none_if_nan(line_kappa.high),
        kappa_line_lots_low=_low(None if line_kappa is None else line_kappa.over_lots),
        kappa_line_lots_high=_high(None if line_kappa is None else line_kappa.over_lots),
        line_effectiveness=by_line.effectiveness,
        line_effectiveness_low=wilson(by_line.right, by_line.parts).low if by_line.parts else None,
        line_effectiveness_high=wilson(by_line.right, by_line.parts).high if by_line.parts else None,
        line_effectiveness_lots_low=_low(by_line.right_over_lots),
        line_effectiveness_lots_high=_high(by_line.right_over_lots),
        line_miss_rate=by_line.miss_rate,
        line_miss_rate_high=wilson(by_line.missed, by_line.defective).high if by_line.defective else None,
        line_miss_rate_lots_high=_high(by_line.missed_over_lots),
        line_false_alarm_rate=by_line.false_alarm_rate,
        line_false_alarm_rate_high=wilson(by_line.false_alarms, by_line.good).high if by_line.good else None,
        line_false_alarm_rate_lots_high=_high(by_line.false_alarms_over_lots),
        rescanned_parts_count=0 if repeats is None else repeats.parts,
        flipped_parts_count=None if repeats is None else len(repeats.flipped),
        flipped_parts_share_bound=None if repeats is None else upper_bound(len(repeats.flipped), repeats.parts),
        p_repeat_deviation=None if repeats is None else repeats.p_deviation,
        p_repeat_widest=None if repeats is None else repeats.p_widest,
        curves=_curve_figures(detections, size_name, area_name),
        rows=_row_figures(kinds, attributes[1:], kappas),
    )
    return Reliability(
        figures=figures,
        sentences=_sentences(abnormal, normal),
        detections=detections,
        kinds=kinds,
        severities=_by_size(graded, SEVERITY, bins=10),
        sizes=() if size_name == SEVERITY else _by_size(sized, size_name),
        size_name=size_name,
        lot_errors=lot_errors if abnormal or normal else (),
        plant=of_plant,
        costs=costs,
        attributes=tuple(row for row in attributes if row.parts),
        kappas=kappas,
        repeats=repeats,
        is_own_majority=any(truths[row.file].is_majority for row in listed),
    )


def _sentences(abnormal: Sequence[ScanRow], normal: Sequence[ScanRow]) -> tuple[str, ...]:
    """What the numbers of scans carry, in words."""
    sentences = []
    if abnormal:
        escapes = sum(row.is_escape for row in abnormal)
        sentences.append(bound_sentence(escapes, len(abnormal), "escapes"))
        sentences.append(size_sentence(escapes, len(abnormal), "escapes", SHOWN_RATE))
    if normal:
        sentences.append(bound_sentence(sum(row.is_overkill for row in normal), len(normal), "false calls"))
    if sentences:
        sentences.append("These bounds take scans as independent; the intervals over lots below do not.")
    return tuple(sentences)


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


def _hits(sized: Sequence[tuple[ScanRow, float]], unit: str, scale: SizeScale) -> list[Detection]:
    """Curves of hit or miss."""
    sizes = np.array([size for _, size in sized], np.float64)
    rows = [row for row, _ in sized]
    tolerated = sum(row.label is Label.NORMAL for row in rows)
    found = []
    for name, is_hit in ((STOPPED, _is_stopped), (CALLED, _is_called)):
        curve = hit_miss(sizes, np.array([is_hit(row) for row in rows], bool), scale, [_lot(row) for row in rows])
        if tolerated and isinstance(curve, PodCurve):
            note = f"{tolerated} of them are tolerated (label normal): those found are false calls."
            curve = replace(curve, notes=(*curve.notes, note))
        found.append(Detection(name, unit, curve))
    return found


def _without_size(item: Detection, abnormal: Sequence[ScanRow], sized: Sequence[tuple[ScanRow, float]]) -> Detection:
    """The curve, with a word on the abnormal scans that it lacks."""
    if len(sized) == len(abnormal) or not isinstance(item.curve, PodCurve):
        return item
    note = (
        f"{len(abnormal) - len(sized)} of {len(abnormal)} abnormal scans have no size in {item.unit} and are left out."
    )
    return replace(item, curve=replace(item.curve, notes=(*item.curve.notes, note)))


def _detections(
    sized: Sequence[tuple[ScanRow, float]], unit: str, policy: Policy, scale: SizeScale
) -> tuple[Detection, ...]:
    found = _hits(sized, unit, scale)
    scored = [(size, row.p_abnormal, _lot(row)) for row, size in sized if row.p_abnormal is not None]
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
                    [lot for _, _, lot in scored],
                ),
            )
        )
    gated = [(size, ratio, _lot(row)) for row, size in sized if (ratio := _gate_ratio(row, policy)) is not None]
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
                    lots=[lot for _, _, lot in gated],
                ),
            )
        )
    return tuple(found)


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


def _by_kind(abnormal: Sequence[ScanRow], truths: Mapping[str, LabelRow]) -> tuple[GroupRecall, ...]:
    groups: dict[str, list[ScanRow]] = {}
    for row in abnormal:
        truth = truths.get(row.file)
        for kind in dict.fromkeys(truth.kinds if truth is not None else ()):
            groups.setdefault(kind, []).append(row)
    recalls = [_recall(kind, rows) for kind, rows in groups.items()]
    return tuple(sorted(recalls, key=lambda item: (item.stopped / item.scans, item.group)))


def _by_size(sized: Sequence[tuple[ScanRow, float]], unit: str | None, bins: int = 5) -> tuple[GroupRecall, ...]:
    """Recall in up to five groups of equal numbers of scans, smallest first."""
    if not sized or unit is None:
        return ()
    in_order = sorted(sized, key=lambda item: item[1])
    groups = []
    for part in np.array_split(np.arange(len(in_order)), min(bins, max(1, len(in_order) // 4))):
        rows = [in_order[index] for index in part]
        named = f"{rows[0][1]:.3g} to {rows[-1][1]:.3g}" + ("" if unit == SEVERITY else f" {unit}")
        groups.append(_recall(named, [row for row, _ in rows]))
    return tuple(groups)


def _recall(group: str, rows: Sequence[ScanRow]) -> GroupRecall:
    hits, totals, lots = _counts(rows, _is_stopped)
    called, _, _ = _counts(rows, _is_called)
    missed = [scans - stopped for stopped, scans in zip(hits, totals, strict=True)]
    over_lots, called_over_lots = share_over_lots(hits, totals), share_over_lots(called, totals)
    assert over_lots is not None and called_over_lots is not None, "a group has a scan"
    return GroupRecall(
        group, len(rows), sum(hits), sum(called), over_lots, called_over_lots, worst_lot(lots, missed, totals)
    )


def _lot_error(name: str, rows: Sequence[ScanRow], is_error: Callable[[ScanRow], bool]) -> LotError:
    hits, totals, lots = _counts(rows, is_error)
    return LotError(name, share_over_lots(hits, totals), worst_lot(lots, hits, totals))


def _counts(rows: Sequence[ScanRow], is_hit: Callable[[ScanRow], bool]) -> tuple[list[int], list[int], list[str]]:
    by_lot: dict[str, list[int]] = {}
    for row in rows:
        tally = by_lot.setdefault(_lot(row), [0, 0])
        tally[0] += is_hit(row)
        tally[1] += 1
    return [hits for hits, _ in by_lot.values()], [scans for _, scans in by_lot.values()], list(by_lot)


@dataclass(frozen=True, slots=True)
class _Accuracy:
    """Right calls over lots; None where no scan of the label, or of either, was called."""

    sensitivity: LotInterval | None
    specificity: LotInterval | None
    balanced: LotInterval | None


_DECIDED = {Outcome.ABNORMAL: True, Outcome.NORMAL: False}
"""Whether the line called a scan abnormal, where it decided by itself."""


def _accuracy(rows: Sequence[ScanRow], is_called: Callable[[ScanRow], bool | None]) -> _Accuracy:
    """How the labelled scans are called. `is_called`: abnormal or normal; None leaves a scan out."""
    tallies: dict[str, list[int]] = {}
    for row in rows:
        called = is_called(row)
        if row.label is None or called is None:
            continue
        tally = tallies.setdefault(_lot(row), [0, 0, 0, 0])
        place = 0 if row.label is Label.ABNORMAL else 2
        tally[place] += called == (place == 0)
        tally[place + 1] += 1
    found, abnormal, passed, normal = list(zip(*tallies.values(), strict=True)) or [(), (), (), ()]
    return _Accuracy(
        sensitivity=share_over_lots(found, abnormal),
        specificity=share_over_lots(passed, normal),
        balanced=balanced_accuracy_over_lots(found, abnormal, passed, normal),
    )


def _is_called_wrongly(row: ScanRow, threshold: float) -> bool:
    """Whether a scan with a label and a probability lies on the wrong side of the threshold."""
    return row.p_abnormal is not None and (row.p_abnormal >= threshold) != (row.label is Label.ABNORMAL)


def _agreement(
    rows: Sequence[ScanRow], truths: Mapping[str, LabelRow]
) -> tuple[Kappa | None, tuple[tuple[str, Kappa], ...], tuple[AttributeRow, ...]]:
    """People among themselves, each with the line, and everyone against the label, the line first."""
    line = [_is_stopped(row) for row in rows]
    reference = [_defective(row.label) for row in rows]
    parts = [truths[row.file].part_id for row in rows]
    lots = [_lot(row) for row in rows]
    attributes = [attribute_row("Line (stopped)", line, reference, parts, lots)]
    ballots = [truths[row.file].votes for row in rows]
    raters = max((len(ballot) for ballot in ballots), default=0)
    votes = [
        [_defective(ballot[rater]) if rater < len(ballot) else None for ballot in ballots] for rater in range(raters)
    ]
    people = fleiss_kappa(vote_table(votes), lots) if raters >= 2 else None
    kappas: list[tuple[str, Kappa]] = [] if people is None else [("People among themselves (Fleiss)", people)]
    for number, rater in enumerate(votes, 1):
        attributes.append(attribute_row(f"Person {number}", rater, reference, parts, lots))
        with_line = cohen_kappa(pair_table(line, rater, lots))
        if with_line is not None:
            kappas.append((f"Line and person {number} (Cohen)", with_line))
        for other_number, other in enumerate(votes[number:], number + 1):
            pair = cohen_kappa(pair_table(rater, other, lots))
            if pair is not None:
                kappas.append((f"Person {number} and person {other_number} (Cohen)", pair))
    return people, tuple(kappas), tuple(attributes)


def _is_stopped(row: ScanRow) -> bool:
    return row.outcome is not Outcome.NORMAL


def _is_called(row: ScanRow) -> bool:
    return row.outcome is Outcome.ABNORMAL


def _defective(label: Label | None) -> bool | None:
    return None if label is None else label is Label.ABNORMAL


def _lot(row: ScanRow) -> str:
    return NO_LOT if row.lot is None else row.lot


def _low(interval: LotInterval | None) -> float | None:
    """None of one lot, too: it says nothing of others."""
    return None if interval is None or interval.lots < 2 else interval.low


def _high(interval: LotInterval | None) -> float | None:
    return None if interval is None or interval.lots < 2 else interval.high


def _worst_share(error: LotError, has_scans: bool) -> float | None:
    if error.worst is None:
        return 0.0 if has_scans else None
    return error.worst.errors / error.worst.scans


def _curve_figures(
    detections: Sequence[Detection], size_name: str | None, area_name: str | None
) -> dict[str, float | None]:
    """Figures of every curve of CURVES; None where there is no curve."""
    of_curves = {
        "stopped": (STOPPED, size_name),
        "called": (CALLED, size_name),
        "severity": (STOPPED, SEVERITY),
        "severity_called": (CALLED, SEVERITY),
        "area": (STOPPED, area_name),
        "area_called": (CALLED, area_name),
        "p": (P_SIGNAL, size_name),
        "gate": (GATE_SIGNAL, size_name),
    }
    found = {(item.name, item.unit): item.curve for item in detections}
    figures: dict[str, float | None] = {}
    for name in CURVES:
        title, unit = of_curves[name]
        curve = None if unit is None else found.get((title, unit))
        for point in CURVE_POINTS:
            figures[f"{name}_{point}"] = getattr(curve, point) if isinstance(curve, PodCurve) else None
    return figures


def _row_figures(
    kinds: Sequence[GroupRecall], people: Sequence[AttributeRow], kappas: Sequence[tuple[str, Kappa]]
) -> dict[str, float | None]:
    """Figures of the rows of tables, by the names of ROW_MEANINGS."""
    figures: dict[str, float | None] = {}
    for kind in kinds:
        for name, share, interval in (
            ("recall", kind.stopped / kind.scans, kind.over_lots),
            ("called", kind.called / kind.scans, kind.called_over_lots),
        ):
            figures[f"{name}[{kind.group}]"] = share
            figures[f"{name}_low[{kind.group}]"] = _low(interval)
            figures[f"{name}_high[{kind.group}]"] = _high(interval)
    for number, row in enumerate(people, 1):
        for name, found in (
            ("effectiveness", row.right_over_lots),
            ("miss_rate", row.missed_over_lots),
            ("false_alarm_rate", row.false_alarms_over_lots),
        ):
            figures[f"{name}[{number}]"] = None if found is None else found.share
            figures[f"{name}_low[{number}]"] = _low(found)
            figures[f"{name}_high[{number}]"] = _high(found)
    for name, kappa in kappas:
        numbers = re.findall(r"person (\d+)", name.lower())
        if numbers:
            of = "kappa_line" if len(numbers) == 1 else "kappa_people"
            for end, value in (("", kappa.kappa), ("_low", kappa.low), ("_high", kappa.high)):
                figures[f"{of}{end}[{','.join(numbers)}]"] = none_if_nan(value)
    return figures
