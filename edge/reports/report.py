"""`edge-worker report`: what happened on a shift, in one file that needs nothing else.

Its script sorts and searches; without it everything is there, in the order of time. The content security policy allows
that script by its hash, pictures inside of the file, and nothing from anywhere. File names and decisions are other
people's words: they pass through the template's escaping.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from pathlib import Path

import jinja2
import numpy as np
import numpy.typing as npt

from edge import __version__
from edge.contract.messages import Disposition
from edge.contract.reasons import in_words
from edge.errors import EvidenceError
from edge.evidence.record import IMAGE, REASON, RESIDUAL, SCAN, Piece, evidence_of
from edge.images.residual_boxes import MapGeometry
from edge.records import Outcome, Size
from edge.reports.verdicts import PastVerdict, read
from edge.store.reader import LedgerReader
from edge.system.text import number, percent, visible, whole
from edge.validation.pictures import (
    Picture,
    heat_legend,
    picture_svg,
    plain_picture,
    reason_legend,
    same_picture_svg,
    scan_picture,
    with_reason,
)

PICTURE = Size(height_px=1400, width_px=720)
"""Largest picture of a scan: one of 2000 x 1000 at about two thirds."""

LONGEST_BY_HOUR = timedelta(hours=72)
"""A longer time is counted by day."""


@dataclass(frozen=True, slots=True)
class Card:
    """A verdict for a person to look at."""

    past: PastVerdict
    sentence: str
    decision: Disposition | None
    picture: Picture | None
    evidence: str
    """Where the pictures lie, or why there are none."""
    is_large: bool
    """Whether it is shown by itself, beside its row in the table."""


@dataclass(slots=True)
class Span:
    """What was decided in one hour or on one day."""

    began_at: datetime
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    latencies_ms: list[npt.NDArray[np.int64]] = field(default_factory=list)

    @property
    def count(self) -> int:
        return self.outcomes.total()

    def add(self, outcomes: Counter[Outcome], latencies_ms: npt.NDArray[np.int64]) -> None:
        """Take in what was decided in a part of it."""
        self.outcomes.update(outcomes)
        self.latencies_ms.append(latencies_ms)

    def latency_s(self, percent: float) -> float | None:
        return float(np.percentile(np.concatenate(self.latencies_ms), percent)) / 1e3 if self.latencies_ms else None


@dataclass(slots=True)
class Shift:
    """Everything the report says of the time from `since` to `until`."""

    station: str
    since: datetime
    until: datetime
    spans: list[Span] = field(default_factory=list)
    whole: Span = field(default_factory=lambda: Span(datetime.now(UTC)))
    reasons: Counter[str] = field(default_factory=Counter)
    """Verdicts that are not normal, by reason; one may have several."""
    models: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Verdicts by model id, digest and engine."""
    unsent: int = 0
    sampled: int = 0
    """Normal verdicts that keep evidence."""
    cards: list[Card] = field(default_factory=list)
    """Every verdict that is not normal, oldest first."""

    @property
    def is_by_hour(self) -> bool:
        return self.until - self.since <= LONGEST_BY_HOUR

    @property
    def large_cards(self) -> list[Card]:
        """Those that are shown one by one; the others stand in the table alone."""
        return [card for card in self.cards if card.is_large]


def shift_of(reader: LedgerReader, since: datetime, until: datetime, evidence: Path, pictures: int) -> Shift:
    """Read the verdicts of a time. `evidence`: its folder; `pictures`: how many to show large, `review` first.

    Figures come from the ledger's columns; only verdicts to look at are read themselves. Raises LedgerError.
    """
    shift = Shift(reader.station, since, until)
    _count(shift, reader)
    shift.unsent = reader.unsent(since, until)
    to_show = [read(stored) for stored in reader.to_look_at(since, until)]
    first = sorted(range(len(to_show)), key=lambda index: to_show[index].verdict.outcome is not Outcome.REVIEW)
    large = set(first[:pictures])
    shift.cards = [_card(past, evidence, index in large) for index, past in enumerate(to_show)]
    return shift


