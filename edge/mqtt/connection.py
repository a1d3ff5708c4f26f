"""One MQTT connection, from dialling to its end. The only module that knows paho.

A `Connection` is used once: whatever ends it, the next attempt is a new object with a new paho client, so
no queue, packet id or half-read packet survives. paho's own queueing, threads and reconnecting stay
unused: the caller turns the crank with `step`, and callbacks only append to a list. Name lookup, TCP and
TLS block, so they alone run in a short-lived thread; at most one exists.

The session is clean and subscribes to nothing, hence there is nothing for the broker to keep: what was
not acknowledged is resent from the ledger, never from a session.

Whether the broker lives is judged by our own clock and `broker.keepalive_s`, whatever it says of keep-alive; what
acknowledges a message is its PUBACK and nothing else; no packet larger than MAX_PACKET_BYTES is read.
"""

from __future__ import annotations

import math
import queue
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt import MQTTException
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import MQTTException as PropertiesException  # type: ignore[attr-defined]
from paho.mqtt.properties import Properties, VariableByteIntegers
from paho.mqtt.reasoncodes import ReasonCode

from edge.contract.messages import Message, Topics, canonical_json
from edge.errors import PublishError
from edge.mqtt.password import read_password
from edge.mqtt.tls import NotUsable, tls_context
from edge.settings import BrokerSettings
from edge.system.text import NotUtf8, visible

SUCCESS = 0x00
NO_MATCHING_SUBSCRIBERS = 0x10
REFUSED = 0x80
"""Reason codes from here on are refusals."""
SERVER_SHUTTING_DOWN = 0x8B
SESSION_TAKEN_OVER = 0x8E
RETAIN_NOT_SUPPORTED = 0x9A
MAX_WORDS = 300
"""Characters of what the broker says that are passed on."""
MAX_PACKET_BYTES = 64 * 1024
"""Largest packet that is taken from the broker, which is told so: the longest it has to send is a refusal's words."""
DIAL_GRACE_S = 5.0
"""Dialling may take so much longer than `broker.connect_timeout_s`, which counts for each address of the host."""
TURN_S = 0.02
"""Longest sleep of `exchange` between two looks."""
MAX_READS = 1000
"""Reads of one `step`: who sends without end does not hold it up."""
CLOSE_S = 1.0
"""Time given to the DISCONNECT packet to leave."""
MID_SPAN = 60_000
"""Packet ids wrap at 65,535: none may still be unacknowledged when its turn comes again."""

_NOT_MQTT = (MQTTException, PropertiesException, struct.error, LookupError, ValueError, AssertionError)
"""What paho raises on bytes that are no MQTT packet; until 2.1 two of its modules had an exception each."""
_PUBLISH, _PUBREC, _PUBREL, _PUBCOMP, _PINGREQ = 3, 5, 6, 7, 12
_UNASKED = (_PUBLISH, _PUBREL, _PINGREQ)
"""What a broker has no reason to send to a client without a subscription."""
_USER_PROPERTY = b"\x26"
"""Begins each in a packet (MQTT 5, 2.2.2.2)."""
_IS_IT_MQTT = "is it an MQTT listener, does `broker.tls` suit it, and does it speak the MQTT of `broker.protocol`?"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One PUBLISH."""

    topic: str
    payload: bytes
    qos: int
    retained: bool
    schema: str
    verdict_id: str | None = None

    @classmethod
    def of(cls, message: Message, topics: Topics) -> Outgoing:
        """A message as it is delivered; stored verdicts go out as their bytes instead."""
        return cls(topics.of(message.KIND), canonical_json(message), message.QOS, message.RETAINED, message.schema_id())


@dataclass(frozen=True, slots=True)
class Accepted:
    """The broker said yes, and how much it takes at a time."""

    receive_maximum: int
    maximum_packet_bytes: int | None
    can_retain: bool


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """PUBACK of the packet `mid`; only code 0x00 means that somebody has the message."""

    mid: int
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The connection is over, or never came about."""

    error: PublishError
    is_refusal: bool = False
    """The broker was there and said no."""
    is_protocol_error: bool = False
    """An answer that MQTT does not allow here, or that paho does not understand: a reason code it does not know."""
    is_unexplained: bool = False
    """An accepted connection was closed from the other side without a word."""
    code: int | None = None
    """The broker's reason code, where it gave one."""
    is_at_connect: bool = False
    """The broker was there and did not accept the connection."""


