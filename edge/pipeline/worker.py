"""The line's one loop body: take scans, read ahead, infer, decide, commit.

`Worker.step()` is one turn of the crank and never waits for an arrival, so that tests need no thread.
Reading and converting run ahead of it (`edge.pipeline.read_ahead`).

Durability order: mark the decode → read and hash → infer → decide → ONE transaction → only then is the
inbox told. Whatever interrupts this leaves the file in the folder and no verdict, or a verdict and its
outbox row.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edge.contract.messages import Verdict
from edge.engines.preprocessor import Pixels, Preprocessor
from edge.errors import ScanIncomplete
from edge.pipeline.decide import decide, repeated_image
from edge.pipeline.prepare import Prepared, give_up
from edge.pipeline.read_ahead import ReadAhead
from edge.pipeline.verdicts import VerdictFactory
from edge.records import Arrival, FileStamp, Former, Outcome, Policy, Scores
from edge.store.ledger import Entry
from edge.system.logs import event

log = logging.getLogger(__name__)


NEVER_FINAL = frozenset({"changed-while-reading", "read-failed", "vanished"})
"""Not the file's fault, or no longer a file: looked at again, however often; edge/daemon/scan_alarms.py tells of it."""


class Intake(Protocol):
    """Where scans come from: the station folder's inbox, or the list of a replay."""

    def take(self, limit: int) -> list[Arrival]:
        """At most `limit` complete files, oldest first; they stay with the worker until it gives them back."""
        ...

    def finished(self, stamp: FileStamp) -> None: ...

    def retry(self, stamp: FileStamp) -> None:
        """The file was not complete, changed, or went away while it was read: look at it again later."""
        ...


Recall = Callable[[str, str, str, str | None], Former]
"""Earlier verdicts that bear on an arrival: by its file, the SHA-256 and the first id of its bytes, the key of its
pixels."""


class VerdictStore(Protocol):
    """Where verdicts are made to last."""

    def commit(self, entries: Sequence[Entry], now: datetime) -> list[Verdict | None]:
        """Store the entries in one transaction; each new verdict with its number, None where one stood before."""
        ...


@dataclass(frozen=True, slots=True)
class Judged:
    """A scan with its verdict and the maps that explain it.

    `verdict` is None when this very file has one already. The maps are float32 (map_height, map_width), None when the
    networks were not asked; `reason_map` also where the model has none.
    """

    prepared: Prepared
    verdict: Verdict | None
    residual_map: npt.NDArray[np.float32] | None
    reason_map: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class _Inference:
    scores: Scores
    residual_map: npt.NDArray[np.float32]
    reason_map: npt.NDArray[np.float32] | None
    infer_ms: float


