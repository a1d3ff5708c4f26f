"""The parts `make demo` is made of: brokers, the MES, the station and the screen."""

import functools
import io
import json
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[2] / "demo"))

import broker as brokers
import run_demo
import station as stations
from children import child, stop
from mes import Mes
from screen import Board, Screen, expected
from station import Lot, Station, make_lot

from edge.contract.messages import Kind, Topics, Verdict, canonical_json
from edge.errors import EdgeError, ScanError
from edge.records import Outcome
from edge.scans.scan import Limits, read_scan
from edge.settings import load_settings
from tests.support.samples import MORNING, sample_status, sample_verdict
from tests.support.signed_models import make_signed_model, write_public_key

TOPICS = Topics("acme", "plant-1", "electrodes", "line-1", "xray-1")
NEEDS_MOSQUITTO = pytest.param("mosquitto", marks=pytest.mark.broker)


def verdict(seq: int, file: str = "B01_0001.tif", outcome: Outcome = Outcome.ABNORMAL) -> Verdict:
    sample = sample_verdict(seq)
    scan = sample.scan.model_copy(update={"file": file})
    return sample.model_copy(update={"seq": seq, "scan": scan, "outcome": outcome})


@pytest.fixture(scope="module")
def lot(tmp_path_factory: pytest.TempPathFactory) -> Lot:
    return make_lot(tmp_path_factory.mktemp("demo") / "lot", scale=0.05)


def publish(port: int, protocol: str, messages: list[tuple[str, bytes, bool]]) -> None:
    """Send at QoS 1 from a client of its own, and wait until the broker has acknowledged all."""
    version = mqtt.MQTTv5 if protocol == "5" else mqtt.MQTTv311
    client = mqtt.Client(CallbackAPIVersion.VERSION2, "worker", protocol=version)
    connected = threading.Event()
    client.on_connect = lambda *_: connected.set()
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert connected.wait(10)
    try:
        for topic, payload, retain in messages:
            client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(10)
    finally:
        client.disconnect()
        client.loop_stop()


def start(choice: brokers.Choice, out: Path, stack: ExitStack) -> brokers.Broker:
    if choice == "mosquitto" and brokers.find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    if choice == "embedded":
        pytest.importorskip("amqtt.broker", reason="amqtt is not installed")
    return brokers.start_broker(choice, out, stack, lambda _text: None)


