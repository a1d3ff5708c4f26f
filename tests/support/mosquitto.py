"""A real mosquitto on a port of its own, and a subscriber that records everything."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

PROGRAM = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
needs_mosquitto = pytest.mark.skipif(PROGRAM is None, reason="the mosquitto program is not installed")
PATIENCE_S = 60.0


@dataclass(frozen=True)
class ServerTls:
    """Files of a TLS listener; with `demand_client`, clients need a certificate of the same CA."""

    ca_file: Path
    cert_file: Path
    key_file: Path
    demand_client: bool = False


class Mosquitto:
    """One broker process. `stop` and `start` keep port, configuration and store."""

    def __init__(
        self,
        directory: Path,
        *,
        persistence: bool = False,
        max_queued: int | None = None,
        acl: str | None = None,
        users: Mapping[str, str] | None = None,
        tls: ServerTls | None = None,
        extra: Sequence[str] = (),
        log_types: str = "all",
    ) -> None:
        self.directory = directory
        self.host = "localhost"
        self.port = free_port()
        self.log: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        directory.mkdir(parents=True, exist_ok=True)
        lines = [f"listener {self.port} 127.0.0.1", "log_dest stderr", f"log_type {log_types}", *extra]
        lines.append(f"allow_anonymous {'false' if users else 'true'}")
        if os.geteuid() == 0:
            lines.append("user root")
        if persistence:
            lines += ["persistence true", f"persistence_location {directory}/"]
        if max_queued is not None:
            lines.append(f"max_queued_messages {max_queued}")
        if acl is not None:
            lines.append(f"acl_file {self.acl_file}")
            self.write_acl(acl)
        if users:
            passwords = directory / "passwords"
            passwords.touch(mode=0o600)
            for name, password in users.items():
                subprocess.run(["mosquitto_passwd", "-b", passwords, name, password], check=True, capture_output=True)
            lines.append(f"password_file {passwords}")
        if tls is not None:
            lines += [f"cafile {tls.ca_file}", f"certfile {tls.cert_file}", f"keyfile {tls.key_file}"]
            lines.append(f"require_certificate {'true' if tls.demand_client else 'false'}")
        (directory / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    @property
    def acl_file(self) -> Path:
        return self.directory / "acl"

    def __enter__(self) -> Mosquitto:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when the broker listens."""
        assert PROGRAM is not None and self._process is None
        process = subprocess.Popen(
            [PROGRAM, "-c", self.directory / "mosquitto.conf"], stderr=subprocess.PIPE, text=True, cwd=self.directory
        )
        assert process.stderr is not None
        for line in process.stderr:
            self.log.append(line.rstrip())
            if "running" in line:
                break
        else:
            process.wait()
            process.stderr.close()
            raise RuntimeError("mosquitto did not start:\n" + "\n".join(self.log))
        self._process = process
        self._reader = threading.Thread(target=self._read_log, args=(process,), daemon=True)
        self._reader.start()

    def stop(self) -> None:
        """SIGTERM: the broker saves its store."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: what the broker had not saved is lost."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """The process stands still: its sockets stay open and nobody answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def write_acl(self, acl: str) -> None:
        """Takes effect with the next start or `reload`."""
        self.acl_file.write_text(acl)
        self.acl_file.chmod(0o600)

    def reload(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        for _ in range(round(PATIENCE_S)):
            # mosquitto forgets a signal that comes between its word `running` and its main loop.
            self._process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
                break
        assert self._process.returncode is not None, "mosquitto does not end"
        assert self._reader is not None
        self._reader.join(PATIENCE_S)
        self._process = None

    def _read_log(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                self.log.append(line.rstrip())


@dataclass(frozen=True)
class Received:
    """One message as it came; `properties` are MQTT 5's, by name."""

    topic: str
    payload: bytes
    qos: int
    retained: bool
    properties: dict[str, Any]


class Recorder:
    """A subscriber with a session of its own that survives interruptions."""

    def __init__(
        self,
        broker: Mosquitto,
        topic: str = "#",
        *,
        client_id: str = "recorder",
        username: str | None = None,
        password: str | None = None,
    ) -> None:
        self._broker = broker
        self._topic = topic
        self._changed = threading.Condition()
        self._messages: list[Received] = []
        self._is_subscribed = False
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
        if username is not None:
            self._client.username_pw_set(username, password)
        self._client.reconnect_delay_set(0.05, 0.2)  # type: ignore[arg-type]
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message

    def __enter__(self) -> Recorder:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 3600
        self._client.connect(
            self._broker.host, self._broker.port, keepalive=5, clean_start=False, properties=properties
        )
        self._client.loop_start()
        self.wait_until(lambda: self._is_subscribed, "subscribed")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def messages(self, kind: str) -> list[Received]:
        """Those whose topic ends in `kind`, in order of arrival."""
        with self._changed:
            return [message for message in self._messages if message.topic.endswith(f"/{kind}")]

    def payloads(self, kind: str) -> list[bytes]:
        return [message.payload for message in self.messages(kind)]

    def wait_for(self, kind: str, count: int) -> list[Received]:
        """Until `count` messages of a kind have come."""
        self.wait_until(lambda: self._count(kind) >= count, f"{count} x {kind}")
        return self.messages(kind)

    def wait_for_payload(self, kind: str, payload: bytes) -> None:
        """Until one particular message has come."""
        self.wait_until(
            lambda: any(m.topic.endswith(f"/{kind}") and m.payload == payload for m in self._messages), kind
        )

    def wait_until(self, is_done: Callable[[], bool], what: str) -> None:
        with self._changed:
            assert self._changed.wait_for(is_done, PATIENCE_S), f"not seen: {what}; log: {self._broker.log[-20:]}"

    def _count(self, kind: str) -> int:
        return sum(message.topic.endswith(f"/{kind}") for message in self._messages)

    def _on_connect(self, client: mqtt.Client, *_: object) -> None:
        # Retained messages only with a new subscription, so that a reconnection repeats none.
        options = SubscribeOptions(qos=1, retainAsPublished=True, retainHandling=1)
        client.subscribe(self._topic, options=options)

    def _on_subscribe(self, *_: object) -> None:
        with self._changed:
            self._is_subscribed = True
            self._changed.notify_all()

    def _on_message(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        properties = message.properties.json() if message.properties is not None else {}  # type: ignore[no-untyped-call]
        received = Received(message.topic, bytes(message.payload), message.qos, message.retain, properties)
        with self._changed:
            self._messages.append(received)
            self._changed.notify_all()


_LEASES: list[socket.socket] = []


def free_port() -> int:
    """A port that no other test process takes while this one lives, whether somebody listens on it or not.

    It lies below the ports that the kernel gives to clients, so that none of them has it while a broker is stopped. The
    lease is a name in the kernel, gone with the process.
    """
    for port in random.sample(range(20_000, 32_000), 1000):
        lease = socket.socket(socket.AF_UNIX)
        try:
            lease.bind(f"\0electrode-line-test-port-{port}")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as brokers do
                probe.bind(("127.0.0.1", port))
        except OSError:
            lease.close()
            continue
        _LEASES.append(lease)
        return port
    raise RuntimeError("no port between 20000 and 32000 is free")
