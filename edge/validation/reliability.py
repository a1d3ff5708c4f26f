"""What a quality manager asks of a labelled set, as records: figures for `--require`, tables and curves for the report.

Two readings of "found" stand side by side: *stopped*, the line did not let the scan pass (abnormal, review or
unreadable), and *called abnormal*.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge.validation.agreement import AttributeRow, Kappa, Repeatability
from edge.validation.cost import CostCurve, PlantFigures, Prices
from edge.validation.detection import NoCurve, PodCurve
from edge.validation.lots import LotInterval, WorstLot


@dataclass(frozen=True, slots=True)
class Plant:
    """What the set cannot know: the plant's share of defective electrodes and what errors cost there."""

    defect_rate: float | None = None
    prices: Prices | None = None


@dataclass(frozen=True, slots=True)
class GroupRecall:
    """Scans of one kind, severity or size that were stopped, and that were called abnormal."""

    group: str
    scans: int
    stopped: int
    called: int
    over_lots: LotInterval
    """Interval over lots of the share `stopped`."""
    called_over_lots: LotInterval
    worst: WorstLot | None
    """Lot with the highest share of scans that were not stopped."""


@dataclass(frozen=True, slots=True)
class Detection:
    """One curve over size, or why there is none."""

    name: str
    unit: str
    curve: PodCurve | NoCurve
    worst: WorstLot | None
    """Lot with the highest share of these anomalies that were not found."""


@dataclass(frozen=True, slots=True)
class KappaRow:
    """Agreement of line, label and people, two of them or all people."""

    name: str
    kappa: Kappa
    worst: WorstLot | None
    """Lot with the highest share of scans on which they differ."""


@dataclass(frozen=True, slots=True)
class LotError:
    """A kind of error over the lots."""

    name: str
    interval: LotInterval | None
    worst: WorstLot | None


