"""Verdicts of the ledger as answers need them: with their latency, their evidence, and what a person decided."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from edge.contract.messages import Verdict
from edge.errors import EvidenceError, LedgerError
from edge.evidence.record import Piece, open_piece
from edge.store.reader import LedgerReader, StoredVerdict


@dataclass(frozen=True, slots=True)
class Answer:
    """A stored verdict, read."""

    stored: StoredVerdict
    verdict: Verdict

    @property
    def latency_s(self) -> float:
        """From the moment the line first saw the file complete to its decision."""
        times = self.verdict.times
        return (times.decided_at - times.first_seen_at).total_seconds()

    @property
    def lot(self) -> str | None:
        """What was coated together: the field `bundle` of the message."""
        return self.verdict.bundle


@dataclass(frozen=True, slots=True)
class Looked:
    """What a person decided of a verdict."""

    decision: str
    by: str
    at: str


def answers(reader: LedgerReader, since: datetime, until: datetime | None = None) -> Iterator[Answer]:
    """Verdicts decided at or after `since` and before `until`, oldest first. Raises LedgerError."""
    for stored in reader.decided(since, until):
        yield read(stored, reader.path)


def read(stored: StoredVerdict, ledger: Path) -> Answer:
    """A row of `ledger` with its message. Raises LedgerError where that is no verdict of this release."""
    try:
        return Answer(stored, Verdict.model_validate_json(stored.payload))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the message"
        raise LedgerError(
            f"ledger {ledger}: verdict {stored.seq}: {where}: {first['msg']}",
            hint="it was written by another release: ask with that one, or for a later time",
        ) from None


def evidence_of(verdict: Verdict, folder: Path) -> Piece | str:
    """Its pictures below `folder` (`evidence.dir`), or why there are none."""
    if verdict.evidence is None:
        return "none is kept of such a verdict"
    try:
        return open_piece(folder, verdict.evidence)
    except EvidenceError as error:
        return f"{error.message}: {error.hint}"


def looked(piece: Piece | str) -> Looked | None:
    """The decision that lies beside the evidence; None where there is none that can be read."""
    try:
        payload = None if isinstance(piece, str) else piece.disposition()
        content = None if payload is None else json.loads(payload)
        return None if content is None else Looked(str(content["decision"]), str(content["by"]), str(content["at"]))
    except (EvidenceError, ValueError, KeyError, TypeError):
        return None
