"""The daemon's threads around a real line, and how they end; only the networks are scripted, and no broker answers."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import edge.daemon.app
import edge.daemon.line
import edge.station.folder
import edge.system.heartbeat
from edge.contract.messages import Gpu, Health, Verdict, rfc3339
from edge.daemon.app import run_app
from edge.daemon.check import Grade, _state
from edge.daemon.line import Line, build_line, utc_now
from edge.errors import EngineError, LedgerError, SettingsError
from edge.mqtt.publisher import Publisher
from edge.pipeline.worker import Worker
from edge.settings import BrokerSettings, EvidenceSettings, FolderSettings, Settings, StateSettings, service_environment
from edge.station.mounts import FileSystem
from edge.station.watch import Watcher
from edge.store.ledger import Ledger, Pending
from edge.store.requests import RequestKind, leave
from edge.system.service_manager import Notifier
from tests.support import fakes
from tests.support.models import scripted_model
from tests.support.mosquitto import Mosquitto, Recorder, needs_mosquitto
from tests.support.samples import sample_answer
from tests.support.station import hang_below


def settings_below(root: Path, **folder: Any) -> Settings:
    (root / "scans").mkdir(exist_ok=True)
    return Settings(
        station="xray-1",
        folder=FolderSettings(path=root / "scans", **folder),
        state=StateSettings(dir=root / "state"),
        broker=BrokerSettings(host="127.0.0.1", port=1, flush_s=0.0),
    )


def test_a_defect_of_the_supervision_ends_every_thread_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the folder quiet and the broker away no thread would find out by itself, and the process would hang."""
    running: list[str] = []

    def defect(_line: Line) -> None:
        running.extend(thread.name for thread in threading.enumerate())
        raise RuntimeError("a defect")

    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setattr(Line, "keep_house", defect)
    with pytest.raises(RuntimeError, match="a defect"):
        run_app(settings_below(tmp_path), service_environment(), scripted_model)
    assert {"inbox", "worker", "publish", "requests", "backup"} <= set(running)
    assert not {"inbox", "worker", "publish", "requests", "backup"} & {thread.name for thread in threading.enumerate()}


def test_the_watchdog_is_fed_while_a_copy_of_the_ledger_takes_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a stop gives the copy up."""
    fed: list[float] = []
    copying_since_s: list[float] = []

    def slow(_ledger: Ledger, go_on: Callable[[], bool]) -> int:
        copying_since_s.append(time.monotonic())
        while go_on():
            time.sleep(0.01)
        return 0

    def feed(_notifier: Notifier) -> None:
        fed.append(time.monotonic())
        if copying_since_s and fed[-1] > copying_since_s[0] + 2 * edge.daemon.app.STUCK_AFTER_S:
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setattr(edge.daemon.line, "take_backup_requests", slow)
    monkeypatch.setattr(edge.daemon.app, "STUCK_AFTER_S", 1.5)
    monkeypatch.setattr(Notifier, "watchdog", feed)
    assert run_app(settings_below(tmp_path), service_environment(), scripted_model) == 0
    assert len(copying_since_s) == 1


def test_free_memory_goes_back_to_the_kernel_with_each_word_on_health(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    returned, reported = [], []

    def feed(_notifier: Notifier) -> None:
        if len(reported) > 2:
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setattr(edge.daemon.app, "SUPERVISION_S", 0.05)
    monkeypatch.setattr(edge.daemon.app, "HEALTH_S", 0.05)
    monkeypatch.setattr(edge.daemon.app, "return_free_memory", lambda: returned.append(len(reported)))
    monkeypatch.setattr(Line, "report_health", lambda _line: reported.append(len(returned)))
    monkeypatch.setattr(Notifier, "watchdog", feed)
    assert run_app(settings_below(tmp_path), service_environment(), scripted_model) == 0
    assert returned[:3] == [0, 1, 2]


def test_a_hangup_stops_the_line_cleanly_and_a_second_one_does_not_cut_it_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A terminal that closes sends two."""
    main = threading.get_ident()
    aborted: list[int] = []

    def hang_up(*_: object) -> None:
        signal.pthread_kill(main, signal.SIGHUP)

    really = Publisher.stop

    def slow_stop(publisher: Publisher, flush_s: float, *, is_clean: bool) -> None:
        hang_up()
        time.sleep(0.3)
        really(publisher, flush_s, is_clean=is_clean)

    caplog.set_level("INFO")
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setattr(edge.daemon.app.os, "_exit", aborted.append)
    monkeypatch.setattr(Notifier, "watchdog", hang_up)
    monkeypatch.setattr(Publisher, "stop", slow_stop)
    assert run_app(settings_below(tmp_path), service_environment(), scripted_model) == 129
    assert aborted == []
    (stopping,) = [vars(record)["fields"] for record in caplog.records if record.message == "stopping"]
    assert stopping == {"signal": "SIGHUP"}


