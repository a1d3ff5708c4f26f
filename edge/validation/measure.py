"""Measures the figures of `edge.validation.reliability` on judged scans and their labels. Pure.

Each figure comes from the calculation modules beside this one; here the scans are sorted into what those take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edge.records import Outcome, Policy
from edge.validation.agreement import Repeatability, repeatability
from edge.validation.cost import CostCurve, PlantBounds, PlantFigures
from edge.validation.detection import SizeScale
from edge.validation.labels import Label, LabelRow
from edge.validation.lots import (
    LotInterval,
    alike,
    auprc_over_lots,
    auroc_over_lots,
    balanced_accuracy_over_lots,
    lot_limits,
    share_figures,
    share_over_lots,
    worst_lot,
)
from edge.validation.people import Agreement
from edge.validation.plant import measure_plant
from edge.validation.reliability import GroupRecall, LotError, Plant, Reliability
from edge.validation.sample_size import bound_sentence, lower_bound, size_sentence, upper_bound
from edge.validation.sized import SEVERITY, Sized, SizedScans
from edge.validation.statistics import none_if_nan, wilson
from edge.validation.table import ScanRow, select

SHOWN_RATE = 0.01
"""Escape rate that the sample-size sentence aims at."""

Figures = dict[str, int | float | None]


def measure_reliability(
    rows: Sequence[ScanRow],
    truths: Mapping[str, LabelRow],
    policy: Policy,
    plant: Plant,
    scale: SizeScale = SizeScale.LOG,
    from_sizes: Sequence[str] = (),
) -> Reliability:
    """All of it, from the judged scans and the label rows of their files.

    `scale` is what curves run over; `from_sizes` are numbers as text, for recall of anomalies of at least that size.
    """
    labelled = select(rows, lambda row: row.label is not None)
    abnormal = select(rows, lambda row: row.label is Label.ABNORMAL)
    normal = select(rows, lambda row: row.label is Label.NORMAL)
    scored = select(labelled, lambda row: row.p_abnormal is not None)
    listed = select(rows, lambda row: row.file in truths)
    sized = SizedScans.of(labelled, truths)
    detections = sized.detections(policy, scale)
    kinds = _by_kind(abnormal, truths)
    upwards = _from_sizes(sized, from_sizes)
    counted = tuple(group for group in upwards.values() if group is not None)
    lot_errors = {
        "escape_rate": _lot_error("Escapes", abnormal, lambda row: row.is_escape),
        "overkill_rate": _lot_error("Overkill", normal, lambda row: row.is_overkill),
        "review_rate": _lot_error("Sent to review", rows, lambda row: row.outcome is Outcome.REVIEW),
        "unreadable_rate": _lot_error("Unreadable", rows, lambda row: row.outcome is Outcome.UNREADABLE),
        "wrong_calls": _lot_error(
            "Called wrongly by the classifier", scored, lambda row: _is_called_wrongly(row, policy.threshold)
        ),
    }
    of_plant, plant_over_lots, costs = measure_plant(abnormal, normal, plant)
    agreement = Agreement.of(listed, truths)
    repeats = repeatability(
        [truths[row.file].part_id for row in listed],
        [row.outcome for row in listed],
        [row.p_abnormal for row in listed],
        [row.lot_name for row in listed],
    )
    return Reliability(
        figures={
            **_bounds(abnormal, normal),
            **_lot_figures(labelled, lot_errors),
            **_accuracy_figures(rows, scored, policy),
            **_kind_figures(kinds),
            **_upward_figures(upwards),
            **_plant_figures(of_plant, plant_over_lots, costs),
            **agreement.figures(),
            **_repeat_figures(repeats),
            **sized.figures(detections),
        },
        sentences=_sentences(abnormal, normal),
        detections=detections,
        kinds=kinds,
        severities=(
            *_by_size(sized.graded, SEVERITY, bins=10),
            *(counted if sized.size_name == SEVERITY else ()),
        ),
        sizes=() if sized.size_name == SEVERITY else (*_by_size(sized.sized, sized.size_name), *counted),
        size_name=sized.size_name,
        lot_errors=lot_errors if labelled else {},
        plant=of_plant,
        costs=costs,
        attributes=agreement.attributes,
        kappas=agreement.rows,
        repeats=repeats,
        is_own_majority=any(truths[row.file].is_majority for row in listed),
    )


def _bounds(abnormal: Sequence[ScanRow], normal: Sequence[ScanRow]) -> Figures:
    """One-sided bounds of escapes and false calls, scans as independent."""
    bad, good = len(abnormal), len(normal)
    escapes, overkill = sum(row.is_escape for row in abnormal), sum(row.is_overkill for row in normal)
    return {
        "escape_rate_bound": upper_bound(escapes, bad) if bad else None,
        "detection_rate_bound": lower_bound(bad - escapes, bad) if bad else None,
        "false_call_rate": overkill / good if good else None,
        "false_call_rate_bound": upper_bound(overkill, good) if good else None,
    }


def _lot_figures(labelled: Sequence[ScanRow], errors: Mapping[str, LotError]) -> Figures:
    lots = {row.lot_name for row in labelled}
    figures: Figures = {"lots_count": len(lots), "lots_alike_count": sum(len(names) - 1 for names in alike(lots))}
    for name, error in errors.items():
        figures |= lot_limits(f"{name}_lots", error.interval)
        without_error = None if error.interval is None else 0.0
        figures[f"{name}_worst_lot"] = error.worst.errors / error.worst.scans if error.worst else without_error
    return figures


def _accuracy_figures(rows: Sequence[ScanRow], scored: Sequence[ScanRow], policy: Policy) -> Figures:
    """Accuracy by the threshold and by the line's own decisions, and both areas, over lots and over scans."""
    alone = _accuracy(scored, lambda row: row.p_abnormal is not None and row.p_abnormal >= policy.threshold)
    decided = _accuracy(rows, lambda row: _DECIDED.get(row.outcome))
    scores = np.array([row.p_abnormal for row in scored], np.float64)
    classes = np.array([row.label is Label.ABNORMAL for row in scored], np.int64)
    lots = [row.lot_name for row in scored]
    each = range(len(scores))  # a scan as a lot of its own: independent scans
    return {
        **lot_limits("balanced_accuracy_lots", alone.balanced),
        **lot_limits("sensitivity_lots", alone.sensitivity),
        **lot_limits("specificity_lots", alone.specificity),
        **lot_limits("balanced_accuracy_decided_lots", decided.balanced),
        **lot_limits("auroc", auroc_over_lots(scores, classes, each)),
        **lot_limits("auroc_lots", auroc_over_lots(scores, classes, lots)),
        **lot_limits("auprc", auprc_over_lots(scores, classes, each)),
        **lot_limits("auprc_lots", auprc_over_lots(scores, classes, lots)),
    }