@dataclass(frozen=True, slots=True)
class Stalled:
    """Dialling takes longer than it may, in the name service mostly; it goes on. Said once."""

    error: PublishError


Event = Accepted | Acknowledged | Ended | Stalled
_Answer = Properties | None


def exchange(
    settings: BrokerSettings,
    client_id: str,
    messages: Sequence[Outgoing] = (),
    *,
    patience_s: float,
) -> tuple[Accepted, list[Acknowledged]]:
    """Connect, publish each message (QoS 1) once the one before it was answered, and disconnect; what the broker said.

    Leaves no last will. Raises PublishError when the broker is away or says no to the connection, and when it is not
    done within `patience_s`.
    """
    woken = threading.Event()
    connection = Connection(settings, client_id, None, woken.set)
    accepted: Accepted | None = None
    answers: list[Acknowledged] = []
    sent = 0
    until_s = time.monotonic() + patience_s
    try:
        while (now_s := time.monotonic()) < until_s:
            for incoming in connection.step(now_s):
                match incoming:
                    case Accepted():
                        accepted = incoming
                    case Acknowledged():
                        answers.append(incoming)
                    case Ended():
                        raise incoming.error
            if accepted is not None and len(answers) == len(messages):
                return accepted, answers
            if accepted is not None and sent == len(answers) and connection.publish(messages[sent]) is not None:
                sent += 1
            woken.wait(TURN_S)
            woken.clear()
    finally:
        connection.close()
    where = f"broker {settings.host}:{settings.port}"
    if accepted is None:
        raise PublishError(f"{where} did not answer within {patience_s:g} s", hint=_IS_IT_MQTT)
    raise PublishError(f"{where} did not take a message within {patience_s:g} s", hint="look into the broker's log")


