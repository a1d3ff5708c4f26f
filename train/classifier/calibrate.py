"""`edge-train calibrate`: the threshold and the review band of a trained classifier, from lots it has not seen.

What it finds is written into the run's checkpoint, from where `edge-export` takes it into the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from edge.images.conversion import prepare
from edge.records import counts_sha256
from edge.system.progress import Reporter
from edge.validation.lots import share_over_lots, worst_lot
from edge.validation.statistics import Labels, Scores, auroc, confusion
from train.checkpoint import (
    CALIBRATION_PLOT,
    CALIBRATION_REPORT,
    CLASSIFIER_FILE,
    Checkpoint,
    load_checkpoint,
    refuse_lots,
    save_checkpoint,
)
from train.classifier.conformal import (
    Band,
    Coverage,
    calibration_error,
    coverage,
    coverage_by_lot,
    reliability,
    review_band,
    threshold_of_balance,
    threshold_of_cost,
    threshold_of_escapes,
)
from train.classifier.models import Classifier, classifier_of
from train.dataset import Row, data_digest, read_frame, refuse_copies
from train.errors import DataError
from train.files import write_json
from train.networks import p_abnormal_of
from train.plots import save
from train.report import percent_span
from train.survey import natural


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for; without a cost and a rate, the greatest balanced accuracy."""

    alpha: float | None
    """Level of the review band; None leaves it off."""
    miss_cost: float | None
    max_escape_rate: float | None


def calibrate(
    run: Path, rows: Sequence[Row], check_lots: Sequence[str], wish: Wish, reporter: Reporter
) -> dict[str, Any]:
    """Calibrate `run/classifier.pt` on labelled scans; writes it again, calibration.json and reliability.png/.svg.

    The lots in `check_lots`, or without any the last one, are not calibrated on: the coverage is measured there.
    One lot says little, so the coverage of a band is also counted on each lot it is calibrated on, by all others.
    Raises CheckpointError, and DataError for lots or scans it learnt from or too few lots for the level.
    """
    learnt = load_checkpoint(run / CLASSIFIER_FILE, "classifier")
    lots = sorted({row.lot for row in rows}, key=natural)
    held = list(check_lots) or lots[-1:]
    unknown = set(held) - set(lots)
    if unknown:
        raise DataError(f"there is no lot {', '.join(sorted(unknown))}", hint=f"there are {', '.join(lots)}")
    refuse_lots(learnt, lots)
    if wish.alpha is not None and len(lots) - len(held) < (needed := lots_needed(wish.alpha)):
        raise DataError(
            f"alpha {wish.alpha:g} needs at least {needed} lots to calibrate on, there are {len(lots) - len(held)}"
            f" beside the {len(held)} that check it",
            hint=f"label scans of {needed + len(held)} lots, or give a greater --alpha",
        )
    used = [i for i, row in enumerate(rows) if row.lot not in held]
    checked = [i for i, row in enumerate(rows) if row.lot in held]
    labels = np.array([row.label for row in rows], np.int64)
    if len(set(labels[used].tolist())) < 2:
        raise DataError(
            f"calibration is left with {len(used)} scans of one class",
            hint="give more lots, or other ones to check on with --check-lots; normal scans alone set a threshold in"
            " `fit-features --recipe neighbours` and `adapt`",
        )
    scored = _score(learnt, rows, reporter)
    p = scored.p
    threshold = _threshold(p[used], labels[used], wish)
    band = None if wish.alpha is None else review_band(p[used], labels[used], wish.alpha, threshold)
    report = {
        "data_digest": scored.digest,
        "calibrated_on": [lot for lot in lots if lot not in held],
        "checked_on": held,
        "wish": asdict(wish),
        "threshold": threshold,
        "review_band": None if band is None else [band.low, band.high],
        "calibration": _figures(p[used], labels[used], threshold, band),
        "check": _figures(p[checked], labels[checked], threshold, band),
    }
    if wish.alpha is not None:
        lot_of_scan = [rows[i].lot for i in used]
        found = coverage_by_lot(p[used], labels[used], lot_of_scan, wish.alpha, partial(_threshold, wish=wish))
        report["left_out"] = left_out(found)
    thresholds = {"threshold": threshold}
    if band is not None:
        thresholds |= {"review_low": band.low, "review_high": band.high}
    metrics = {"calibration_data_digest": scored.digest, "calibration_alpha": wish.alpha}
    calibrated = replace(
        learnt,
        thresholds=thresholds,
        metrics={**learnt.metrics, **metrics},
        calibrated_sha256s=tuple(sorted({scored.sha256s[i] for i in used})),
        calibrated_pixels_sha256s=tuple(sorted({scored.pixels_sha256s[i] for i in used})),
        calibrated_lots=tuple(sorted({rows[i].lot for i in used})),
    )
    save_checkpoint(run / CLASSIFIER_FILE, calibrated)
    write_json(run / CALIBRATION_REPORT, report)
    _plot(p, labels, run / CALIBRATION_PLOT)
    return report


