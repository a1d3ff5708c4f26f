"""What a replay found, as figures: rows to counts, and to rates with intervals. Pure.

How reviews count is never implied. Three questions are answered apart:

- Is the classifier right? `balanced_accuracy`, `sensitivity`, `specificity`, `auroc`, `auprc`: every labelled
  scan with a probability, decided by p >= threshold, whatever the gate and the review band said of it.
- Is the line right where it decides by itself? `balanced_accuracy_decided`: labelled scans with the
  outcome normal or abnormal.
- What does the plant see? `escape_rate` and `overkill_rate` over all scans of their label, `review_rate` over
  all scans: a reviewed or unreadable scan neither escapes nor is overkill.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge.records import Outcome
from edge.validation.labels import Label
from edge.validation.statistics import Confusion, Roc, auprc, auroc, confusion, none_if_nan, roc, wilson
from edge.validation.table import ScanRow, Selection, select


@dataclass(frozen=True)
class Metrics:
    """The flat figures of `summary.json`, which `--require` names. None: there was nothing to measure it on.

    `_low` and `_high` are limits of 95 % intervals: Wilson's for rates, see
    `Confusion.balanced_accuracy_interval` for balanced accuracies.
    """

    scans_count: int = field(metadata={"means": "files judged"})
    labelled_count: int = field(metadata={"means": "judged files with a label"})
    unlabelled_count: int = field(metadata={"means": "judged files without a label"})
    labels_without_file_count: int | None = field(metadata={"means": "rows of the labels file that fit no file"})
    normal_count: int = field(metadata={"means": "outcome normal"})
    abnormal_count: int = field(metadata={"means": "outcome abnormal"})
    review_count: int = field(metadata={"means": "outcome review"})
    unreadable_count: int = field(metadata={"means": "outcome unreadable"})
    review_rate: float | None = field(metadata={"means": "outcome review / judged files"})
    review_rate_low: float | None = field(metadata={"means": "its lower limit"})
    review_rate_high: float | None = field(metadata={"means": "its upper limit"})
    unreadable_rate: float | None = field(metadata={"means": "outcome unreadable / judged files"})
    unreadable_rate_low: float | None = field(metadata={"means": "its lower limit"})
    unreadable_rate_high: float | None = field(metadata={"means": "its upper limit"})
    labelled_abnormal_count: int = field(metadata={"means": "judged files labelled abnormal"})
    labelled_normal_count: int = field(metadata={"means": "judged files labelled normal"})
    escape_count: int | None = field(metadata={"means": "labelled abnormal, outcome normal"})
    escape_rate: float | None = field(metadata={"means": "escapes / labelled abnormal, reviewed ones included"})
    escape_rate_low: float | None = field(metadata={"means": "lower limit of the escape rate"})
    escape_rate_high: float | None = field(metadata={"means": "upper limit of the escape rate"})
    overkill_count: int | None = field(metadata={"means": "labelled normal, outcome abnormal"})
    overkill_rate: float | None = field(metadata={"means": "overkill / labelled normal, reviewed ones included"})
    overkill_rate_low: float | None = field(metadata={"means": "lower limit of the overkill rate"})
    overkill_rate_high: float | None = field(metadata={"means": "upper limit of the overkill rate"})
    scored_count: int = field(metadata={"means": "labelled scans with a probability, whatever their outcome"})
    balanced_accuracy: float | None = field(metadata={"means": "(sensitivity + specificity) / 2 of scored scans"})
    balanced_accuracy_low: float | None = field(metadata={"means": "lower limit of the balanced accuracy"})
    balanced_accuracy_high: float | None = field(metadata={"means": "upper limit of the balanced accuracy"})
    sensitivity: float | None = field(metadata={"means": "p >= threshold / scored scans labelled abnormal"})
    sensitivity_low: float | None = field(metadata={"means": "its lower limit"})
    sensitivity_high: float | None = field(metadata={"means": "its upper limit"})
    specificity: float | None = field(metadata={"means": "p < threshold / scored scans labelled normal"})
    specificity_low: float | None = field(metadata={"means": "its lower limit"})
    specificity_high: float | None = field(metadata={"means": "its upper limit"})
    auroc: float | None = field(metadata={"means": "area under the ROC curve of scored scans"})
    auprc: float | None = field(metadata={"means": "average precision of scored scans"})
    decided_count: int = field(metadata={"means": "labelled scans with the outcome normal or abnormal"})
    balanced_accuracy_decided: float | None = field(metadata={"means": "balanced accuracy of decided scans"})
    balanced_accuracy_decided_low: float | None = field(metadata={"means": "its lower limit"})
    balanced_accuracy_decided_high: float | None = field(metadata={"means": "its upper limit"})

    def flat(self) -> dict[str, int | float | None]:
        """Names and values as `summary.json` holds them."""
        return asdict(self)


METRIC_MEANINGS: dict[str, str] = {item.name: item.metadata["means"] for item in fields(Metrics)}
"""Every name `--require` accepts, with its definition."""


@dataclass(frozen=True, slots=True)
class LotFigures:
    """One lot. `scored` decides by the threshold alone; escapes and overkill are the line's."""

    lot: str | None
    scans: int
    labelled_normal: int
    labelled_abnormal: int
    review: int
    unreadable: int
    escapes: int
    overkill: int
    scored: Confusion


