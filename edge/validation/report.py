"""`report.html`: what a replay found, for people.

The report is one file that needs nothing else: no font, no network, and a content security policy that allows one
script, by its hash, without which the page is whole. File names and labels are other people's words: everything passes
through the template's escaping, except the figures, which escape their own.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files

import jinja2
import numpy as np

from edge.contract.messages import ModelCard
from edge.records import Outcome
from edge.system.names import display_name
from edge.system.text import number, percent, visible, whole
from edge.validation.detection import PodCurve
from edge.validation.figures import (
    MAX_POINTS,
    Group,
    cost_figure,
    gate_scatter,
    interval_bar,
    pod_figure,
    roc_figure,
    score_histogram,
)
from edge.validation.gallery import Card, Gallery, Shelf
from edge.validation.labels import Label
from edge.validation.lots import LotInterval, WorstLot
from edge.validation.pictures import Picture, heat_legend, picture_svg
from edge.validation.reliability import Detection, Reliability
from edge.validation.requirements import meaning_of
from edge.validation.results import LotFigures, Validation
from edge.validation.statistics import wilson
from edge.validation.summary import Replay
from edge.validation.table import ScanRow, select

SCANS_LISTED = 5000
"""Rows of the table of scans; scans.csv has all of them."""
NAMES_LISTED = 20
"""Files named in a note; the summary has all of them."""

_NO_BREAK = "\u00a0"


def report_html(replay: Replay, gallery: Gallery) -> str:
    """The report as one HTML page."""
    validation, card = replay.validation, replay.card
    groups = _groups(replay.rows)
    script = files("edge.validation").joinpath("report.js").read_text(encoding="utf-8")
    pictured = {
        card.row.file: f"card-{number}" for number, card in enumerate(_cards(gallery), 1) if card.picture is not None
    }
    return _template().render(
        replay=replay,
        card=card,
        metrics=validation.metrics,
        validation=validation,
        outcomes=list(Outcome),
        label_rows=_label_rows(validation),
        facts=_facts(replay),
        provenance=_provenance(replay),
        notes=_notes(replay),
        histogram=score_histogram(groups, card.threshold, _band(card)) if groups else None,
        roc=_roc(validation),
        scatter=_scatter(replay.rows, card),
        shelves=[(shelf, gallery.cards(shelf), gallery.offered(shelf)) for shelf in Shelf],
        figures=[
            (name, _figure_text(name, value), meaning_of(name))
            for name, value in replay.figures.items()
            if value is not None
        ],
        lot_bar=_lot_bar,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        scans=_choose_rows(replay.rows),
        anchors=pictured,
        gate_ratio=lambda row: _gate_ratio(row, card),
        reliability=replay.reliability,
        comparison=replay.comparison,
        leaks=replay.leaks,
        figure_of=replay.reliability.figures,
        pods=[(item, _pod(item)) for item in replay.reliability.detections],
        costs=_costs(replay.reliability, card.threshold),
        interval_bar=interval_bar,
        picture=lambda card, number: _picture_svg(card.picture, card.row.file, number),
        difference=_difference,
        heat_legend=heat_legend(),
        percent=percent,
        span=_span,
        wilson=lambda hits, total: _span(*wilson(hits, total)),
        over_lots=_over_lots,
        of_lots=_of_lots,
        worst=_worst,
        number=number,
        display_name=display_name,
        shown=visible,
        whole=whole,
        max_points=MAX_POINTS,
        card_detail=_detail,
    )


def _cards(gallery: Gallery) -> Iterator[Card]:
    """Every card that has a picture on the page, in its order."""
    for shelf in Shelf:
        if shelf is not Shelf.UNREADABLE:
            yield from gallery.cards(shelf)


def _choose_rows(rows: Sequence[ScanRow]) -> Sequence[ScanRow]:
    """The rows of the table: all, or of too many those that want a look and as many others as there is room for."""
    if len(rows) <= SCANS_LISTED:
        return rows
    first = select(rows, lambda row: row.outcome is not Outcome.NORMAL or row.is_escape)[:SCANS_LISTED]
    return [
        *first,
        *select(rows, lambda row: row.outcome is Outcome.NORMAL and not row.is_escape)[: SCANS_LISTED - len(first)],
    ]


def _gate_ratio(row: ScanRow, card: ModelCard) -> float | None:
    """The gate's worse score as a multiple of its threshold."""
    scores = ((row.gate_mean_max, card.gate_mean_threshold), (row.gate_std_max, card.gate_std_threshold))
    return max((score / threshold for score, threshold in scores if score is not None and threshold > 0), default=None)


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(files("edge.validation").joinpath("report.html.j2").read_text(encoding="utf-8"))


