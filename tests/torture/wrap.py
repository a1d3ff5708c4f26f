"""What is done to the daemon from outside: kill points, deliberate defects, a wrong clock, a deaf watcher.

Each function changes names of edge's modules in the process of tests/torture/worker.py and nowhere else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import paho.mqtt.client as mqtt

import edge.daemon.app
import edge.daemon.line
import edge.evidence.keeper
import edge.mqtt.connection
import edge.mqtt.publisher
import edge.pipeline.read_ahead
import edge.scans.decoder
import edge.scans.scan
import edge.station.archive
import edge.station.folder
import edge.station.inbox
import edge.station.watch
import edge.store.database
import edge.store.ledger
import edge.store.ledger_file
import edge.store.numbers
from edge.contract.messages import canonical_json
from edge.engines import Batch, EngineOutput
from edge.errors import EngineError
from edge.mqtt.connection import SUCCESS, Acknowledged
from edge.mqtt.publisher import Publisher
from edge.records import Former
from edge.store.ledger import Entry, Ledger, OutboxRow
from tests.torture.poison import UNFILTERED, poisoned
from tests.torture.stub import StubEngine

POISONED_WALL_S = 5.0
"""Instead of the product's 20 s, so that a decoder that was stopped is given up within the row."""

COPY_DELAY_S = 0.3
"""Between the opening of a bad file and its copy beside its verdict: time enough to change it."""

POINTS: dict[str, tuple[object, str, str]] = {
    "attempt": (edge.pipeline.read_ahead, "prepare_scan", "before"),
    "decode": (edge.pipeline.read_ahead, "prepare_scan", "after"),
    "score": (StubEngine, "infer", "after"),
    "uncommitted": (edge.store.ledger, "_insert_verdict", "after"),
    "commit": (Ledger, "commit", "after"),
    "piece": (edge.evidence.keeper, "_write_piece", "after"),
    "publish": (Publisher, "_send_row", "after"),
    "puback": (Publisher, "_on_row_answered", "after"),
    "mark": (Ledger, "mark_sent", "after"),
}
"""Where a worker may be told to die: owner, name, and on which side of the call."""


def die_at(point: str, count: int) -> None:
    """SIGKILL this process at the `count`th passing of a point."""
    owner, name, side = POINTS[point]
    passings = itertools.count(1)

    def pass_by() -> None:
        if next(passings) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    _around(owner, name, **{side: pass_by})


def shift_clock(offset: Path) -> None:
    """The wall clock is wrong by the seconds in a file, read anew at each look."""

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(seconds=float(offset.read_text() or 0))

    edge.daemon.line.datetime = Shifted  # type: ignore[attr-defined]
    edge.mqtt.publisher.datetime = Shifted  # type: ignore[attr-defined]


def deafen() -> None:
    """Every file event is dropped, as by a share or an overflowing kernel queue."""
    edge.station.watch._Hints.dispatch = lambda *_: None  # type: ignore[method-assign]


def slow_moves(gap_s: float) -> None:
    """Time enough to put something else in a judged scan's place; what fails is tried again after a second."""
    edge.station.archive.RETRY_S = 1.0
    _around(edge.station.archive._Move, "carry_out", before=lambda: time.sleep(gap_s))


def hang(folder_while: Path, reads_while: Path) -> None:
    """The calls on a hard mount whose server is gone do not fail, they do not return: looks at the folder, reads."""

    def wait(while_exists: Path) -> None:
        while while_exists.exists():
            time.sleep(0.05)

    _around(edge.station.folder, "open_folder", before=functools.partial(wait, folder_while))
    _around(edge.scans.scan, "_read_whole", before=functools.partial(wait, reads_while))


def hurry(stuck_after_s: float | None, housekeeping_s: float | None, health_s: float | None) -> None:
    """Minutes become seconds."""
    if health_s is not None:
        edge.daemon.app.HEALTH_S = health_s
    if stuck_after_s is not None:
        edge.daemon.app.STUCK_AFTER_S = stuck_after_s
    if housekeeping_s is not None:
        edge.daemon.app.HOUSEKEEPING_S = housekeeping_s
        edge.station.inbox.FORGET_EVERY_S = housekeeping_s


def slow_evidence(seconds: float) -> None:
    """A disk for the pictures that takes so long for each, and a queue that is soon full."""
    edge.evidence.keeper.QUEUE_BYTES = 200_000
    _around(edge.evidence.keeper, "_write_piece", before=lambda: time.sleep(seconds))


def advance_schema() -> None:
    """A release whose ledger has one more table."""
    newer = (*edge.store.ledger_file.MIGRATIONS, ("CREATE TABLE next_release (fact TEXT)",))
    edge.store.ledger_file.MIGRATIONS = newer


