"""A station's line: its parts, built in the order they depend on each other and closed in reverse."""

from __future__ import annotations

import logging
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from edge.contract.alarm_code import AlarmCode
from edge.contract.messages import Answer, Evidence, Health, Kind, ModelInfo, Topics, canonical_json
from edge.daemon.after_verdict import AfterVerdict
from edge.daemon.scan_alarms import ScanAlarms
from edge.engines.choose import Degraded
from edge.engines.preprocessor import Preprocessor
from edge.engines.tensorrt.gpu_state import gpu_state
from edge.errors import LedgerError, RequestError, SettingsError
from edge.evidence.keeper import Keeper
from edge.evidence.piece import Scene, Selection
from edge.evidence.record import evidence_path
from edge.model.history import note_model
from edge.mqtt.publisher import Publisher
from edge.pipeline.crash_guard import DecodeMarks
from edge.pipeline.loaded_model import LoadedModel
from edge.pipeline.read_ahead import ReadAhead
from edge.pipeline.worker import NEVER_FINAL, Judged, Worker
from edge.records import FileStamp
from edge.scans.decoder import Decoder
from edge.scans.scan import Limits
from edge.settings import Settings
from edge.station.archive import Archive
from edge.station.inbox import Inbox
from edge.station.intake import StationIntake
from edge.station.mounts import file_system
from edge.station.watch import Watcher
from edge.store.backup import sweep_copies, take_backup_requests
from edge.store.ledger import TOPIC, Ledger, Pending, open_ledger
from edge.store.requests import DropBox, Request, RequestKind, ResendRequest, parse_request
from edge.system.files import write_whole
from edge.system.heartbeat import Beats
from edge.system.logs import event
from edge.system.machine import clock_synchronised, resident_bytes
from edge.system.names import display_name
from edge.system.text import rfc3339

log = logging.getLogger(__name__)


LEDGER_CHECK_S = 3.0
"""Time the start gives to the check of the ledger; a million verdicts take minutes."""
FOLDER = "folder"
"""Under which the ledger remembers where the station's folder is."""

TARGET = "move_to"
"""And where judged scans go."""

UNMARKED_S = 600.0
"""A scan that lacks its marker for so long was forgotten: it would wait for ever."""