class Connection:
    """One MQTT connection, used once. One thread uses it; the dialling thread calls `wake` when it is done."""

    def __init__(
        self,
        settings: BrokerSettings,
        client_id: str,
        will: Outgoing | None,
        wake: Callable[[], None],
        *,
        may_retain: bool = True,
    ) -> None:
        """`may_retain`: whether will and messages keep their retain flag; they lose it if the broker cannot retain."""
        self._settings = settings
        self._client_id = client_id
        self._will = will
        self._wake = wake
        self._retains = may_retain
        self._where = f"broker {settings.host}:{settings.port}"
        self._dialled: queue.SimpleQueue[_Client | PublishError] = queue.SimpleQueue()
        self._is_abandoned = False
        self._client: _Client | None = None
        self._events: list[Event] = []
        self._is_over = False
        self._is_accepted = False
        self._stalls_at_s: float | None = None
        self._opened_s = 0.0
        self._heard_s = 0.0
        self._unacknowledged: dict[int, float] = {}  # packet id -> when it was sent
        self._now_s = 0.0
        self._complaint = ""
        # A daemon: name lookup may hang for minutes and must not hold up the end of the process.
        self._dialler = threading.Thread(target=self._dial, name="broker-dial", daemon=True)
        self._dialler.start()

    def step(self, now_s: float) -> list[Event]:
        """Read and write what is there, without waiting; what happened since the last call.

        `now_s`: time.monotonic(). After an `Ended` nothing more happens.
        """
        self._now_s = now_s
        if self._client is None:
            self._take_dialled()
            self._check_dialling()
        if self._client is not None and not self._is_over:
            self._turn(self._client)
            self._check_patience()
        events, self._events = self._events, []
        return events

    def publish(self, message: Outgoing) -> int | None:
        """Hand one message to the socket; its packet id, or None when the connection cannot take it (now)."""
        if self._client is None or not self._is_accepted or self._is_over:
            return None
        # A broker that says no and closes makes the next write fail, and paho then drops what it has not read: the no.
        if not self._read(self._client):
            return None
        if self._unacknowledged:
            oldest, newest = next(iter(self._unacknowledged)), next(reversed(self._unacknowledged))
            if (newest - oldest) % 65_535 > MID_SPAN:
                return None
        properties = self._properties(message, PacketTypes.PUBLISH)
        is_retained = message.retained and self._retains
        info = self._client.publish(message.topic, message.payload, message.qos, is_retained, properties)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._end(f"sending to {self._where} failed: {mqtt.error_string(info.rc)}")
            return None
        if message.qos:
            self._unacknowledged[info.mid] = self._now_s
        return info.mid

    def close(self, *, with_will: bool = False) -> None:
        """Say DISCONNECT, which withdraws the last will, and close; waits at most CLOSE_S.

        `with_will`: the broker is to publish the last will. MQTT 3.1.1 has no word for it: the connection just ends.
        """
        self._is_abandoned = True
        client = self._client
        if client is not None and self._is_accepted and not self._is_over and (self._is_v5 or not with_will):
            self._is_over = True
            reason = "Disconnect with will message" if with_will else "Normal disconnection"
            client.disconnect(ReasonCode(PacketTypes.DISCONNECT, reason) if self._is_v5 else None)
            left = select.poll()
            while (sock := client.socket()) is not None and client.want_write():
                left.register(sock.fileno(), select.POLLOUT)
                if not left.poll(CLOSE_S * 1000):
                    break
                client.loop_write()
        self._is_over = True
        self._close_socket()

    def wait_for(self) -> tuple[int, int] | None:
        """File descriptor and poll(2) events that call for the next `step`; None while dialling or over."""
        sock = self._client.socket() if self._client is not None else None
        if sock is None or sock.fileno() < 0 or self._client is None:
            return None
        return sock.fileno(), select.POLLIN | (select.POLLOUT if self._client.want_write() else 0)

    @property
    def _is_v5(self) -> bool:
        return self._settings.protocol == "5"

    def _dial(self) -> None:
        """The dialling thread: everything that blocks."""
        try:
            client = self._new_client()
            where = self._settings.host, self._settings.port, self._settings.keepalive_s
            if self._is_v5:
                properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
                properties.MaximumPacketSize = MAX_PACKET_BYTES
                client.connect(*where, clean_start=True, properties=properties)
            else:  # paho knows clean_session here, and nothing else
                client.connect(*where)
        except (OSError, ValueError) as error:
            self._dialled.put(_publish_error(error, self._where))
        else:
            if self._is_abandoned and (sock := client.socket()) is not None:
                sock.close()
            self._dialled.put(client)
        self._wake()

    def _new_client(self) -> _Client:
        settings = self._settings
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=None if self._is_v5 else True,
            protocol=mqtt.MQTTv5 if self._is_v5 else mqtt.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = settings.connect_timeout_s
        client.max_inflight_messages = 65_535  # the caller counts
        if settings.username is not None:
            client.username_pw_set(settings.username, read_password(settings.password_file))
        if settings.tls:
            client.tls_set_context(tls_context(settings))
        if (will := self._will) is not None:
            properties = self._properties(will, PacketTypes.WILLMESSAGE)
            client.will_set(will.topic, will.payload, will.qos, will.retained and self._retains, properties)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_log = self._on_log
        return client

    def _properties(self, message: Outgoing, packet_type: int) -> Properties | None:
        if not self._is_v5:
            return None
        packed = _common_properties(packet_type, message.schema)
        if message.verdict_id is not None:
            packed += _user_property("verdict_id", message.verdict_id)
        return _Packed(packed)

    def _take_dialled(self) -> None:
        has_ended = not self._dialler.is_alive()
        try:
            outcome = self._dialled.get_nowait()
        except queue.Empty:
            if has_ended:
                raise RuntimeError("the dialling thread ended without a result") from None
            return
        if isinstance(outcome, PublishError):
            self._is_over = True
            self._events.append(Ended(outcome))
        else:
            self._client = outcome
            self._opened_s = self._heard_s = self._now_s

    def _check_dialling(self) -> None:
        timeout_s = self._settings.connect_timeout_s
        if self._client is not None or self._is_over:
            return
        if self._stalls_at_s is None:
            self._stalls_at_s = self._now_s + timeout_s + DIAL_GRACE_S
        elif self._now_s > self._stalls_at_s:
            self._stalls_at_s = math.inf
            message = f"{self._where}: no connection after {timeout_s + DIAL_GRACE_S:g} s of dialling"
            self._events.append(Stalled(PublishError(message, hint="check `broker.host` and the name service")))

    def _turn(self, client: _Client) -> None:
        if self._read(client):
            if client.want_write():
                client.loop_write()
            client.loop_misc()

    def _read(self, client: _Client) -> bool:
        """Take what has arrived; whether the connection still stands."""
        sock = client.socket()
        if sock is None or sock.fileno() < 0:
            self._end(f"the connection to {self._where} was closed")
            return False
        ready = select.poll()
        ready.register(sock.fileno(), select.POLLIN)
        try:
            if ready.poll(0):
                self._heard_s = self._now_s
                client.loop_read()
            for _ in range(MAX_READS):  # decrypted already: poll does not see it
                if not isinstance(sock, ssl.SSLSocket) or sock.fileno() < 0 or not sock.pending():
                    break
                client.loop_read()
        except _TooLargeError as error:
            self._end(f"{self._where} sent {error}", "look into the broker's log: it has nothing to send but answers")
        except _WrongAnswerError as error:
            self._end(f"{self._where} answered a message with {error}, expected PUBACK", is_protocol_error=True)
        except _NOT_MQTT as error:
            self._end(f"{self._where} sent what is no MQTT packet: {error!r}", is_protocol_error=True)
        return not self._is_over

    def _check_patience(self) -> None:
        """End a connection that is open and dead."""
        silence_s = self._now_s - self._heard_s
        timeout_s = self._settings.connect_timeout_s
        if not self._is_accepted and self._now_s - self._opened_s > timeout_s:
            self._end(
                f"{self._where} took the connection but did not answer for {timeout_s:g} s", self._protocol_hint()
            )
        elif silence_s > 1.5 * self._settings.keepalive_s:  # paho has pinged; the broker applies the same rule to us
            self._end(f"{self._where} has been silent for {silence_s:.0f} s")
        elif self._unacknowledged:
            waited_s = self._now_s - next(iter(self._unacknowledged.values()))
            if waited_s > self._settings.keepalive_s:
                self._end(f"{self._where} has not acknowledged a message for {waited_s:.0f} s")

    def _protocol_hint(self) -> str:
        """For a peer that does not answer CONNECT: brokers of MQTT 3.1.1 alone close or stay mute."""
        hint = "check `broker.port` and `broker.tls`, whether it wants a client certificate"
        return hint + (', and whether it speaks MQTT 5 (if not: `broker.protocol = "3.1.1"`)' if self._is_v5 else "")

    def _end(
        self,
        message: str,
        hint: str = "",
        *,
        is_refusal: bool = False,
        is_protocol_error: bool = False,
        is_unexplained: bool = False,
        code: int | None = None,
    ) -> None:
        if self._is_over:
            return
        self._is_over = True
        error = PublishError(message, hint=hint or "check the broker's log and the network")
        self._events.append(Ended(error, is_refusal, is_protocol_error, is_unexplained, code, not self._is_accepted))
        self._close_socket()

    def _close_socket(self) -> None:
        sock = self._client.socket() if self._client is not None else None
        if sock is not None:
            with suppress(OSError):
                sock.close()

    def _on_connect(
        self,
        client: mqtt.Client,
        _data: object,
        _flags: mqtt.ConnectFlags,
        reason: ReasonCode,
        answer: Properties | None,
    ) -> None:
        if reason.is_failure:
            code = reason.value
            message = f"{self._where} refused the connection: {_describe(reason, answer)}"
            self._end(message, _CONNECT_HINTS.get(code, "ask the broker's administrators"), is_refusal=True, code=code)
        elif getattr(answer, "MaximumQoS", 1) < 1:
            self._end(f"{self._where} takes no QoS 1", "allow QoS 1 in the broker", is_refusal=True)
        else:
            assert isinstance(client, _Client)
            client.ping_every(min(self._settings.keepalive_s, getattr(answer, "ServerKeepAlive", 0) or math.inf))
            can_retain = getattr(answer, "RetainAvailable", 1) != 0
            self._is_accepted = True
            self._retains = self._retains and can_retain
            receive_maximum = getattr(answer, "ReceiveMaximum", 65_535)
            self._events.append(Accepted(receive_maximum, getattr(answer, "MaximumPacketSize", None), can_retain))

    def _on_disconnect(
        self, _client: mqtt.Client, _data: object, flags: mqtt.DisconnectFlags, reason: ReasonCode, answer: _Answer
    ) -> None:
        detail = f": {self._complaint}" if self._complaint else ""
        if flags.is_disconnect_packet_from_server:
            message = f"{self._where} ended the connection: {_describe(reason, answer)}"
            is_refusal = reason.value != SERVER_SHUTTING_DOWN
            self._end(message, _CONNECT_HINTS.get(reason.value, ""), is_refusal=is_refusal, code=reason.value)
        elif self._is_accepted:
            self._end(
                f"the connection to {self._where} was lost{detail}",
                f"check the broker's log and the network; if it repeats at once, another client uses the client id "
                f"{self._client_id!r}: give each station its own `broker.client_id`",
                is_protocol_error=reason == "Protocol error",
                is_unexplained=reason != "Protocol error",
            )
        else:
            self._end(f"{self._where} closed the connection before it answered{detail}", self._protocol_hint())

    def _on_publish(self, _client: mqtt.Client, _data: object, mid: int, reason: ReasonCode, answer: _Answer) -> None:
        if mid in self._unacknowledged:  # and not QoS 0, for which paho calls too
            del self._unacknowledged[mid]
            self._events.append(Acknowledged(mid, reason.value, _describe(reason, answer)))

    def _on_log(self, _client: mqtt.Client, _data: object, _level: int, text: str) -> None:
        self._complaint = text


