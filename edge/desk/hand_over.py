"""Answers on their way to the worker: request files in its drop box, written whole, with the same bytes every time."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from edge.contract.messages import Answer
from edge.desk.store import DeskStore, canonical, entry_hash
from edge.errors import LedgerError
from edge.store.requests import RequestKind, leave
from edge.system.logs import event

log = logging.getLogger(__name__)


def hand_over(store: DeskStore, state_dir: Path) -> None:
    """Put every answer that the worker was not given yet into its drop box, oldest first.

    A kill between the two steps writes the same file again: its name and bytes follow from the record.
    Raises DeskError when the desk's own file fails.
    """
    waiting = store.unhanded()
    for number, seq in enumerate(waiting):
        given = disposition(store.entry(seq))
        try:
            leave(state_dir, RequestKind.DISPOSITION, canonical(given), given["disposition_id"])
        except LedgerError as error:
            event(log.warning, "answer not handed over", error=error.message, waiting=len(waiting) - number)
            return
        store.mark_handed(seq)


def disposition(entry: bytes) -> dict[str, Any]:
    """What an entry of the record tells the worker and the MES. Its id begins the entry's hash."""
    fields = {**json.loads(entry), "disposition_id": entry_hash(entry)[:32]}
    return {name: fields[name] for name in Answer.model_fields}
