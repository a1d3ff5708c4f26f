"""What a quality manager asks of a labelled set, as records: figures for `--require`, tables and curves for the report.

Two readings of "found" stand side by side: *stopped*, the line did not let the scan pass (abnormal, review or
unreadable), and *called abnormal*.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields

from edge.validation.agreement import (
    AttributeRow,
    Kappa,
    Repeatability,
)
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


@dataclass(frozen=True, slots=True)
class Detection:
    """One curve over size, or why there is none."""

    name: str
    unit: str
    curve: PodCurve | NoCurve


@dataclass(frozen=True, slots=True)
class LotError:
    """A kind of error over the lots."""

    name: str
    interval: LotInterval | None
    worst: WorstLot | None


@dataclass(frozen=True)
class ReliabilityFigures:
    """Flat figures for `summary.json` and `--require`; None: there was nothing to measure it on."""

    escape_rate_bound: float | None = field(
        metadata={"means": "one-sided upper 95 % limit of the escape rate (Clopper-Pearson)"}
    )
    detection_rate_bound: float | None = field(
        metadata={"means": "one-sided lower 95 % limit of the share of abnormal scans that were stopped"}
    )
    false_call_rate: float | None = field(metadata={"means": "labelled normal, outcome abnormal / labelled normal"})
    false_call_rate_bound: float | None = field(metadata={"means": "its one-sided upper 95 % limit (Clopper-Pearson)"})
    lots_count: int = field(metadata={"means": "lots with a labelled scan"})
    escape_rate_lots_low: float | None = field(metadata={"means": "lower 95 % limit of the escape rate over lots"})
    escape_rate_lots_high: float | None = field(metadata={"means": "upper 95 % limit of the escape rate over lots"})
    overkill_rate_lots_low: float | None = field(metadata={"means": "lower 95 % limit of the overkill rate over lots"})
    overkill_rate_lots_high: float | None = field(metadata={"means": "upper 95 % limit of the overkill rate over lots"})
    review_rate_lots_low: float | None = field(
        metadata={"means": "lower 95 % limit over lots of the share of files sent to review"}
    )
    review_rate_lots_high: float | None = field(metadata={"means": "its upper limit"})
    balanced_accuracy_lots_low: float | None = field(
        metadata={"means": "lower 95 % limit of the balanced accuracy of scored scans over lots"}
    )
    balanced_accuracy_lots_high: float | None = field(metadata={"means": "its upper limit"})
    escape_rate_worst_lot: float | None = field(metadata={"means": "escape rate of the lot with the highest"})
    overkill_rate_worst_lot: float | None = field(metadata={"means": "overkill rate of the lot with the highest"})
    recall_worst_kind: float | None = field(metadata={"means": "least share of stopped scans among the kinds"})
    recall_worst_kind_low: float | None = field(
        metadata={"means": "least lower 95 % limit over lots of that share among the kinds"}
    )
    stopped_a50: float | None = field(metadata={"means": "size stopped with probability 0.5, hit/miss"})
    stopped_a90: float | None = field(metadata={"means": "size stopped with probability 0.9, hit/miss"})
    stopped_a90_low: float | None = field(metadata={"means": "lower end of its 95 % likelihood-ratio interval"})
    stopped_a90_95: float | None = field(metadata={"means": "upper end of that interval, a90/95 of MIL-HDBK-1823A"})
    called_a50: float | None = field(metadata={"means": "size called abnormal with probability 0.5, hit/miss"})
    called_a90: float | None = field(metadata={"means": "size called abnormal with probability 0.9, hit/miss"})
    called_a90_low: float | None = field(metadata={"means": "lower end of its 95 % likelihood-ratio interval"})
    called_a90_95: float | None = field(metadata={"means": "upper end of that interval, a90/95 of MIL-HDBK-1823A"})
    severity_a50: float | None = field(
        metadata={"means": "severity stopped with probability 0.5, hit/miss, tolerated anomalies among them"}
    )
    severity_a90: float | None = field(metadata={"means": "severity stopped with probability 0.9"})
    severity_a90_low: float | None = field(metadata={"means": "lower end of its 95 % likelihood-ratio interval"})
    severity_a90_95: float | None = field(metadata={"means": "upper end of that interval, a90/95 of MIL-HDBK-1823A"})
    p_a50: float | None = field(metadata={"means": "size at which half have p above the threshold, signal response"})
    p_a90: float | None = field(metadata={"means": "size at which nine of ten have it"})
    p_a90_low: float | None = field(metadata={"means": "lower end of its 95 % likelihood-ratio interval"})
    p_a90_high: float | None = field(metadata={"means": "upper end of that interval"})
    p_a90_95: float | None = field(metadata={"means": "a90/95 of MIL-HDBK-1823A: Wald's limit, narrower than that"})
    gate_a50: float | None = field(metadata={"means": "size at which half exceed a gate threshold, signal response"})
    gate_a90: float | None = field(metadata={"means": "size at which nine of ten do"})
    gate_a90_low: float | None = field(metadata={"means": "lower end of its 95 % likelihood-ratio interval"})
    gate_a90_high: float | None = field(metadata={"means": "upper end of that interval"})
    gate_a90_95: float | None = field(metadata={"means": "a90/95 of MIL-HDBK-1823A: Wald's limit, narrower than that"})
    escapes_ppm: float | None = field(metadata={"means": "escapes in a million electrodes at --defect-rate"})
    value_of_normal: float | None = field(metadata={"means": "share of good among `normal` at --defect-rate"})
    value_of_abnormal: float | None = field(metadata={"means": "share of defective among `abnormal` at --defect-rate"})
    cost_per_scan: float | None = field(metadata={"means": "expected cost of an electrode at --defect-rate, --prices"})
    people_count: int = field(metadata={"means": "people whose votes the labels hold (label_1, label_2, ...)"})
    kappa_people: float | None = field(metadata={"means": "Fleiss' kappa of the people who voted"})
    kappa_people_low: float | None = field(metadata={"means": "its lower 95 % limit"})
    kappa_people_high: float | None = field(metadata={"means": "its upper 95 % limit"})
    kappa_line: float | None = field(metadata={"means": "Cohen's kappa of line (stopped or not) and label"})
    kappa_line_low: float | None = field(metadata={"means": "its lower 95 % limit"})
    kappa_line_high: float | None = field(metadata={"means": "its upper 95 % limit"})
    line_effectiveness: float | None = field(
        metadata={"means": "share of parts on which the line (stopped or not) was right every time (AIAG)"}
    )
    line_miss_rate: float | None = field(
        metadata={"means": "share of labelled abnormal scans the line let pass (AIAG)"}
    )
    line_false_alarm_rate: float | None = field(
        metadata={"means": "share of labelled normal scans the line stopped, reviews among them (AIAG)"}
    )
    rescanned_parts_count: int = field(metadata={"means": "parts scanned more than once (part_id)"})
    flipped_parts_count: int = field(metadata={"means": "of these, parts whose scans had different outcomes"})
    p_repeat_deviation: float | None = field(metadata={"means": "standard deviation of p between scans of one part"})
    p_repeat_widest: float | None = field(metadata={"means": "largest difference of p between two scans of one part"})

    def flat(self) -> dict[str, int | float | None]:
        """Names and values as `summary.json` holds them."""
        return asdict(self)


RELIABILITY_MEANINGS: dict[str, str] = {item.name: item.metadata["means"] for item in fields(ReliabilityFigures)}
"""Names of these figures with their definitions."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """What the report shows of all this."""

    figures: ReliabilityFigures
    sentences: tuple[str, ...]
    detections: tuple[Detection, ...]
    kinds: tuple[GroupRecall, ...]
    severities: tuple[GroupRecall, ...]
    """By the worst anomaly, tolerated ones (label normal) among them."""
    sizes: tuple[GroupRecall, ...]
    """By the largest anomaly of abnormal scans, in px or mm."""
    size_name: str | None
    lot_errors: tuple[LotError, ...]
    plant: PlantFigures | None
    costs: CostCurve | None
    attributes: tuple[AttributeRow, ...]
    kappas: tuple[tuple[str, Kappa], ...]
    repeats: Repeatability | None
