"""One connection: TLS, what the other end may do wrong, and dialling that hangs."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from edge.mqtt.connection import MAX_PACKET_BYTES, Accepted, Acknowledged, Connection, Ended, Event, Outgoing, Stalled
from edge.settings import BrokerSettings
from tests.support.certificates import Authority
from tests.support.mosquitto import Mosquitto, ServerTls, free_port, needs_mosquitto
from tests.torture.fake_broker import PUBCOMP, PUBREC, FakeBroker

PATIENCE_S = 60.0
WILL = Outgoing("acme/status", b"{}", 1, True, "status/1")


def settings_for(port: int, **changes: Any) -> BrokerSettings:
    return BrokerSettings(host="localhost", port=port).model_copy(update=changes)


def outcome(settings: BrokerSettings) -> Accepted | Ended:
    """What one attempt comes to."""
    woken = threading.Event()
    connection = Connection(settings, "edge-worker-test", WILL, woken.set)
    try:
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            for event in connection.step(time.monotonic()):
                assert isinstance(event, Accepted | Ended)
                return event
            woken.wait(0.01)
    finally:
        connection.close()
    raise AssertionError("neither accepted nor ended")


def ended(settings: BrokerSettings) -> Ended:
    event = outcome(settings)
    assert isinstance(event, Ended), event
    assert event.error.hint
    return event


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "line CA")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other-ca"), "other CA")


@pytest.mark.parametrize(
    ("setting", "content", "complaint"),
    [
        ("key_file", "encrypted", "is encrypted with a passphrase"),
        ("key_file", "of another certificate", "no certificate with its key: key values mismatch"),
        ("cert_file", "DER", "no certificate with its key"),
        ("ca_file", "DER", "holds no certificate in PEM"),
    ],
)
def test_a_file_of_certificates_that_cannot_be_used_is_named_and_no_passphrase_is_asked_for(
    authority: Authority, tmp_path: Path, setting: str, content: str, complaint: str
) -> None:
    cert_file, key_file = authority.issue("edge-worker")
    other = tmp_path / "other"
    if content == "DER":
        other.write_bytes(x509.load_pem_x509_certificate(cert_file.read_bytes()).public_bytes(Encoding.DER))
    elif content == "encrypted":
        key = load_pem_private_key(key_file.read_bytes(), None)
        other.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    else:
        other.write_bytes(authority.issue("another")[1].read_bytes())
    files = {"ca_file": authority.certificate, "cert_file": cert_file, "key_file": key_file, setting: other}
    error = ended(settings_for(1, tls=True, **files)).error
    assert f"`broker.{setting}` {other}" in error.message and complaint in error.message
    assert "PEM" in error.hint


@pytest.fixture
def tls_broker(tmp_path: Path, authority: Authority) -> Iterator[Mosquitto]:
    """Demands a certificate of its clients."""
    certificate, key = authority.issue("localhost")
    tls = ServerTls(authority.certificate, certificate, key, demand_client=True)
    with Mosquitto(tmp_path / "broker", tls=tls) as running:
        yield running


@pytest.mark.broker
@needs_mosquitto
class TestTls:
    def test_both_ends_with_certificates_of_one_ca_connect(self, tls_broker: Mosquitto, authority: Authority) -> None:
        cert_file, key_file = authority.issue("edge-worker")
        settings = settings_for(
            tls_broker.port, tls=True, ca_file=authority.certificate, cert_file=cert_file, key_file=key_file
        )
        assert isinstance(outcome(settings), Accepted)

    def test_a_broker_of_another_ca_is_refused(self, tls_broker: Mosquitto, stranger: Authority) -> None:
        end = ended(settings_for(tls_broker.port, tls=True, ca_file=stranger.certificate))
        assert "certificate verify failed" in end.error.message
        assert "broker.ca_file" in end.error.hint

    def test_a_broker_with_another_name_is_refused(self, tmp_path: Path, authority: Authority) -> None:
        certificate, key = authority.issue("somewhere.example")
        with Mosquitto(tmp_path / "broker", tls=ServerTls(authority.certificate, certificate, key)) as broker:
            end = ended(settings_for(broker.port, tls=True, ca_file=authority.certificate))
        assert "localhost" in end.error.message
        assert "broker.host" in end.error.hint

    def test_a_missing_client_certificate_is_explained(self, tls_broker: Mosquitto, authority: Authority) -> None:
        end = ended(settings_for(tls_broker.port, tls=True, ca_file=authority.certificate))
        assert "certificate" in (end.error.message + end.error.hint).lower()

    def test_plain_text_to_a_tls_listener_is_explained(self, tls_broker: Mosquitto) -> None:
        end = ended(settings_for(tls_broker.port))
        assert "broker.tls" in end.error.hint

    def test_tls_to_a_plain_listener_is_explained(self, tmp_path: Path, authority: Authority) -> None:
        with Mosquitto(tmp_path / "broker") as broker:
            end = ended(settings_for(broker.port, tls=True, ca_file=authority.certificate, connect_timeout_s=2.0))
        assert end.error.hint

    def test_a_missing_file_is_named(self, tls_broker: Mosquitto, tmp_path: Path) -> None:
        end = ended(settings_for(tls_broker.port, tls=True, ca_file=tmp_path / "nowhere.pem"))
        assert "nowhere.pem" in end.error.message

    def test_a_file_that_is_no_certificate_is_explained(self, tls_broker: Mosquitto, tmp_path: Path) -> None:
        (tmp_path / "letter.pem").write_text("Dear broker,")
        assert ended(settings_for(tls_broker.port, tls=True, ca_file=tmp_path / "letter.pem")).error.message


def test_a_missing_password_file_is_named(tmp_path: Path) -> None:
    end = ended(settings_for(free_port(), username="edge", password_file=tmp_path / "nowhere"))
    assert "nowhere" in end.error.message


@pytest.mark.parametrize("key", ["password_file", "ca_file", "cert_file", "key_file"])
@pytest.mark.parametrize("name", ["pipe", "/dev/zero"])
def test_a_pipe_or_device_in_place_of_a_file_is_named_and_not_waited_for(tmp_path: Path, key: str, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / name
    files = {"password_file": {"username": "edge"}, "ca_file": {"tls": True}}
    own = {"tls": True, "cert_file": __file__, "key_file": __file__}
    end = ended(settings_for(free_port(), **{**files.get(key, own), key: path}))
    assert end.error.message == f"{path}: not a regular file"


@pytest.mark.parametrize(
    ("encoding", "words"), [("latin-1", "is not UTF-8 (byte 0xfc in line 1)"), ("utf-16", "is UTF-16, not UTF-8")]
)
def test_a_password_file_in_another_encoding_is_named_with_it(tmp_path: Path, encoding: str, words: str) -> None:
    file = tmp_path / "password"
    file.write_bytes("geheimü\n".encode(encoding))
    end = ended(settings_for(free_port(), username="edge", password_file=file))
    assert end.error.message == f"`broker.password_file` {file} {words}"
    assert "UTF-8" in end.error.hint and "firewall" not in end.error.hint


def test_a_port_where_nobody_listens_is_explained() -> None:
    end = ended(settings_for(free_port()))
    assert "running" in end.error.hint
    assert not end.is_refusal


def test_a_host_name_that_does_not_exist_is_explained() -> None:
    end = ended(settings_for(1883, host="no-such-host.invalid"))
    assert "broker.host" in end.error.hint


class Impostor:
    """Takes one connection, reads the CONNECT and answers with fixed bytes."""

    def __init__(self, answer: bytes | None) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Impostor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(PATIENCE_S)
        self._listener.close()

    def _run(self) -> None:
        client, _ = self._listener.accept()
        with client:
            client.settimeout(PATIENCE_S)
            client.recv(4096)
            if self._answer is not None:
                client.sendall(self._answer)
            while self._answer is None and client.recv(4096):
                pass  # silent until the other end gives up


ACCEPTED = b"\x20\x03\x00\x00\x00"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x20\x02\x00\x01",  # what a broker for 3.1.1 says to a CONNECT of version 5
        b"\x20\x00",
        b"\x20\xff\xff\xff\xff\xff",
        b"\x20\x03\x00\x77\x00",
        b"\x20\x05\x00\x00\x02\x24\x00",  # accepts, but takes no QoS 1
        b"\x20\x06\x00\x00\x03\x21\xff",  # a property cut short
        b"\x20\x04\x00\x00\x01\xee",  # an unknown property
        b"\xf0\x00",
        b"\x40\x02\x00\x01",
        b"\xe0\x02\x99\x00",
        bytes(range(256)) * 16,
    ],
)
def test_a_peer_that_is_no_broker_ends_the_attempt_with_a_hint(answer: bytes) -> None:
    with Impostor(answer) as impostor:
        ended(settings_for(impostor.port, host="127.0.0.1", connect_timeout_s=1.0))


VERDICT = Outgoing("acme/inspection/verdict", b"{}", 1, False, "verdict/1")


def events_until_the_end(settings: BrokerSettings, message: Outgoing | None = None) -> list[Event]:
    """All that one connection says; `message` is published over it once it stands."""
    events: list[Event] = []
    until_s = time.monotonic() + PATIENCE_S
    with contextlib.closing(Connection(settings, "test", WILL, lambda: None)) as connection:
        while not any(isinstance(event, Ended) for event in events):
            assert time.monotonic() < until_s
            new = connection.step(time.monotonic())
            events += new
            if message is not None and any(isinstance(event, Accepted) for event in new):
                connection.publish(message)
            time.sleep(0.005)
    return events


@pytest.mark.parametrize("answer", [b"\x40\x04\x00\x01\xab\x00", b"\x30\x05\xff\xff", b"\xe0\x01\x77", b"\xff" * 99])
def test_nonsense_after_a_good_start_ends_the_connection(answer: bytes) -> None:
    with Impostor(ACCEPTED + answer) as impostor:
        events = events_until_the_end(settings_for(impostor.port, host="127.0.0.1"), VERDICT)
        assert isinstance(events[0], Accepted)


PACKET_TYPES = (0x20, 0x30, 0x32, 0x40, 0x50, 0x62, 0x70, 0x90, 0xB0, 0xC0, 0xD0, 0xE0, 0xF0)


@pytest.mark.parametrize("seed", range(60))
def test_random_packets_end_the_connection_and_never_raise(seed: int) -> None:
    rng = random.Random(seed)
    answer = bytearray(ACCEPTED)
    for _ in range(rng.randint(1, 4)):
        body = bytes(rng.choice([0, 1, 2, 0x10, 0x1F, 0x21, 0x26, 0x87, rng.randrange(256)]) for _ in range(8))
        answer += bytes([rng.choice(PACKET_TYPES), rng.choice([len(body), rng.randrange(128)])]) + body
    with Impostor(bytes(answer)) as impostor:
        connection = Connection(settings_for(impostor.port, host="127.0.0.1"), "test", WILL, lambda: None)
        until_s = time.monotonic() + PATIENCE_S
        while not any(isinstance(event, Ended) for event in connection.step(time.monotonic())):
            assert time.monotonic() < until_s
            connection.publish(VERDICT)
        connection.close()


def test_a_peer_that_says_nothing_is_given_up() -> None:
    with Impostor(None) as impostor:
        end = ended(settings_for(impostor.port, host="127.0.0.1", connect_timeout_s=0.5))
    assert "did not answer" in end.error.message
    assert "3.1.1" in end.error.hint, "a broker that knows no MQTT 5 may stay mute"
    with Impostor(None) as impostor:
        end = ended(settings_for(impostor.port, host="127.0.0.1", connect_timeout_s=0.5, protocol="3.1.1"))
    assert "3.1.1" not in end.error.hint


@pytest.mark.parametrize("asked_s", [0, 65_535, None])
@pytest.mark.parametrize("owes", [True, False])
def test_a_broker_that_falls_silent_is_left_by_our_own_clock_whatever_keep_alive_it_asks_for(
    asked_s: int | None, owes: bool
) -> None:
    with FakeBroker() as fake:
        fake.is_mute = True
        fake.properties = b"" if asked_s is None else b"\x13" + asked_s.to_bytes(2, "big")
        began_s = time.monotonic()
        events = events_until_the_end(settings_for(fake.port, keepalive_s=1), VERDICT if owes else None)
    assert isinstance(events[0], Accepted) and len(events) == 2
    assert time.monotonic() - began_s < 3.0


@pytest.mark.parametrize("answer", [PUBREC, PUBCOMP])
@pytest.mark.parametrize("code", [0x00, 0x97])
def test_what_is_no_puback_acknowledges_nothing_and_ends_the_connection(answer: int, code: int) -> None:
    with FakeBroker() as fake:
        fake.answer, fake.code = answer, code
        events = events_until_the_end(settings_for(fake.port), VERDICT)
    assert not any(isinstance(event, Acknowledged) for event in events)
    end = events[-1]
    assert isinstance(end, Ended) and end.is_protocol_error
    assert f"0x{code:02x}, expected PUBACK" in end.error.message


@pytest.mark.parametrize("length", [b"\xff\xff\xff\x7f", b"\x81\x80\x04"])
def test_a_packet_larger_than_the_limit_is_not_read(length: bytes) -> None:
    with FakeBroker() as fake:
        fake.then = b"\x30" + length + bytes(MAX_PACKET_BYTES)
        end = events_until_the_end(settings_for(fake.port))[-1]
    assert isinstance(end, Ended) and not end.is_protocol_error
    assert f"at most {MAX_PACKET_BYTES} are taken" in end.error.message


@pytest.mark.parametrize(
    "packet",
    [
        b"\x30\x06\x00\x01a\x00zz",  # PUBLISH of QoS 0, 1 and 2
        b"\x32\x07\x00\x01a\x00\x01\x00z",
        b"\x34\x07\x00\x01a\x00\x01\x00z",
        b"\x62\x02\x00\x01",  # PUBREL
        b"\xc0\x00",  # PINGREQ
    ],
)
def test_what_the_broker_sends_unasked_is_neither_kept_nor_answered(packet: bytes) -> None:
    """Answers would queue up for a broker that does not read them; QoS 2 waits for a second packet besides."""
    with FakeBroker() as fake:
        fake.then = 50 * packet + b"\xe0\x01\x8b"  # and it shuts down
        connection = Connection(settings_for(fake.port), "test", WILL, lambda: None)
        until_s = time.monotonic() + PATIENCE_S
        events: list[Event] = []
        while not any(isinstance(event, Ended) for event in events):
            assert time.monotonic() < until_s
            events += connection.step(time.monotonic())
            client = connection._client
            if client is not None:
                assert not (client._out_packet or client._in_messages)
        assert isinstance(events[-1], Ended) and "shutting down" in events[-1].error.message
        connection.close()


def test_what_the_broker_says_is_cut_and_does_nothing_to_a_terminal() -> None:
    words = b"\x1b[2J\nno\xe2\x80\xae" + b"a" * 9000
    body = b"\x87" + _length(len(words) + 3) + b"\x1f" + len(words).to_bytes(2, "big") + words
    with FakeBroker() as fake:
        fake.then = b"\xe0" + _length(len(body)) + body
        end = events_until_the_end(settings_for(fake.port))[-1]
    assert isinstance(end, Ended) and end.is_refusal
    assert r"\u001b[2J\u000ano\u202e" in end.error.message
    assert end.error.message.isprintable() and len(end.error.message) < 500


def _length(value: int) -> bytes:
    """As MQTT writes the length of a packet or of its properties, from 128 on."""
    return bytes([value & 127 | 128, value >> 7])


def test_a_broker_without_retained_messages_gets_them_unretained() -> None:
    with FakeBroker() as fake:
        fake.properties = b"\x25\x00"
        connection = Connection(settings_for(fake.port, keepalive_s=1), "test", None, lambda: None)
        events: list[Event] = []
        until_s = time.monotonic() + PATIENCE_S
        while len(events) < 2 and time.monotonic() < until_s:
            events += connection.step(time.monotonic())
            if len(events) == 1:
                connection.publish(WILL)
            time.sleep(0.005)
        connection.close()
        assert [type(event) for event in events] == [Accepted, Acknowledged]
        assert fake.retained == []


class Hoarder(Impostor):
    """A broker that answers pings and acknowledges nothing."""

    def _run(self) -> None:
        client, _ = self._listener.accept()
        with client, contextlib.suppress(OSError):
            client.settimeout(PATIENCE_S)
            client.recv(4096)
            client.sendall(ACCEPTED)
            while data := client.recv(4096):
                if data.endswith(b"\xc0\x00"):  # PINGREQ
                    client.sendall(b"\xd0\x00")


def test_a_broker_that_lives_but_acknowledges_nothing_is_left() -> None:
    with Hoarder(None) as hoarder:
        end = events_until_the_end(settings_for(hoarder.port, host="127.0.0.1", keepalive_s=1), VERDICT)[-1]
        assert isinstance(end, Ended) and "not acknowledged" in end.error.message


def test_what_the_broker_said_before_it_closed_is_read_before_more_is_written() -> None:
    """Writing to a connection that is closed at the other end fails, and then its last words would be lost."""
    with FakeBroker() as fake:
        fake.code, fake.disconnects = 0x99, True
        connection = Connection(settings_for(fake.port), "edge-worker-test", WILL, lambda: None)
        events: list[Event] = []
        until_s = time.monotonic() + PATIENCE_S
        while not events and time.monotonic() < until_s:
            events += connection.step(time.monotonic())
        for _ in range(3):
            connection.publish(VERDICT)
            time.sleep(0.2)
        events += connection.step(time.monotonic())
    accepted, end = events
    assert isinstance(accepted, Accepted)
    assert isinstance(end, Ended)
    assert end.is_refusal
    assert "0x99" in end.error.message


def test_a_name_service_that_hangs_holds_up_neither_step_nor_close(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    asked = threading.Event()

    def hang(*_: object, **__: object) -> list[Any]:
        asked.set()
        answered.wait(PATIENCE_S)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    woken = threading.Event()
    connection = Connection(settings_for(1883), "test", WILL, woken.set)
    assert asked.wait(PATIENCE_S)
    started_s = time.monotonic()
    assert connection.step(started_s) == []
    (stalled,) = connection.step(started_s + 1000.0)
    assert isinstance(stalled, Stalled) and "name service" in stalled.error.hint
    assert connection.step(started_s + 2000.0) == [], "it is said once"
    connection.close()
    assert time.monotonic() - started_s < 1.0
    answered.set()
    assert woken.wait(PATIENCE_S)