@dataclass(frozen=True, slots=True)
class Validation:
    """Everything that summary and report show, apart from pictures."""

    metrics: Metrics
    outcomes: Mapping[tuple[Label | None, Outcome], int]
    scored: Confusion
    decided: Confusion
    curve: Roc | None
    lots: tuple[LotFigures, ...]


def validate(rows: Sequence[ScanRow], *, threshold: float, labels_without_file: int | None) -> Validation:
    """Figures of a finished replay."""
    outcomes = Counter((row.label, row.outcome) for row in rows)
    p, truth = _arrays(select(rows, _is_scored))
    scored = confusion(p, truth, threshold)
    decided = Confusion(
        tp=outcomes[Label.ABNORMAL, Outcome.ABNORMAL],
        fp=outcomes[Label.NORMAL, Outcome.ABNORMAL],
        tn=outcomes[Label.NORMAL, Outcome.NORMAL],
        fn=outcomes[Label.ABNORMAL, Outcome.NORMAL],
    )
    metrics = _metrics(outcomes, scored, decided, auroc(p, truth), auprc(p, truth), labels_without_file)
    return Validation(metrics, outcomes, scored, decided, roc(p, truth), tuple(_by_lot(rows, threshold)))


def _metrics(
    outcomes: Counter[tuple[Label | None, Outcome]],
    scored: Confusion,
    decided: Confusion,
    roc_area: float,
    precision: float,
    labels_without_file: int | None,
) -> Metrics:
    scans = outcomes.total()
    labelled = {label: sum(outcomes[label, outcome] for outcome in Outcome) for label in (None, *Label)}
    judged = {outcome: sum(outcomes[label, outcome] for label in (None, *Label)) for outcome in Outcome}
    review, unreadable = _rate(judged[Outcome.REVIEW], scans), _rate(judged[Outcome.UNREADABLE], scans)
    escape = _rate(decided.fn, labelled[Label.ABNORMAL])
    overkill = _rate(decided.fp, labelled[Label.NORMAL])
    sensitivity = _rate(scored.tp, scored.tp + scored.fn)
    specificity = _rate(scored.tn, scored.tn + scored.fp)
    accuracy, accuracy_decided = _balanced_accuracy(scored), _balanced_accuracy(decided)
    return Metrics(
        scans_count=scans,
        labelled_count=scans - labelled[None],
        unlabelled_count=labelled[None],
        labels_without_file_count=labels_without_file,
        normal_count=judged[Outcome.NORMAL],
        abnormal_count=judged[Outcome.ABNORMAL],
        review_count=judged[Outcome.REVIEW],
        unreadable_count=judged[Outcome.UNREADABLE],
        review_rate=review.value,
        review_rate_low=review.low,
        review_rate_high=review.high,
        unreadable_rate=unreadable.value,
        unreadable_rate_low=unreadable.low,
        unreadable_rate_high=unreadable.high,
        labelled_abnormal_count=labelled[Label.ABNORMAL],
        labelled_normal_count=labelled[Label.NORMAL],
        escape_count=decided.fn if labelled[Label.ABNORMAL] else None,
        escape_rate=escape.value,
        escape_rate_low=escape.low,
        escape_rate_high=escape.high,
        overkill_count=decided.fp if labelled[Label.NORMAL] else None,
        overkill_rate=overkill.value,
        overkill_rate_low=overkill.low,
        overkill_rate_high=overkill.high,
        scored_count=scored.total,
        balanced_accuracy=accuracy.value,
        balanced_accuracy_low=accuracy.low,
        balanced_accuracy_high=accuracy.high,
        sensitivity=sensitivity.value,
        sensitivity_low=sensitivity.low,
        sensitivity_high=sensitivity.high,
        specificity=specificity.value,
        specificity_low=specificity.low,
        specificity_high=specificity.high,
        auroc=none_if_nan(roc_area),
        auprc=none_if_nan(precision),
        decided_count=decided.total,
        balanced_accuracy_decided=accuracy_decided.value,
        balanced_accuracy_decided_low=accuracy_decided.low,
        balanced_accuracy_decided_high=accuracy_decided.high,
    )


