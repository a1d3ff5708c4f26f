"""Verdicts of the ledger as answers need them: with their latency, their evidence, and what a person decided."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from pydantic import ValidationError

from edge.contract.messages import Disposition, Message, Verdict
from edge.errors import EvidenceError, LedgerError
from edge.evidence.record import Piece, open_piece
from edge.records import Outcome
from edge.store.ledger_file import DAMAGED_HINT
from edge.store.reader import StoredVerdict

_AS_SENT = json.JSONDecoder(object_hook=lambda fields: SimpleNamespace(**fields))
OTHER_RELEASE = "it was written by another release: ask with that one, or for a later time"
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
        return decision_on(self.stored)


def read(stored: StoredVerdict) -> Answer:
    """A row of the ledger with its message. Raises LedgerError where that is none of this release."""
    return Answer(stored, _parse(Verdict, stored.payload, stored.seq))


def decision_on(stored: StoredVerdict) -> Disposition | None:
    """The newest that a person decided of a verdict. Raises LedgerError as `read`."""
    return _parse(Disposition, stored.dispositions[-1], stored.seq) if stored.dispositions else None


def fields_of(stored: StoredVerdict) -> Any:
    """The message's fields by name, as JSON has them: a third of the time of `read`, which checks each of them.

    Raises LedgerError where it is no JSON.
    """
    try:
        return _AS_SENT.decode(stored.payload.decode())
    except ValueError as error:
        raise LedgerError(f"ledger: verdict {stored.seq}: {error}", hint=DAMAGED_HINT) from None


def evidence_of(verdict: Verdict, folder: Path) -> Piece | str:
    """Its pictures below `folder` (`evidence.dir`), or why there are none."""
    if verdict.evidence is None and verdict.outcome is Outcome.NORMAL:
        return "none: of normal ones only a share is kept, drawn by lot (`evidence.sample`)"
    if verdict.evidence is None:
        return "none: it was decided while `evidence.max_bytes` was 0"
    try:
        return open_piece(folder, verdict.evidence)
    except EvidenceError as error:
        return f"{error.message}: {error.hint}"


def _parse(kind: type[AnyMessage], payload: bytes, seq: int) -> AnyMessage:
    try:
        return kind.model_validate_json(payload)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the message"
        raise LedgerError(
            f"ledger: verdict {seq}: {kind.__name__.lower()}: {where}: {first['msg']}", hint=OTHER_RELEASE
        ) from None