class _Packed(Properties):
    """Properties in the form they are sent in: paho's own search its tables of names for each message anew."""

    def __init__(self, packed: bytes) -> None:
        """`packed`: without their length in front. paho's tables are not made: `pack` needs none."""
        object.__setattr__(self, "packed", VariableByteIntegers.encode(len(packed)) + packed)  # type: ignore[no-untyped-call]

    def pack(self) -> bytes:
        packed: bytes = object.__getattribute__(self, "packed")
        return packed


@cache
def _common_properties(packet_type: int, schema: str) -> bytes:
    """Packed properties of every message of a schema."""
    properties = Properties(packet_type)  # type: ignore[no-untyped-call]
    properties.PayloadFormatIndicator = 1
    properties.ContentType = "application/json"
    properties.UserProperty = [("schema", schema)]
    packed: bytes = properties.pack()  # type: ignore[no-untyped-call]
    _, length_bytes = VariableByteIntegers.decode(packed)  # type: ignore[no-untyped-call]
    return packed[length_bytes:]


def _user_property(name: str, value: str) -> bytes:
    texts = (text.encode() for text in (name, value))
    return _USER_PROPERTY + b"".join(len(text).to_bytes(2, "big") + text for text in texts)


class _TooLargeError(Exception):
    """The broker announced a packet of more than MAX_PACKET_BYTES."""