def _kind_figures(kinds: Sequence[GroupRecall]) -> Figures:
    figures: Figures = {
        "recall_worst_kind": min((kind.stopped / kind.scans for kind in kinds), default=None),
        "recall_worst_kind_low": min((wilson(kind.stopped, kind.scans).low for kind in kinds), default=None),
        "recall_worst_kind_lots_low": min((kind.over_lots.low for kind in kinds), default=None),
    }
    for kind in kinds:
        figures |= share_figures("recall", kind.stopped, kind.scans, kind.over_lots, f"[{kind.group}]")
        figures |= share_figures("called", kind.called, kind.scans, kind.called_over_lots, f"[{kind.group}]")
    return figures


def _upward_figures(upwards: Mapping[str, GroupRecall | None]) -> Figures:
    figures: Figures = {}
    for text, group in upwards.items():
        stopped, called, scans = (0, 0, 0) if group is None else (group.stopped, group.called, group.scans)
        over_lots, called_over_lots = (None, None) if group is None else (group.over_lots, group.called_over_lots)
        figures |= share_figures("recall_from", stopped, scans, over_lots, f"[{text}]")
        figures |= share_figures("called_from", called, scans, called_over_lots, f"[{text}]")
    return figures


def _plant_figures(plant: PlantFigures | None, over_lots: PlantBounds | None, costs: CostCurve | None) -> Figures:
    figures: Figures = {}
    for name in ("escapes_ppm", "value_of_normal", "value_of_abnormal", "cost_per_scan"):
        for end, record, field in (
            ("", plant, name),
            ("_bound", plant, f"{name}_bound"),
            ("_lots_bound", over_lots, name),
        ):
            value = getattr(record, field, None)
            figures[f"{name}{end}"] = None if value is None else none_if_nan(value)
    figures["cheapest_threshold"] = None if costs is None else costs.cheapest
    figures["cheapest_cost_per_scan"] = None if costs is None else float(costs.cost.min())
    return figures


def _repeat_figures(repeats: Repeatability | None) -> Figures:
    if repeats is None:
        ends = ("", "_bound", "_lots_low", "_lots_high")
        shares = [f"flipped_parts_share{end}" for end in ends]
        spreads = ("p_repeat_deviation", "p_repeat_range", "p_repeat_range_bound", "p_repeat_widest")
        return {"rescanned_parts_count": 0, **dict.fromkeys(("flipped_parts_count", *shares, *spreads))}
    return {
        "rescanned_parts_count": repeats.parts,
        "flipped_parts_count": len(repeats.flipped),
        "flipped_parts_share": len(repeats.flipped) / repeats.parts,
        "flipped_parts_share_bound": upper_bound(len(repeats.flipped), repeats.parts),
        **lot_limits("flipped_parts_share_lots", repeats.flipped_over_lots),
        "p_repeat_deviation": repeats.p_deviation,
        "p_repeat_range": repeats.p_range,
        "p_repeat_range_bound": repeats.p_range_bound,
        "p_repeat_widest": repeats.p_widest,
    }


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


def _by_kind(abnormal: Sequence[ScanRow], truths: Mapping[str, LabelRow]) -> tuple[GroupRecall, ...]:
    groups: dict[str, list[ScanRow]] = {}
    for row in abnormal:
        truth = truths.get(row.file)
        for kind in dict.fromkeys(truth.kinds if truth is not None else ()):
            groups.setdefault(kind, []).append(row)
    recalls = [_recall(kind, rows) for kind, rows in groups.items()]
    return tuple(sorted(recalls, key=lambda item: (item.stopped / item.scans, item.group)))


def _by_size(sized: Sized, unit: str | None, bins: int = 5) -> tuple[GroupRecall, ...]:
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


def _from_sizes(sized: SizedScans, from_sizes: Sequence[str]) -> dict[str, GroupRecall | None]:
    """Recall of abnormal scans whose anomaly is of at least each size; None where the set has none."""
    found: dict[str, GroupRecall | None] = {}
    for text in from_sizes:
        rows = [row for row, size in sized.sized if size >= float(text)]
        unit = "" if sized.size_name in (SEVERITY, None) else f" {sized.size_name}"
        found[text] = _recall(f"{float(text):.3g}{unit} and above", rows) if rows else None
    return found


def _recall(group: str, rows: Sequence[ScanRow]) -> GroupRecall:
    hits, totals, lots = _counts(rows, lambda row: row.is_stopped)
    called, _, _ = _counts(rows, lambda row: row.is_called)
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
        tally = by_lot.setdefault(row.lot_name, [0, 0])
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
        tally = tallies.setdefault(row.lot_name, [0, 0, 0, 0])
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
