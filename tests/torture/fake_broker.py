"""An MQTT 5 broker of a few lines that answers every verdict with the reason code it is told to."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from types import TracebackType
from typing import Literal, Self

CONNECT, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, PINGREQ, DISCONNECT = 1, 3, 4, 5, 6, 7, 12, 14
RETAIN_NOT_SUPPORTED = 0x9A


class FakeBroker:
    """Takes one connection at a time; remembers nothing but what its attributes say."""

    def __init__(self, *, speaks_5: bool = True) -> None:
        self.code = 0
        """The reason code of every PUBACK of a verdict from now on; other topics get 0x00."""
        self.alarm_code = 0
        """The reason code of every PUBACK of an alarm from now on."""
        self.alarms: list[bytes] = []
        """Packets of the alarms that got 0x00."""
        self.refused_alarms: list[bytes] = []
        """Packets of the others."""
        self.poison: tuple[bytes, ...] = ()
        """If given, `code` is the answer only to packets with one of these bytes in them."""
        self.disconnects = False
        """It answers with DISCONNECT and `code` instead of PUBACK."""
        self.taken: list[bytes] = []
        """Packets of the verdicts that got 0x00."""
        self.verdicts: list[tuple[int, str]] = []
        """(code it got, topic) of every verdict that came."""
        self.levels: list[int] = []
        """Protocol level of every CONNECT: 5, or 4 for MQTT 3.1.1."""
        self.swallows: Literal["", "hangs up", "says nothing"] = ""
        """What it does with a verdict that `code` refuses, instead of answering it."""
        self.hangs_up = False
        """It closes the connection with each refusal; bytes that came after the refused verdict destroy the refusal."""
        self.properties = b""
        """Properties of every CONNACK from now on."""
        self.then: bytes = b""
        """What it sends behind the CONNACK."""
        self.is_mute = False
        """It says nothing after the CONNACK."""
        self.answer = PUBACK
        """Packet that answers a verdict, with `code`: PUBACK, PUBREC or PUBCOMP."""
        self.refuses_retained: Literal["", "will", "message", "kicks", "closes"] = ""
        """A retained last will gets CONNACK 0x9A; or a retained message DISCONNECT 0x9A, or 0x83, or no word."""
        self.refuses_wills: Literal["", "retained", "all"] = ""
        """Last wills that get `will_code`."""
        self.will_code: int | None = None
        """CONNACK with this code; None: no CONNACK, the connection is closed."""
        self.retained: list[str] = []
        """Topics of retained messages."""
        self.offered: list[bytes] = []
        """Packets of all verdicts."""
        self._connection: socket.socket | None = None
        self._speaks_5 = speaks_5
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.2)
        self.port: int = self._listener.getsockname()[1]
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _k: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self._is_over.set()
        self._thread.join(10)
        self._listener.close()

    def drop(self) -> None:
        """End the connection without a word."""
        assert self._connection is not None
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        while not self._is_over.is_set():
            with contextlib.suppress(OSError, EOFError):
                connection, _ = self._listener.accept()
                with connection:
                    self._connection = connection
                    connection.settimeout(0.2)
                    self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        while not self._is_over.is_set():
            head, body = self._packet(connection)
            kind = head >> 4
            if kind == CONNECT:
                level = body[6]
                self.levels.append(level)
                if level == 5 and not self._speaks_5:
                    connection.sendall(bytes([0x20, 2, 0, 1]))  # as 3.1.1 brokers say it: unacceptable version
                    return
                if self.refuses_retained == "will" and body[7] & 0b100000:
                    connection.sendall(bytes([0x20, 3, 0, RETAIN_NOT_SUPPORTED, 0]))
                    return
                if (body[7] & 0b100000 and self.refuses_wills) or (body[7] & 0b100 and self.refuses_wills == "all"):
                    if self.will_code is not None:
                        connection.sendall(bytes([0x20, 3, 0, self.will_code, 0]))
                    return
                properties = bytes([len(self.properties)]) + self.properties
                connack = bytes([0x20, 2 + len(properties), 0, 0]) + properties
                connection.sendall((connack if level == 5 else bytes([0x20, 2, 0, 0])) + self.then)
            elif self.is_mute:
                continue
            elif kind == PUBLISH:
                length = int.from_bytes(body[:2], "big")
                topic, packet_id = body[2 : 2 + length].decode(), body[2 + length : 4 + length]
                if head & 1:
                    self.retained.append(topic)
                    if self.refuses_retained in ("message", "kicks"):
                        code = RETAIN_NOT_SUPPORTED if self.refuses_retained == "message" else 0x83
                        connection.sendall(bytes([DISCONNECT << 4, 1, code]))
                    if self.refuses_retained not in ("", "will"):
                        return
                if not head & 0b110:
                    continue
                code = 0
                if topic.endswith("/alarm"):
                    code = self.alarm_code
                    (self.refused_alarms if code else self.alarms).append(body)
                if topic.endswith("/verdict"):
                    code = self.code if not self.poison or any(mark in body for mark in self.poison) else 0
                    self.verdicts.append((code, topic))
                    self.offered.append(body)
                    if not code:
                        self.taken.append(body)
                if code and self.swallows == "hangs up":
                    return
                if code and self.swallows:
                    continue
                if code and self.disconnects:
                    connection.sendall(bytes([DISCONNECT << 4, 1, code]))
                    return
                is_last = self.hangs_up and code
                if is_last and select.select([connection], [], [], 0.05)[0]:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                answer = self.answer if topic.endswith("/verdict") else PUBACK
                reason = bytes([code]) if self.levels[-1] == 5 else b""
                connection.sendall(bytes([answer << 4, 2 + len(reason)]) + packet_id + reason)
                if is_last:
                    return
            elif kind == PUBREL:
                connection.sendall(bytes([PUBCOMP << 4, 3]) + body[:2] + bytes([0]))
            elif kind == PINGREQ:
                connection.sendall(bytes([0xD0, 0]))
            elif kind == DISCONNECT:
                return

    def _packet(self, connection: socket.socket) -> tuple[int, bytes]:
        head = self._bytes(connection, 1)[0]
        length = shift = 0
        while True:
            (byte,) = self._bytes(connection, 1)
            length |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return head, self._bytes(connection, length)

    def _bytes(self, connection: socket.socket, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                part = connection.recv(count - len(data))
            except TimeoutError:
                if self._is_over.is_set():
                    raise EOFError from None
                continue
            if not part:
                raise EOFError
            data += part
        return data
