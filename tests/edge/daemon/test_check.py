"""`edge-worker check`: a table an operator can act on, and an exit code a script can."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edge.contract.messages import Topics
from edge.daemon.check import Grade, _evidence, _folder, _names, _state
from edge.settings import EvidenceSettings, FolderSettings, Settings, StateSettings
from edge.store.ledger import open_ledger
from tests.support import fakes, signed_models
from tests.support.cpu_engines import needs_openvino
from tests.support.mosquitto import Mosquitto, Recorder, free_port, needs_mosquitto


def settings_file(root: Path, port: int, **replaced: str) -> Path:
    (root / "scans").mkdir()
    signed_models.make_signed_model(root / "model")
    key = signed_models.write_public_key(root / "key.pub.pem")
    values = {
        "path": root / "scans",
        "model": root / "model",
        "trusted_key": key,
        "dir": root / "state",
        "engine": "auto",
    } | replaced
    config = root / "edge.toml"
    config.write_text(
        f'[folder]\npath = "{values["path"]}"\n[model]\ndir = "{values["model"]}"\n'
        f'trusted_key = "{values["trusted_key"]}"\nengine = "{values["engine"]}"\n[state]\ndir = "{values["dir"]}"\n'
        f"[broker]\nport = {port}\nconnect_timeout_s = 2.0\n"
    )
    return config


def run_check(config: Path, *more: str, **variables: str) -> tuple[int, dict[str, str]]:
    """Exit code, and the table's lines by subject: grade first."""
    done = subprocess.run(
        [sys.executable, "-m", "edge.cli", "--config", str(config), "--check", *more],
        capture_output=True,
        text=True,
        timeout=60,
        env={"COLUMNS": "300", "PATH": ""} | variables,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(("ok", "warn", "fail"))]
    return done.returncode, {line.split()[1]: line for line in lines}


def test_a_scan_whose_name_looks_like_markup_is_shown_as_it_is(tmp_path: Path) -> None:
    config = settings_file(tmp_path, free_port())
    fakes.write_scan(tmp_path / "scans" / "B01_[red]7[link].tif")
    _, table = run_check(config)
    assert "B01_[red]7[link].tif gives bundle=B01, part_id=[red]7[link]" in table["names"]