class _WrongAnswerError(Exception):
    """The broker answered with a packet that is no answer to QoS 1."""


class _Client(mqtt.Client):
    """paho's client, stricter with the broker. Overrides private parts: pyproject.toml bounds paho's version."""

    def ping_every(self, wait_s: float) -> None:
        """Ping after so much silence, also where the broker asks for no keep-alive or a longer one."""
        self._keepalive = int(wait_s)

    def _easy_log(self, level: LogLevel, fmt: str, *args: Any) -> None:
        """paho would format a line for each packet, and we read the complaints alone."""
        if level == LogLevel.MQTT_LOG_ERR:
            super()._easy_log(level, fmt, *args)

    def _sock_recv(self, bufsize: int) -> bytes:
        """`bufsize` is what is left of the packet: a length that is too large is met before anything is kept of it."""
        if bufsize > MAX_PACKET_BYTES:
            raise _TooLargeError(f"a packet of {bufsize} bytes, at most {MAX_PACKET_BYTES} are taken")
        return super()._sock_recv(bufsize)

    def _packet_handle(self) -> MQTTErrorCode:
        kind, packet = self._in_packet["command"] >> 4, self._in_packet["packet"]
        if kind in (_PUBREC, _PUBCOMP):  # paho would close the message, whatever the reason code says
            name = "PUBREC" if kind == _PUBREC else "PUBCOMP"
            raise _WrongAnswerError(f"{name} 0x{packet[2] if len(packet) > 2 else SUCCESS:02x}")
        if kind in _UNASKED:  # paho would answer, and queue the answers for a broker that does not read them
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        return super()._packet_handle()


