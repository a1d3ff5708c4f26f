"""What a cross-validation found, as figures and tables: Table 1 of the paper with the paper's own rows beside ours."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edge.validation.lots import share_over_lots, worst_lot
from edge.validation.statistics import Confusion, Interval, Rate, auprc, auroc, confusion
from train.classifier.folds import FoldResult
from train.classifier.lots import (
    accuracy_difference,
    accuracy_interval,
    auprc_interval,
    auroc_interval,
    most_wrong,
)
from train.dataset import Row
from train.metrics import best_threshold, logit, severity_thirds, third_of
from train.report import finite, percent_span, rate_values, span_over, table, worst_of, worst_values

PAPER_TABLE: Final = {
    "naive": (50.00, 75.00, 50.00, 90.54, 75.00, 66.15, 82.39, 50.00, 68.53, 50.00, 75.00, 53.33),
    "global": (96.88, 50.00, 50.00, 58.65, 62.50, 87.05, 89.53, 50.00, 50.00, 50.00, 99.40, 80.70),
    "local": (50.00, 75.00, 50.00, 67.30, 75.00, 77.56, 73.89, 100.00, 90.00, 54.17, 75.00, 75.52),
    "mixed": (40.63, 75.00, 50.00, 67.30, 62.50, 85.13, 72.17, 50.00, 70.00, 54.17, 75.00, 67.76),
}
"""Balanced accuracy in % of the paper's lots 1 to 12 (J Table 1). Its lots are not ours: only the last line of
the table, over all lots, may be compared."""
PAPER_OVERALL: Final = {"naive": 82.31, "global": 85.18, "local": 85.00, "mixed": 81.02}


@dataclass(frozen=True)
class Column:
    """One conversion over all lots."""

    method: str
    folds: tuple[FoldResult, ...]

    @property
    def by_lot(self) -> dict[str, Confusion]:
        return {fold.lot: confusion(fold.scores(), fold.truth(), fold.threshold) for fold in self.folds}

    @property
    def overall(self) -> Confusion:
        """Decisions of all lots added up (J 3.2)."""
        return sum(self.by_lot.values(), Confusion(0, 0, 0, 0))

    def lots(self, label: int | None = None) -> int:
        """Lots that were judged; with a label, those that have a scan of it."""
        return sum(label is None or label in fold.labels for fold in self.folds)

    @property
    def interval_over_lots(self) -> Interval:
        """95 % interval of the balanced accuracy, had other lots been judged."""
        return accuracy_interval(list(self.by_lot.values()))

    @property
    def auroc_over_lots(self) -> Interval:
        """95 % interval of the area under the ROC curve of `scores`, had other lots been judged."""
        return auroc_interval(self.scores, self.labels, [fold.lot for fold in self.folds for _ in fold.labels])

    @property
    def auprc_over_lots(self) -> Interval:
        """95 % interval of the average precision of `scores`, had other lots been judged."""
        return auprc_interval(self.scores, self.labels, [fold.lot for fold in self.folds for _ in fold.labels])

    @property
    def escapes_over_lots(self) -> Interval:
        """95 % interval of the share of abnormal scans called normal, had other lots been judged."""
        return _share_over_lots([(lot.fn, lot.fn + lot.tp) for lot in self.by_lot.values()])

    @property
    def overkill_over_lots(self) -> Interval:
        """95 % interval of the share of normal scans called abnormal, had other lots been judged."""
        return _share_over_lots([(lot.fp, lot.fp + lot.tn) for lot in self.by_lot.values()])

    @property
    def scores(self) -> npt.NDArray[np.float64]:
        """Scores of all lots, each from its own fold's threshold: logit(p) - logit(threshold), as a probability."""
        return np.concatenate([_sigmoid(logit(f.scores()) - logit(np.array([f.threshold]))) for f in self.folds])

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        return np.concatenate([fold.truth() for fold in self.folds])


def columns_of(results: Sequence[FoldResult]) -> list[Column]:
    """Results by conversion, in the order they come."""
    methods = list(dict.fromkeys(result.method for result in results))
    return [Column(m, tuple(result for result in results if result.method == m)) for m in methods]


def severity_limit(rows: Sequence[Row]) -> Confusion | None:
    """What one could reach who knew every scan's severity, and not where labels part: the oracle of a simulated set.

    Judged as the networks are: the threshold on the severity comes from the other lots. None where the labels do
    not give the severities of all scans, or a fold's training scans hold one class only.
    """
    severities = np.array([np.nan if row.severity is None else row.severity for row in rows])
    labels, lots = np.array([row.label for row in rows]), np.array([row.lot for row in rows])
    severities = severities / max(1.0, np.nanmax(severities, initial=0.0))  # grades of 1 to 5, say
    total = Confusion(0, 0, 0, 0)
    for lot in np.unique(lots):
        held_out = lots == lot
        if np.isnan(severities).any() or len(np.unique(labels[~held_out])) < 2:
            return None
        threshold = best_threshold(severities[~held_out], labels[~held_out])
        total += confusion(severities[held_out], labels[held_out], threshold)
    return total