def _facts(replay: Replay) -> list[tuple[str, str]]:
    """What was validated, in the order a reader asks for it."""
    card = replay.card
    bounds = "" if card.bounds_counts is None else ", {} to {} counts".format(*card.bounds_counts)
    band = "no review band" if card.review_band is None else "review from {:.3g} to {:.3g}".format(*card.review_band)
    degraded = f", degraded: {card.degraded}" if card.degraded else ""
    return [
        ("Conversion", f"{card.conversion}{bounds}"),
        ("Decision", f"abnormal from p = {card.threshold:.4g}, {band}"),
        ("Gate thresholds", f"mean {card.gate_mean_threshold:.4g}, deviation {card.gate_std_threshold:.4g}"),
        ("Engine", f"{card.engine}, {card.precision}{degraded}"),
        ("Model digest (SHA-256)", card.sha256),
    ]


def _provenance(replay: Replay) -> list[tuple[str, str]]:
    """What else is needed to repeat the replay."""
    card = replay.card
    return [
        ("Folder", replay.folder),
        ("Labels", replay.labels or "none given"),
        ("Labels digest (SHA-256)", replay.labels_sha256 or "none"),
        ("Network input", f"{card.height_px} px high, {card.width_px} px wide, channels: {card.channels}"),
        ("Model made", _minute(card.created_at)),
        ("Station name", card.station),
        ("Program", replay.program),
        *((f"Training: {name.replace('_', ' ')}", value) for name, value in replay.training.items()),
    ]


def _notes(replay: Replay) -> list[tuple[str, list[str]]]:
    """What could mislead a reader who does not know it: sentences, each with the files it is about."""
    metrics = replay.validation.metrics
    notes: list[tuple[str, Sequence[str]]] = []
    if replay.card.degraded:
        notes.append((f"The engine ran degraded: {replay.card.degraded}.", ()))
    if not replay.leaks.is_void:
        notes.append((replay.leaks.sentence, sorted(replay.leaks.lots)))
    if copies := replay.leaks.copies():
        files = "1 file holds" if len(copies) == 1 else f"{whole(len(copies))} files hold"
        named = [display_name(replay.rows[place].file) for place in copies[: NAMES_LISTED + 1]]
        sentence = (
            f"{files} the counts of another file of this folder, mirrored or not, and count twice; "
            "a copy is no further scan:"
        )
        notes.append((sentence, [*named, *[""] * (len(copies) - len(named))]))
    if replay.labels_without_file:
        notes.append(("Rows of the labels file fit no file of the folder:", replay.labels_without_file))
    if metrics.labelled_count and metrics.unlabelled_count:
        share = f"{metrics.unlabelled_count} of {metrics.scans_count} judged files"
        notes.append((f"{share} have no label; they count in no rate of errors.", ()))
    if replay.reliability.is_own_majority:
        sentence = (
            "The labels are the majority of the people in label_1, label_2, ..., each of whom is then held against "
        )
        notes.append((f"{sentence}a part of themselves: a reference stands in the column label.", ()))
    return [(sentence, [*names[:NAMES_LISTED], *_more(len(names) - NAMES_LISTED)]) for sentence, names in notes]


def _more(count: int) -> list[str]:
    return [f"and {count} more, see summary.json"] if count > 0 else []


def _label_rows(validation: Validation) -> list[tuple[str, Label | None, list[int]]]:
    """Rows of the confusion matrix, without those that have no scan."""
    names: list[tuple[str, Label | None]] = [("normal", Label.NORMAL), ("abnormal", Label.ABNORMAL), ("no label", None)]
    rows = [
        (name, label, [validation.outcomes.get((label, outcome), 0) for outcome in Outcome]) for name, label in names
    ]
    return [row for row in rows if sum(row[2])]