def test_a_stop_that_is_asked_for_after_a_hangup_is_a_clean_stop_and_another_one_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal closes, and `systemctl stop` comes while the line drains."""
    main = threading.get_ident()
    aborted: list[int] = []
    terms = iter((1, 2))
    really = Publisher.stop

    def slow_stop(publisher: Publisher, flush_s: float, *, is_clean: bool) -> None:
        for _ in range(next(terms)):
            signal.pthread_kill(main, signal.SIGTERM)
            time.sleep(0.3)
        really(publisher, flush_s, is_clean=is_clean)

    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setattr(edge.daemon.app.os, "_exit", aborted.append)
    monkeypatch.setattr(Notifier, "watchdog", lambda _: signal.pthread_kill(main, signal.SIGHUP))
    monkeypatch.setattr(Publisher, "stop", slow_stop)
    assert run_app(settings_below(tmp_path), service_environment(), scripted_model) == 0
    assert aborted == []
    run_app(settings_below(tmp_path), service_environment(), scripted_model)
    assert aborted == [143]


@pytest.mark.broker
@needs_mosquitto
@pytest.mark.parametrize("where", ["worker", "main"])
def test_a_failure_is_told_as_offline_and_never_as_a_clean_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    with Mosquitto(tmp_path / "broker") as broker, Recorder(broker) as mes:

        def fail(*_: object) -> int:
            mes.wait_for("status", 1)
            raise EngineError("the GPU failed at a batch of 4", hint="look at dmesg")

        if where == "worker":
            monkeypatch.setattr(Worker, "step", fail)
        else:
            monkeypatch.setattr(Line, "keep_house", fail)
        settings = settings_below(tmp_path)
        settings = settings.model_copy(update={"broker": BrokerSettings(host=broker.host, port=broker.port)})
        with pytest.raises(EngineError, match="the GPU failed"):
            run_app(settings, service_environment(), scripted_model)
        said = [json.loads(message.payload)["state"] for message in mes.wait_for("status", 2)]
    assert said == ["online", "offline"]


def test_a_loop_that_hangs_before_its_first_turn_is_stuck_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A share that does not answer holds the inbox up where it begins: while the watch is put on the folder."""
    is_seen = threading.Event()
    until_s = time.monotonic() + 10

    def stuck() -> set[str]:
        return {vars(record)["fields"]["loop"] for record in caplog.records if record.message == "loop is stuck"}

    def hang(_watcher: Watcher) -> None:
        is_seen.wait(30)

    def supervised(_ledger: Ledger, _go_on: Callable[[], bool]) -> int:
        if stuck() or time.monotonic() > until_s:
            is_seen.set()
            raise RuntimeError("the test has seen enough")
        return 0

    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setattr(Watcher, "start", hang)
    monkeypatch.setattr(edge.daemon.app, "STUCK_AFTER_S", 1.0)
    monkeypatch.setattr(edge.daemon.app, "SUPERVISION_S", 0.05)
    monkeypatch.setattr(edge.daemon.line, "take_backup_requests", supervised)
    with pytest.raises(RuntimeError, match="seen enough"):
        run_app(settings_below(tmp_path), service_environment(), scripted_model)
    assert stuck() == {"inbox"}