def table_markdown(columns: Sequence[Column], notes: Sequence[str], limit: Confusion | None = None) -> str:
    """Table 1: balanced accuracy in %, lots down, conversions across; `limit` is `severity_limit`."""
    lots = list(columns[0].by_lot)
    rows: list[list[str]] = []
    for lot in lots:
        fold = next(fold for fold in columns[0].folds if fold.lot == lot)
        cells = [_percent(column.by_lot[lot].balanced_accuracy) for column in columns]
        one_class = " ¹" if len(set(fold.labels)) < 2 else ""
        rows.append([f"{lot}{one_class}", f"{len(fold.labels)} ({sum(fold.labels)})", *cells])
    total = columns[0].overall
    overall = [f"**{_percent(column.overall.balanced_accuracy)}**" for column in columns]
    rows.append(["**overall**", f"{total.total} ({total.tp + total.fn})", *overall])
    rows.append(["95 %, over scans", "", *(percent_span(c.overall.balanced_accuracy_interval) for c in columns)])
    rows.append(["95 %, over lots", "", *(span_over(c.interval_over_lots, c.lots(), "lot") for c in columns)])
    if limit is not None:
        best = limit.balanced_accuracy
        distances = [f"{100 * (best - c.overall.balanced_accuracy):.2f} below {_percent(best)}" for c in columns]
        rows.append(["limit: severity known", "", *distances])
    rows += [[name, "", *map(of, columns)] for name, of in _FURTHER]
    paper = [f"{PAPER_OVERALL[c.method]:.2f}" if c.method in PAPER_OVERALL else "" for c in columns]
    rows.append(["paper, overall (its own 714 scans)", "714 (152)", *paper])
    lines = table(["test lot", "scans (abnormal)", *(column.method for column in columns)], rows)
    remarks = ["Balanced accuracy in %; a lot marked ¹ holds one class only and scores that class's rate.", *notes]
    return "\n".join([*lines, "", *differences(columns), *remarks]) + "\n"


def differences(columns: Sequence[Column]) -> list[str]:
    """One line: every column against every other, drawn together lot by lot, in points of balanced accuracy."""
    if len(columns) < 2:
        return []
    found = []
    for one, other in combinations(columns, 2):
        pairs = [(one.by_lot[lot], other.by_lot[lot]) for lot in one.by_lot]
        points, (low, high) = accuracy_difference([mine for mine, _ in pairs], [theirs for _, theirs in pairs])
        found.append(f"{one.method} less {other.method} {100 * points:.1f} ({100 * low:.1f} to {100 * high:.1f})")
    return [f"Paired over lots, in points (95 %; columns cannot be told apart where it holds 0): {'; '.join(found)}."]


def table_csv(columns: Sequence[Column]) -> str:
    """The counts behind the table, one line per conversion and lot, then `overall` and `paper`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("conversion", "bundle", "tp", "fp", "tn", "fn", "threshold", "balanced_accuracy", "low", "high"))
    for column in columns:
        thresholds: dict[str, float | str] = {fold.lot: f"{fold.threshold:.6f}" for fold in column.folds}
        for lot, counts in [*column.by_lot.items(), ("overall", column.overall)]:
            low, high = counts.balanced_accuracy_interval
            figures = [f"{value:.6f}" for value in (counts.balanced_accuracy, low, high)]
            where = thresholds.get(lot, "")
            writer.writerow((column.method, lot, counts.tp, counts.fp, counts.tn, counts.fn, where, *figures))
        for number, share in enumerate(PAPER_TABLE.get(column.method, ()), 1):
            writer.writerow((column.method, f"paper {number}", "", "", "", "", "", f"{share / 100:.4f}", "", ""))
        if column.method in PAPER_OVERALL:
            share = PAPER_OVERALL[column.method]
            writer.writerow((column.method, "paper overall", "", "", "", "", "", f"{share / 100:.4f}", "", ""))
    return text.getvalue()


def summary(columns: Sequence[Column], own: str, rows: Sequence[Row], facts: dict[str, Any]) -> dict[str, Any]:
    """Everything as one dictionary for JSON: `overall` is the recipe's own conversion; NaN becomes None."""
    by_method = {column.method: column for column in columns}
    chosen = by_method.get(own, columns[0])
    limit = severity_limit(rows)
    return {
        **facts,
        "overall": {"conversion": chosen.method, **_figures(chosen)},
        "conversions": {column.method: _figures(column) for column in columns},
        "bundles": {
            column.method: {lot: _of_counts(counts) for lot, counts in column.by_lot.items()} for column in columns
        },
        "kinds": {column.method: kind_recalls(column, rows) for column in columns},
        "severity_known": None if limit is None else _of_counts(limit),
        "paper": {"overall": {name: share / 100 for name, share in PAPER_OVERALL.items()}},
    }


