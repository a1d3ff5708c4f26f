"""Any sequence of arrivals, failures, answers, crashes and restarts: nothing lost, nothing said twice differently.

Inbox, worker, ledger and publisher are the real ones, on a real folder and a real SQLite file; the broker is a
script that answers what the machine draws. Real crashes and a real broker are the torture harness's part.
A longer campaign: `python tests/system/test_line_state_machine.py 1000` (examples).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import edge.mqtt.publisher
import edge.store.ledger
from edge.contract.messages import Topics
from edge.engines.preprocessor import Preprocessor
from edge.errors import LedgerError, PublishError
from edge.mqtt.connection import Accepted, Acknowledged, Ended, Event, Outgoing
from edge.mqtt.publisher import Publisher
from edge.pipeline.crash_guard import DecodeMarks
from edge.pipeline.read_ahead import ReadAhead
from edge.pipeline.worker import NEVER_FINAL, Worker
from edge.scans.pixels import decode
from edge.scans.scan import Limits
from edge.settings import BrokerSettings
from edge.station.inbox import Inbox
from edge.station.intake import StationIntake
from edge.store.ledger import open_ledger
from edge.store.requests import ResendRequest
from tests.support import fakes
from tests.support.samples import sample_model_card
from tests.support.tiff_files import tiff

STATION = "xray-1"
TOPICS = Topics("enterprise", "site", "area", "line", STATION)
LIMITS = Limits(max_px=1_000_000, max_bytes=10_000_000)
CODES = st.sampled_from([0x00, 0x00, 0x00, 0x10, 0x80, 0x87, 0x97])
NO_IMAGE = b"not a TIFF, and all of them alike"
QUIET_TURNS = 100
TURN_S = 0.3


class ScriptedBroker:
    """What the MES has, and what the broker still has to answer."""

    def __init__(self) -> None:
        self.is_up = True
        self.received: list[bytes] = []
        """Verdicts that were acknowledged with success, in order."""
        self.unanswered: dict[int, Outgoing] = {}
        self.events: list[Event] = []

    def answer(self, place: int, code: int) -> None:
        mid = [*self.unanswered][place % len(self.unanswered)]
        message = self.unanswered.pop(mid)
        if message.verdict_id is None:
            code = 0  # notices are another matter
        elif code == 0:
            self.received.append(message.payload)
        self.events.append(Acknowledged(mid, code, f"reason {code:#x}"))

    def drop(self) -> None:
        self.unanswered.clear()
        self.events = [Ended(PublishError("the connection was lost", hint="a script's whim"))]


class ScriptedConnection:
    """In place of edge.mqtt.connection.Connection: no socket, the broker above."""

    broker: ClassVar[ScriptedBroker]

    def __init__(self, *_: object, **__: object) -> None:
        self._mid = 0
        self.broker.unanswered.clear()
        self.broker.events = [Accepted(20, None, can_retain=True)] if self.broker.is_up else []
        if not self.broker.is_up:
            self.broker.drop()

    def step(self, _now_s: float) -> list[Event]:
        events, self.broker.events = self.broker.events, []
        return events

    def publish(self, message: Outgoing) -> int | None:
        if not self.broker.is_up:
            return None
        self._mid += 1
        if message.qos:
            self.broker.unanswered[self._mid] = message
        return self._mid

    def wait_for(self) -> None:
        return None

    def close(self, *, with_will: bool = False) -> None:
        self.broker.unanswered.clear()


class Line:
    """One life of the worker's process."""

    def __init__(self, folder: Path, state: Path, clock: Callable[[], datetime]) -> None:
        self.ledger = open_ledger(state / "ledger.sqlite", STATION)
        self.inbox = Inbox(folder, known=self.ledger.files(), limits=LIMITS, incomplete_after_s=3.0, rewrite_hold_s=0.5)
        self.intake = StationIntake(self.inbox, lambda: None)
        reader = ReadAhead(
            folder,
            limits=LIMITS,
            decode=decode,
            marks=DecodeMarks(state / "decoding.marks"),
            threads=1,
        )
        self.worker = Worker(
            intake=self.intake,
            reader=reader,
            preprocessor=Preprocessor(fakes.ScriptedEngine(), fakes.INPUT_SPEC),
            store=self.ledger,
            recall=self.ledger.former,
            policy=fakes.POLICY,
            verdicts=fakes.verdict_factory(STATION),
            never_final=NEVER_FINAL,
            on_judged=lambda _: None,
            on_failed=lambda *_: None,
            clock=clock,
        )
        waits = BrokerSettings(backoff_min_s=0.1, backoff_max_s=0.5, window=5)
        card = sample_model_card()
        self.publisher = Publisher(waits, TOPICS, self.ledger, card, versions={}, clock=clock, rng=random.Random(1))

    def end(self) -> None:
        """As the kernel ends it: nothing is flushed or told; what is committed stays."""
        self.worker.close()
        self.publisher._waker.close()
        self.ledger.close()


