"""The daemon: threads, signals, supervision. What they run on is built in edge/daemon/line.py.

    main      signals, supervision, watchdog, health and housekeeping
    inbox     looks at the folder, hands complete files to the intake
    worker    owns the engine, turns arrivals into committed verdicts
    publish   owns the broker connection, empties the outbox
    requests  takes what the drop box asks for
    archive   moves judged scans on, where that is asked for
    backup    copies the ledger on request, which may take minutes
    evidence  writes the pictures of what was judged; drops them when it falls behind

A thread that dies stops the process with a non-zero code, and systemd starts a fresh one.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from uuid import uuid4

from edge.contract.alarm_code import AlarmCode
from edge.daemon.line import Line, build_line, utc_now
from edge.errors import EdgeError, LedgerError
from edge.evidence.keeper import Keeper
from edge.mqtt.start_refused import report_start_refusal
from edge.pipeline.loaded_model import LoadedModel
from edge.settings import ServiceEnvironment, Settings
from edge.station.archive import Archive
from edge.system.heartbeat import Beats
from edge.system.logs import event
from edge.system.machine import return_free_memory
from edge.system.service_manager import Notifier
from edge.system.signals import await_stop, exit_code_after, hold_stop_signals, stop_ends_process

log = logging.getLogger(__name__)

SUPERVISION_S = 0.5
HEALTH_S = 60.0
HOUSEKEEPING_S = 600.0
IDLE_WAIT_S = 0.5
EVIDENCE_WAIT_S = 0.5
DRAIN_S = 10.0
"""At a stop: what was judged may still be moved, and its pictures written, for so long."""
REQUESTS_LOOK_S = 0.5
LEDGER_RETRY_S = 1.0
STUCK_AFTER_S = 90.0
"""A loop silent for this long no longer earns the watchdog's beat; a CPU batch takes a few seconds."""
STUCK_AGAIN_S = 60.0
"""Between two log lines about it."""
FOLDER_SILENT_S = 10.0
"""A look at the folder, or a read of one of its files, that lasts this long is an alarm: a share whose server is gone
does not fail, it hangs."""


def run_app(settings: Settings, environment: ServiceEnvironment, load: Callable[[], LoadedModel]) -> int:
    """Load the model and judge scans until a signal or a failure; the exit code. Closes the model's engine.

    Raises EdgeError when the line cannot start, which the MES is told, or for what ended one of its threads.
    """
    with ExitStack() as stack:
        stack.enter_context(hold_stop_signals())
        with stop_ends_process(), report_start_refusal(settings), ExitStack() as building:
            model = load()
            building.callback(model.engine.close)
            line = build_line(settings, model, uuid4(), building)
            stack.push(building.pop_all())
        return App(settings, line, Notifier(environment.notify_socket)).run()


