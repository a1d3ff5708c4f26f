"""What `edge-desk verify` finds: changes within the record, and answers that left it and are no longer in it."""

from __future__ import annotations

import json
from pathlib import Path

from edge.desk.store import GENESIS, DeskStore, entry_hash
from edge.errors import EvidenceError
from edge.evidence.record import days, open_piece, pieces_of_day


def verify(store: DeskStore, evidence: Path, head: str | None) -> tuple[list[str], str]:
    """Everything that does not fit, in words, and a last line with the hash of the newest entry.

    `evidence`: the folder whose `disposition.json` the worker wrote from this record. `head`: a hash noted earlier.
    """
    problems: list[str] = []
    kept: list[tuple[str, str]] = []
    for day in days(evidence):
        for name in pieces_of_day(evidence, day):
            try:
                payload = open_piece(evidence, name).disposition()
                if payload is not None:
                    kept.append((name, str(json.loads(payload)["disposition_id"])))
            except EvidenceError as error:
                if error.reason != "gone":
                    problems.append(error.message)
            except (KeyError, TypeError, ValueError):
                problems.append(f"{evidence / name}: its disposition.json is damaged")
    with store.at_one_moment():  # after the evidence: an answer that came there meanwhile was recorded before
        hashes = [entry_hash(entry) for _, entry in store.entries()]
        problems += store.problems()
    if head is not None and head.lower() not in hashes:
        problems.append(f"no entry has the hash {head}: the record was cut or changed since it was noted")
    known = {each[:32] for each in hashes}
    for name, disposition_id in kept:
        if disposition_id not in known:
            problems.append(f"{name}: the answer {disposition_id} kept there is not in the record")
    state = f"{len(problems)} problems" if problems else "unchanged"
    newest = hashes[-1] if hashes else GENESIS
    return problems, f"{state}: {len(hashes)} entries, {len(kept)} answers kept beside evidence, newest {newest}"