class LineMachine(RuleBasedStateMachine):
    """The model is the folder itself, every content that ever stood in it, and what was seen of the ledger."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="line-machine-"))
        self.folder, self.state = self.root / "scans", self.root / "state"
        self.folder.mkdir()
        self.patches = contextlib.ExitStack()
        self.patches.enter_context(mock.patch.object(edge.mqtt.publisher, "Connection", ScriptedConnection))
        self.patches.enter_context(mock.patch.object(edge.store.ledger, "KEEP_LATEST", 3))
        self.broker = ScriptedConnection.broker = ScriptedBroker()
        self.now_s = 1000.0
        self.contents: set[str] = set()
        self.payloads: dict[int, bytes] = {}
        self.written = 0
        self.line = Line(self.folder, self.state, self._clock)
        self.arrive(3, 1900, is_scan=True)

    def teardown(self) -> None:
        if hasattr(self, "root"):
            try:
                self._settle()
            finally:
                self.line.end()
                self.patches.close()
                shutil.rmtree(self.root)

    # --- the station ---

    @rule(count=st.integers(1, 4), level=st.sampled_from([1900, 2700]), is_scan=st.booleans())
    def arrive(self, count: int, level: int, is_scan: bool) -> None:
        for _ in range(count):
            self._write(f"B01_{self.written}.tif", level, is_scan)

    @precondition(lambda self: self._files())
    @rule(choice=st.integers(0), level=st.sampled_from([1900, 2700]), in_place=st.booleans())
    def rewrite(self, choice: int, level: int, in_place: bool) -> None:
        files = self._files()
        self._write(files[choice % len(files)], level, is_scan=True, in_place=in_place)

    @precondition(lambda self: self._files())
    @rule(choice=st.integers(0))
    def rename(self, choice: int) -> None:
        files = self._files()
        self.written += 1
        name = f"renamed_{self.written}.tif"
        (self.folder / files[choice % len(files)]).rename(self.folder / name)
        self.line.inbox.touch(name)

    @precondition(lambda self: self._files())
    @rule(choice=st.integers(0))
    def delete(self, choice: int) -> None:
        files = self._files()
        (self.folder / files[choice % len(files)]).unlink()

    # --- the worker ---

    @rule(turns=st.integers(1, 4))
    def look(self, turns: int) -> None:
        for _ in range(turns):
            self.now_s += TURN_S
            self.line.intake.refill(self.now_s, self._clock())

    @rule()
    def judge(self) -> None:
        self.line.worker.step()

    @rule(turns=st.integers(3, 8), code=st.none() | CODES)
    def run(self, turns: int, code: int | None) -> None:
        """All three loops, as in ordinary times, with a broker that answers everything alike, or nothing."""
        for _ in range(turns):
            self.look(1)
            self.judge()
            self.publish(1)
            while code is not None and self.broker.unanswered:
                self.broker.answer(0, code)

    @rule()
    def fail_to_commit(self) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        self.look(3)
        with (
            mock.patch.object(edge.store.ledger, "_insert_verdict", side_effect=error),
            contextlib.suppress(LedgerError),
        ):
            self.line.worker.step()

    @rule(turns=st.integers(1, 3))
    def publish(self, turns: int) -> None:
        for _ in range(turns):
            self.now_s += TURN_S
            self.line.publisher.step(self.now_s, 0.0)

    @rule()
    def crash_and_restart(self) -> None:
        self.line.end()
        self.broker.unanswered.clear()
        self.line = Line(self.folder, self.state, self._clock)

    @rule()
    def ask_for_a_resend(self) -> None:
        self.line.ledger.requeue(ResendRequest(since=self._clock() - timedelta(days=1)))
        self.line.publisher.begin_anew()

    @rule()
    def prune(self) -> None:
        self._note_rows()
        self.line.ledger.prune(self._clock() + timedelta(days=1))
        present = self.line.inbox.present()
        if present is not None:
            self.line.ledger.prune_files(present)

    # --- the broker ---

    @rule(place=st.integers(0, 30), code=CODES, count=st.integers(1, 5))
    def answer(self, place: int, code: int, count: int) -> None:
        # No precondition on what is unanswered: a pool of threads has its part in it, and what can be drawn next must
        # depend on what was drawn alone.
        for _ in range(min(count, len(self.broker.unanswered))):
            self.broker.answer(place, code)

    @rule(arrived=st.booleans())
    def disconnect(self, arrived: bool) -> None:
        if arrived:  # the MES has them, the acknowledgements are lost
            self.broker.received += [m.payload for m in self.broker.unanswered.values() if m.verdict_id is not None]
        self.broker.drop()

    @rule()
    def go_away_or_come_back(self) -> None:
        self.broker.is_up = not self.broker.is_up
        self.broker.drop()

    # --- what holds at every moment ---

    @invariant()
    def nothing_is_contradicted(self) -> None:
        if not hasattr(self, "line"):
            return
        self._note_rows()
        by_id: dict[str, bytes] = {}
        for payload in self.broker.received:
            content = json.loads(payload)
            assert by_id.setdefault(content["verdict_id"], payload) == payload, "two payloads of one verdict"
            assert content["scan"]["sha256"] in self.contents, "a verdict on bytes that never stood in the folder"
            assert self.payloads[content["seq"]] == payload, "published bytes are not the ledger's"

    def _note_rows(self) -> None:
        for row in self._rows():
            assert self.payloads.setdefault(row[0], row[1]) == row[1], f"seq {row[0]} changed its bytes"
        ids = [json.loads(payload)["verdict_id"] for payload in self.payloads.values()]
        assert len(ids) == len(set(ids)), "two rows of one verdict"
        assert sorted(self.payloads) == list(range(1, len(self.payloads) + 1)), "a gap in seq"

    def _rows(self) -> list[tuple[int, bytes]]:
        with self.line.ledger.database.transaction("read") as sql:
            return sql.execute("SELECT seq, payload FROM payloads ORDER BY seq").fetchall()

    # --- helpers ---

    def _settle(self) -> None:
        """A kind world: everything runs, the broker takes all. Then everything in the folder has its verdict."""
        self.broker.is_up = True
        for _ in range(QUIET_TURNS):
            self.look(1)
            self.line.worker.step()
            self.publish(1)
            while self.broker.unanswered:
                self.broker.answer(0, 0)
            if self._is_settled():
                break
        self.nothing_is_contradicted()
        lost = self._without_verdict()
        assert not lost, f"lost: {lost}"
        assert self.line.ledger.pending().count == 0
        fresh = list(dict.fromkeys(json.loads(payload)["seq"] for payload in self.broker.received))
        assert sorted(fresh) == list(range(1, len(self.payloads) + 1)), "a row that never arrived"

    def _is_settled(self) -> bool:
        inbox, worker = self.line.inbox, self.line.worker
        is_idle = not inbox.pending_count and not inbox.in_flight_count and not worker.in_flight
        is_silent = self.line.ledger.pending().count == 0 and not self.broker.events
        return is_idle and is_silent and not self._without_verdict()

    def _without_verdict(self) -> list[str]:
        """Files the MES knows nothing of, by name and bytes."""
        scans = [json.loads(payload)["scan"] for payload in self.broker.received]
        known = {(scan["file"], scan["sha256"]) for scan in scans}
        here = [(file, _sha256(self.folder / file)) for file in self._files()]
        return [file for file, sha256 in here if (file, sha256) not in known]

    def _write(self, name: str, level: int, is_scan: bool, in_place: bool = False) -> None:
        self.written += 1
        counts = np.full((64, 48), level, np.uint16)
        counts[0, :2] = [1800 + self.written % 900, 1800 + self.written // 900]
        data = tiff(counts) if is_scan else NO_IMAGE
        path = self.folder / name
        if in_place:
            path.write_bytes(data)
        else:
            draft = self.folder / f".{name}.draft"
            draft.write_bytes(data)
            draft.rename(path)
        moment_ns = 1_700_000_000_000_000_000 + self.written * 1_000_000_000
        os.utime(path, ns=(moment_ns, moment_ns))  # file systems tick slowly, and two writes may share a tick
        self.contents.add(_sha256(path))
        self.line.inbox.touch(name)

    def _files(self) -> list[str]:
        return (
            sorted(path.name for path in self.folder.iterdir() if path.suffix == ".tif")
            if hasattr(self, "root")
            else []
        )

    def _clock(self) -> datetime:
        return datetime(2026, 5, 4, tzinfo=UTC) + timedelta(seconds=self.now_s)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def campaign(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=[*HealthCheck],
        print_blob=True,
    )


@pytest.mark.timeout(600)
def test_no_sequence_of_events_loses_or_contradicts_a_verdict() -> None:
    run_state_machine_as_test(LineMachine, settings=campaign(40))


if __name__ == "__main__":
    run_state_machine_as_test(LineMachine, settings=campaign(int(sys.argv[1])))