FIGURE_MEANINGS = {
    "escape_rate_bound": "one-sided upper 95 % limit of the escape rate (Clopper-Pearson)",
    "detection_rate_bound": "one-sided lower 95 % limit of the share of abnormal scans that were stopped",
    "false_call_rate": "labelled normal, outcome abnormal / labelled normal",
    "false_call_rate_bound": "its one-sided upper 95 % limit (Clopper-Pearson)",
    "lots_count": "lots with a labelled scan",
    "lots_alike_count": "names of these that are another's but for case, zeros or separators: the same lot?",
    "escape_rate_lots_low": "lower 95 % limit of the escape rate over lots",
    "escape_rate_lots_high": "upper 95 % limit of the escape rate over lots",
    "overkill_rate_lots_low": "lower 95 % limit of the overkill rate over lots",
    "overkill_rate_lots_high": "upper 95 % limit of the overkill rate over lots",
    "review_rate_lots_low": "lower 95 % limit over lots of the share of files sent to review",
    "review_rate_lots_high": "its upper limit",
    "unreadable_rate_lots_low": "lower 95 % limit over lots of the share of unreadable files",
    "unreadable_rate_lots_high": "its upper limit",
    "balanced_accuracy_lots_low": "lower 95 % limit of the balanced accuracy of scored scans over lots",
    "balanced_accuracy_lots_high": "its upper limit",
    "sensitivity_lots_low": "lower 95 % limit of the sensitivity over lots",
    "sensitivity_lots_high": "its upper limit",
    "specificity_lots_low": "lower 95 % limit of the specificity over lots",
    "specificity_lots_high": "its upper limit",
    "balanced_accuracy_decided_lots_low": "lower 95 % limit of the balanced accuracy of decided scans over lots",
    "balanced_accuracy_decided_lots_high": "its upper limit",
    "auroc_low": "lower 95 % limit of auroc, scans as independent",
    "auroc_high": "its upper limit",
    "auroc_lots_low": "lower 95 % limit of auroc over lots",
    "auroc_lots_high": "its upper limit",
    "auprc_low": "lower 95 % limit of auprc, scans as independent",
    "auprc_high": "its upper limit",
    "auprc_lots_low": "lower 95 % limit of auprc over lots",
    "auprc_lots_high": "its upper limit",
    "escape_rate_worst_lot": "escape rate of the lot with the highest",
    "overkill_rate_worst_lot": "overkill rate of the lot with the highest",
    "review_rate_worst_lot": "share sent to review of the lot with the highest",
    "unreadable_rate_worst_lot": "share of unreadable files of the lot with the highest",
    "wrong_calls_lots_low": "lower 95 % limit over lots of the share of scored scans that p calls wrongly",
    "wrong_calls_lots_high": "its upper limit",
    "wrong_calls_worst_lot": "share of scored scans on the wrong side of the threshold, of the lot with the highest",
    "recall_worst_kind": "least share of stopped scans among the kinds",
    "recall_worst_kind_low": "least lower 95 % limit of that share among the kinds",
    "recall_worst_kind_lots_low": "least lower 95 % limit over lots of that share among the kinds",
    "escapes_ppm": "escapes in a million electrodes at --defect-rate",
    "escapes_ppm_bound": "its one-sided upper 95 % limit",
    "escapes_ppm_lots_bound": "the same limit over lots",
    "value_of_normal": "share of good among `normal` at --defect-rate",
    "value_of_normal_bound": "its one-sided lower 95 % limit",
    "value_of_normal_lots_bound": "the same limit over lots",
    "value_of_abnormal": "share of defective among `abnormal` at --defect-rate",
    "value_of_abnormal_bound": "its one-sided lower 95 % limit",
    "value_of_abnormal_lots_bound": "the same limit over lots",
    "cost_per_scan": "expected cost of an electrode at --defect-rate, --prices",
    "cost_per_scan_bound": "its one-sided upper 95 % limit",
    "cost_per_scan_lots_bound": "the same limit over lots",
    "cheapest_threshold": "threshold at which that cost is least on this set",
    "cheapest_cost_per_scan": "cost at that threshold",
    "people_count": "people whose votes the labels hold (label_1, label_2, ...)",
    "kappa_people": "Fleiss' kappa of the people who voted",
    "kappa_people_low": "its lower 95 % limit",
    "kappa_people_high": "its upper 95 % limit",
    "kappa_people_lots_low": "its lower 95 % limit over lots",
    "kappa_people_lots_high": "its upper 95 % limit over lots",
    "kappa_line": "Cohen's kappa of line (stopped or not) and label",
    "kappa_line_low": "its lower 95 % limit",
    "kappa_line_high": "its upper 95 % limit",
    "kappa_line_lots_low": "its lower 95 % limit over lots",
    "kappa_line_lots_high": "its upper 95 % limit over lots",
    "line_effectiveness": "share of parts on which the line (stopped or not) was right every time (AIAG)",
    "line_effectiveness_low": "its lower 95 % limit",
    "line_effectiveness_high": "its upper 95 % limit",
    "line_effectiveness_lots_low": "its lower 95 % limit over lots",
    "line_effectiveness_lots_high": "its upper 95 % limit over lots",
    "line_miss_rate": "share of labelled abnormal scans the line let pass (AIAG)",
    "line_miss_rate_low": "its lower 95 % limit",
    "line_miss_rate_high": "its upper 95 % limit",
    "line_miss_rate_lots_low": "its lower 95 % limit over lots",
    "line_miss_rate_lots_high": "its upper 95 % limit over lots",
    "line_false_alarm_rate": "share of labelled normal scans the line stopped, reviews among them (AIAG)",
    "line_false_alarm_rate_low": "its lower 95 % limit",
    "line_false_alarm_rate_high": "its upper 95 % limit",
    "line_false_alarm_rate_lots_low": "its lower 95 % limit over lots",
    "line_false_alarm_rate_lots_high": "its upper 95 % limit over lots",
    "rescanned_parts_count": "parts scanned more than once (part_id)",
    "flipped_parts_count": "of these, parts whose scans had different outcomes",
    "flipped_parts_share": "share of rescanned parts that flip",
    "flipped_parts_share_bound": "its one-sided upper 95 % limit (Clopper-Pearson)",
    "flipped_parts_share_lots_low": "its lower 95 % limit over lots",
    "flipped_parts_share_lots_high": "its upper 95 % limit over lots",
    "p_repeat_deviation": "standard deviation of p between scans of one part",
    "p_repeat_range": "difference of p between scans of a part that 90 % of parts stay within",
    "p_repeat_range_bound": "its one-sided upper 95 % limit, from 29 rescanned parts on: claim this one",
    "p_repeat_widest": "largest difference of p between two scans of one part",
}
"""Figures with their definitions."""