def poison(root: Path) -> None:
    """Decoding a file that holds a marker of tests/torture/poison.py does harm, here and in every child.

    `root`: a folder of the test's own, for the program that children are started with.
    """
    edge.scans.decoder.decode = poisoned
    _around(edge.evidence.keeper, "piece_of", before=lambda: time.sleep(COPY_DELAY_S))
    edge.daemon.line.Decoder = functools.partial(edge.scans.decoder.Decoder, wall_s=POISONED_WALL_S)  # type: ignore[misc,assignment]
    script = root / "poisoned-python"
    script.write_text(f'#!/bin/sh\nshift 2\nexec "{sys.executable}" -m tests.torture.poison "$@"\n')
    script.chmod(0o755)
    sys.executable = str(script)


# --- deliberate defects -------------------------------------------------------------------------------------


def _synchronous_off() -> None:
    original = edge.store.database.connect

    def connect(path: Path, station: str) -> Any:
        sql = original(path, station)
        sql.execute("PRAGMA synchronous = OFF")
        return sql

    edge.store.database.connect = connect


def _ack_before_commit() -> None:
    """The file counts as finished in one transaction, its verdict follows in the next."""
    original = Ledger.commit

    def commit(self: Ledger, entries: Sequence[Entry], now: datetime) -> list[int | None]:
        original(self, [dataclasses.replace(entry, verdict=None) for entry in entries], now)
        return original(self, entries, now)

    Ledger.commit = commit  # type: ignore[method-assign]


def _publish_before_commit() -> None:
    """Rows go out while their transaction is still to come."""
    original_commit, original_outbox, original_mark = Ledger.commit, Ledger.outbox, Ledger.mark_sent
    early: dict[int, OutboxRow] = {}

    def commit(self: Ledger, entries: Sequence[Entry], now: datetime) -> list[int | None]:
        with self.database.transaction("read") as sql:
            ((seq,),) = sql.execute("SELECT value FROM meta WHERE key = 'next_seq'").fetchall()
        for entry in entries:
            if entry.verdict is not None:
                payload = canonical_json(entry.verdict.model_copy(update={"seq": seq}))
                early[seq] = OutboxRow(seq, entry.verdict.verdict_id, payload)
                seq += 1
        time.sleep(0.5)
        return original_commit(self, entries, now)

    def outbox(self: Ledger, after_seq: int, limit: int) -> list[OutboxRow]:
        rows = [row for seq, row in sorted(early.items()) if seq > after_seq]
        return (original_outbox(self, after_seq, limit) + rows)[:limit]

    def mark_sent(self: Ledger, seqs: Any, now: datetime) -> None:
        for seq in seqs:
            early.pop(seq, None)
        original_mark(self, seqs, now)

    Ledger.commit, Ledger.outbox, Ledger.mark_sent = commit, outbox, mark_sent  # type: ignore[method-assign]


def _close_on_any_code() -> None:
    original = Publisher._on_row_answered

    def on_row_answered(self: Publisher, seq: int, answer: Acknowledged, now_s: float) -> None:
        original(self, seq, dataclasses.replace(answer, code=SUCCESS), now_s)

    Publisher._on_row_answered = on_row_answered  # type: ignore[method-assign]


def _react_to_created() -> None:
    """Whatever a listing shows is taken at once and for good: no stability, no completeness."""
    original = edge.station.inbox.Inbox.__init__

    def init(self: edge.station.inbox.Inbox, folder: Path, **options: Any) -> None:
        original(self, folder, **(options | {"stable_polls": 1, "stable_for_s": 0.0, "incomplete_after_s": 0.0}))

    edge.station.inbox.Inbox.__init__ = init  # type: ignore[method-assign]


def _evidence_in_place() -> None:
    """A piece has its name before it has its files."""
    original = edge.evidence.keeper._write_piece

    def write(draft: Path, contents: dict[str, bytes], *, is_flushed: bool) -> None:
        target = draft.with_name(draft.name.removeprefix(edge.evidence.keeper.DRAFT_PREFIX))
        target.mkdir()
        time.sleep(0.1)
        original(target, contents, is_flushed=is_flushed)
        target.rename(draft)

    edge.evidence.keeper._write_piece = write


def _unfiltered_decoder() -> None:
    os.environ[UNFILTERED] = "1"


def _take_any_acknowledgement() -> None:
    """As paho does: PUBREC and PUBCOMP close a message like PUBACK."""
    edge.mqtt.connection._Client._packet_handle = mqtt.Client._packet_handle  # type: ignore[method-assign]


def _no_hold() -> None:
    """A file that is written again in place is taken as soon as a new one."""
    edge.station.inbox.Inbox._hold_s = lambda self, _waiting: self._stable_for_s  # type: ignore[method-assign]


def _list_seldom() -> None:
    """The folder is listed once in five periods."""
    inbox = edge.station.inbox.Inbox
    original = inbox.wait_s
    inbox.wait_s = lambda self, now_s, period_s: original(self, now_s, 5 * period_s)  # type: ignore[method-assign]


def _move_by_name() -> None:
    """What stands under a judged scan's name is moved, whatever it is by now."""
    edge.station.archive._is_unchanged = lambda path, *_: path.exists()  # type: ignore[assignment]
    edge.station.archive.Archive._has_judged_bytes = lambda *_: True  # type: ignore[method-assign]