class App:
    """One run of a built line."""

    def __init__(self, settings: Settings, line: Line, notifier: Notifier) -> None:
        self._settings = settings
        self._line = line
        self._notifier = notifier
        self._beats = Beats()
        self._stop = threading.Event()
        self._flush = threading.Event()
        self._is_judged = threading.Event()
        self._failure: Exception | None = None
        self._told: signal.Signals | None = None
        """The signal that began the stop; None for a failure."""

    def run(self) -> int:
        """Start the threads, supervise them, stop them in order: intake and worker first, then the publisher.

        Whatever ends the supervision, no thread outlives this call: the caller closes what they work on.
        """
        judging: list[threading.Thread] = []
        keeping: list[threading.Thread] = []
        publishing: list[threading.Thread] = []
        try:
            judging.append(self._thread("inbox", self._look))
            judging.append(self._thread("worker", self._judge))
            judging.append(self._thread("requests", self._take_requests))
            # Unwatched: a copy takes as long as the ledger is large, and the line does not wait for it.
            judging.append(self._thread("backup", self._copy, is_watched=False))
            if self._line.archive is not None:
                keeping.append(self._thread("archive", partial(self._move, self._line.archive), is_watched=False))
            if self._line.keeper is not None:
                keeping.append(self._thread("evidence", partial(self._keep, self._line.keeper), is_watched=False))
            publishing.append(self._thread("publish", self._publish))
            self._notifier.ready(f"judging scans in {self._settings.folder.path}")
            self._say_ready()
            self._supervise()
        finally:
            event(log.info, "stopping", **({} if self._told is None else {"signal": self._told.name}))
            self._notifier.stopping()
            self._stop.set()
            self._line.wake()
            self._join(judging)
            self._line.report_health()  # so that the desk's counts of the day hold the last minute too
            self._is_judged.set()
            self._flush.set()
            self._line.wake()
            self._join(keeping)
            self._join(publishing)
        if self._failure is not None:
            raise self._failure
        event(log.info, "stopped", **self._line.after_verdict.tally().outcomes)
        assert self._told is not None, "nothing else ends the supervision"
        return exit_code_after(self._told)

    def _say_ready(self) -> None:
        settings, topic = self._settings, self._settings.topic
        event(
            log.info,
            "ready",
            station=settings.station,
            folder=str(settings.folder.path),
            model=self._line.model.id,
            broker=f"{settings.broker.host}:{settings.broker.port}",
            topic=f"{topic.root}/{topic.site}/{topic.area}/{topic.line}/{settings.station}",
            settings=settings.origin,
        )

    def _supervise(self) -> None:
        """Feed the watchdog, speak of health, keep house, until a signal or a dead thread."""
        health_at_s = housekeeping_at_s = stuck_at_s = time.monotonic()
        while not self._stop.is_set():
            now_s = time.monotonic()
            loop, silent_s = self._beats.longest_silence_s()
            if silent_s < STUCK_AFTER_S:
                self._notifier.watchdog()
            elif now_s >= stuck_at_s:
                stuck_at_s = now_s + STUCK_AGAIN_S
                event(log.error, "loop is stuck", loop=loop, silent_s=round(silent_s, 1))
            self._beats.if_silent("inbox", FOLDER_SILENT_S, self._line.tell_of_hang)
            self._line.watch_reads(FOLDER_SILENT_S)
            self._line.watch_archive(now_s)
            if now_s >= health_at_s:
                health_at_s = now_s + HEALTH_S
                return_free_memory()
                self._line.report_health()
            if now_s >= housekeeping_at_s:
                housekeeping_at_s = now_s + HOUSEKEEPING_S
                self._line.keep_house()
            if (received := await_stop(SUPERVISION_S)) is not None:
                self._told = received
                return

    def _join(self, threads: list[threading.Thread]) -> None:
        """Wait for the drain; a second signal aborts it. What is judged is in the ledger, the rest in the folder.

        A hangup aborts nothing: a terminal that closes sends two, its own and the shell's. After one, the first other
        signal asks for what it always asks for, a clean stop: `systemctl stop` may well follow a hangup.
        """
        while any(thread.is_alive() for thread in threads):
            received = await_stop(0.05)
            if received is None or received == signal.SIGHUP:
                continue
            if self._told != signal.SIGHUP:
                event(log.warning, "aborted")
                os._exit(128 + received)
            event(log.info, "stopping", signal=received.name)
            self._told = received

    def _thread(self, name: str, turn: Callable[[], None], *, is_watched: bool = True) -> threading.Thread:
        thread = threading.Thread(target=self._run, args=(name, turn), name=name)
        if is_watched:
            self._beats.beat(name)  # its silence counts from here: it may hang before its first turn ends
        thread.start()
        return thread

    def _run(self, name: str, loop: Callable[[], None]) -> None:
        """Thread entry: whatever ends a loop early ends the process."""
        try:
            loop()
        except Exception as error:  # noqa: BLE001, logged as the defect it is
            say = partial(log.critical, exc_info=not isinstance(error, EdgeError))
            event(say, "loop died", loop=name, error=str(error) or type(error).__name__)
            self._failure = self._failure or error
            self._stop.set()
            self._is_judged.set()
            self._flush.set()
            self._line.wake()

    def _look(self) -> None:
        self._line.watcher.start()
        while not self._stop.is_set():
            self._beats.beat("inbox")
            wait_s = self._line.look(time.monotonic(), utc_now(), self._beats.pause("inbox"))
            self._beats.rest("inbox")
            self._line.folder_changed.wait(wait_s)

    def _judge(self) -> None:
        while not self._stop.is_set():
            self._beats.beat("worker")
            try:
                finished = self._line.worker.step()
            except LedgerError as error:
                self._line.publisher.raise_alarm(AlarmCode.INTAKE_STOPPED, error.message, error.hint)
                self._stop.wait(LEDGER_RETRY_S)
                continue
            self._line.publisher.clear_alarm(AlarmCode.INTAKE_STOPPED)
            if not finished and not self._line.worker.in_flight:
                self._line.intake.wait(IDLE_WAIT_S)

    def _take_requests(self) -> None:
        trouble = ""
        while not self._stop.wait(REQUESTS_LOOK_S):
            self._beats.beat("requests")
            try:
                self._line.take_requests()
            except LedgerError as error:
                if error.message != trouble:  # a disk that fails for hours is told once
                    event(log.warning, "requests wait", error=error.message, hint=error.hint)
                    self._line.publisher.raise_alarm(AlarmCode.REQUEST_REFUSED, error.message, error.hint)
                trouble = error.message
            else:
                trouble = ""

    def _move(self, archive: Archive) -> None:
        """Until nothing more is judged and what was has moved; on a slow share not for ever."""
        while not self._is_judged.is_set():
            archive.wake.wait(self._line.move_on(time.monotonic(), lambda: not self._stop.is_set()))
        until_s = time.monotonic() + DRAIN_S
        self._line.move_on(time.monotonic(), lambda: time.monotonic() < until_s)

    def _copy(self) -> None:
        trouble = ""
        while not self._stop.wait(REQUESTS_LOOK_S):
            trouble = self._line.copy_on_request(lambda: not self._stop.is_set(), trouble)

    def _keep(self, keeper: Keeper) -> None:
        """Until nothing more is judged and what was is written; on a slow disk not for ever."""
        while not self._is_judged.is_set():
            keeper.step(EVIDENCE_WAIT_S)
        until_s = time.monotonic() + DRAIN_S
        while time.monotonic() < until_s and keeper.step(0.0):
            pass
        keeper.close()

    def _publish(self) -> None:
        while not self._flush.is_set():
            self._line.publisher.step(time.monotonic())
            self._beats.beat("publish")
        is_clean = self._told is not None and self._failure is None
        self._line.publisher.stop(self._settings.broker.flush_s, is_clean=is_clean)