@pytest.fixture(params=[NEEDS_MOSQUITTO, "embedded"])
def started(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[brokers.Broker]:
    with ExitStack() as stack:
        yield start(request.param, tmp_path / "broker", stack)


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():  # the test's own timeout ends this
        threading.Event().wait(0.01)


def drain(mes: Mes, count: int) -> list[Verdict]:
    """New verdicts among the next `count` messages."""
    received = [mes.receive(10) for _ in range(count)]
    return [pair[0] for pair in received if pair is not None]


def test_the_mes_records_verdicts_byte_for_byte_and_counts_repeats(started: brokers.Broker, tmp_path: Path) -> None:
    mes = Mes(TOPICS, tmp_path / "verdicts.jsonl")
    payloads = [canonical_json(verdict(seq, file)) for seq, file in ((1, "a.tif"), (2, "ü \\udc80.tif"), (4, "c.tif"))]
    payloads.insert(1, payloads[0])
    topic = TOPICS.of(Kind.VERDICT)
    with mes.connected("127.0.0.1", started.port, started.protocol):
        publish(started.port, started.protocol, [(topic, payload, False) for payload in payloads])
        new = drain(mes, 4)
    assert [item.seq for item in new] == [1, 2, 4]
    assert (tmp_path / "verdicts.jsonl").read_bytes() == b"".join(payload + b"\n" for payload in payloads)
    assert mes.repeats == 1
    assert mes.missing_seqs() == [3]


@pytest.mark.parametrize("started", [NEEDS_MOSQUITTO], indirect=True)
def test_the_mes_receives_what_was_sent_while_it_was_away(started: brokers.Broker, tmp_path: Path) -> None:
    mes = Mes(TOPICS, tmp_path / "verdicts.jsonl")
    with mes.connected("127.0.0.1", started.port, started.protocol):
        pass
    messages = [(TOPICS.of(Kind.VERDICT), canonical_json(verdict(seq)), False) for seq in (1, 2, 3)]
    publish(started.port, started.protocol, messages)
    with mes.connected("127.0.0.1", started.port, started.protocol):
        assert [item.seq for item in drain(mes, 3)] == [1, 2, 3]


def test_the_mes_learns_the_retained_status_of_a_station_that_was_there_first(
    started: brokers.Broker, tmp_path: Path
) -> None:
    publish(started.port, started.protocol, [(TOPICS.of(Kind.STATUS), canonical_json(sample_status("online")), True)])
    mes = Mes(TOPICS, tmp_path / "verdicts.jsonl")
    with mes.connected("127.0.0.1", started.port, started.protocol):
        assert mes.receive(10) is None
    assert mes.state == "online"


def test_a_message_outside_the_contract_is_an_error_and_still_on_record(
    started: brokers.Broker, tmp_path: Path
) -> None:
    mes = Mes(TOPICS, tmp_path / "verdicts.jsonl")
    with mes.connected("127.0.0.1", started.port, started.protocol):
        publish(started.port, started.protocol, [(TOPICS.of(Kind.VERDICT), b'{"seq":1}', False)])
        with pytest.raises(EdgeError, match="inspection/verdict"):
            mes.receive(10)
    assert (tmp_path / "verdicts.jsonl").read_bytes() == b'{"seq":1}\n'


def test_the_mes_says_so_when_there_is_no_broker(tmp_path: Path) -> None:
    mes = Mes(TOPICS, tmp_path / "verdicts.jsonl")
    with pytest.raises(EdgeError, match="refused"), mes.connected("127.0.0.1", brokers.free_port(), "5"):
        pytest.fail("there is nothing to connect to")


@pytest.mark.broker
def test_mosquitto_is_set_to_keep_a_night_of_messages(tmp_path: Path) -> None:
    with ExitStack() as stack:
        broker = start("mosquitto", tmp_path / "broker", stack)
        publish(broker.port, broker.protocol, [("a", b"b", True)])  # it listens before it knows how to stop
        conf = (tmp_path / "broker" / "mosquitto.conf").read_text().splitlines()
    assert {"max_queued_messages 100000", "persistence true"} <= set(conf)
    assert any(line.startswith("listener") and line.endswith("127.0.0.1") for line in conf)
    assert (tmp_path / "broker" / "mosquitto.db").stat().st_size > 0  # it can write where it runs


def test_the_embedded_broker_says_what_it_costs(tmp_path: Path) -> None:
    with ExitStack() as stack:
        broker = start("embedded", tmp_path / "broker", stack)
    assert broker.protocol == "3.1.1"
    assert broker.costs is not None and "refuse" in broker.costs


def test_a_broker_that_does_not_come_up_is_reported_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "mosquitto"
    program.write_text("#!/bin/sh\necho no room on this machine\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    with ExitStack() as stack, pytest.raises(EdgeError, match="no room on this machine"):
        brokers.start_broker("mosquitto", tmp_path / "broker", stack, lambda _text: None)


def test_no_broker_outlives_the_demo(tmp_path: Path) -> None:
    with ExitStack() as stack:
        broker = start("embedded", tmp_path / "broker", stack)
    mes = Mes(TOPICS, tmp_path / "verdicts.jsonl")
    with pytest.raises(EdgeError, match="refused"), mes.connected("127.0.0.1", broker.port, "3.1.1"):
        pytest.fail("the broker still listens")


def test_a_child_that_ignores_the_polite_signal_is_killed(tmp_path: Path) -> None:
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    log = tmp_path / "log"
    with child([sys.executable, "-c", script], log, grace_s=0.2) as process:
        while log.read_bytes() != b"deaf\n":
            assert process.poll() is None
    assert process.returncode == -signal.SIGKILL


def test_settings_of_another_worker_do_not_reach_the_demos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_STATION", "production")
    script = "import os; raise SystemExit('EDGE_STATION' in os.environ)"
    with child([sys.executable, "-c", script], tmp_path / "log") as process:
        assert process.wait(30) == 0
        assert stop(process, 1) == 0


def test_the_lot_has_good_scans_with_labels_and_four_files_that_are_none(lot: Lot) -> None:
    names = [path.name for path in lot.files]
    assert names == sorted(path.name for path in lot.labels.parent.glob("*.tif"))
    truths = list(lot.truths.values())
    assert truths.count("normal") + truths.count("abnormal") == 32
    assert truths.count("abnormal") == 16
    assert {truth for truth in truths if expected(truth) is Outcome.UNREADABLE} == {"jpeg", "truncated", "8-bit"}
    assert truths.count("foreign") == 1


def test_bad_files_of_the_lot_are_refused_and_all_others_read(lot: Lot) -> None:
    refused = {}
    for path in lot.files:
        try:
            read_scan(path, file=path.name, limits=Limits())
        except ScanError as error:
            refused[lot.truths[path.name]] = error.reason
    assert refused == {"jpeg": "not-tiff", "truncated": "truncated", "8-bit": "not-16-bit"}


def test_the_station_delivers_every_file_whole_and_leaves_nothing_else(lot: Lot, tmp_path: Path) -> None:
    station = Station(lot.files[:6], tmp_path, pace_s=0.0)
    with station.writing():
        wait_until(lambda: station.error is not None or len(station.finished_at) == 6)
    assert station.error is None
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in lot.files[:6]
    }
    assert set(station.finished_at) == {path.name for path in lot.files[:6]}


def test_a_station_that_cannot_write_says_why(lot: Lot, tmp_path: Path) -> None:
    station = Station(lot.files, tmp_path / "gone", pace_s=0.0)
    with station.writing():
        wait_until(lambda: station.error is not None or len(station.finished_at) == 6)
    assert isinstance(station.error, FileNotFoundError)


@pytest.mark.parametrize("on_terminal", [True, False])
def test_verdicts_fit_the_screen_and_tell_right_from_wrong(on_terminal: bool) -> None:
    output = io.StringIO()
    console = Console(file=output, width=80, height=30, force_terminal=on_terminal, legacy_windows=False)
    truths = {"B900_0001.tif": "normal", "B900_0002.tif": "abnormal", "B901_truncated.tif": "truncated"}
    outcomes = (Outcome.NORMAL, Outcome.REVIEW, Outcome.UNREADABLE)
    board = Board(console, truths)
    with board.shown():
        for seq, (file, outcome) in enumerate(zip(truths, outcomes, strict=True), 1):
            board.add(verdict(seq, file, outcome), MORNING)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.getvalue())
    lines = [re.sub(" +", " ", line) for line in text.splitlines()]
    assert any("normal = ✓ normal" in line for line in lines)
    assert any("abnormal ≠ ? review" in line for line in lines)
    assert any("truncated = ! unreadable" in line for line in lines)
    assert not on_terminal or "3 of 3 verdicts" in text
    assert not on_terminal or max(len(line) for line in text.splitlines()) <= 80