def _groups(rows: Sequence[ScanRow]) -> list[Group]:
    named: list[tuple[str, str, Label | None]] = [
        ("labelled normal", "c-normal", Label.NORMAL),
        ("labelled abnormal", "c-abnormal", Label.ABNORMAL),
        ("no label", "c-none", None),
    ]
    groups = []
    for name, style, label in named:
        p = [row.p_abnormal for row in rows if row.label is label and row.p_abnormal is not None]
        if p:
            groups.append(Group(name, style, np.array(p, np.float64)))
    return groups


def _scatter(rows: Sequence[ScanRow], card: ModelCard) -> str | None:
    if card.gate_mean_threshold <= 0 or card.gate_std_threshold <= 0:
        return None
    thresholds = np.array([card.gate_mean_threshold, card.gate_std_threshold])
    groups = []
    for name, style, label in (
        ("normal", "c-normal", Label.NORMAL),
        ("abnormal", "c-abnormal", Label.ABNORMAL),
        ("no label", "c-none", None),
    ):
        scores = [
            (row.gate_mean_max, row.gate_std_max)
            for row in rows
            if row.label is label and row.gate_mean_max is not None and row.gate_std_max is not None
        ]
        if scores:
            # A score of 0 has no logarithm; it is drawn at a thousandth of its threshold.
            groups.append(Group(name, style, np.maximum(np.array(scores, np.float64) / thresholds, 1e-3)))
    return gate_scatter(groups) if groups else None


def _roc(validation: Validation) -> str | None:
    if validation.curve is None:
        return None
    scored = validation.scored
    return roc_figure(validation.curve, 1.0 - scored.specificity.share, scored.sensitivity.share)


def _pod(item: Detection) -> str | None:
    """The curve's figure; None where there is no curve."""
    if not isinstance(item.curve, PodCurve):
        return None
    curve, unit = item.curve, "" if item.unit == "severity" else f" {item.unit}"
    named = (("a90", curve.a90), ("its upper limit", curve.a90_high))
    marks = [(name, size) for name, size in named if size is not None]
    return pod_figure(curve.sizes, curve.pod, curve.pod_low, marks, unit)


def _costs(reliability: Reliability, threshold: float) -> str | None:
    costs = reliability.costs
    return None if costs is None else cost_figure(costs.thresholds, costs.cost, threshold, costs.cheapest)


def _lot_bar(figures: LotFigures) -> str:
    if not figures.scored.total:
        return ""
    return interval_bar(figures.scored.balanced_accuracy, *figures.scored.balanced_accuracy_interval)


def _picture_svg(picture: Picture | None, file: str, number: int | str) -> str:
    return "" if picture is None else picture_svg(picture, display_name(file), number)


def _difference(value: float | None) -> str:
    """A difference of shares in percentage points."""
    return "—" if value is None else f"{value * 100:+.1f}"


def _band(card: ModelCard) -> tuple[float, float] | None:
    return None if card.review_band is None else (card.review_band[0], card.review_band[1])


def _detail(card: Card) -> str:
    """What the reader said of the file, without the name that stands beside it."""
    return visible(card.verdict.detail or "").removeprefix(f"{display_name(card.row.file)}: ")


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _span(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low * 100:.1f} to {high * 100:.1f} %".replace(" ", _NO_BREAK)


def _over_lots(low: float | None, high: float | None, lots: int) -> str:
    """An interval over lots in words; where scans of a label come from one lot alone there is none."""
    if lots > 1 and low is not None:
        return f"over {lots} lots {_span(low, high)}"
    return "over lots: no interval, 1 lot" if lots == 1 else "over lots: no interval, under 2 lots of a label"


def _of_lots(interval: LotInterval | None) -> str:
    """An interval over lots in a cell."""
    return _span(interval.low, interval.high) if interval is not None and interval.lots > 1 else "none"


def _worst(worst: WorstLot | None) -> str:
    """The worst lot in a cell or a line, with its errors."""
    return "none" if worst is None else f"{visible(worst.lot)}: {whole(worst.errors)} of {whole(worst.scans)}"


def _figure_text(name: str, value: int | float) -> str:
    return whole(int(value)) if isinstance(value, int) or name.endswith("_count") else f"{value:.4g}"
