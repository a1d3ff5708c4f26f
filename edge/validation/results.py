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
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

import numpy as np
import numpy.typing as npt

from edge.records import Outcome
from edge.validation.labels import Label
from edge.validation.statistics import Confusion, Rate, Roc, auprc, auroc, confusion, roc

STAGES = ("read", "convert", "infer")


@dataclass(frozen=True, slots=True)
class ScanRow:
    """One judged file, without its pixels: what stays in memory for the whole replay."""

    file: str
    bundle: str | None
    label: Label | None
    outcome: Outcome
    reasons: tuple[str, ...]
    p_abnormal: float | None
    gate_mean_max: float | None
    gate_std_max: float | None
    durations_ms: tuple[float | None, float | None, float | None]
    """In the order of STAGES; None for a step that did not run."""

    @property
    def is_escape(self) -> bool:
        """A bad electrode that the line lets pass unseen."""
        return self.label is Label.ABNORMAL and self.outcome is Outcome.NORMAL

    @property
    def is_overkill(self) -> bool:
        """A good electrode that the line rejects."""
        return self.label is Label.NORMAL and self.outcome is Outcome.ABNORMAL


@dataclass(frozen=True)
class Metrics:
    """The flat figures of `summary.json`, which `--require` names. None: there was nothing to measure it on.

    `_low` and `_high` are limits of 95 % intervals: Wilson's for rates, see
    `Confusion.balanced_accuracy_interval` for balanced accuracies.
    """

    scans_count: int = field(metadata={"means": "files judged"})
    labelled_count: int = field(metadata={"means": "judged files with a label"})
    unlabelled_count: int = field(metadata={"means": "judged files without a label"})
    labels_without_file_count: int = field(metadata={"means": "rows of the labels file that fit no file"})
    normal_count: int = field(metadata={"means": "outcome normal"})
    abnormal_count: int = field(metadata={"means": "outcome abnormal"})
    review_count: int = field(metadata={"means": "outcome review"})
    unreadable_count: int = field(metadata={"means": "outcome unreadable"})
    review_rate: float | None = field(metadata={"means": "outcome review / judged files"})
    unreadable_rate: float | None = field(metadata={"means": "outcome unreadable / judged files"})
    labelled_abnormal_count: int = field(metadata={"means": "judged files labelled abnormal"})
    labelled_normal_count: int = field(metadata={"means": "judged files labelled normal"})
    escape_count: int = field(metadata={"means": "labelled abnormal, outcome normal"})
    escape_rate: float | None = field(metadata={"means": "escapes / labelled abnormal, reviewed ones included"})
    escape_rate_low: float | None = field(metadata={"means": "lower limit of the escape rate"})
    escape_rate_high: float | None = field(metadata={"means": "upper limit of the escape rate"})
    overkill_count: int = field(metadata={"means": "labelled normal, outcome abnormal"})
    overkill_rate: float | None = field(metadata={"means": "overkill / labelled normal, reviewed ones included"})
    overkill_rate_low: float | None = field(metadata={"means": "lower limit of the overkill rate"})
    overkill_rate_high: float | None = field(metadata={"means": "upper limit of the overkill rate"})
    scored_count: int = field(metadata={"means": "labelled scans with a probability, whatever their outcome"})
    balanced_accuracy: float | None = field(
        metadata={"means": "(sensitivity + specificity) / 2 of scored scans; if nobody gave a label, the other's"}
    )
    balanced_accuracy_low: float | None = field(metadata={"means": "lower limit of the balanced accuracy"})
    balanced_accuracy_high: float | None = field(metadata={"means": "upper limit of the balanced accuracy"})
    sensitivity: float | None = field(metadata={"means": "p >= threshold / scored scans labelled abnormal"})
    specificity: float | None = field(metadata={"means": "p < threshold / scored scans labelled normal"})
    auroc: float | None = field(metadata={"means": "area under the ROC curve of scored scans"})
    auprc: float | None = field(metadata={"means": "average precision of scored scans"})
    decided_count: int = field(metadata={"means": "labelled scans with the outcome normal or abnormal"})
    balanced_accuracy_decided: float | None = field(metadata={"means": "balanced accuracy of decided scans"})
    balanced_accuracy_decided_low: float | None = field(metadata={"means": "its lower limit"})
    balanced_accuracy_decided_high: float | None = field(metadata={"means": "its upper limit"})
    scans_per_s: float | None = field(metadata={"means": "judged files / seconds from the first to the last"})
    read_ms_p50: float | None = field(metadata={"means": "median time to read a file, ms"})
    read_ms_p90: float | None = field(metadata={"means": "90th percentile of it, ms"})
    convert_ms_p50: float | None = field(metadata={"means": "median time to convert a scan to the input image, ms"})
    convert_ms_p90: float | None = field(metadata={"means": "90th percentile of it, ms"})
    infer_ms_p50: float | None = field(metadata={"means": "median time of both networks per scan, ms"})
    infer_ms_p90: float | None = field(metadata={"means": "90th percentile of it, ms"})

    def flat(self) -> dict[str, int | float | None]:
        """Names and values as `summary.json` holds them."""
        return asdict(self)