TARGET_SILENT_S = 60.0
"""A move that lasts this long is an alarm; a large scan on a slow share takes some seconds."""


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Line:
    """The parts of a running line; edge/daemon/app.py gives each loop its thread."""

    settings: Settings
    boot_id: UUID
    model: ModelInfo
    model_made_at: datetime
    started_s: float
    ledger: Ledger
    requests: DropBox
    inbox: Inbox
    watcher: Watcher
    folder_changed: threading.Event
    files_to_prune: threading.Event
    """Set when the ledger's files are to be compared with the folder: by the inbox's thread, since that may hang."""
    intake: StationIntake
    worker: Worker
    publisher: Publisher
    after_verdict: AfterVerdict
    keeper: Keeper | None
    """None where no evidence is kept."""
    scan_alarms: ScanAlarms
    reads: Beats
    """A beat for each file of the station's folder at the beginning of its read, and rest at its end."""
    archive: Archive | None
    remembered: dict[str, str]
    """What the ledger holds of the whereabouts of folders."""

    def wake(self) -> None:
        """End whatever wait the loops are in."""
        self.folder_changed.set()
        self.intake.wake()
        self.publisher.wake()
        if self.archive is not None:
            self.archive.wake.set()
        if self.keeper is not None:
            self.keeper.wake()

    def look(self, now_s: float, now: datetime, answered: AbstractContextManager[None] | None = None) -> float:
        """One turn of the inbox; how long it may sleep, in seconds, unless the folder changes.

        `answered`: inside it the main thread tells of no hang, so that none is told after the answer.
        """
        self.folder_changed.clear()
        self.watcher.step(now_s)
        self.intake.refill(now_s, now)
        state = self.inbox.state
        with answered or nullcontext():
            if state.away is None:
                self.publisher.clear_alarm(AlarmCode.FOLDER_AWAY)
            else:
                self.publisher.raise_alarm(AlarmCode.FOLDER_AWAY, state.detail, state.hint)
        unread = self.inbox.unread
        if unread:
            first, why = next(iter(unread.items()))
            self.publisher.raise_alarm(
                AlarmCode.FOLDER_PARTLY_READ,
                f"files and sub-folders of {self.settings.folder.path} that cannot be read: {len(unread)}; "
                f"first {display_name(first)}: {why}",
                "let the worker's user list and read them (r-x on each sub-folder), or check the disk or share",
            )
        else:
            self.publisher.clear_alarm(AlarmCode.FOLDER_PARTLY_READ)
        self._look_for_unmarked(now_s)
        self._remember(FOLDER, self.inbox.whereabouts)
        self.scan_alarms.look(now_s, is_folder_away=state.away is not None, restless=self.inbox.restless)
        if self.files_to_prune.is_set():
            self.files_to_prune.clear()
            self._prune_files()
        return self.inbox.wait_s(time.monotonic(), self.settings.folder.poll_s)

    def _look_for_unmarked(self, now_s: float) -> None:
        """Raise or clear the alarm for scans that the station seems to have forgotten: without a marker they wait."""
        since_s = self.inbox.unmarked_since_s
        overdue = [file for file, first_s in since_s.items() if now_s - first_s >= UNMARKED_S]
        if overdue:
            self.publisher.raise_alarm(
                AlarmCode.SCANS_UNMARKED,
                f"scans that have waited for their marker ({self.settings.folder.done_suffix}) for more than "
                f"{UNMARKED_S / 60:.0f} minutes: {len(overdue)}; first {display_name(min(overdue))}",
                "see why the station did not set it, or correct `folder.done_suffix`; set it by hand where the scan is "
                "whole, else take the file away",
            )
        else:
            self.publisher.clear_alarm(AlarmCode.SCANS_UNMARKED)

    def _remember(self, name: str, value: str | None) -> None:
        """Keep in the ledger where a folder is; if that fails, the next look tries again."""
        if value is None or self.remembered.get(name) == value:
            return
        try:
            self.ledger.remember(name, value)
        except LedgerError as error:
            event(log.warning, "whereabouts not kept", folder=name, error=error.message)
        else:
            self.remembered[name] = value

    def move_on(self, now_s: float, go_on: Callable[[], bool] = lambda: True) -> float:
        """One turn of the archive's thread; how long it may sleep, in seconds, unless a scan is judged."""
        assert self.archive is not None, "only with `after = move`"
        wait_s = self.archive.step(now_s, go_on)
        if self.archive.failure is not None:
            self.publisher.raise_alarm(
                AlarmCode.SCANS_NOT_MOVED,
                self.archive.failure,
                "free space in `folder.move_to`, mount it, or let the worker's user write there and in `folder.path`",
            )
        else:
            self.publisher.clear_alarm(AlarmCode.SCANS_NOT_MOVED)
        self._remember(TARGET, self.archive.whereabouts)
        return wait_s

    def watch_archive(self, now_s: float) -> None:
        """Raise the alarm for a move that does not end, from another thread than the archive's; its end clears it."""
        since_s = self.archive.busy_since_s if self.archive is not None else None
        if since_s is not None and now_s - since_s >= TARGET_SILENT_S:
            self.publisher.raise_alarm(
                AlarmCode.SCANS_NOT_MOVED,
                f"{self.settings.folder.move_to}: does not answer; a move has lasted {now_s - since_s:.0f} s so far",
                "check the server of the share that `folder.move_to` is on; scans are judged meanwhile",
            )

    def watch_reads(self, limit_s: float) -> None:
        """Raise `scans-not-readable` for a read that does not end, from another thread than the reader's."""
        file, silent_s = self.reads.longest_silence_s()
        self.scan_alarms.hangs(file if silent_s >= limit_s else None, silent_s)

    def tell_of_hang(self, silent_s: float) -> None:
        """Raise `folder-away` for a look that does not end, from another thread than the inbox's; its end clears it."""
        self.publisher.raise_alarm(
            AlarmCode.FOLDER_AWAY,
            f"{self.settings.folder.path}: does not answer; a look at it has lasted {silent_s:.0f} s so far",
            "check the server of the share and the network to it; the worker goes on when it answers",
        )

    def report_health(self) -> None:
        """Raise or clear the alarms of disk, evidence and clock; then send the health message and keep it in a file."""
        free_bytes, evidence = self._watch_disk(), self._watch_evidence()
        now = utc_now()
        self._watch_clock(now)
        unmarked_count = self.inbox.unmarked_count
        if unmarked_count:
            event(
                log.info,
                "scans wait for their marker",
                scans=unmarked_count,
                done_suffix=self.settings.folder.done_suffix,
            )
        health = self._health(now, free_bytes, evidence)
        self.publisher.publish_health(health)
        try:
            # For the review desk, another user of this group, to whom the ledger is closed.
            with write_whole(self.settings.state.health, durable=False, mode=0o640) as stream:
                stream.write(canonical_json(health))
        except OSError as error:
            event(log.warning, "health not written", error=str(error))

    def _health(self, now: datetime, free_bytes: int | None, evidence: Evidence | None) -> Health:
        """How the line is, as far as it is known."""
        pending: Pending | None = None
        try:
            pending = self.ledger.pending()
        except LedgerError as error:
            event(log.warning, "health not wholly known", error=error.message)
        tally, oldest = self.after_verdict.tally(), pending.oldest_decided_at if pending else None
        moved_over = self.archive.overwritten_count if self.archive is not None else 0
        return Health(
            station=self.settings.station,
            boot_id=self.boot_id,
            at=now,
            uptime_s=round(time.monotonic() - self.started_s, 1),
            backlog_scans=self.inbox.pending_count + self.inbox.in_flight_count + self.inbox.unmarked_count,
            unsent_verdicts=pending.count if pending else None,
            oldest_unsent_s=max(0.0, (now - oldest).total_seconds()) if oldest else None,
            last_scan_at=tally.last_scan_at,
            last_verdict_at=tally.last_verdict_at,
            outcomes=tally.outcomes,
            latency=tally.latency,
            repeated=tally.repeated,
            unnamed=tally.unnamed,
            overwritten=self.inbox.overwritten_count + moved_over,
            removed=self.inbox.removed_count,
            resident_bytes=resident_bytes(),
            clock_synchronised=clock_synchronised(),
            disk_free_bytes=free_bytes,
            evidence=evidence,
            gpu=gpu_state() if self.model.engine == "tensorrt" else None,
            drift=tally.drift,
            alarms=self.publisher.standing_alarms,
        )

    def _watch_clock(self, now: datetime) -> None:
        """A box without a clock battery starts years ago, or when systemd last saved the time.

        It is surely behind where its model was made later, or a verdict was given later; the latter unless a time
        server vouches for the clock, which was then ahead at that verdict.
        """
        newest: datetime | None = None
        if not clock_synchronised():
            with suppress(LedgerError):
                newest = self.ledger.newest_decision()
        if now < self.model_made_at:
            later = f"the model {self.model.id} was made at {rfc3339(self.model_made_at)}"
        elif newest is not None and now < newest:
            later = f"a verdict in the ledger was decided at {rfc3339(newest)}"
        else:
            self.publisher.clear_alarm(AlarmCode.CLOCK_BEHIND)
            return
        self.publisher.raise_alarm(
            AlarmCode.CLOCK_BEHIND,
            f"the clock says {rfc3339(now)}, but {later}",
            "set it (timedatectl, a time server), unless it is right and was ahead at that verdict; until then the "
            "times in messages are wrong, their order is `seq`",
        )

    def _watch_evidence(self) -> Evidence | None:
        """Raise or clear `evidence-dropped`; what is kept, None where none is."""
        if self.keeper is None:
            return None
        tally = self.keeper.tally()
        if tally.failure is None:
            self.publisher.clear_alarm(AlarmCode.EVIDENCE_DROPPED)
        else:
            self.publisher.raise_alarm(
                AlarmCode.EVIDENCE_DROPPED,
                f"{self.settings.evidence_dir}: {tally.failure}; "
                f"{tally.dropped} verdicts since the start lack their pictures or all evidence",
                "verdicts are not touched: free space on that disk, or let the worker's user write there; where "
                "pictures fall behind, give it a faster disk",
            )
        return Evidence(kept=tally.kept, dropped=tally.dropped, used_bytes=tally.used_bytes)

    def _watch_disk(self) -> int | None:
        """Raise or clear `disk-low`; bytes free on the disk of the state directory, None if it does not answer."""
        state = self.settings.state
        try:
            free_bytes = shutil.disk_usage(state.dir).free
        except OSError as error:
            event(log.warning, "health not wholly known", error=str(error))
            return None
        if free_bytes < state.min_free_bytes:
            self.publisher.raise_alarm(
                AlarmCode.DISK_LOW,
                f"{free_bytes} bytes free in {state.dir}, expected {state.min_free_bytes}",
                "free some space: when the disk is full the worker stops taking scans",
            )
        else:
            self.publisher.clear_alarm(AlarmCode.DISK_LOW)
        return free_bytes

    def take_requests(self) -> None:
        """Carry out what waits in the drop box, but for copies of the ledger. Raises LedgerError: it waits on."""
        self.requests.take({RequestKind.RESEND: self._resend, RequestKind.DISPOSITION: self._dispose})
        refusals = self.requests.refusals()
        if refusals is None:
            self.publisher.clear_alarm(AlarmCode.REQUEST_REFUSED)
        else:
            self.publisher.raise_alarm(
                AlarmCode.REQUEST_REFUSED,
                f"{refusals.count} requests refused, the newest: {refusals.newest}",
                f"each .txt in {self.requests.refused} says why; the alarm ends when that folder is emptied",
            )

    def _dispose(self, request: Request, content: bytes) -> None:
        """Store a person's decision, then put it beside the evidence: again where an earlier try ended in between."""
        answer = parse_request(Answer, content)
        if answer.disposition_id != request.id:
            raise RequestError(
                f"disposition_id {answer.disposition_id}, expected the id of the file's name",
                hint="name the file disposition-<disposition_id>.json",
            )
        answered = self.ledger.commit_disposition(answer)
        if answered.is_new:
            event(log.info, "disposition", verdict_id=answer.verdict_id, decision=answer.decision, by=answer.by)
            self.publisher.wake()
        if self.keeper is not None and answered.payload is not None:
            evidence = (
                self.keeper.path_of(answer.verdict_id)
                if answered.decided_at is None
                else evidence_path(answered.decided_at, answer.verdict_id)
            )
            try:
                if evidence is not None:
                    self.keeper.decided(evidence, answered.payload)
            except OSError as error:  # it is in the ledger, which is what counts
                event(log.warning, "disposition not put beside the evidence", error=str(error))

    def _resend(self, _: Request, content: bytes) -> None:
        asked = parse_request(ResendRequest, content)
        count = self.ledger.requeue(asked)
        event(log.info if count else log.warning, "resend", asked=str(asked), messages=count)
        self.publisher.begin_anew()

    def copy_on_request(self, go_on: Callable[[], bool], trouble: str = "") -> str:
        """Write the copies of the ledger that `edge-worker backup` asked for, as long as `go_on` says yes.

        Returns why it failed, or "": what is `trouble` already, of the call before, is not logged again.
        """
        try:
            take_backup_requests(self.ledger, go_on)
        except LedgerError as error:
            if error.message != trouble:
                event(log.warning, "no backup", error=error.message)
            return error.message
        return ""

    def keep_house(self) -> None:
        """Prune what is older than its retention."""
        try:
            sweep_copies(self.ledger.path)
            pruned = self.ledger.prune(utc_now() - timedelta(days=self.settings.state.keep_days))
            self.requests.sweep()
        except LedgerError as error:
            event(log.warning, "ledger not pruned", error=error.message)
        else:
            event(log.debug, "ledger pruned", messages=pruned)
        self.files_to_prune.set()
        self.folder_changed.set()

    def _prune_files(self) -> None:
        present = self.inbox.present()
        if present is not None:
            try:
                self.ledger.prune_files(present)
                if self.archive is not None:  # what is left was judged, and the folder may have been away since
                    for stamp in self.ledger.files().values():
                        self.archive.add(stamp)
            except LedgerError as error:
                event(log.warning, "ledger not pruned", error=error.message)