def _count(shift: Shift, reader: LedgerReader) -> None:
    """Read the figures hour by hour: each is a short read of the ledger."""
    spans: dict[datetime, Span] = {}
    at = reader.next_decided(shift.since, shift.until)
    while at is not None:
        end = min(at.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1), shift.until)
        figures = reader.figures(at, end)
        types = reader.verdict_types()
        counts = np.bincount(figures.verdict_types)
        outcomes: Counter[Outcome] = Counter()
        for key in np.flatnonzero(counts):
            kind, count = types[int(key)], int(counts[key])
            outcomes[kind.outcome] += count
            shift.models[kind.model_id, kind.model_sha256, kind.engine] += count
            if kind.outcome is Outcome.NORMAL:
                shift.sampled += count * kind.is_kept
            else:
                shift.reasons.update(dict.fromkeys(kind.reasons, count))
        began_at = _began_at(at, shift.is_by_hour)
        for span in (spans.setdefault(began_at, Span(began_at)), shift.whole):
            span.add(outcomes, figures.latencies_ms)
        at = reader.next_decided(end, shift.until)
    shift.spans = [spans[moment] for moment in sorted(spans)]


def report_html(shift: Shift) -> Iterator[str]:
    """The page, in parts: it may be longer than memory should hold twice."""
    script = files("edge.reports").joinpath("report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _template().generate(
        shift=shift,
        script=script,
        script_hash=f"sha256-{digest}",
        outcomes=list(Outcome),
        heat_legend=heat_legend(),
        reason_legend=reason_legend(),
        chart=_chart(shift),
        picture=picture_svg,
        same_picture=same_picture_svg,
        number=number,
        percent=percent,
        visible=visible,
        whole=whole,
        seconds=_seconds,
        moment=_moment,
        hour=lambda moment: f"{moment:%d %b %H:%M}" if shift.is_by_hour else f"{moment:%d %b}",
        program=f"edge-worker {__version__}",
        made_at=datetime.now(UTC),
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(files("edge.reports").joinpath("report.html.j2").read_text(encoding="utf-8"))


def _card(past: PastVerdict, folder: Path, is_large: bool) -> Card:
    verdict, picture, where = past.verdict, None, ""
    if is_large:
        piece = evidence_of(verdict, folder)
        if isinstance(piece, str):
            where = piece
        else:
            where = str(piece.path)
            try:
                picture = _picture(past, piece)
            except EvidenceError as error:
                where = error.message
            if picture is None and piece.record.note:
                where += f" ({piece.record.note})"
    return Card(past, in_words(verdict), past.decision, picture, where, is_large)


def _picture(past: PastVerdict, piece: Piece) -> Picture | None:
    """As the networks saw it, with residual and reason; else the scan between its own bounds. Raises EvidenceError."""
    kept, verdict = piece.record.files, past.verdict
    if IMAGE in kept:
        scale = piece.record.residual
        residual_map = piece.residual() if scale is not None and RESIDUAL in kept else None
        geometry = MapGeometry(scale.cell_px, scale.offset_px) if scale is not None else MapGeometry(1, 0)
        threshold = scale.threshold if scale is not None else 1.0
        image = piece.image()
        size = Size(verdict.scan.height_px or image.shape[1], verdict.scan.width_px or image.shape[2])
        method, boxes = verdict.model.conversion, verdict.gate.boxes_px
        picture = scan_picture(image, method, residual_map, geometry, threshold, boxes, size, PICTURE)
        reason = piece.record.reason_map
        if reason is None or REASON not in kept:
            return picture
        image_size = Size(reason.image_height_px, reason.image_width_px)
        reason_geometry = MapGeometry(reason.cell_px, reason.offset_px)
        return with_reason(picture, piece.reason(), reason_geometry, image_size, reason.box_px, size)
    return plain_picture(piece.counts(), PICTURE) if SCAN in kept else None


def _began_at(moment: datetime, is_by_hour: bool) -> datetime:
    """Begin of the hour or day, by the clock on the wall."""
    local = moment.astimezone().replace(minute=0, second=0, microsecond=0)
    return local if is_by_hour else local.replace(hour=0)


def _chart(shift: Shift) -> list[tuple[Span, list[tuple[Outcome, float, float]]]]:
    """Each span with its bars: outcome, where it begins and how high it is, as shares of the highest."""
    highest = max((span.count for span in shift.spans), default=1)
    columns = []
    for span in shift.spans:
        base, bars = 0.0, []
        for outcome in Outcome:
            share = span.outcomes[outcome] / highest
            if share:
                bars.append((outcome, base, share))
                base += share
        columns.append((span, bars))
    return columns


def _moment(moment: datetime) -> str:
    """By the clock on the wall, with its zone."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %Z}"


def _seconds(value: float | None) -> str:
    return "—" if value is None else f"{value * 1e3:.0f} ms" if value < 1 else f"{value:.1f} s"