@dataclass(frozen=True, slots=True)
class _Scored:
    """p(abnormal) of scans, shape (n,), and the digests of their files and counts."""

    p: Scores
    sha256s: list[str]
    pixels_sha256s: list[str]
    digest: str
    """Over all of them, with lots and labels."""


def _score(learnt: Checkpoint, rows: Sequence[Row], reporter: Reporter) -> _Scored:
    """Judge each scan. Raises DataError where the classifier learnt from one of them, or one lies in two lots."""
    network = classifier_of(learnt)
    learnt_from = {*learnt.scan_sha256s, *learnt.scan_pixels_sha256s}
    sha256s, pixels_sha256s, seen, scores = [], [], [], []
    show = reporter.counter("scans scored")
    for number, row in enumerate(rows):
        frame = read_frame(row)
        sha256s.append(frame.scan.sha256)
        pixels_sha256s.append(counts_sha256(frame.counts))
        if learnt_from & {sha256s[-1], pixels_sha256s[-1]}:
            seen.append(row.file)
        image = prepare(frame.counts, learnt.method, learnt.bounds, learnt.size)
        scores.append(p_abnormal(network, image))
        show(number + 1, len(rows))
    if seen:
        raise DataError(
            f"{len(seen)} of {len(rows)} scans were learnt from, {seen[0]} among them",
            hint="keep whole lots back in a folder of their own",
        )
    refuse_copies(rows, pixels_sha256s)
    return _Scored(np.array(scores), sha256s, pixels_sha256s, data_digest(rows, sha256s))


def lots_needed(alpha: float) -> int:
    """Least number of lots for a band of this level: with fewer, the rank floor(alpha (n + 1)) is 0.

    Lots, not scans, are exchangeable: scans of one lot resemble each other.
    """
    return math.ceil(1 / alpha - 1e-9) - 1


def left_out(found: Mapping[str, Coverage]) -> dict[str, Any]:
    """Coverage of lots by the other lots' bands: of each class with its interval over lots, and of the worst lot."""
    totals: dict[str, Any] = {}
    for name, rates in (
        ("covered_normal", [one.normal for one in found.values()]),
        ("covered_abnormal", [one.abnormal for one in found.values()]),
        ("reviewed", [one.reviewed for one in found.values()]),
    ):
        hits, scans = [rate.hits for rate in rates], [rate.total for rate in rates]
        over_lots = share_over_lots(hits, scans)
        interval = None if over_lots is None else [over_lots.low, over_lots.high]
        totals[name] = {"hits": sum(hits), "total": sum(scans), "interval_over_lots": interval}
    scans = [one.reviewed.total for one in found.values()]
    missed = [
        one.reviewed.total - one.normal.hits - one.abnormal.hits for one in found.values()
    ]  # neither reviewed nor decided as labelled
    worst = worst_lot(list(found), missed, scans)
    return {"lots": len(found), **totals, "worst": None if worst is None else asdict(worst)}


