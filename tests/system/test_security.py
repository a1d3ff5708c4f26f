"""What an attacker at the broker, in the station's folder or with a log viewer gets: rows of docs/security.md."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
from pathlib import Path

import pytest

from tests.edge.mqtt.test_connection import ended, settings_for
from tests.support.certificates import Authority
from tests.support.mosquitto import Mosquitto, ServerTls, needs_mosquitto
from tests.support.tiff_files import tiff
from tests.torture.generator import Generator
from tests.torture.rig import Layout, Rig

pytestmark = pytest.mark.timeout(600)

SECRET = "correct-horse-battery-staple"
NAMES = [
    b"line\nbreak.tif",
    b'tab\tand "quotes".tif',
    b"\x1b[2Jescape.tif",
    b"not-utf-8-\xff\xfe.tif",
    b"a\\..\\windows.tif",
    b"%2e%2e%2f..%2fetc%2fpasswd.tif",
    b"<script>alert(1)</script>".replace(b"/", b"-") + b".tif",
    b'{"level": "error", "event": "forged"}.tif',
    "right-\u202eto-left.tif".encode(),
    b"n" * 251 + b".tif",
]
"""What a file system allows and a careless program trips over; `../` and NUL no file system allows in a name."""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    (tmp_path / "ca").mkdir()
    return Authority(tmp_path / "ca", "line CA")


@pytest.mark.broker
@needs_mosquitto
def test_a_broker_with_an_expired_certificate_is_refused(tmp_path: Path, authority: Authority) -> None:
    certificate, key = authority.issue("localhost", is_expired=True)
    with Mosquitto(tmp_path / "broker", tls=ServerTls(authority.certificate, certificate, key)) as broker:
        end = ended(settings_for(broker.port, tls=True, ca_file=authority.certificate))
    assert "expired" in end.error.message


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_a_broker_that_speaks_only_an_old_tls_is_refused(authority: Authority, version: ssl.TLSVersion) -> None:
    certificate, key = authority.issue("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")  # the server would; it is the client that must refuse
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(certificate, key)
    complaints: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    context.wrap_socket(connection, server_side=True).close()
                except OSError as error:
                    complaints.append(str(error))

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        end = ended(settings_for(listener.getsockname()[1], tls=True, ca_file=authority.certificate))
        server.join(60)
    assert "version" in end.error.message.lower()
    assert complaints, "the handshake came about"


@pytest.mark.broker
@needs_mosquitto
def test_the_brokers_password_appears_in_no_log_message_or_copy(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text(SECRET + "\n")
    secrets = {"username": "edge", "password_file": password}
    with Rig(tmp_path / "rig", 1, Layout(broker=secrets, log_level="debug")) as rig:
        rig.worker.start()
        rig.generator.arrive(2)
        rig.await_all()
        assert rig.run_cli("--check").returncode in (0, 78)
        checked = rig.run_cli("--check")
        assert rig.worker.stop() == 0
        said = rig.worker.log.read_text() + (rig.root / "received.jsonl").read_text() + checked.stdout + checked.stderr
        stored = b"".join(path.read_bytes() for path in rig.state.rglob("*") if path.is_file())
    assert "scan judged" in said
    assert SECRET not in said
    assert SECRET.encode() not in stored


@pytest.mark.broker
@needs_mosquitto
def test_strange_file_names_are_judged_and_forge_neither_log_nor_message(tmp_path: Path) -> None:
    with Rig(tmp_path / "rig", 1) as rig:
        for name in NAMES:
            _, data = Generator(rig.scans, len(rig.generator.listed)).scan()
            (rig.scans / os.fsdecode(name)).write_bytes(data)
            rig.generator.note(os.fsdecode(name), data, None)
        rig.worker.start()
        rig.await_all()
        assert rig.worker.stop() == 0
        files = {message.content["scan"]["file"] for message in rig.subscriber.of("verdict")}
        lines = rig.worker.log.read_bytes().splitlines()
    assert len(files) == len(NAMES)
    assert all(name.isprintable() for name in files)
    assert r"line\u000abreak.tif" in files
    assert r"not-utf-8-\xff\xfe.tif" in files
    events = [json.loads(line)["event"] for line in lines]  # every line is one JSON object
    assert "forged" not in events
    assert events.count("scan judged") == len(NAMES)


@pytest.mark.broker
@needs_mosquitto
def test_links_pipes_and_directories_in_the_folder_lead_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside.tif"
    outside.write_bytes(tiff())
    with Rig(tmp_path / "rig", 1) as rig:
        (rig.scans / "link.tif").symlink_to(outside)
        (rig.scans / "loop.tif").symlink_to("loop.tif")
        (rig.scans / "passwd.tif").symlink_to("/etc/passwd")
        (rig.scans / "folder.tif").mkdir()
        os.mkfifo(rig.scans / "pipe.tif")
        rig.worker.start()
        rig.generator.arrive(1)
        rig.await_all()
        rig.worker.wait_for("scan judged", 6)
        assert rig.worker.stop() == 0
        verdicts = {message.content["scan"]["file"]: message.content for message in rig.subscriber.of("verdict")}
        notes = {
            record["file"]: record["notes"][0]["code"]
            for path in (rig.state / "evidence").glob("*/*/record.json")
            if (record := json.loads(path.read_bytes()))["outcome"] == "unreadable"
        }
        kept = list((rig.state / "evidence").glob("*/*/scan.bin"))
    strange = {"link.tif", "loop.tif", "passwd.tif", "folder.tif", "pipe.tif"}
    assert {name: verdicts[name]["reasons"] for name in strange} == {name: ["not-a-file"] for name in strange}
    assert notes.keys() == strange and all(code.startswith("file-") for code in notes.values())
    assert kept == []


@pytest.mark.broker
@needs_mosquitto
def test_the_state_of_a_new_line_is_for_its_user_alone_but_for_the_drop_box(tmp_path: Path) -> None:
    with Rig(tmp_path / "rig", 1) as rig:
        rig.worker.start()
        rig.generator.arrive(1)
        rig.await_all()
        assert rig.worker.stop() == 0
        modes = {path.name: path.stat().st_mode & 0o7777 for path in [rig.state, *rig.state.rglob("*")]}
    # The group passes through, lists nothing, and leaves requests; files of others it can neither change nor remove.
    assert (modes["state"], modes["requests"], modes["refused"]) == (0o710, 0o1770, 0o700)
    assert not any(mode & 0o077 for name, mode in modes.items() if name.startswith("ledger"))