def test_a_share_that_hangs_is_an_alarm_of_the_main_thread_until_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The calls of a hard mount whose server is gone do not fail, they do not return. The main thread makes none.

    The loops' clock stands still but for that one call, so a slow machine delays the test and cannot fail it.
    """
    answers = threading.Event()
    until_s = time.monotonic() + 60
    listed = edge.station.folder.open_folder
    clock_s = [0.0]

    def hanging(*arguments: Any, **options: Any) -> Any:
        if not answers.is_set():
            clock_s[0] = edge.daemon.app.FOLDER_SILENT_S
            answers.wait(90)
        return listed(*arguments, **options)

    def said(event: str) -> list[str]:
        fields = [vars(record)["fields"] for record in caplog.records if record.message == event]
        return [each.get("message", "") for each in fields if each["alarm"] == "folder-away"]

    def supervised(_ledger: Ledger, _go_on: Callable[[], bool]) -> int:
        if said("alarm"):
            answers.set()
        if said("alarm over") or time.monotonic() > until_s:
            answers.set()
            raise RuntimeError("the test has seen enough")
        return 0

    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setattr(edge.station.folder, "open_folder", hanging)
    monkeypatch.setattr(edge.system.heartbeat, "time", SimpleNamespace(monotonic=lambda: clock_s[0]))
    monkeypatch.setattr(edge.daemon.app, "SUPERVISION_S", 0.05)
    monkeypatch.setattr(edge.daemon.line, "take_backup_requests", supervised)
    with caplog.at_level("INFO"), pytest.raises(RuntimeError, match="seen enough"):
        run_app(settings_below(tmp_path), service_environment(), scripted_model)
    assert ["does not answer" in message for message in said("alarm")] == [True]
    assert len(said("alarm over")) == 1


def test_a_drop_box_that_is_swapped_for_a_link_is_an_alarm_and_the_line_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_below(tmp_path)
    box, outside = settings.state.dir / "requests", tmp_path / "outside"
    until_s = time.monotonic() + 60

    def told() -> list[str]:
        alarms = [vars(record)["fields"] for record in caplog.records if record.message == "alarm"]
        return [each["message"] for each in alarms if each["alarm"] == "request-refused"]

    def fed(_notifier: Notifier) -> None:
        if not outside.exists():
            box.rename(outside)
            box.symlink_to(outside)
            (outside / "theirs.txt").write_text("not the worker's")
        if told() or time.monotonic() > until_s:
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setattr(edge.daemon.app, "SUPERVISION_S", 0.05)
    monkeypatch.setattr(Notifier, "watchdog", fed)
    assert run_app(settings, service_environment(), scripted_model) == 0
    assert ["is a link" in message for message in told()] == [True]
    assert (outside / "theirs.txt").read_text() == "not the worker's"


@contextmanager
def line_of(settings: Settings, *, engine: str = "scripted") -> Iterator[Line]:
    """A line whose loops the test turns itself."""
    with ExitStack() as stack:
        model = scripted_model()
        model.engine.spec = replace(model.engine.spec, name=engine)
        stack.callback(model.engine.close)
        line = build_line(settings, model, fakes.BOOT_ID, stack)
        stack.callback(line.publisher.stop, 0.0)
        yield line


def test_a_line_is_built_without_a_question_to_the_stations_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hang: only the threads that the main one watches ask it."""
    settings = settings_below(tmp_path, after="move", move_to=tmp_path / "scans" / ".done")
    hang_below(tmp_path / "scans", monkeypatch)
    with line_of(settings) as line:
        assert line.archive is not None


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs", "vboxsf", "ceph"])
def test_a_ledger_on_a_share_is_refused_before_it_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(edge.daemon.line, "file_system", lambda path: FileSystem(kind, path))
    with pytest.raises(SettingsError, match=f"on {kind}.*local disk"), line_of(settings_below(tmp_path)):
        pass
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("ext4", ""),
        ("overlay", "lost with the power or the container"),
        ("fuse.fuse-overlayfs", "lost with the power or the container"),
        ("rootfs", "lost with the power or the container"),
        ("virtiofs", "expected a local disk"),
        ("fuse.unheard-of", "expected a local disk"),
        ("unknown", "expected a local disk"),
    ],
)
def test_the_start_warns_of_each_place_for_the_state_that_the_check_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str, words: str
) -> None:
    for module in (edge.daemon.line, edge.daemon.check):
        monkeypatch.setattr(module, "file_system", lambda path: FileSystem(kind, path))
    with line_of(settings_below(tmp_path)) as line:
        assert line.ledger.next_seq() == 1
    found = [record.fields["found"] for record in caplog.records if record.msg == "the state is on no local disk"]  # type: ignore[attr-defined]
    assert [words in said for said in found] == [True] * bool(words)
    grades = {finding.grade for finding in _state(settings_below(tmp_path)) if finding.subject == "state"}
    assert (Grade.FAIL in grades) is bool(words)