@pytest.mark.broker
@needs_mosquitto
def test_everything_in_order_is_ok_throughout(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker") as broker:
        config = settings_file(tmp_path, broker.port, engine="onnxruntime")  # `auto` warns where a GPU is unused
        with config.open("a") as stream:
            stream.write("[evidence]\nmax_bytes = 1_000_000\n")  # the default warns on a small disk
        fakes.write_scan(tmp_path / "scans" / "B01_1.tif")
        code, table = run_check(config)
    assert code == 0
    assert {line.split()[0] for line in table.values()} == {"ok"}
    assert set(table) >= {
        "settings",
        "model",
        "engine",
        "folder",
        "state",
        "disk",
        "evidence",
        "sqlite",
        "ledger",
        "broker",
    }
    assert "of 0.0 GB used" in table["evidence"]
    assert "1 scans" in table["folder"]
    assert "speaks MQTT 5" in table["broker"]


@pytest.mark.parametrize(
    ("files", "row"),
    [
        ([], "ok names no scan to try"),
        (["B01_7.tif", "x/B02_0008.tiff"], "ok names 2 of 2 fit, for example B01_7.tif gives bundle=B01, part_id=7"),
        (["B01_7.tif", "plain.tif"], "warn names 1 of 2 fit, for example plain.tif gives nothing"),
        (["one.tif", "two.tif"], "fail names 0 of 2 fit, for example one.tif gives nothing"),
    ],
)
def test_the_check_shows_what_the_naming_makes_of_the_scans_that_are_there(files: list[str], row: str) -> None:
    finding = _names(Settings().naming.pattern, files)
    assert f"{finding.grade.name.lower()} {finding.subject} {finding.observed}".startswith(row)


def test_the_check_says_which_settings_it_looked_at_and_which_variables_are_not_its_own(tmp_path: Path) -> None:
    config = settings_file(tmp_path, free_port())
    _, table = run_check(config, EDGE_SERVICE_HOST="10.0.0.7")
    assert "station station; all keys valid; not ours: EDGE_SERVICE_HOST" in table["settings"]


def test_each_fault_is_found_and_the_others_are_still_looked_at(tmp_path: Path) -> None:
    config = settings_file(tmp_path, free_port(), path=str(tmp_path / "nowhere"))
    manifest = tmp_path / "model" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"threshold": 0.5', b'"threshold": 0.9'))
    code, table = run_check(config)
    assert code == 78
    assert table["model"].startswith("fail")
    assert "changed after signing" in table["model"]
    assert table["folder"].startswith("fail")
    assert table["broker"].startswith("fail")
    assert "is the broker running" in table["broker"]
    assert table["state"].startswith("ok")


def test_a_folder_for_judged_scans_that_leads_back_to_the_new_ones_fails(tmp_path: Path) -> None:
    (tmp_path / "scans" / "day").mkdir(parents=True)
    (tmp_path / "done").symlink_to(tmp_path / "scans" / "day")
    folder = FolderSettings(path=tmp_path / "scans", move_to=tmp_path / "done", after="move", recursive=True)
    found = {finding.observed: finding.grade for finding in _folder(Settings(folder=folder))}
    observed = f"{tmp_path}/done leads to {tmp_path}/scans/day, where the worker looks for new scans"
    assert found[observed] is Grade.FAIL


def test_a_running_worker_is_no_fault_of_the_ledger(tmp_path: Path) -> None:
    config = settings_file(tmp_path, free_port())
    with open_ledger(tmp_path / "state" / "ledger.sqlite", "station"):
        _, table = run_check(config)
    assert table["ledger"].startswith("warn")


def test_a_state_directory_that_cannot_be_written_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    config = settings_file(tmp_path, free_port(), dir="/proc/nowhere")
    code, table = run_check(config)
    assert code == 78
    assert table["state"].startswith("fail")


def test_a_state_in_memory_fails_for_a_power_cut_takes_published_verdicts() -> None:
    findings = list(_state(Settings(state=StateSettings(dir=Path("/dev/shm/none-yet")))))
    assert [finding.grade for finding in findings if "tmpfs" in finding.observed] == [Grade.FAIL]


SECRET = "/run/credentials/edge-worker-of-no-machine.service/edge-worker.mqtt-password"


def test_evidence_that_would_be_dropped_or_seen_by_nobody_is_a_warning(tmp_path: Path) -> None:
    def row(**evidence: object) -> str:
        settings = Settings(state=StateSettings(dir=tmp_path), evidence=EvidenceSettings.model_validate(evidence))
        (finding,) = _evidence(settings)
        return f"{finding.grade.name.lower()} {finding.observed} {finding.hint}"

    budget = {"max_bytes": 1000, "min_free_bytes": 0}
    assert row(max_bytes=0).startswith("ok none is kept")
    assert row(**budget).startswith("ok 0.0 of 0.0 GB used")
    assert row(max_bytes=1 << 50).startswith("warn 0.0 of 1125899.9 GB used")
    folder = tmp_path / "evidence"
    folder.mkdir(mode=0o700)
    assert "chmod 0750" in row(**budget)
    folder.chmod(0o750)
    assert "read by group" in row(**budget)
    assert row(**budget, dir="/proc/nowhere").startswith("warn /proc")


def test_evidence_that_goes_meanwhile_is_not_counted_and_what_may_not_be_listed_is_told(
    tmp_path: Path, rights_hold: None
) -> None:
    settings = Settings(state=StateSettings(dir=tmp_path), evidence=EvidenceSettings(max_bytes=1000, min_free_bytes=0))
    folder = tmp_path / "evidence"
    folder.mkdir(mode=0o750)
    is_over = threading.Event()

    def come_and_go() -> None:
        while not is_over.is_set():
            for day in range(20):
                (folder / f"day-{day}").mkdir()
                (folder / f"day-{day}" / "piece").touch()
            for day in range(20):
                shutil.rmtree(folder / f"day-{day}")

    worker = threading.Thread(target=come_and_go)
    worker.start()
    try:
        for _ in range(200):
            (finding,) = _evidence(settings)
            assert "0.0 of 0.0 GB used" in finding.observed
    finally:
        is_over.set()
        worker.join()
    closed = folder / "2026-01-01"
    closed.mkdir(mode=0)
    (finding,) = _evidence(settings)
    assert finding.grade is Grade.WARN and f"{closed}: Permission denied" in finding.observed


def test_a_secret_that_systemd_shows_to_the_running_service_alone_is_no_fault_before_its_start(tmp_path: Path) -> None:
    config = settings_file(tmp_path, free_port())
    config.write_text(config.read_text() + f'username = "line"\npassword_file = "{SECRET}"\n')
    code, table = run_check(config, "--probe")
    assert code == 0
    for row in (table["broker"], table["probe"]):
        assert row.split()[0] == "warn" and f"not tried: {SECRET}" in row and "while the service runs" in row


def test_any_other_file_that_is_missing_is_a_fault_of_the_broker(tmp_path: Path) -> None:
    config = settings_file(tmp_path, free_port())
    config.write_text(config.read_text() + f'username = "line"\npassword_file = "{tmp_path}/nowhere"\n')
    _, table = run_check(config)
    assert table["broker"].startswith("fail")
    assert "nowhere: No such file or directory" in table["broker"]


@pytest.mark.broker
@needs_mosquitto
def test_the_broker_is_looked_at_under_another_client_id_and_without_a_last_will(tmp_path: Path) -> None:
    """So the running worker stays connected, and no access list has to name the topic of a will."""
    with Mosquitto(tmp_path / "broker") as broker:
        run_check(settings_file(tmp_path, broker.port))
        log = "\n".join(broker.log)
    client_id = Topics("enterprise", "site", "area", "line", "station").client_id
    assert f" as {client_id}-check " in log
    assert "No will message specified." in log


ACL = "user line\ntopic write enterprise/site/area/line/station/inspection/{kind}\nuser mes\ntopic read #\n"


@pytest.mark.broker
@needs_mosquitto
def test_a_probe_finds_what_an_access_list_refuses_and_says_what_was_sent_and_where(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker", acl=ACL.format(kind="alarm"), users={"line": "x", "mes": "y"}) as broker:
        config = settings_file(tmp_path, broker.port)
        (tmp_path / "password").write_text("x\n")
        config.write_text(config.read_text() + f'username = "line"\npassword_file = "{tmp_path}/password"\n')
        with Recorder(broker, username="mes", password="y") as mes:
            code, table = run_check(config)
            assert code == 0 and "probe:verdict" not in table
            code, table = run_check(config, "--probe")
            (sent,) = mes.messages("alarm")
    assert code == 78
    assert {kind: table[f"probe:{kind}"].split()[0] for kind in ("alarm", "verdict", "status")} == {
        "alarm": "ok",
        "verdict": "fail",
        "status": "fail",
    }
    assert sent.payload.decode() in table["probe"] and sent.topic in table["probe:alarm"]
    assert json.loads(sent.payload)["schema"] == "probe/1" and not sent.retained
    client_id = Topics("enterprise", "site", "area", "line", "station").client_id
    assert f"as client {client_id}," in table["probe"] and "Not authorized (0x87)" in table["probe:verdict"]


@pytest.mark.broker
@needs_mosquitto
def test_a_probe_leaves_the_running_worker_connected_and_warns_where_nobody_is_subscribed(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker") as broker, open_ledger(tmp_path / "state" / "ledger.sqlite", "station"):
        _, table = run_check(settings_file(tmp_path, broker.port), "--probe")
    assert table["probe:verdict"].startswith("warn") and "No matching subscribers" in table["probe:verdict"]
    assert "-check, not retained" in table["probe"]


@needs_openvino
def test_the_engines_are_measured_and_the_faster_one_is_set_by_the_operator(tmp_path: Path) -> None:
    config = settings_file(tmp_path, free_port())
    _, table = run_check(config, "--tune")
    assert table["tune"].startswith("ok")
    assert "onnxruntime 0." in table["tune"] and "openvino 0." in table["tune"]
    is_openvino = "openvino is the faster" in table["tune"]
    assert ("model.engine" in table["tune"]) == is_openvino, "auto is onnxruntime already"
    assert "onnxruntime" in table["engine"]
    assert not (tmp_path / "state").exists() or [*(tmp_path / "state").iterdir()] == []
