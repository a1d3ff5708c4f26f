"""Tables 2 and 3 of Lindgren and Zach 2022, our figures beside the paper's, and the table of a recipe's variants."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from edge.validation.lots import worst_lot
from edge.validation.statistics import Rate
from train.papers.welds.benchmark import Benchmark
from train.papers.welds.evaluation import (
    ACCEPTED,
    PATCH_FPR,
    VALIDATION_DEFECTS,
    Detector,
    Entry,
    Outcome,
    entry,
    interval_over_welds,
)
from train.papers.welds.regions import HIGH_CNR_MIN, LOW_CNR_MAX
from train.papers.welds.variants import BOTH
from train.report import span_over, table

REAL_SETS: Final = ("defects-high", "defects-mid", "defects-low")
SYNTHETIC_SETS: Final = ("circular-hollow-inclusion", "dogbone", "elongated", "partial-circle", "raster")
SHARP_SETS: Final = tuple(f"{name}-sharp" for name in SYNTHETIC_SETS)

_PAPER_ROWS: Final = {
    "defects-high": ((50, 2), (79, 9), (94, 3), (78, 3), (83, 3), (84, 4), (85, 2)),
    "defects-mid": ((6, 5), (69, 17), (90, 3), (45, 7), (74, 4), (77, 7), (76, 4)),
    "defects-low": ((0, 1), (16, 6), (26, 7), (15, 10), (23, 3), (17, 2), (21, 2)),
    "circular-hollow-inclusion": ((12, 10), (100, 0), (100, 0), (46, 11), (69, 24), (100, 0), (100, 0)),
    "dogbone": ((10, 2), (100, 0), (100, 0), (45, 14), (48, 11), (97, 2), (97, 2)),
    "elongated": ((3, 1), (100, 0), (100, 0), (24, 7), (24, 3), (70, 8), (86, 7)),
    "partial-circle": ((4, 3), (99, 1), (99, 1), (31, 6), (33, 9), (89, 6), (90, 6)),
    "raster": ((100, 0), (100, 0), (100, 0), (71, 27), (98, 3), (97, 5), (100, 0)),
}
_PAPER_COLUMNS: Final = (
    "none",
    "d",
    "sni",
    "classifier-d",
    "classifier-d-sc",
    "classifier-d-sc-spc",
    "classifier-d-sni",
)
PAPER: Final = {
    (variant, name): row[place] for name, row in _PAPER_ROWS.items() for place, variant in enumerate(_PAPER_COLUMNS)
}
"""The paper's TPR and half spread in %, by variant and test set. Its welds, and what it calls high, mid and low
contrast, are not quite ours: 34 welds of the same collection, seven of which are here with masks."""


def tables_markdown(benchmark: Benchmark, detectors: Sequence[Detector], notes: Sequence[str]) -> str:
    """The tables of a benchmark: of the paper's networks as the paper has them, of others one line per detector."""
    of_paper = [detector for detector in detectors if (detector.variant, "raster") in PAPER]
    parts: list[str] = []
    if {detector.variant for detector in of_paper} == set(_PAPER_COLUMNS):
        second = [detector for detector in detectors if detector.variant == BOTH.name]
        first = [detector for detector in detectors if detector not in second]
        groups = (
            ("Table 3: autoencoder", [d for d in first if d.columns]),
            ("Table 2: patch classifier", [d for d in first if not d.columns]),
            ("Second use case: learnt from accepted and defective patches, a filter before another model", second),
        )
        for title, group in groups:
            parts += [f"## {title}", "", *paper_table(benchmark, group, own=False), ""]
        parts += ["## The same where the accepted test patches set the thresholds", ""]
        parts += [*paper_table(benchmark, first, own=True), "", "## AUROC", "", *area_table(benchmark, detectors)]
    else:
        parts += ["## Variants", "", *variants_table(benchmark, detectors)]
        parts += ["", "## AUROC", "", *area_table(benchmark, detectors)]
    parts += ["", "## By weld", "", *weld_table(benchmark, detectors)]
    head = ["# The gate on real welds", "", *_READING, "", *notes, ""]
    return "\n".join([*head, *parts]) + "\n"


