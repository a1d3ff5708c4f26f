"""What `edge-desk verify` finds: changes within the record, and answers that left it and are no longer in it."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from edge.contract.messages import Answer, Disposition
from edge.desk.hand_over import disposition
from edge.desk.store import GENESIS, DeskStore, canonical, entry_hash
from edge.errors import EvidenceError
from edge.evidence.record import open_piece, pieces


def verify(store: DeskStore, evidence: Path, head: str | None) -> tuple[list[str], str]:
    """Everything that does not fit, in words, and a last line with the hash of the newest entry.

    `evidence`: the folder whose `disposition.json` the worker wrote from this record. `head`: a hash noted earlier.
    """
    problems: list[str] = []
    kept: list[tuple[str, Disposition]] = []
    for name in pieces(evidence):
        try:
            payload = open_piece(evidence, name).disposition()
            if payload is not None:
                kept.append((name, Disposition.model_validate_json(payload)))
        except EvidenceError as error:
            if error.reason != "gone":
                problems.append(error.message)
        except ValidationError:
            problems.append(f"{evidence / name}: its disposition.json is damaged")
    with store.at_one_moment():  # after the evidence: an answer that came there meanwhile was recorded before
        entries = {entry_hash(entry): entry for _, entry in store.entries()}
        hashes = list(entries)
        problems += store.problems()
    if head is not None and head.lower() not in hashes:
        problems.append(f"no entry has the hash {head}: the record was cut or changed since it was noted")
    known = {each[:32]: entry for each, entry in entries.items()}
    for name, given in kept:
        if (entry := known.get(given.disposition_id)) is None:
            problems.append(f"{name}: the answer {given.disposition_id} kept there is not in the record")
        elif changed := _differences(given, entry, name):
            where = f"the answer {given.disposition_id} kept there"
            problems.append(f"{name}: {where} is not as the record has it: {', '.join(changed)}")
    state = f"{len(problems)} problems" if problems else "unchanged"
    newest = hashes[-1] if hashes else GENESIS
    return problems, f"{state}: {len(hashes)} entries, {len(kept)} answers kept beside evidence, newest {newest}"


def _differences(given: Disposition, entry: bytes, evidence: str) -> list[str]:
    """Fields of a kept answer that are not as the record has them."""
    try:
        recorded = Answer.model_validate_json(canonical(disposition(entry)))
    except (KeyError, ValidationError):
        return ["kind"]  # an account or an export
    changed = [name for name in Answer.model_fields if getattr(given, name) != getattr(recorded, name)]
    if evidence.rpartition("/")[2] != recorded.verdict_id:
        changed.append("verdict_id")
    return sorted(set(changed))