class Worker:
    """Turns arrivals into committed verdicts. One thread calls `step`."""

    def __init__(
        self,
        *,
        intake: Intake,
        reader: ReadAhead,
        preprocessor: Preprocessor,
        store: VerdictStore,
        recall: Recall | None,
        policy: Policy,
        verdicts: VerdictFactory,
        never_final: frozenset[str],
        on_judged: Callable[[Judged], None],
        on_failed: Callable[[Arrival, ScanIncomplete], None],
        clock: Callable[[], datetime],
    ) -> None:
        """`reader` is closed with the worker. `recall`: None in a replay, which judges every file.

        `never_final`: reasons that call for another look even where the arrival is final; a replay has none.
        `on_failed`: told of each look at a final arrival that failed for such a reason.
        """
        self._intake = intake
        self._reader = reader
        self._preprocessor = preprocessor
        self._store = store
        self._recall = recall
        self._policy = policy
        self._verdicts = verdicts
        self._never_final = never_final
        self._on_judged = on_judged
        self._on_failed = on_failed
        self._clock = clock
        self._depth = 2 * preprocessor.max_batch + reader.threads
        self._batch: list[Prepared] = []
        self._uncommitted: list[Judged] = []

    @property
    def in_flight(self) -> int:
        """Files taken from the intake whose verdict is not committed yet."""
        return len(self._reader) + len(self._batch) + len(self._uncommitted)

    def step(self) -> int:
        """Bring one batch to its verdicts; the number of scans finished, 0 when there is nothing to do.

        Raises LedgerError when the store cannot be asked or written: what is in hand is kept for a later step.
        Raises EngineError when the networks fail: nothing of the batch is decided.
        """
        finished = self._commit()
        self._read_ahead()
        self._batch = self._batch or self._next_batch()
        if self._batch:
            self._uncommitted = self._judge(self._batch)
            self._batch = []
            finished += self._commit()
        return finished

    def close(self) -> None:
        """Drop what is read ahead; the files stay in the folder and are found again."""
        self._reader.close()

    def _read_ahead(self) -> None:
        for arrival in self._intake.take(self._depth - len(self._reader)):
            self._reader.add(arrival, self._preprocessor)

    def _next_batch(self) -> list[Prepared]:
        """The oldest prepared scans, at least one if any is in hand: waits for the first, not for the others."""
        batch: list[Prepared] = []
        while len(batch) < self._preprocessor.max_batch and (read := self._reader.next(wait=not batch)) is not None:
            match read:
                case _, Prepared() as prepared:
                    batch.append(prepared)
                case arrival, ScanIncomplete() as error if arrival.is_final and error.reason not in self._never_final:
                    batch.append(give_up(arrival, error))
                case arrival, ScanIncomplete() as error:
                    event(log.info, "scan not complete", file=arrival.stamp.file, reason=error.reason)
                    if arrival.is_final:
                        self._on_failed(arrival, error)
                    self._intake.retry(arrival.stamp)
        return batch

    def _judge(self, batch: Sequence[Prepared]) -> list[Judged]:
        """Decide a batch. The networks are not asked about what repeats an earlier scan."""
        formers = [Former()] * len(batch)
        if self._recall is not None:
            memory = _Memory(self._recall, self._verdicts)
            formers = [memory.former(prepared) for prepared in batch]
        asked = [
            prepared.pixels
            for prepared, former in zip(batch, formers, strict=True)
            if prepared.pixels is not None and not former.is_same and former.repeats is None
        ]
        inferences = iter(self._infer(asked))
        now = self._clock()
        judged = []
        for prepared, former in zip(batch, formers, strict=True):
            if former.is_same:
                judged.append(Judged(prepared, None, None))
            elif prepared.decision is not None or former.repeats is not None:
                decision = prepared.decision
                if decision is None or (former.repeats is not None and decision.outcome is not Outcome.UNREADABLE):
                    decision = repeated_image()
                judged.append(Judged(prepared, self._verdicts.without_scores(prepared, decision, now, former), None))
            else:
                inference = next(inferences)
                decision = decide(inference.scores, self._policy)
                verdict = self._verdicts.with_scores(
                    prepared, decision, inference.scores, inference.residual_map, inference.infer_ms, now
                )
                judged.append(Judged(prepared, verdict, inference.residual_map, inference.reason_map))
        return judged

    def _infer(self, scans: Sequence[Pixels]) -> list[_Inference]:
        if not scans:
            return []
        started = time.perf_counter()
        output = self._preprocessor.infer(scans)
        infer_ms = (time.perf_counter() - started) * 1e3 / len(scans)
        reason_maps = [None] * len(scans) if output.reason_map is None else output.reason_map
        rows = zip(output.scores(), output.residual_map, reason_maps, strict=True)
        return [_Inference(scores, residual_map, reason_map, infer_ms) for scores, residual_map, reason_map in rows]

    def _commit(self) -> int:
        if not self._uncommitted:
            return 0
        entries = [
            Entry(
                judged.prepared.arrival.stamp,
                judged.prepared.scan,
                judged.verdict,
                pixels_id=_pixels_id(self._verdicts, judged.prepared),
            )
            for judged in self._uncommitted
        ]
        stored = self._store.commit(entries, self._clock())
        finished, self._uncommitted = self._uncommitted, []
        for judged, verdict in zip(finished, stored, strict=True):
            self._intake.finished(judged.prepared.arrival.stamp)
            self._on_judged(replace(judged, verdict=verdict))
        return len(finished)


class _Memory:
    """The ledger's knowledge of earlier verdicts, and what the scans of one batch add to it before they are stored."""

    def __init__(self, recall: Recall, verdicts: VerdictFactory) -> None:
        self._recall = recall
        self._verdicts = verdicts
        self._ids: dict[str, str] = {}  # first_id or pixels_id -> verdict
        self._names: dict[str, tuple[str, str]] = {}  # file -> its last verdict, SHA-256 of its bytes

    def former(self, prepared: Prepared) -> Former:
        """Earlier verdicts that bear on this scan, which from now on counts as one of them."""
        file, sha256, first_id = prepared.scan.file, prepared.scan.sha256, self._verdicts.first_id(prepared.scan)
        pixels_id = _pixels_id(self._verdicts, prepared)
        known = self._recall(file, sha256, first_id, pixels_id)
        name_id, bytes_of_name = self._names.get(file, (known.name_id, None))
        repeats = known.repeats or self._ids.get(first_id) or (self._ids.get(pixels_id) if pixels_id else None)
        is_same = known.is_same if bytes_of_name is None else bytes_of_name == sha256
        former = Former(name_id, is_same, repeats)
        if not is_same:
            own = self._verdicts.id_of(prepared.scan, former)
            self._names[file] = own, sha256
            self._ids.setdefault(first_id, own)
            if pixels_id is not None:
                self._ids.setdefault(pixels_id, own)
        return former


def _pixels_id(verdicts: VerdictFactory, prepared: Prepared) -> str | None:
    return None if prepared.pixels_sha256 is None else verdicts.pixels_id(prepared.pixels_sha256)