def paper_table(benchmark: Benchmark, detectors: Sequence[Detector], *, own: bool) -> list[str]:
    """Test sets down, detectors across, ours and the paper's beside each other."""
    heads = [head for d in detectors for head in ((d.name, "paper") if (d.variant, "raster") in PAPER else (d.name,))]
    rows: list[list[object]] = []
    for name in (*REAL_SETS, *SYNTHETIC_SETS, *SHARP_SETS, ACCEPTED):
        cells = []
        for detector in detectors:
            cells.append(cell(entry_of(benchmark, detector, name, own=own), digits=2 if name == ACCEPTED else 1))
            if (detector.variant, "raster") in PAPER:
                paper = PAPER.get((detector.variant, name))
                cells.append("" if paper is None else f"{paper[0]} ({paper[1]})")
        total = entry_of(benchmark, detectors[0], name, own=own).total
        label = "*accepted, refused (FPR)*" if name == ACCEPTED else name
        rows.append([label, total, *cells])
    return table(["test set", "patches", *heads], rows)


def variants_table(benchmark: Benchmark, detectors: Sequence[Detector]) -> list[str]:
    """Detectors down: what they find in validation (on which a recipe is chosen) and in each group of test sets."""
    rows = []
    for detector in detectors:
        shares = [cell(entry_of(benchmark, detector, VALIDATION_DEFECTS, own=False))]
        shares += [cell(entry_of(benchmark, detector, name, own=False)) for name in REAL_SETS]
        for group in (SYNTHETIC_SETS, SHARP_SETS):
            least = min((entry_of(benchmark, detector, name, own=False) for name in group), key=lambda e: e.mean)
            shares.append(cell(least))
        shares.append(cell(entry_of(benchmark, detector, ACCEPTED, own=False), digits=2))
        shares += [cell(entry_of(benchmark, detector, name, own=True)) for name in REAL_SETS]
        rows.append([detector.name, *shares])
    groups = ("validation defects", "high", "mid", "low", "synthetic", "synthetic, sharp", "FPR")
    lines = table(["detector", *groups, "high, own FPR", "mid", "low"], rows)
    return [*lines, "", "Of the synthetic sets the one that is found least is given."]


def area_table(benchmark: Benchmark, detectors: Sequence[Detector]) -> list[str]:
    """Detectors down, AUROC in % of every test set against the accepted test patches: mean (half spread).

    The interval over welds is of the first run, of sets of real patches.
    """
    names = (*REAL_SETS, *SYNTHETIC_SETS)
    rows = []
    for detector in detectors:
        outcomes = benchmark.outcomes[detector.name]
        cells = []
        for name in names:
            areas = [outcome.auroc.get(name, math.nan) for outcome in outcomes]
            if not all(math.isfinite(area) for area in areas):
                cells.append("-")
                continue
            spread = f"{100 * np.mean(areas):.1f} ({50 * (max(areas) - min(areas)):.1f})"
            welds = sum(rate.total > 0 for rate in outcomes[0].by_weld.get(name, {}).values())
            over = span_over(outcomes[0].auroc_over_welds.get(name), welds, "weld") if welds else ""
            cells.append(f"{spread} [{over}]" if over else spread)
        rows.append([detector.name, *cells])
    return table(["detector", *names], rows)


def weld_table(benchmark: Benchmark, detectors: Sequence[Detector]) -> list[str]:
    """Sets of real patches weld by weld down, detectors across: shares in % by the validation thresholds."""
    rows: list[list[object]] = []
    for name in (ACCEPTED, *REAL_SETS):
        of_detectors = [[outcome.by_weld.get(name, {}) for outcome in benchmark.outcomes[d.name]] for d in detectors]
        label = "accepted, refused" if name == ACCEPTED else name
        for weld, rate in sorted(of_detectors[0][0].items()):
            if rate.total:
                cells = [f"{100 * np.mean([run[weld].share for run in runs]):.1f}" for runs in of_detectors]
                rows.append([label, weld, rate.total, *cells])
        rows.append([label, "*worst weld*", "", *(worst_weld(runs, name) for runs in of_detectors)])
        spans = [interval_over_welds(list(runs[0].values())) for runs in of_detectors]
        count = sum(rate.total > 0 for rate in of_detectors[0][0].values())
        rows.append([label, "*95 %, other welds*", "", *(span_over(span, count, "weld") for span in spans)])
    lines = table(["set", "weld", "patches", *(d.name for d in detectors)], rows)
    return [*lines, "", "Last line of each set: interval over welds, first run."]


def worst_weld(runs: Sequence[Mapping[str, Rate]], name: str) -> str:
    """The weld with most accepted patches refused, or fewest defects found, of all runs together."""
    totals = {weld: sum(run[weld].total for run in runs) for weld in runs[0]}
    hits = {weld: sum(run[weld].hits for run in runs) for weld in runs[0]}
    errors = [hits[weld] if name == ACCEPTED else totals[weld] - hits[weld] for weld in totals]
    worst = worst_lot(list(totals), errors, list(totals.values()))
    return "none" if worst is None else worst.lot