def build_line(settings: Settings, model: LoadedModel, boot_id: UUID, stack: ExitStack) -> Line:
    """Open everything but the threads; `stack` closes it.

    Raises SettingsError, LedgerError, ModelError, EngineError.
    """
    folder, state = settings.folder, settings.state
    _expect_local_disk(state.dir)
    ledger = _ledger_of(settings, stack)
    requests = DropBox(state.dir)
    requests.prepare()
    note_model(model.signed, state.dir)
    known = ledger.files()
    limits = Limits(folder.max_px, folder.max_bytes, folder.expected_zero_px)
    inbox = _inbox_of(settings, limits, ledger, known)
    folder_changed = threading.Event()
    watcher = Watcher(folder.path, folder_changed, inbox.touch, recursive=folder.recursive)
    stack.callback(watcher.stop)
    archive = _archive_of(settings, ledger, known)
    publisher = _publisher_of(settings, model, boot_id, ledger, stack)
    selection, keeper = _evidence_of(settings, model)
    if keeper is not None:
        stack.callback(keeper.close)
    reads = Beats()
    after_verdict = AfterVerdict(folder.path, archive, keeper, publisher.wake, reads)
    scan_alarms = ScanAlarms(folder.path, publisher, are_moved=folder.after == "move")
    intake = StationIntake(inbox, folder_changed.set)

    def follow(judged: Judged) -> None:
        after_verdict.follow(judged)
        scan_alarms.judged(judged)

    worker = Worker(
        intake=intake,
        reader=_reader_of(settings, limits, reads, stack),
        preprocessor=Preprocessor(model.engine, model.signed.input_spec()),
        store=ledger,
        recall=ledger.former,
        policy=model.signed.policy(),
        verdicts=model.verdict_factory(settings, boot_id, selection=selection, is_simulated=False),
        never_final=NEVER_FINAL,
        on_judged=follow,
        on_failed=scan_alarms.failed,
        clock=utc_now,
    )
    stack.callback(worker.close)
    return Line(
        settings=settings,
        boot_id=boot_id,
        model=model.info,
        model_made_at=model.signed.manifest.created_at,
        started_s=time.monotonic(),
        ledger=ledger,
        requests=requests,
        inbox=inbox,
        watcher=watcher,
        folder_changed=folder_changed,
        files_to_prune=threading.Event(),
        intake=intake,
        worker=worker,
        publisher=publisher,
        after_verdict=after_verdict,
        keeper=keeper,
        scan_alarms=scan_alarms,
        reads=reads,
        archive=archive,
        remembered={},
    )