def test_a_ledger_whose_numbers_were_damaged_is_told_at_the_mes_until_it_could_hear(tmp_path: Path) -> None:
    settings = settings_below(tmp_path)
    with line_of(settings) as line:
        assert line.publisher.standing_alarms == ()
        former = line.ledger.ledger_id
        with line.ledger.database.transaction("write") as sql:
            sql.execute("UPDATE meta SET value = 4000 WHERE key = 'next_seq'")
    for _ in range(2):  # no broker was there in the first run
        with line_of(settings) as line:
            assert line.ledger.ledger_id != former
            assert line.publisher.standing_alarms == ("ledger-renewed",)
    with line_of(settings) as line:
        line.publisher._connections = 1
    with line_of(settings) as line:
        assert line.publisher.standing_alarms == ()


def test_a_clock_that_is_behind_the_newest_verdict_is_an_alarm_unless_a_time_server_has_set_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a battery systemd begins at the time it last saved, which is mostly later than the model's."""
    is_synchronised: list[bool | None] = [None]
    monkeypatch.setattr(edge.daemon.line, "clock_synchronised", lambda: is_synchronised[0])
    with line_of(settings_below(tmp_path)) as line:
        fakes.write_scan(tmp_path / "scans" / "B01_1.tif")
        judge(line, 1)
        line.report_health()
        assert line.publisher.standing_alarms == ()
        assert (decided_at := line.ledger.newest_decision()) is not None
        behind = utc_now() - timedelta(hours=5)
        assert behind > line.model_made_at
        monkeypatch.setattr(edge.daemon.line, "utc_now", lambda: behind)
        line.report_health()
        assert line.publisher.standing_alarms == ("clock-behind",)
        (alarm,) = (each for each in line.publisher._alarms._standing.values())
        assert f"a verdict in the ledger was decided at {rfc3339(decided_at)}" in alarm.message
        is_synchronised[0] = True
        line.report_health()
        assert line.publisher.standing_alarms == ()


def judge(line: Line, count: int) -> None:
    """Turn inbox and worker until `count` more scans have their verdict; their clock runs ahead."""
    now_s = 0.0
    while count:
        now_s += 0.3
        line.look(now_s, utc_now())
        count -= line.worker.step()
    if line.archive is not None:
        line.move_on(now_s)


def test_scans_that_were_moved_on_leave_the_list_of_files_though_the_folder_is_empty(tmp_path: Path) -> None:
    with line_of(settings_below(tmp_path, after="move", move_to=tmp_path / "done")) as line:
        for index in range(3):
            fakes.write_scan(tmp_path / "scans" / f"B01_{index}.tif", seed=index)
        judge(line, 3)
        assert list((tmp_path / "scans").iterdir()) == []
        assert len(line.ledger.files()) == 3
        line.keep_house()
        line.look(100.0, utc_now())
        assert line.ledger.files() == {}
        assert line.ledger.pending().count == 3