def tables_csv(benchmark: Benchmark, detectors: Sequence[Detector]) -> str:
    """One line per detector and set."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    figures = ("share", "half_spread", "low", "high")
    writer.writerow(("detector", "set", "patches", *figures, *(f"own_{name}" for name in figures), "auroc", "paper"))
    for detector in detectors:
        for name, outcome in _of_sets(benchmark, detector).items():
            paper = PAPER.get((detector.variant, name))
            row = [detector.name, name, outcome["patches"]]
            row += [outcome[part][figure] for part in ("validation_fpr", "own_fpr") for figure in figures]
            writer.writerow([*row, outcome["auroc"], "" if paper is None else paper[0] / 100])
    return text.getvalue()


def tables_json(benchmark: Benchmark, detectors: Sequence[Detector]) -> dict[str, Any]:
    """All figures by detector and set; a share of nothing is None."""
    return {detector.name: _of_sets(benchmark, detector) for detector in detectors}


def entry_of(benchmark: Benchmark, detector: Detector, name: str, *, own: bool) -> Entry:
    """A detector's entry for a set of patches."""
    outcomes = benchmark.outcomes[detector.name]
    welds = outcomes[0].own_by_weld if own else outcomes[0].by_weld
    return entry([_rates(outcome, own=own)[name] for outcome in outcomes], list(welds.get(name, {}).values()))


def cell(figure: Entry, digits: int = 1) -> str:
    """`94.1 (1.2) [92.9, 95.2; 7 welds]`: mean, half spread, 95 % interval over welds, in %; `-` of nothing."""
    if not figure.total:
        return "-"
    mean, spread, low, high = (100 * x for x in (figure.mean, figure.half_spread, figure.low, figure.high))
    over = "" if figure.welds is None else f"; {figure.welds} welds"
    interval = "no interval: 1 weld" if figure.welds == 1 else f"{low:.{digits}f}, {high:.{digits}f}{over}"
    return f"{mean:.{digits}f} ({spread:.{digits}f}) [{interval}]"


def _rates(outcome: Outcome, *, own: bool) -> dict[str, Any]:
    return outcome.flagged_own if own else outcome.flagged


def _of_sets(benchmark: Benchmark, detector: Detector) -> dict[str, dict[str, Any]]:
    outcomes = benchmark.outcomes[detector.name]
    found: dict[str, dict[str, Any]] = {}
    for name in outcomes[0].flagged:
        areas = [outcome.auroc.get(name, math.nan) for outcome in outcomes]
        found[name] = {
            "patches": outcomes[0].flagged[name].total,
            "validation_fpr": _figures(entry_of(benchmark, detector, name, own=False)),
            "own_fpr": _figures(entry_of(benchmark, detector, name, own=True)),
            "auroc": _finite(float(np.mean(areas))),
            "auroc_over_welds": outcomes[0].auroc_over_welds.get(name),
        }
    return found


def _figures(figure: Entry) -> dict[str, float | None]:
    return {
        "share": _finite(figure.mean),
        "half_spread": _finite(figure.half_spread),
        "low": round(figure.low, 6),
        "high": round(figure.high, 6),
        "welds": figure.welds,
    }


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


_READING: Final = (
    f"Share of patches found, in %, by thresholds that {100 * PATCH_FPR:g} % of accepted patches of other welds exceed"
    " (of validation and training welds; for the classifiers of validation welds alone): mean over the runs"
    " (half spread) [95 % interval]. Every weld is tested once; the decisions of all folds are added up.",
    "Intervals of real patches are over other welds (t over the tested ones, first run); those of synthetic"
    " ones are over patches (Wilson) and too narrow, for patches of one weld resemble each other and overlap.",
    "Folds: welds are dealt to the test sets by the area of their defects, so that each gets much and little to find;"
    " half of the next fold's test welds, those longest clear of defects, validate; the others train."
    " Contrast: how far the stronger half of a defect's pixels is from the weld fitted around it, over the noise;"
    f" high from {HIGH_CNR_MIN:g} up, low below {LOW_CNR_MAX:g}.",
    "At a blur of 9 px, as printed, a partial circle of 10 degrees has next to nothing left to find; the sets ending in"
    " `-sharp` are blurred by 2 px.",
)