def test_a_failed_step_is_marked_and_the_error_goes_on() -> None:
    output = io.StringIO()
    with pytest.raises(EdgeError), Screen(Console(file=output)).step("Starting a broker"):
        raise EdgeError("no", hint="none")
    assert output.getvalue() == "✗ Starting a broker\n"


def test_a_package_manager_that_fails_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = tmp_path / "apt-get"
    manager.write_text("#!/bin/sh\necho no network; exit 100\n")
    manager.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(brokers, "find_mosquitto", lambda: None)
    said: list[str] = []
    assert brokers.install_mosquitto(tmp_path / "install.log", said.append) is None
    assert (tmp_path / "install.log").read_text() == "no network\nno network\n"
    assert said == ["installing mosquitto with apt-get"]


def test_nothing_is_installed_without_being_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert brokers.install_mosquitto(tmp_path / "install.log", pytest.fail) is None
    assert not (tmp_path / "install.log").exists()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "manifest.json").write_text("{}")
    return tmp_path / "model"


def test_a_directory_that_no_demo_made_is_not_deleted(tmp_path: Path, model: Path) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter-1.txt").write_text("years of work")
    with pytest.raises(EdgeError, match="thesis holds files"):
        run_demo.prepare(out, model)
    assert (out / "chapter-1.txt").exists()