def _describe(reason: ReasonCode, answer: _Answer) -> str:
    name = f"{reason.getName()} (0x{reason.value:02x})"
    said = _quotable(getattr(answer, "ReasonString", ""))
    moved = _quotable(getattr(answer, "ServerReference", ""))
    return name + (f", {said}" if said else "") + (f", it names {moved}" if moved else "")


def _quotable(said: str) -> str:
    """The broker's words for logs, alarms and terminals, which obey control characters."""
    return visible(said[:MAX_WORDS]) + ("…" if len(said) > MAX_WORDS else "")


def _publish_error(error: OSError | ValueError, where: str) -> PublishError:
    text = getattr(error, "strerror", None) or str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return PublishError(f"{error.filename}: {text}", hint="check the files named in section `broker`")
    if isinstance(error, NotUtf8):
        return PublishError(text, hint="save it as UTF-8: the broker compares the bytes of the password")
    if isinstance(error, NotUsable):
        return PublishError(text, hint="expected PEM: certificates, and a key without a passphrase")
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "check `broker.ca_file`, and that `broker.host` is a name in the broker's certificate"
    elif isinstance(error, ssl.SSLError):
        hint = "check `broker.port`, `broker.tls` and the certificates"
    elif isinstance(error, socket.gaierror):
        hint = "check `broker.host` and the name service"
    elif isinstance(error, ConnectionRefusedError):
        hint = "is the broker running, and is `broker.port` right?"
    else:
        hint = "check the network, the firewall, `broker.host` and `broker.port`"
    return PublishError(f"{where}: {text}", hint=hint)


_CONNECT_HINTS = {
    0x84: 'use a broker that speaks MQTT 5, or set `broker.protocol = "3.1.1"` and lose the report of refusals',
    0x85: "set `broker.client_id` to one the broker allows",
    0x86: "check `broker.username` and `broker.password_file`",
    0x87: "check `broker.username` and `broker.password_file`, and the broker's access list",
    SESSION_TAKEN_OVER: "another client uses the same client id: give each station its own `broker.client_id`",
    0x95: "raise the broker's maximum packet size",
    0x97: "raise the broker's quota for this client",
    RETAIN_NOT_SUPPORTED: "allow retained messages in the broker; the worker goes on without them",
    0x9C: "set `broker.host` to the server it names",
    0x9D: "set `broker.host` to the server it names",
}