CURVES = {
    "stopped": "size stopped (hit/miss)",
    "called": "size called abnormal (hit/miss)",
    "severity": "severity stopped, tolerated anomalies among them (hit/miss)",
    "severity_called": "severity called abnormal, tolerated anomalies among them (hit/miss)",
    "area": "area stopped (hit/miss)",
    "area_called": "area called abnormal (hit/miss)",
    "p": "size at which p reaches the threshold (signal response)",
    "gate": "size at which a gate score reaches its threshold (signal response)",
}
"""Curves of detection by the beginning of their figures' names."""

CURVE_POINTS = {
    "a50": "{} with probability 0.5",
    "a50_low": "lower end of its 95 % likelihood-ratio interval",
    "a50_high": "upper end of that interval",
    "a50_lots_low": "lower end of the 95 % interval of a50 over lots",
    "a50_lots_high": "upper end of that interval",
    "a90": "{} with probability 0.9",
    "a90_low": "lower end of its 95 % likelihood-ratio interval",
    "a90_high": "upper end of that interval: claim this one",
    "a90_95": "a90/95 of MIL-HDBK-1823A, below that",
    "a90_lots_low": "lower end of the 95 % interval of a90 over lots",
    "a90_lots_high": "upper end of that interval: claim this one of lots to come",
}
"""Figures of each curve."""

CURVE_MEANINGS = {
    f"{curve}_{point}": meaning.format(about)
    for curve, about in CURVES.items()
    for point, meaning in CURVE_POINTS.items()
}

_ROWS = {
    "recall[KIND]": "share of abnormal scans of a kind that were stopped, such as recall[cut]",
    "called[KIND]": "share of abnormal scans of a kind that were called abnormal",
    "recall_from[SIZE]": "share of abnormal scans with an anomaly of at least a size that were stopped: recall_from[2]",
    "called_from[SIZE]": "share of these that were called abnormal",
    "effectiveness[PERSON]": "as line_effectiveness, of the person of column label_1, label_2, ...: effectiveness[1]",
    "miss_rate[PERSON]": "as line_miss_rate, of a person",
    "false_alarm_rate[PERSON]": "as line_false_alarm_rate, of a person",
    "kappa_line[PERSON]": "Cohen's kappa of line (stopped or not) and person",
    "kappa_people[PERSON,PERSON]": "Cohen's kappa of two people, such as kappa_people[1,2]",
}
_LIMITS = {
    "": "",
    "_low": "its lower 95 % limit",
    "_high": "its upper 95 % limit",
    "_lots_low": "its lower 95 % limit over lots",
    "_lots_high": "its upper 95 % limit over lots",
}
ROW_MEANINGS = {
    name.replace("[", f"{limit}["): about or meaning
    for name, meaning in _ROWS.items()
    for limit, about in _LIMITS.items()
}
"""Figures of which there are as many as tables have rows."""

RELIABILITY_MEANINGS = {**FIGURE_MEANINGS, **CURVE_MEANINGS, **ROW_MEANINGS}
"""Every name of these figures; those of rows with a placeholder."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """What the report shows of all this."""

    figures: Mapping[str, int | float | None]
    """By the names of RELIABILITY_MEANINGS, for `summary.json` and `--require`; None: nothing to measure it on."""

    sentences: tuple[str, ...]
    detections: tuple[Detection, ...]
    kinds: tuple[GroupRecall, ...]
    severities: tuple[GroupRecall, ...]
    """By the worst anomaly, tolerated ones (label normal) among them."""
    sizes: tuple[GroupRecall, ...]
    """By the largest anomaly of abnormal scans, in px or mm."""
    size_name: str | None
    lot_errors: Mapping[str, LotError]
    """By the beginning of their figures' names."""

    plant: PlantFigures | None
    costs: CostCurve | None
    attributes: tuple[AttributeRow, ...]
    kappas: tuple[KappaRow, ...]
    repeats: Repeatability | None
    is_own_majority: bool
    """Whether labels are the majority of the people who are held against them."""
