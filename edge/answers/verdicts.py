"""Verdicts of the ledger as answers need them: with their latency, their evidence, and what a person decided."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from edge.contract.messages import Disposition, Message, Verdict
from edge.errors import EvidenceError, LedgerError
from edge.evidence.record import Piece, open_piece
from edge.store.reader import LedgerReader, StoredVerdict

AnyMessage = TypeVar("AnyMessage", bound=Message)


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
    def decision(self) -> Disposition | None:
        """The newest that a person decided of it. Raises LedgerError as `read`."""
        return _parsed(Disposition, self.stored.dispositions[-1], self.stored.seq) if self.stored.dispositions else None


def answers(reader: LedgerReader, since: datetime, until: datetime | None = None) -> Iterator[Answer]:
    """Verdicts decided at or after `since` and before `until`, oldest first. Raises LedgerError."""
    for stored in reader.decided(since, until):
        yield read(stored)


def read(stored: StoredVerdict) -> Answer:
    """A row of the ledger with its message. Raises LedgerError where that is none of this release."""
    return Answer(stored, _parsed(Verdict, stored.payload, stored.seq))


def evidence_of(verdict: Verdict, folder: Path) -> Piece | str:
    """Its pictures below `folder` (`evidence.dir`), or why there are none."""
    if verdict.evidence is None:
        return "none is kept of such a verdict"
    try:
        return open_piece(folder, verdict.evidence)
    except EvidenceError as error:
        return f"{error.message}: {error.hint}"


def _parsed(kind: type[AnyMessage], payload: bytes, seq: int) -> AnyMessage:
    try:
        return kind.model_validate_json(payload)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the message"
        raise LedgerError(
            f"ledger: verdict {seq}: {kind.__name__.lower()}: {where}: {first['msg']}",
            hint="it was written by another release: ask with that one, or for a later time",
        ) from None