def test_nothing_is_forgotten_while_the_folder_is_away_or_an_empty_mount_point(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    settings = settings_below(tmp_path, after="move", move_to=tmp_path / "done")
    with line_of(settings) as line:
        line.keep_house()
        fakes.write_scan(scans / "B01_1.tif")
        judge(line, 1)
        scans.rename(tmp_path / "elsewhere")
        for now_s in (100.0, 101.0):
            line.keep_house()
            line.look(now_s, utc_now())
        scans.mkdir()
        for now_s in (200.0, 201.0):
            line.keep_house()
            line.look(now_s, utc_now())
        assert set(line.ledger.files()) == {"B01_1.tif"}
    with line_of(settings) as line:
        for now_s in (300.0, 301.0):
            line.keep_house()
            line.look(now_s, utc_now())
        assert set(line.ledger.files()) == {"B01_1.tif"}


def test_an_empty_mount_point_at_the_start_is_an_alarm_though_all_scans_were_moved_on(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    settings = settings_below(tmp_path, after="move", move_to=tmp_path / "done")
    with line_of(settings) as line:
        fakes.write_scan(scans / "B01_1.tif")
        judge(line, 1)
        line.keep_house()
        line.look(100.0, utc_now())
        assert line.ledger.files() == {}
    scans.rename(tmp_path / "the-share")
    scans.mkdir()
    with line_of(settings) as line:
        line.look(200.0, utc_now())
        assert line.publisher.standing_alarms == ("folder-away",)
        scans.rmdir()
        (tmp_path / "the-share").rename(scans)
        line.look(201.0, utc_now())
        assert line.publisher.standing_alarms == ()


def judge_and_keep(line: Line, scans: Path) -> Verdict:
    """The verdict on a first scan, whose evidence is written."""
    fakes.write_scan(scans / "B01_1.tif")
    judge(line, 1)
    assert line.keeper is not None
    while line.keeper.step(0.0):
        pass
    return Verdict.model_validate_json(line.ledger.outbox(0, 1)[0].payload)


def test_a_persons_decision_is_stored_once_and_put_beside_the_evidence_even_after_a_kill_in_between(
    tmp_path: Path,
) -> None:
    settings = settings_below(tmp_path)
    with line_of(settings.model_copy(update={"evidence": EvidenceSettings(sample=1.0)})) as line:
        verdict = judge_and_keep(line, tmp_path / "scans")
        assert verdict.evidence is not None
        answer = sample_answer(part_id=verdict.part_id).model_copy(update={"verdict_id": verdict.verdict_id})
        line.ledger.commit_disposition(answer)  # and here the process died: the request still lies there
        for _ in range(2):
            leave(tmp_path / "state", RequestKind.DISPOSITION, answer, answer.disposition_id)
            line.take_requests()
        rows = line.ledger.outbox(0, 9)
        assert [row.kind for row in rows] == ["verdict", "disposition"]
        beside = tmp_path / "state" / "evidence" / verdict.evidence / "disposition.json"
        assert beside.read_bytes() == rows[1].payload
        taken_back = answer.model_copy(update={"disposition_id": "e" * 32, "stands": None})
        leave(tmp_path / "state", RequestKind.DISPOSITION, taken_back, taken_back.disposition_id)
        line.take_requests()
        assert beside.read_bytes() == line.ledger.outbox(0, 9)[2].payload, "else the pictures would count as decided"
        leave(tmp_path / "state", RequestKind.DISPOSITION, answer, "f" * 32)
        line.take_requests()
        assert line.publisher.standing_alarms == ("request-refused",)


def test_a_decision_on_a_verdict_that_was_pruned_since_still_reaches_its_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else they would count as undecided for ever, and outlive what nobody has looked at."""
    monkeypatch.setattr("edge.store.ledger.KEEP_LATEST", 1)
    settings = settings_below(tmp_path)
    with line_of(settings.model_copy(update={"evidence": EvidenceSettings(sample=1.0)})) as line:
        verdict = judge_and_keep(line, tmp_path / "scans")
        fakes.write_scan(tmp_path / "scans" / "B01_2.tif", seed=2)
        judge(line, 1)  # the newest message is never pruned
        line.ledger.mark_sent([verdict.seq, verdict.seq + 1], utc_now())
        assert line.ledger.prune(utc_now() + timedelta(days=1)) == 1
        answer = sample_answer(part_id=verdict.part_id).model_copy(update={"verdict_id": verdict.verdict_id})
        leave(tmp_path / "state", RequestKind.DISPOSITION, answer, answer.disposition_id)
        line.take_requests()
        (row,) = line.ledger.outbox(0, 9)
        beside = tmp_path / "state" / "evidence" / str(verdict.evidence) / "disposition.json"
        assert beside.read_bytes() == row.payload


def test_a_state_directory_that_is_moved_away_and_made_anew_gets_no_second_tree(tmp_path: Path) -> None:
    """The worker goes on with the open ledger's file alone, says so, and leaves the new directory as it is."""
    with line_of(settings_below(tmp_path)) as line:
        fakes.write_scan(tmp_path / "scans" / "B01_1.tif")
        judge(line, 1)
        assert line.keeper is not None
        line.keeper.step(0.0)
        state = tmp_path / "state"
        state.rename(tmp_path / "kept")
        state.mkdir(mode=0o700)
        fakes.write_scan(tmp_path / "scans" / "B01_2.tif", seed=2)
        with pytest.raises(LedgerError, match="was moved, removed or replaced"):
            judge(line, 1)
        line.keeper.step(0.0)
        line.take_requests()
        line.keep_house()
        assert list(state.iterdir()) == []


def test_a_request_that_makes_no_sense_is_an_alarm_until_somebody_has_looked(tmp_path: Path) -> None:
    with line_of(settings_below(tmp_path)) as line:
        state = tmp_path / "state"
        leave(state, RequestKind.RESEND, b'{"since": "yesterday"}')
        for _ in range(2):
            line.take_requests()
        assert line.publisher.standing_alarms == ("request-refused",)
        for file in line.requests.refused.iterdir():
            file.unlink()
        line.take_requests()
        assert line.publisher.standing_alarms == ()


@pytest.mark.parametrize(("engine", "is_told"), [("tensorrt", True), ("onnxruntime", False)])
def test_health_tells_of_the_gpu_that_judges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, is_told: bool
) -> None:
    gpu = Gpu(name="A2000", memory_used_bytes=1, memory_total_bytes=2, temperature_c=None, utilization_percent=None)
    said: list[Health] = []
    monkeypatch.setattr(edge.daemon.line, "gpu_state", lambda: gpu)
    monkeypatch.setattr(Publisher, "publish_health", lambda _publisher, health: said.append(health))
    with line_of(settings_below(tmp_path), engine=engine) as line:
        line.report_health()
    assert [health.gpu for health in said] == [gpu if is_told else None]


def test_evidence_that_cannot_be_kept_is_an_alarm_until_it_can_and_health_tells_the_latency(tmp_path: Path) -> None:
    settings = settings_below(tmp_path).model_copy(update={"evidence": EvidenceSettings(sample=1.0)})
    folder = tmp_path / "state" / "evidence"

    def keep(line: Line, seed: int) -> tuple[str, ...]:
        fakes.write_scan(tmp_path / "scans" / f"B01_{seed}.tif", seed=seed)
        judge(line, 1)
        assert line.keeper is not None
        while line.keeper.step(0.0):
            pass
        line.report_health()
        return line.publisher.standing_alarms

    with line_of(settings) as line:
        line.report_health()
        assert Health.model_validate_json(settings.state.health.read_bytes()).latency is None
        folder.write_text("in the way")
        assert keep(line, 1) == ("evidence-dropped",)
        folder.unlink()
        assert keep(line, 2) == ()
    health = Health.model_validate_json(settings.state.health.read_bytes())
    assert health.evidence is not None and (health.evidence.kept, health.evidence.dropped) == (1, 1)
    assert health.latency is not None and health.latency.scans == 2
    assert 0.0 <= health.latency.p50_s <= health.latency.p99_s


def test_the_newest_health_lies_beside_the_ledger_for_the_group_to_read(tmp_path: Path) -> None:
    settings = settings_below(tmp_path)
    with line_of(settings) as line:
        line.report_health()
        first = Health.model_validate_json(settings.state.health.read_bytes())
        line.report_health()
    assert Health.model_validate_json(settings.state.health.read_bytes()).at >= first.at
    assert settings.state.health.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("what", ["ledger", "disk"])
def test_health_goes_on_while_ledger_or_disk_fail_and_leaves_out_what_nobody_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Otherwise the retained one of better days would stay with the broker."""

    def no_ledger(_ledger: Ledger) -> Pending:
        raise LedgerError("disk I/O error", hint="check the disk")

    def no_disk(_path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    said: list[Health] = []
    monkeypatch.setattr(Publisher, "publish_health", lambda _publisher, health: said.append(health))
    with line_of(settings_below(tmp_path)) as line:
        line.report_health()
        with monkeypatch.context() as patch:
            if what == "ledger":
                patch.setattr(Ledger, "pending", no_ledger)
                line.publisher.raise_alarm("intake-stopped", "disk I/O error", "check the disk")
            else:
                patch.setattr(edge.daemon.line.shutil, "disk_usage", no_disk)
            line.report_health()
    well, badly = said
    assert well.unsent_verdicts == 0 and well.disk_free_bytes and well.resident_bytes
    assert (badly.unsent_verdicts is None) == (what == "ledger")
    assert (badly.disk_free_bytes is None) == (what == "disk")
    assert badly.alarms == (("intake-stopped",) if what == "ledger" else ())


def test_scans_whose_marker_never_comes_show_in_the_backlog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Health] = []
    monkeypatch.setattr(Publisher, "publish_health", lambda _publisher, health: said.append(health))
    with line_of(settings_below(tmp_path, done_suffix=".done")) as line:
        for index in range(2):
            fakes.write_scan(tmp_path / "scans" / f"B01_{index}.tif", seed=index)
        (tmp_path / "scans" / "B01_0.done").touch()
        judge(line, 1)
        line.look(100.0, utc_now())
        line.report_health()
    assert said[0].backlog_scans == 1


def test_scans_that_the_station_forgot_to_mark_are_an_alarm_until_they_are_marked(tmp_path: Path) -> None:
    with line_of(settings_below(tmp_path, done_suffix=".done")) as line:
        for index in range(2):
            fakes.write_scan(tmp_path / "scans" / f"B01_{index}.tif", seed=index)
        alarms = []
        for now_s, marked in ((100.0, ""), (690.0, "B01_0.done"), (701.0, ""), (702.0, "B01_1.tif.done"), (703.0, "")):
            line.look(now_s, utc_now())
            alarms.append([alarm for alarm in line.publisher.standing_alarms if alarm == "scans-unmarked"])
            if marked:
                (tmp_path / "scans" / marked).touch()
        assert [len(standing) for standing in alarms] == [0, 0, 1, 1, 0]


def test_a_box_of_requests_that_fails_for_hours_is_told_once_by_each_who_looks_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(edge.daemon.app, "REQUESTS_LOOK_S", 0.0)
    settings = settings_below(tmp_path)
    with line_of(settings) as line:
        shutil.rmtree(line.requests.directory)
        line.requests.directory.symlink_to(tmp_path / "scans")
        app = edge.daemon.app.App(settings, line, Notifier(None))
        for loop in (app._copy, app._take_requests):
            told_to_stop = iter([False] * 4 + [True])
            monkeypatch.setattr(app._stop, "wait", lambda _wait_s, told=told_to_stop: next(told))
            loop()
        assert "request-refused" in line.publisher.standing_alarms
    said = [record.message for record in caplog.records]
    assert (said.count("no backup"), said.count("requests wait")) == (1, 1)