def test_an_earlier_demo_is_replaced(tmp_path: Path, model: Path) -> None:
    out = tmp_path / "demo"
    run_demo.prepare(out, model)
    (out / "report.html").write_text("old")
    run_demo.prepare(out, model)
    assert not (out / "report.html").exists()


def test_the_settings_the_demo_writes_are_settings_of_the_worker(tmp_path: Path) -> None:
    out = tmp_path / 'o"dd ü'
    out.mkdir()
    options = run_demo.Options(out, tmp_path / "model", tmp_path / "key.pem", "embedded", desk=False)
    settings = load_settings(run_demo.write_settings(options, brokers.Broker("embedded", 18830, "3.1.1")))
    assert (settings.station, settings.broker.port, settings.broker.protocol) == ("xray-1", 18830, "3.1.1")
    assert settings.folder.path == out / "station"
    assert settings.model.trusted_key == tmp_path / "key.pem"


def test_a_desk_that_cannot_serve_is_told_and_promises_no_address(tmp_path: Path) -> None:
    (tmp_path / "desk").mkdir(mode=0o700)
    (tmp_path / "state" / "requests").mkdir(parents=True)
    shown = io.StringIO()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        tables = (
            f'[state]\ndir = "{tmp_path}/state"\n[desk]\ndir = "{tmp_path}/desk"\nport = {taken.getsockname()[1]}\n'
        )
        (tmp_path / "edge.toml").write_text(tables, "utf-8")
        with pytest.raises(EdgeError, match=r"(?s)the desk ended with code 78.*cannot listen"):
            run_demo.serve_desk(tmp_path, Screen(Console(file=shown)))
    assert "Review desk" not in shown.getvalue()


def test_without_a_signed_model_the_demo_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_demo.main(["--out", str(tmp_path / "out"), "--model", str(tmp_path / "none")]) == 1
    assert "there is no signed model" in capsys.readouterr().out


def reads_small_scans(manifest: dict[str, Any]) -> None:
    manifest["scan_spec"] |= {"height_px": [32, 512], "width_px": [32, 512], "max_clipped_fraction": 1.0}


@pytest.mark.parametrize("choice", [NEEDS_MOSQUITTO, "embedded"])
def test_a_small_lot_goes_from_the_station_to_the_report(
    choice: brokers.Choice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if choice == "mosquitto" and brokers.find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    monkeypatch.setattr(run_demo, "make_lot", functools.partial(make_lot, scale=0.05))
    monkeypatch.setattr(run_demo, "PACE_S", 0.0)
    monkeypatch.setattr(stations, "CHUNK_PAUSE_S", 0.01)
    out = tmp_path / "demo"
    folder, key = make_signed_model(tmp_path / "model", edit=reads_small_scans), write_public_key(tmp_path / "key.pem")
    arguments = ["--out", str(out), "--model", str(folder), "--trusted-key", str(key), "--broker", choice]
    assert run_demo.main(arguments) == 0, capsys.readouterr().out
    verdicts = [json.loads(line) for line in (out / "verdicts.jsonl").read_bytes().splitlines()]
    assert [item["seq"] for item in verdicts] == list(range(1, 37))
    assert (out / "report.html").read_bytes() == (out / "replay" / "report.html").read_bytes()
    said = capsys.readouterr().out
    assert "1 to 36 without a gap" in said
    assert ("embedded" in said) == (choice == "embedded")


def test_a_worker_that_refuses_to_start_ends_the_demo_with_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("amqtt.broker", reason="amqtt is not installed")
    monkeypatch.setattr(run_demo, "make_lot", functools.partial(make_lot, scale=0.05))
    folder, key = make_signed_model(tmp_path / "model"), write_public_key(tmp_path / "key.pem")
    (folder / "classifier.onnx").write_bytes(b"tampered with")
    arguments = ["--out", str(tmp_path / "demo"), "--model", str(folder), "--trusted-key", str(key)]
    assert run_demo.main([*arguments, "--broker", "embedded"]) == 1
    said = capsys.readouterr().out
    assert "edge-worker ended with code 78" in said
    assert "classifier.onnx" in said
