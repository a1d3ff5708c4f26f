"""Plays the MES: subscribes as an MES should, keeps every verdict byte for byte, recognises repeats."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Literal

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import ValidationError

from edge.contract.messages import MESSAGES, Kind, ModelCard, Status, Topics, Verdict
from edge.errors import EdgeError

SESSION_EXPIRY_S = 7 * 24 * 3600
SUBSCRIBE_TIMEOUT_S = 10.0


class Mes:
    """What the MES knows. paho's thread only hands over; all else happens in the caller's `receive`."""

    def __init__(self, topics: Topics, record: Path) -> None:
        self.verdicts: dict[str, Verdict] = {}
        """By verdict_id, the key to recognise repeats by."""
        self.repeats = 0
        self.state = "unknown"
        self.model: ModelCard | None = None
        self._filter = topics.of(Kind.VERDICT).removesuffix(Kind.VERDICT) + "#"
        self._record = record
        self._inbox: queue.SimpleQueue[tuple[str, bytes, datetime]] = queue.SimpleQueue()
        self._subscribed = threading.Event()

    @contextmanager
    def connected(self, host: str, port: int, protocol: Literal["5", "3.1.1"]) -> Iterator[None]:
        """Subscribed at QoS 1 from entry to exit; raises EdgeError when the broker does not agree to it."""
        # A fixed client id and no clean start: the broker keeps the messages while the MES is away.
        is_v5 = protocol == "5"
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            "demo-mes",
            clean_session=None if is_v5 else False,
            protocol=mqtt.MQTTv5 if is_v5 else mqtt.MQTTv311,
        )
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        try:
            if is_v5:
                expiry = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
                expiry.SessionExpiryInterval = SESSION_EXPIRY_S
                client.connect(host, port, clean_start=False, properties=expiry)
            else:
                client.connect(host, port)
            client.loop_start()
            if not self._subscribed.wait(SUBSCRIBE_TIMEOUT_S):
                raise OSError(f"no subscription to {self._filter} within {SUBSCRIBE_TIMEOUT_S:.0f} s")
        except OSError as error:
            client.loop_stop()
            raise EdgeError(
                f"the MES and the broker at {host}:{port}: {error}", hint="read broker/broker.log"
            ) from None
        try:
            yield
        finally:
            client.disconnect()
            client.loop_stop()

    def receive(self, timeout_s: float) -> tuple[Verdict, datetime] | None:
        """Take the next message in; a verdict that is new, with its time of arrival, or None.

        Raises EdgeError for a message that is not as its published schema says.
        """
        try:
            topic, payload, at = self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            return None
        kind = topic.rpartition("/")[2]
        if kind == Kind.VERDICT:
            with self._record.open("ab") as stream:
                stream.write(payload + b"\n")
        try:
            message = next(model for model in MESSAGES if kind == model.KIND).model_validate_json(payload)
        except (ValidationError, StopIteration) as error:
            raise EdgeError(f"{topic}: {payload[:200]!r} {error}", hint="compare with edge/contract/schema/") from None
        if isinstance(message, Status):
            self.state = message.state
        elif isinstance(message, ModelCard):
            self.model = message
        elif isinstance(message, Verdict):
            if message.verdict_id not in self.verdicts:
                self.verdicts[message.verdict_id] = message
                return message, at
            self.repeats += 1
        return None

    def missing_seqs(self) -> list[int]:
        """Sequence numbers up to the highest received that never came: lost messages."""
        seqs = {verdict.seq for verdict in self.verdicts.values()}
        return sorted(set(range(1, max(seqs, default=0) + 1)) - seqs)

    def _on_connect(self, client: mqtt.Client, _data: object, _flags: object, reason: ReasonCode, _: object) -> None:
        if not reason.is_failure:
            client.subscribe(self._filter, qos=1)

    def _on_subscribe(self, _client: object, _data: object, _mid: int, reasons: list[ReasonCode], _: object) -> None:
        if not any(reason.is_failure for reason in reasons):
            self._subscribed.set()

    def _on_message(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        self._inbox.put((message.topic, bytes(message.payload), datetime.now().astimezone()))