def _one_ledger_id() -> None:
    """As before there was one: the number alone names a message."""
    edge.store.numbers.ledger_id = lambda _sql: UUID(int=1)


def _bytes_alone() -> None:
    """An image is known again by the bytes of its file, not by its pixels."""
    original = Ledger.former

    def former(self: Ledger, file: str, sha256: str, first_id: str, _pixels_id: str | None) -> Former:
        return original(self, file, sha256, first_id, None)

    Ledger.former = former  # type: ignore[method-assign]


def _unchecked_messages() -> None:
    edge.store.ledger.is_intact = lambda *_: True


def _mend_numbers_silently() -> None:
    """A number to come that cannot be right is set right, under the old id."""
    edge.store.numbers._renew_id = lambda _sql: None


def _unwritten_is_read() -> None:
    """Zeros are counts like any other, where pixels are missing, too."""
    edge.scans.scan.check_pixels = lambda *_: None
    edge.scans.scan.check_codes = lambda *_: None
    edge.scans.scan.has_unwritten_codes = lambda *_: False


def _walk_by_recursion() -> None:
    """A call for each folder in a folder, and no limit."""

    def read_names(
        self: edge.station.folder.StationFolder, _descriptor: int, known: Any, done_suffix: str | None
    ) -> edge.station.folder._Names:
        names = edge.station.folder._Names()

        def walk(folder: str) -> None:
            with edge.station.folder.open_folder(self.path / folder, "") as inner:
                self._read_folder(inner, folder and f"{folder}/", known, done_suffix, names)
            below, names.folders = names.folders, []
            for inside in below:
                walk(inside)

        walk("")
        return names

    edge.station.folder.StationFolder._read_names = read_names  # type: ignore[method-assign]


def _blame_the_clock() -> None:
    """A scan whose unpacker does not answer in time is called bad, whatever the unpacker computed meanwhile."""
    original = edge.scans.decoder._Child._check_time

    def check_time(self: edge.scans.decoder._Child) -> None:
        try:
            original(self)
        except edge.scans.decoder.Starved as starved:
            raise edge.scans.decoder.Overrun(str(starved)) from None

    edge.scans.decoder._Child._check_time = check_time  # type: ignore[method-assign]


def _silent_refusal() -> None:
    """A worker that does not start says so in its log alone."""
    edge.daemon.app.report_start_refusal = lambda _settings: contextlib.nullcontext()  # type: ignore[assignment]


BREAKAGES: dict[str, Callable[[], None]] = {
    "synchronous-off": _synchronous_off,
    "ack-before-commit": _ack_before_commit,
    "publish-before-commit": _publish_before_commit,
    "close-on-any-code": _close_on_any_code,
    "react-to-created": _react_to_created,
    "unfiltered-decoder": _unfiltered_decoder,
    "take-any-acknowledgement": _take_any_acknowledgement,
    "evidence-in-place": _evidence_in_place,
    "no-hold": _no_hold,
    "list-seldom": _list_seldom,
    "move-by-name": _move_by_name,
    "one-ledger-id": _one_ledger_id,
    "bytes-alone": _bytes_alone,
    "unchecked-messages": _unchecked_messages,
    "mend-numbers-silently": _mend_numbers_silently,
    "unwritten-is-read": _unwritten_is_read,
    "walk-by-recursion": _walk_by_recursion,
    "blame-the-clock": _blame_the_clock,
    "silent-refusal": _silent_refusal,
}


# --- engines that do wrong ----------------------------------------------------------------------------------

GOOD_CALLS = 3
"""An engine that does wrong does well so often before."""


def _engine_with(wrong: Callable[[EngineOutput], EngineOutput]) -> Callable[[StubEngine], None]:
    def install(engine: StubEngine) -> None:
        original, calls = engine.infer, itertools.count(1)

        def infer(images: Batch) -> EngineOutput:
            output = original(images)
            return wrong(output) if next(calls) > GOOD_CALLS else output

        engine.infer = infer  # type: ignore[method-assign]

    return install


def _raise(_output: EngineOutput) -> EngineOutput:
    raise EngineError("the device is lost", hint="a deliberate fault of the torture engine")


def _hang(_output: EngineOutput) -> EngineOutput:
    while True:
        time.sleep(60)


def _nan(output: EngineOutput) -> EngineOutput:
    return dataclasses.replace(output, p_abnormal=np.full_like(output.p_abnormal, np.nan))


def _wrong_shape(output: EngineOutput) -> EngineOutput:
    return dataclasses.replace(output, p_abnormal=np.zeros((len(output.p_abnormal), 2), np.float32))


ENGINE_FAULTS: dict[str, Callable[[StubEngine], None]] = {
    "raises": _engine_with(_raise),
    "hangs": _engine_with(_hang),
    "nan": _engine_with(_nan),
    "wrong-shape": _engine_with(_wrong_shape),
}


def _around(
    owner: Any, name: str, before: Callable[[], None] | None = None, after: Callable[[], None] | None = None
) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        if before is not None:
            before()
        result = original(*arguments, **options)
        if after is not None:
            after()
        return result

    setattr(owner, name, wrapped)