METRIC_MEANINGS: dict[str, str] = {item.name: item.metadata["means"] for item in fields(Metrics)}
"""Every name `--require` accepts, with its definition."""


@dataclass(frozen=True, slots=True)
class BundleFigures:
    """One coating bundle. `scored` decides by the threshold alone; escapes and overkill are the line's."""

    bundle: str | None
    scans: int
    labelled_normal: int
    labelled_abnormal: int
    review: int
    unreadable: int
    escapes: int
    overkill: int
    scored: Confusion


@dataclass(frozen=True, slots=True)
class StageFigures:
    """Milliseconds per scan of one stage; None where it never ran."""

    stage: str
    n: int
    p50_ms: float | None
    p90_ms: float | None
    max_ms: float | None


@dataclass(frozen=True, slots=True)
class Validation:
    """Everything that summary and report show, apart from pictures."""

    metrics: Metrics
    outcomes: Mapping[tuple[Label | None, Outcome], int]
    scored: Confusion
    decided: Confusion
    escape: Rate
    overkill: Rate
    review: Rate
    curve: Roc | None
    bundles: tuple[BundleFigures, ...]
    stages: tuple[StageFigures, ...]


def validate(rows: Sequence[ScanRow], *, threshold: float, labels_without_file: int, elapsed_s: float) -> Validation:
    """Figures of a finished replay. `elapsed_s` is the wall time of the loop over the scans."""
    outcomes = Counter((row.label, row.outcome) for row in rows)
    by_outcome = Counter(row.outcome for row in rows)
    by_label = Counter(row.label for row in rows)
    scored_rows = [row for row in rows if row.label is not None and row.p_abnormal is not None]
    p, truth = _arrays(scored_rows)
    scored = confusion(p, truth, threshold)
    decided = Confusion(
        tp=outcomes[Label.ABNORMAL, Outcome.ABNORMAL],
        fp=outcomes[Label.NORMAL, Outcome.ABNORMAL],
        tn=outcomes[Label.NORMAL, Outcome.NORMAL],
        fn=outcomes[Label.ABNORMAL, Outcome.NORMAL],
    )
    measured, settled = _of_each_label(scored, by_label), _of_each_label(decided, by_label)
    escape = Rate(decided.fn, by_label[Label.ABNORMAL])
    overkill = Rate(decided.fp, by_label[Label.NORMAL])
    review = Rate(by_outcome[Outcome.REVIEW], len(rows))
    stages = tuple(_stage(rows, index) for index in range(len(STAGES)))
    read, convert, infer = stages
    metrics = Metrics(
        scans_count=len(rows),
        labelled_count=len(rows) - by_label[None],
        unlabelled_count=by_label[None],
        labels_without_file_count=labels_without_file,
        normal_count=by_outcome[Outcome.NORMAL],
        abnormal_count=by_outcome[Outcome.ABNORMAL],
        review_count=by_outcome[Outcome.REVIEW],
        unreadable_count=by_outcome[Outcome.UNREADABLE],
        review_rate=_known(review.share),
        unreadable_rate=_known(Rate(by_outcome[Outcome.UNREADABLE], len(rows)).share),
        labelled_abnormal_count=escape.total,
        labelled_normal_count=overkill.total,
        escape_count=escape.hits,
        escape_rate=_known(escape.share),
        escape_rate_low=escape.interval.low if escape.total else None,
        escape_rate_high=escape.interval.high if escape.total else None,
        overkill_count=overkill.hits,
        overkill_rate=_known(overkill.share),
        overkill_rate_low=overkill.interval.low if overkill.total else None,
        overkill_rate_high=overkill.interval.high if overkill.total else None,
        scored_count=len(scored_rows),
        balanced_accuracy=_known(measured.balanced_accuracy),
        balanced_accuracy_low=measured.balanced_accuracy_interval.low if measured.total else None,
        balanced_accuracy_high=measured.balanced_accuracy_interval.high if measured.total else None,
        sensitivity=_known(scored.sensitivity.share),
        specificity=_known(scored.specificity.share),
        auroc=_known(auroc(p, truth)),
        auprc=_known(auprc(p, truth)),
        decided_count=decided.total,
        balanced_accuracy_decided=_known(settled.balanced_accuracy),
        balanced_accuracy_decided_low=settled.balanced_accuracy_interval.low if settled.total else None,
        balanced_accuracy_decided_high=settled.balanced_accuracy_interval.high if settled.total else None,
        scans_per_s=len(rows) / elapsed_s if rows and elapsed_s > 0 else None,
        read_ms_p50=read.p50_ms,
        read_ms_p90=read.p90_ms,
        convert_ms_p50=convert.p50_ms,
        convert_ms_p90=convert.p90_ms,
        infer_ms_p50=infer.p50_ms,
        infer_ms_p90=infer.p90_ms,
    )
    return Validation(
        metrics=metrics,
        outcomes=outcomes,
        scored=scored,
        decided=decided,
        escape=escape,
        overkill=overkill,
        review=review,
        curve=roc(p, truth),
        bundles=tuple(_by_bundle(rows, threshold)),
        stages=stages,
    )


