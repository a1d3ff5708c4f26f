"""`edge-worker export --format csv`: one row for each verdict."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from datetime import datetime

from edge.contract.reasons import in_words
from edge.errors import LedgerError
from edge.reports.verdicts import OTHER_RELEASE, decision_on, fields_of
from edge.store.reader import StoredVerdict
from edge.system.text import rfc3339

COLUMNS = (
    "seq",
    "verdict_id",
    "decided_at",
    "sent_at",
    "latency_s",
    "part_id",
    "bundle",
    "file",
    "outcome",
    "reasons",
    "detail",
    "p_abnormal",
    "threshold",
    "gate_mean",
    "gate_mean_threshold",
    "gate_std",
    "gate_std_threshold",
    "height_px",
    "width_px",
    "scan_sha256",
    "model_id",
    "model_sha256",
    "evidence",
    "stands",
    "decision",
    "decision_by",
    "decision_at",
)
"""Empty where there is no value; times are UTC."""
CHUNK = 1 << 16
"""Characters gathered before they are written."""


def csv_lines(verdicts: Iterable[StoredVerdict]) -> Iterator[str]:
    """RFC 4180, UTF-8, with a header; one text for many lines. Raises LedgerError."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    for stored in verdicts:
        try:
            writer.writerow(_row(stored))
        except (AttributeError, TypeError, ValueError) as error:
            raise LedgerError(f"ledger: verdict {stored.seq}: {error}", hint=OTHER_RELEASE) from None
        if buffer.tell() > CHUNK:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def _row(stored: StoredVerdict) -> list[object]:
    verdict, decision = fields_of(stored), decision_on(stored)
    latency = stored.decided_at - datetime.fromisoformat(verdict.times.first_seen_at)
    return [
        verdict.seq,
        verdict.verdict_id,
        verdict.times.decided_at,
        rfc3339(stored.sent_at) if stored.sent_at else None,
        f"{latency.total_seconds():.3f}",
        _text(verdict.part_id),
        _text(verdict.bundle),
        _text(verdict.scan.file),
        verdict.outcome,
        " ".join(verdict.reasons),
        _text(in_words(verdict)),
        verdict.p_abnormal,
        verdict.threshold,
        verdict.gate.mean_max,
        verdict.gate.mean_threshold,
        verdict.gate.std_max,
        verdict.gate.std_threshold,
        verdict.scan.height_px,
        verdict.scan.width_px,
        verdict.scan.sha256,
        _text(verdict.model.id),
        verdict.model.sha256,
        verdict.evidence,
        decision.stands if decision else None,
        decision.decision if decision else None,
        _text(decision.by) if decision else None,
        rfc3339(decision.at) if decision else None,
    ]


def _text(text: str | None) -> str | None:
    """Other people's words, which no spreadsheet shall run: Excel and others take = + - @ for a formula's begin."""
    return f"'{text}" if text is not None and text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