def _ledger_of(settings: Settings, stack: ExitStack) -> Ledger:
    """The ledger, open, and looked through as far as a start has time for."""
    ledger = stack.enter_context(open_ledger(settings.state.ledger, settings.station))
    if not ledger.database.check_quickly(LEDGER_CHECK_S):
        event(log.info, "ledger not wholly checked", limit_s=LEDGER_CHECK_S)
    ledger.remember(TOPIC, Topics.of_station(settings).of(Kind.VERDICT))
    return ledger


def _inbox_of(settings: Settings, limits: Limits, ledger: Ledger, known: Mapping[str, FileStamp]) -> Inbox:
    folder = settings.folder
    return Inbox(
        folder.path,
        known=known,
        limits=limits,
        stable_polls=folder.stable_polls,
        stable_for_s=folder.stable_for_s,
        incomplete_after_s=folder.incomplete_after_s,
        rewrite_hold_s=folder.rewrite_hold_s,
        poll_s=folder.poll_s,
        done_suffix=folder.done_suffix,
        recursive=folder.recursive,
        remembered=ledger.recall(FOLDER),
    )


def _publisher_of(settings: Settings, model: LoadedModel, boot_id: UUID, ledger: Ledger, stack: ExitStack) -> Publisher:
    """What talks to the broker, with the alarms that stand from the start."""
    publisher = Publisher.for_station(settings, ledger, model.card(settings.station, boot_id))
    if isinstance(model.engine, Degraded):
        publisher.raise_alarm(AlarmCode.DEGRADED, model.engine.why, model.engine.hint)
    if ledger.renewed is not None:
        publisher.raise_alarm(
            AlarmCode.LEDGER_RENEWED,
            f"the ledger goes on under a new `ledger_id`, {ledger.ledger_id}, with number {ledger.next_seq()}: "
            f"{ledger.renewed}",
            "find out why: a copy, or a disk or memory that fails; numbers of the old `ledger_id` end here, without a "
            "gap being one; the alarm ends with the next start",
        )
        stack.callback(_forget_renewal, ledger, publisher)
    return publisher


