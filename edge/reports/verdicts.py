"""Verdicts of the ledger as reports need them: with their latency, and what a person decided."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from edge.contract.messages import Disposition, Message, Verdict
from edge.errors import LedgerError
from edge.store.ledger_file import DAMAGED_HINT
from edge.store.reader import StoredVerdict
from edge.system.text import first_error

_PARTS = ("gate", "model", "scan", "times")
"""Fields of a verdict that have fields of their own, as far as `fields_of` names them."""
OTHER_RELEASE = "it was written by another release: ask with that one, or for a later time"
AnyMessage = TypeVar("AnyMessage", bound=Message)


@dataclass(frozen=True, slots=True)
class PastVerdict:
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


def read(stored: StoredVerdict) -> PastVerdict:
    """A row of the ledger with its message. Raises LedgerError where that is none of this release."""
    return PastVerdict(stored, _parse(Verdict, stored.payload, stored.seq))


def decision_on(stored: StoredVerdict) -> Disposition | None:
    """The newest that a person decided of a verdict. Raises LedgerError as `read`."""
    return _parse(Disposition, stored.dispositions[-1], stored.seq) if stored.dispositions else None


def fields_of(stored: StoredVerdict) -> Any:
    """The verdict's fields by name, as JSON has them. `read` checks each of them, which takes several times as long.

    Raises LedgerError where it is no verdict.
    """
    try:
        fields = from_json(stored.payload, cache_strings="none")
        return SimpleNamespace(**{**fields, **{part: SimpleNamespace(**fields[part]) for part in _PARTS}})
    except ValueError as error:
        raise LedgerError(f"ledger: verdict {stored.seq}: {error}", hint=DAMAGED_HINT) from None
    except (KeyError, TypeError) as error:
        raise LedgerError(f"ledger: verdict {stored.seq}: {error!r}", hint=OTHER_RELEASE) from None


def _parse(kind: type[AnyMessage], payload: bytes, seq: int) -> AnyMessage:
    try:
        return kind.model_validate_json(payload)
    except ValidationError as error:
        found = first_error(error, "the message")
        raise LedgerError(f"ledger: verdict {seq}: {kind.__name__.lower()}: {found}", hint=OTHER_RELEASE) from None