def sentences(report: dict[str, Any]) -> list[str]:
    """What `calibrate` found, for a person."""
    band = report["review_band"]
    lines = [
        f"threshold {report['threshold']:.4f}, calibrated on the lots {', '.join(report['calibrated_on'])}",
        "no review band: no --alpha was given"
        if band is None
        else f"review band {band[0]:.4f} to {band[1]:.4f}: scans in it go to a person",
    ]
    for name, where in (
        ("there", "calibration"),
        (f"on {', '.join(report['checked_on'])}, not calibrated on", "check"),
    ):
        figures = report[where]
        lines.append(
            f"{name}: {figures['escapes']} of {figures['abnormal']} abnormal scans escape,"
            f" {figures['false_alarms']} of {figures['scans'] - figures['abnormal']} normal scans are false alarms"
            + ("" if band is None else f", {figures['reviewed']['hits']} of {figures['scans']} go to review")
        )
    if band is not None:
        lines.append(_left_out_sentence(report["left_out"]))
    if band is not None and report["check"]["reviewed"]["hits"] > report["check"]["scans"] / 2:
        lines.append(
            "warning: more than half of the scans go to review: give a greater --alpha or train a better network"
        )
    return lines


def _left_out_sentence(found: dict[str, Any]) -> str:
    """Coverage by bands of the other lots, for a person."""
    parts = []
    for name in ("normal", "abnormal"):
        covered = found[f"covered_{name}"]
        span = covered["interval_over_lots"]
        over = "" if span is None else f" ({percent_span(span)} % over lots)"
        parts.append(f"{covered['hits']} of {covered['total']} {name} scans{over}")
    worst = found["worst"]
    rest = (
        "no lot has another"
        if worst is None
        else f"worst is lot {worst['lot']}: {worst['errors']} of {worst['scans']} are neither"
    )
    return (
        f"each of {found['lots']} lots left out in turn: reviewed or decided rightly are {' and '.join(parts)}; {rest}"
    )


@torch.inference_mode()
def p_abnormal(network: Classifier, image: np.ndarray) -> float:
    """p(abnormal) of one converted scan uint8 (channels, height, width)."""
    x = network.normalise(torch.from_numpy(image[np.newaxis]))
    return float(p_abnormal_of(network(x.contiguous(memory_format=torch.channels_last)).double())[0])


def _threshold(p: Scores, labels: Labels, wish: Wish) -> float:
    if wish.max_escape_rate is not None:
        return threshold_of_escapes(p, labels, wish.max_escape_rate)
    if wish.miss_cost is not None:
        return threshold_of_cost(p, labels, wish.miss_cost)
    return threshold_of_balance(p, labels)


def _figures(p: Scores, labels: Labels, threshold: float, band: Band | None) -> dict[str, Any]:
    counts = confusion(p, labels, threshold)
    figures: dict[str, Any] = {
        "scans": int(labels.size),
        "abnormal": int(labels.sum()),
        "balanced_accuracy": counts.balanced_accuracy,
        "escapes": counts.fn,
        "false_alarms": counts.fp,
        "auroc": None if len(set(labels.tolist())) < 2 else auroc(p, labels),
        "calibration_error": calibration_error(p, labels),
    }
    if band is not None:
        covered = coverage(p, labels, band, threshold)
        for name, rate in (("normal", covered.normal), ("abnormal", covered.abnormal), ("reviewed", covered.reviewed)):
            figures[f"{'covered_' if name != 'reviewed' else ''}{name}"] = {
                "hits": rate.hits,
                "total": rate.total,
                "interval": list(rate.interval),
            }
    return figures


def _plot(p: Scores, labels: Labels, path: Path) -> None:
    """Reliability diagram: share of abnormal scans against the mean p of each bin. Writes PATH.png and PATH.svg."""
    figure = Figure(figsize=(4.8, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#cccccc", linewidth=1)
    for mean, rate in reliability(p, labels):
        axes.plot([mean, mean], list(rate.interval), color="#1f4e79", linewidth=1.5)
        axes.plot(mean, rate.share, "o", color="#1f4e79", markersize=4 + 8 * (rate.total / labels.size) ** 0.5)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="p(abnormal) said", ylabel="share that is abnormal")
    axes.set_title(f"Reliability, {labels.size} scans; expected error {calibration_error(p, labels):.3f}", fontsize=10)
    axes.grid(color="#eeeeee")
    save(figure, path)