def _reader_of(settings: Settings, limits: Limits, reads: Beats, stack: ExitStack) -> ReadAhead:
    """What reads and decodes scans ahead of the worker."""
    decoder = Decoder(limits)
    stack.callback(decoder.close)
    return ReadAhead(
        settings.folder.path,
        limits=limits,
        decode=decoder.decode,
        marks=DecodeMarks(settings.state.dir / "decoding.marks"),
        threads=settings.model.decode_threads,
        reads=reads,
    )


def _forget_renewal(ledger: Ledger, publisher: Publisher) -> None:
    """At the end of a run in which the MES could hear of it."""
    if publisher.state.connections:
        with suppress(LedgerError):
            ledger.forget_renewal()


def _expect_local_disk(state: Path) -> None:
    """Raises SettingsError for a share, which can damage the ledger; warns of anything else that is no local disk."""
    trouble = file_system(state).state_trouble
    if trouble is None:
        return
    if trouble.is_refused:
        raise SettingsError(f"`state.dir` {state} is {trouble.message}", hint=trouble.hint)
    event(log.warning, "the state is on no local disk", dir=str(state), found=trouble.message, hint=trouble.hint)


def _archive_of(settings: Settings, ledger: Ledger, known: Mapping[str, FileStamp]) -> Archive | None:
    """What moves judged scans; None where they stay."""
    folder = settings.folder
    if folder.after != "move" or not folder.move_to:
        return None
    archive = Archive(
        folder.path,
        folder.move_to,
        is_judged=ledger.is_judged,
        recursive=folder.recursive,
        done_suffix=folder.done_suffix,
        remembered=ledger.recall(TARGET),
    )
    for stamp in known.values():  # judged by an earlier run that ended before the move
        archive.add(stamp)
    return archive


def _evidence_of(settings: Settings, model: LoadedModel) -> tuple[Selection, Keeper] | tuple[None, None]:
    """Which verdicts keep evidence, and who keeps it; neither where there is no space for any."""
    evidence, signed = settings.evidence, model.signed
    if evidence.max_bytes == 0:
        return None, None
    selection = Selection(
        sample=evidence.sample,
        seed=evidence.sample_seed,
        challenge=None if evidence.challenge is None else re.compile(evidence.challenge),
    )
    keeper = Keeper(
        settings.evidence_dir,
        Scene(signed.map_geometry(), signed.policy().gate_mean_threshold, signed.reason_geometry()),
        selection,
        max_bytes=evidence.max_bytes,
        min_free_bytes=evidence.min_free_bytes,
    )
    return selection, keeper