class _Figure(NamedTuple):
    """A figure and its 95 % interval; three times None where there was nothing to measure it on."""

    value: float | None
    low: float | None
    high: float | None


_UNDEFINED = _Figure(None, None, None)


def _rate(hits: int, total: int) -> _Figure:
    return _Figure(hits / total, *wilson(hits, total)) if total else _UNDEFINED


def _balanced_accuracy(counts: Confusion) -> _Figure:
    """Undefined where no scan of one label counts: the other's rate would stand for both."""
    if not (counts.sensitivity.total and counts.specificity.total):
        return _UNDEFINED
    return _Figure(counts.balanced_accuracy, *counts.balanced_accuracy_interval)


def _by_lot(rows: Sequence[ScanRow], threshold: float) -> list[LotFigures]:
    places: dict[str | None, array[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row.lot, array("Q")).append(place)
    in_order = sorted(places, key=lambda name: (name is None, name or ""))  # files of no lot last
    return [_lot(name, Selection(rows, places[name]), threshold) for name in in_order]


def _lot(name: str | None, rows: Sequence[ScanRow], threshold: float) -> LotFigures:
    p, truth = _arrays(select(rows, _is_scored))
    counts = Counter((row.label, row.outcome) for row in rows)
    return LotFigures(
        lot=name,
        scans=len(rows),
        labelled_normal=sum(counts[Label.NORMAL, outcome] for outcome in Outcome),
        labelled_abnormal=sum(counts[Label.ABNORMAL, outcome] for outcome in Outcome),
        review=sum(counts[label, Outcome.REVIEW] for label in (None, *Label)),
        unreadable=sum(counts[label, Outcome.UNREADABLE] for label in (None, *Label)),
        escapes=counts[Label.ABNORMAL, Outcome.NORMAL],
        overkill=counts[Label.NORMAL, Outcome.ABNORMAL],
        scored=confusion(p, truth, threshold),
    )


def _is_scored(row: ScanRow) -> bool:
    return row.label is not None and row.p_abnormal is not None


def _arrays(rows: Sequence[ScanRow]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    p = np.fromiter((math.nan if row.p_abnormal is None else row.p_abnormal for row in rows), np.float64, len(rows))
    return p, np.fromiter((row.label is Label.ABNORMAL for row in rows), np.int64, len(rows))