def _of_each_label(counts: Confusion, given: Mapping[Label | None, int]) -> Confusion:
    """The counts, or none where a label was given and no scan of it counts: the other's rate would stand for both."""
    totals = {Label.ABNORMAL: counts.sensitivity.total, Label.NORMAL: counts.specificity.total}
    is_missing = any(given[label] and not total for label, total in totals.items())
    return Confusion(0, 0, 0, 0) if is_missing else counts


def _by_bundle(rows: Iterable[ScanRow], threshold: float) -> list[BundleFigures]:
    groups: dict[str | None, list[ScanRow]] = {}
    for row in rows:
        groups.setdefault(row.bundle, []).append(row)
    in_order = sorted(groups, key=lambda name: (name is None, name or ""))  # files of no bundle last
    return [_bundle(name, groups[name], threshold) for name in in_order]


def _bundle(name: str | None, rows: Sequence[ScanRow], threshold: float) -> BundleFigures:
    p, truth = _arrays([row for row in rows if row.label is not None and row.p_abnormal is not None])
    return BundleFigures(
        bundle=name,
        scans=len(rows),
        labelled_normal=sum(row.label is Label.NORMAL for row in rows),
        labelled_abnormal=sum(row.label is Label.ABNORMAL for row in rows),
        review=sum(row.outcome is Outcome.REVIEW for row in rows),
        unreadable=sum(row.outcome is Outcome.UNREADABLE for row in rows),
        escapes=sum(row.is_escape for row in rows),
        overkill=sum(row.is_overkill for row in rows),
        scored=confusion(p, truth, threshold),
    )


def _arrays(rows: Sequence[ScanRow]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    p = np.array([row.p_abnormal for row in rows], np.float64)
    return p, np.array([row.label is Label.ABNORMAL for row in rows], np.int64)


def _stage(rows: Sequence[ScanRow], index: int) -> StageFigures:
    times_ms = [row.durations_ms[index] for row in rows]
    ran = np.array([time_ms for time_ms in times_ms if time_ms is not None], np.float64)
    if not ran.size:
        return StageFigures(STAGES[index], 0, None, None, None)
    p50_ms, p90_ms = np.percentile(ran, (50, 90))
    return StageFigures(STAGES[index], ran.size, float(p50_ms), float(p90_ms), float(ran.max()))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