def kind_recalls(column: Column, rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Share found of the abnormal scans of each kind, in all and by thirds of the severities there are.

    A scan of two kinds counts for both. Empty where the labels name no kinds.
    """
    by_file = {row.file: row for row in rows}
    abnormal = [
        (by_file[file], bool(p >= fold.threshold))
        for fold in column.folds
        for file, label, p in zip(fold.files, fold.labels, fold.p_abnormal, strict=True)
        if label == 1
    ]
    severities = [row.severity for row, _ in abnormal if row.severity is not None]
    thirds = severity_thirds(severities)
    found: dict[str, dict[str, Any]] = {}
    for kind in sorted({kind for row, _ in abnormal for kind in row.kinds}):
        of_kind = [hit for row, hit in abnormal if kind in row.kinds]
        entry: dict[str, Any] = rate_values(Rate(sum(of_kind), len(of_kind)))
        entry |= _over_lots([(row.lot, hit) for row, hit in abnormal if kind in row.kinds])
        if thirds:
            entry["by_severity"] = []
            for place, (low, high) in enumerate(thirds):
                third = [
                    (row.lot, hit)
                    for row, hit in abnormal
                    if kind in row.kinds and row.severity is not None and third_of(row.severity, thirds) == place
                ]
                rate = rate_values(Rate(sum(hit for _, hit in third), len(third)))
                entry["by_severity"].append({"from": low, "to": high, **rate, **_over_lots(third)})
        found[kind] = entry
    return found


def _figures(column: Column) -> dict[str, Any]:
    return {
        **_of_counts(column.overall),
        "lots": column.lots(),
        "balanced_accuracy_interval_over_lots": list(column.interval_over_lots),
        "auroc": finite(auroc(column.scores, column.labels)),
        "auroc_interval_over_lots": list(column.auroc_over_lots),
        "auprc": finite(auprc(column.scores, column.labels)),
        "auprc_interval_over_lots": list(column.auprc_over_lots),
        "escape_rate_over_lots": list(column.escapes_over_lots),
        "overkill_rate_over_lots": list(column.overkill_over_lots),
        "worst_lot": worst_values(most_wrong(column.by_lot)),
    }


def _over_lots(scans: Sequence[tuple[str, bool]]) -> dict[str, Any]:
    """Lots, the interval over them and the worst, for scans with their lots and whether each was found."""
    lots: dict[str, list[bool]] = {}
    for lot, hit in scans:
        lots.setdefault(lot, []).append(hit)
    missed, sizes = [hits.count(False) for hits in lots.values()], [len(hits) for hits in lots.values()]
    return {
        "lots": len(lots),
        "over_lots": list(_share_over_lots([(sum(hits), len(hits)) for hits in lots.values()])),
        "worst_lot": worst_values(worst_lot(list(lots), missed, sizes)),
    }


def _share_over_lots(lots: Sequence[tuple[int, int]]) -> Interval:
    """95 % interval of the share of (hits, scans) of lots added up, had other lots been judged."""
    found = share_over_lots([hits for hits, _ in lots], [scans for _, scans in lots])
    return Interval(0.0, 1.0) if found is None else Interval(found.low, found.high)


def _of_counts(counts: Confusion) -> dict[str, Any]:
    missed = Rate(counts.fn, counts.fn + counts.tp)
    return {
        "balanced_accuracy": finite(counts.balanced_accuracy),
        "balanced_accuracy_interval": list(counts.balanced_accuracy_interval),
        "tp": counts.tp,
        "fp": counts.fp,
        "tn": counts.tn,
        "fn": counts.fn,
        "escape_rate": rate_values(missed),
        "overkill_rate": rate_values(Rate(counts.fp, counts.fp + counts.tn)),
    }


def _percent(share: float) -> str:
    return f"{100 * share:.2f}" if math.isfinite(share) else "-"


def _rate_cell(rate: Rate) -> str:
    return f"{_percent(rate.share)} ({percent_span(rate.interval)})"


_FURTHER: Final[tuple[tuple[str, Callable[[Column], str]], ...]] = (
    ("AUROC", lambda c: _percent(auroc(c.scores, c.labels))),
    ("AUROC, 95 % over lots", lambda c: span_over(c.auroc_over_lots, c.lots(), "lot")),
    ("AUPRC", lambda c: _percent(auprc(c.scores, c.labels))),
    ("AUPRC, 95 % over lots", lambda c: span_over(c.auprc_over_lots, c.lots(), "lot")),
    ("escapes", lambda c: _rate_cell(Rate(c.overall.fn, c.overall.fn + c.overall.tp))),
    ("escapes, 95 % over lots", lambda c: span_over(c.escapes_over_lots, c.lots(1), "lot")),
    ("overkill", lambda c: _rate_cell(Rate(c.overall.fp, c.overall.fp + c.overall.tn))),
    ("overkill, 95 % over lots", lambda c: span_over(c.overkill_over_lots, c.lots(0), "lot")),
    ("worst lot, decided wrongly", lambda c: worst_of(most_wrong(c.by_lot))),
)


def _sigmoid(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-x)), np.float64)
