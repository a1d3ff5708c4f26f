"""Delivers the ledger's outbox to the broker, and says how the station is.

The ledger is the only queue. At most a window of its rows is in flight, only while connected, in order of
seq; a row is closed by PUBACK with reason 0x00 and by nothing else. Everything in flight when a
connection ends is simply unsent again and goes out, byte for byte, over the next one.

What the broker refuses stays in the ledger: the connection is kept, verdicts pause with growing waits and
rows are tried one at a time, until the broker takes one; a row that it alone refuses does not hold up the
others (`edge.mqtt.refusals`). Rows behind a refused one may be delivered before it; `seq` tells their order.
Without a subscriber rows are kept too and offered in turn, unless the settings take that for delivery.

`step` and `stop` belong to one thread; the other methods may be called from any.
"""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import random
import select
import socket
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

from edge import __version__
from edge.contract.alarm_code import AlarmCode
from edge.contract.messages import Alarm, Disposition, Health, Message, ModelCard, Status, Topics, Verdict
from edge.errors import LedgerError
from edge.mqtt.alarms import AlarmBoard
from edge.mqtt.concessions import Concessions
from edge.mqtt.connection import (
    NO_MATCHING_SUBSCRIBERS,
    REFUSED,
    SESSION_TAKEN_OVER,
    SUCCESS,
    Accepted,
    Acknowledged,
    Connection,
    Ended,
    Outgoing,
    Stalled,
)
from edge.mqtt.refusals import OFFERS, Backoff, Refusals
from edge.settings import BrokerSettings, Settings
from edge.store.ledger import Ledger, OutboxRow
from edge.system.logs import event

log = logging.getLogger(__name__)

STATE_AGAIN_S = 60.0
"""Between two times that status and model are said on one connection: the worker subscribes to nothing, so what another
client left under their topics would stand, retained, until the next connection."""
WAIT_S = 0.25
"""Longest sleep at the end of a step."""
STABLE_S = 10.0
"""A connection that lives this long is a good one: its alarm ends, and the next wait starts small again."""
TAKEN_OVER_S = 600.0
"""A connection that was not taken over for this long is this station's alone again."""
TAKEOVERS = 5
"""Connections that end without a word, one accepted after the other, while nothing is on its way, are taken for
takeovers when so many do within TAKEN_OVER_S: mosquitto 2.0.11 says nothing to the elder of two clients with one id."""
MARK_BATCH = 100
MARK_S = 0.05
"""Acknowledged rows are marked in the ledger together, so that a slow disk does not slow the sending. A kill
before the mark costs duplicates, at most a window and a batch of them."""
LEDGER_RETRY_S = 1.0
DAMAGE_LOOK_S = 1.0
FAREWELL_S = 2.0
"""Time given to the broker to acknowledge the status `stopped`."""
PACKET_OVERHEAD_BYTES = 256
"""Upper bound of a PUBLISH packet without topic and payload."""


STORED = {message.KIND: message for message in (Verdict, Disposition)}
"""Messages that lie in the ledger as bytes."""


@dataclass(frozen=True, slots=True)
class PublisherState:
    """What became of the messages; the counts are since the start."""

    is_connected: bool
    in_flight: int
    acknowledged: int
    refused: int
    connections: int


class Publisher:
    """Delivers the outbox to the broker. Starting never waits for the broker, and no answer of the broker's raises."""

    def __init__(
        self,
        settings: BrokerSettings,
        topics: Topics,
        ledger: Ledger,
        card: ModelCard,
        *,
        versions: Mapping[str, str],
        clock: Callable[[], datetime],
        rng: random.Random,
    ) -> None:
        """`clock`: wall time for messages and the ledger; waits go by time.monotonic()."""
        self._settings = settings
        self._client_id = settings.client_id or topics.client_id
        self._topics = topics
        self._ledger = ledger
        self._ledger_id = ledger.ledger_id
        self._card = card
        self._versions = dict(versions)
        self._clock = clock

        self._connection: Connection | None = None
        self._accepted: Accepted | None = None
        self._accepted_at_s = 0.0
        self._has_answered = False  # the broker, anything, on this connection
        self._state_at_s = 0.0
        self._unexplained_at_s: deque[float] = deque(maxlen=TAKEOVERS)
        self._dial_at_s = 0.0
        self._dial_backoff = Backoff(settings.backoff_min_s, settings.backoff_max_s, rng)
        self._concessions = Concessions()

        self._in_flight: dict[int, OutboxRow] = {}  # by packet id
        self._unmarked: set[int] = set()  # seqs the broker acknowledged and the ledger does not know of yet
        self._unmarked_since_s = 0.0
        self._fed_to = 0  # the newest row that was sent, or gone round, since the feeding last began anew
        self._refusals = Refusals(settings.backoff_min_s, settings.backoff_max_s, rng)
        self._ledger_at_s = 0.0
        self._damage_at_s = 0.0
        self._is_to_begin_anew = threading.Event()

        self._to_say: deque[Message] = deque()  # status and model
        self._said: dict[int, Message] = {}  # packet id -> status, model or alarm without PUBACK
        self._refused_alarms: list[Alarm] = []  # said again with the state: a quota passes
        self._alarms = AlarmBoard(topics.station, card.boot_id, clock)
        self._health_lock = threading.Lock()
        self._health: Health | None = None

        self._acknowledged = self._refused = self._connections = 0
        self._waker = Waker()
        if settings.protocol != "5":
            log.warning(
                "MQTT 3.1.1 chosen: a broker acknowledges what it refuses, so a verdict that an access list, a quota "
                "or a missing subscriber keeps from the MES counts as delivered; messages carry no schema property"
            )

    @classmethod
    def for_station(cls, settings: Settings, ledger: Ledger, card: ModelCard) -> Publisher:
        """The publisher of a running station."""
        return cls(
            settings.broker,
            Topics.of_station(settings),
            ledger,
            card,
            versions=program_versions(),
            clock=lambda: datetime.now(UTC),
            rng=random.Random(),  # noqa: S311
        )

    @property
    def state(self) -> PublisherState:
        is_connected = self._accepted is not None
        return PublisherState(is_connected, len(self._in_flight), self._acknowledged, self._refused, self._connections)

    @property
    def standing_alarms(self) -> tuple[AlarmCode, ...]:
        """Codes of the alarms that stand, sorted."""
        return self._alarms.standing

    def raise_alarm(self, code: AlarmCode, message: str, hint: str) -> None:
        """Start an alarm; one that stands already is not said again, it takes these words."""
        if self._alarms.start(code, message, hint):
            self.wake()

    def clear_alarm(self, code: AlarmCode) -> None:
        """End an alarm, if it stands."""
        if self._alarms.end(code):
            self.wake()

    def publish_health(self, health: Health) -> None:
        """Goes out with the next step; while the broker is away only the newest is kept."""
        with self._health_lock:
            self._health = health
        self.wake()

    def wake(self) -> None:
        """There are new rows in the ledger: end the sleep of the current step."""
        self._waker.wake()

    def begin_anew(self) -> None:
        """Older rows of the ledger are unsent again: send from the oldest on."""
        self._is_to_begin_anew.set()
        self.wake()

    def step(self, now_s: float, wait_s: float = WAIT_S) -> None:
        """One turn: take what the broker says, give it what it may have; then sleep until something calls.

        `now_s`: time.monotonic(). The sleep ends with the network, with `wake`, or after `wait_s`.
        """
        if self._connection is None and now_s >= self._dial_at_s:
            self._dial()
        self._listen(now_s)
        if self._accepted is not None and now_s >= self._state_at_s and not self._to_say:
            self._say_state(now_s)
        self._say()
        if now_s >= self._ledger_at_s:
            try:
                self._exchange_with_ledger(now_s)
            except LedgerError as error:
                self._ledger_at_s = now_s + LEDGER_RETRY_S
                self.raise_alarm(AlarmCode.OUTBOX_STUCK, error.message, error.hint)
            else:
                self.clear_alarm(AlarmCode.OUTBOX_STUCK)
        self._sleep(wait_s)

    def stop(self, flush_s: float, *, is_clean: bool = True) -> None:
        """Deliver for at most `flush_s`, then say `stopped` and disconnect. Without a broker: at once.

        After a failure (not `is_clean`) the broker says the last will, `offline`, as after a kill.
        """
        until_s = time.monotonic() + flush_s
        while self._accepted is not None and self._owes() and (now_s := time.monotonic()) < until_s:
            self.step(now_s, 0.05)
        if self._accepted is not None and is_clean:
            self._to_say.append(self._status("stopped"))
        until_s = time.monotonic() + FAREWELL_S
        while self._accepted is not None and (self._to_say or self._said) and (now_s := time.monotonic()) < until_s:
            self._say()
            self._sleep(0.05)
            self._listen(now_s)
        with suppress(LedgerError):  # rows without their mark are sent again, which is allowed
            self._mark_sent()
        event(log.info, "publishing ended", **asdict(self.state))
        if self._connection is not None:
            self._connection.close(with_will=not is_clean)
            self._connection = self._accepted = None
        self._waker.close()

    def _owes(self) -> bool:
        """Whether there is anything that more time could bring out."""
        if self._in_flight or self._unmarked or self._to_say or self._said or self._alarms.has_waiting():
            return True
        try:
            aside = self._refusals.aside
            rows = self._ledger.outbox(0, len(aside) + 1)
            is_held = self._refusals.is_probing or self._refusals.is_unheard
            return not is_held and any(row.seq not in aside for row in rows)
        except LedgerError:
            return False

    def _dial(self) -> None:
        self._concessions.begin()
        will = Outgoing.of(self._status("offline"), self._topics) if self._concessions.has_will else None
        may_retain = self._concessions.may_retain
        self._connection = Connection(self._settings, self._client_id, will, self.wake, may_retain=may_retain)

    def _sleep(self, wait_s: float) -> None:
        self._waker.sleep(wait_s, self._connection.wait_for() if self._connection is not None else None)

    def _listen(self, now_s: float) -> None:
        for incoming in self._connection.step(now_s) if self._connection is not None else ():
            match incoming:
                case Accepted():
                    self._on_accepted(incoming, now_s)
                case Acknowledged() if incoming.mid in self._in_flight:
                    self._has_answered = True
                    self._on_row_answered(self._in_flight.pop(incoming.mid), incoming, now_s)
                case Acknowledged():
                    self._has_answered = True
                    self._on_notice_answered(self._said.pop(incoming.mid), incoming)
                case Ended():
                    self._on_ended(incoming, now_s)
                case Stalled():
                    self.raise_alarm(AlarmCode.BROKER_AWAY, incoming.error.message, incoming.error.hint)
        if self._accepted is not None and now_s - self._accepted_at_s > STABLE_S:
            self._dial_backoff.reset()
            self.clear_alarm(AlarmCode.BROKER_AWAY)
            self.clear_alarm(AlarmCode.BROKER_REFUSES)
        if self._accepted is not None and now_s - self._accepted_at_s > TAKEN_OVER_S:
            self.clear_alarm(AlarmCode.STATION_TWICE)

    def _on_accepted(self, accepted: Accepted, now_s: float) -> None:
        if not self._concessions.accepted(can_retain=accepted.can_retain) and self._connection is not None:
            self._connection.close()
            self._connection = None
            self._dial_at_s = now_s
            return
        event(log.info, "broker connected", receive_maximum=accepted.receive_maximum)
        self._accepted = accepted
        self._accepted_at_s = now_s
        self._has_answered = False
        self._connections += 1
        if (missing := self._concessions.missing()) is not None:
            self.raise_alarm(
                AlarmCode.NO_RETAIN,
                f"broker {self._settings.host}:{self._settings.port} {missing}",
                "allow retained messages and a last will in the broker; verdicts do not need them",
            )
        self._say_state(now_s)
        self._alarms.say_again()

    def _say_state(self, now_s: float) -> None:
        self._to_say = deque([self._status("online"), self._card])
        self._alarms.give_back(self._refused_alarms)
        self._refused_alarms.clear()
        self._state_at_s = now_s + STATE_AGAIN_S

    def _on_row_answered(self, row: OutboxRow, answer: Acknowledged, now_s: float) -> None:
        seq = row.seq
        is_delivered = answer.code == NO_MATCHING_SUBSCRIBERS and self._settings.no_subscriber == "delivered"
        if answer.code == SUCCESS or is_delivered:
            self._unmarked_since_s = self._unmarked_since_s if self._unmarked else now_s
            self._unmarked.add(seq)
            self._acknowledged += 1
            if self._refusals.taken(seq, now_s):
                self._fed_to = 0
            self._end_alarms_of_refusals()
            return
        message = f"the broker did not take {row.kind} {seq} on {self._topics.of(row.kind)}: {answer.reason}"
        if answer.code == NO_MATCHING_SUBSCRIBERS:
            self._refused += 1
            self._refusals.unheard(seq, AlarmCode.NO_SUBSCRIBER, now_s)
            hint = (
                "subscribe the MES to it with a fixed client id and a session that outlives its longest outage; where "
                'rules of the broker alone take verdicts, set `broker.no_subscriber = "delivered"`'
            )
            self.raise_alarm(AlarmCode.NO_SUBSCRIBER, message, hint)
            self._end_alarms_of_refusals()
        else:
            hint = f"let client {self._client_id!r} publish there: access list, quota, message size"
            self._on_row_refused(seq, AlarmCode.VERDICT_REFUSED, message, hint, now_s)

    def _on_row_refused(self, seq: int, code: AlarmCode, message: str, hint: str, now_s: float) -> None:
        """The row stays; its alarm stands until the broker takes it."""
        self._refused += 1
        self._fed_to = 0
        self._refusals.refused(seq, code, now_s)
        self.raise_alarm(code, message, hint)
        self._end_alarms_of_refusals()

    def _end_alarms_of_refusals(self) -> None:
        for code in {AlarmCode.NO_SUBSCRIBER, AlarmCode.VERDICT_REFUSED} - self._refusals.alarms:
            self.clear_alarm(code)

    def _on_notice_answered(self, notice: Message, answer: Acknowledged) -> None:
        if notice.RETAINED and self._concessions.is_retaining:
            self._concessions.retained()
            self.clear_alarm(AlarmCode.NO_RETAIN)
        if answer.code >= REFUSED:
            event(log.warning, "broker refuses a notice", topic=self._topics.of(notice.KIND), reason=answer.reason)
            if isinstance(notice, Alarm):
                self._refused_alarms.append(notice)

    def _on_ended(self, ended: Ended, now_s: float) -> None:
        wait_s = self._dial_backoff.next_s()
        event(
            log.warning,
            "broker connection ended",
            error=ended.error.message,
            hint=ended.error.hint,
            retry_s=round(wait_s, 1),
        )
        is_at_retained = any(notice.RETAINED for notice in self._said.values())
        is_done_without = self._concessions.ended(ended, is_at_retained=is_at_retained)
        if ended.code == SESSION_TAKEN_OVER:
            self._tell_of_another_box("took the connection over")
        elif not is_done_without:  # else `_on_accepted` says so
            code = AlarmCode.BROKER_REFUSES if ended.is_refusal else AlarmCode.BROKER_AWAY
            self.raise_alarm(code, ended.error.message, ended.error.hint)
        if self._accepted is None:
            self._unexplained_at_s.clear()  # the broker itself is away
        elif AlarmCode.VERDICT_REFUSED in self._refusals.alarms:
            self._unexplained_at_s.clear()  # some brokers hang up with a refusal
        elif ended.is_unexplained and not self._in_flight and not self._said:
            self._unexplained_at_s.append(now_s)
            if len(self._unexplained_at_s) == TAKEOVERS and now_s - self._unexplained_at_s[0] < TAKEN_OVER_S:
                self._tell_of_another_box(
                    f"seems to take the connection over: {TAKEOVERS} of them ended without a word"
                )
        if self._in_flight:
            seq = self._refusals.culprit(row.seq for row in self._in_flight.values())
            is_lone = self._refusals.is_probing and not self._said
            if ended.is_protocol_error or (is_lone and self._is_refused_by_end(seq, ended)):
                message = f"the broker answered verdict {seq} in a way that ended the connection: {ended.error.message}"
                hint = "look into the broker's log: message size, quota, access list"
                self._on_row_refused(seq, AlarmCode.VERDICT_REFUSED, message, hint, now_s)
            self._refusals.suspect()
        if not self._refusals.is_unheard:  # else the turn goes on where it was
            self._fed_to = 0
        self._alarms.give_back(notice for notice in self._said.values() if isinstance(notice, Alarm))
        self._in_flight.clear()
        self._said.clear()
        self._to_say.clear()
        self._connection = self._accepted = None
        self._dial_at_s = now_s + wait_s

    def _is_refused_by_end(self, seq: int, ended: Ended) -> bool:
        """Whether the end of a connection with this row alone under way is the broker's no to it."""
        return ended.is_refusal or (self._has_answered and self._refusals.is_refused_by_silence(seq))

    def _tell_of_another_box(self, what: str) -> None:
        self.raise_alarm(
            AlarmCode.STATION_TWICE,
            f"another client with the id {self._client_id!r} {what}; two boxes run as one station then; this one "
            f"writes the ledger {self._ledger_id}",
            "stop one of the two, or give it a `station` and a `state.dir` of its own; `ledger_id` in verdicts and "
            "status tells them apart",
        )

    def _exchange_with_ledger(self, now_s: float) -> None:
        if self._accepted is not None and not self._refusals.is_pausing(now_s):
            if self._refusals.is_probing:
                self._probe(self._accepted, now_s)
            else:
                self._feed(self._accepted, now_s)
        is_due = len(self._unmarked) >= MARK_BATCH or now_s - self._unmarked_since_s >= MARK_S
        if is_due or not self._in_flight:
            self._mark_sent()
        if now_s >= self._damage_at_s:
            self._damage_at_s = now_s + DAMAGE_LOOK_S
            self._tell_of_damage()

    def _tell_of_damage(self) -> None:
        """The alarm stands, over a restart too, while there are messages that only `Ledger.damaged` knows."""
        damaged = self._ledger.damaged()
        if not damaged:
            self.clear_alarm(AlarmCode.MESSAGE_DAMAGED)
        else:
            more = f" and {len(damaged) - 5} more" if len(damaged) > 5 else ""
            self.raise_alarm(
                AlarmCode.MESSAGE_DAMAGED,
                f"the ledger no longer holds what was written as message {', '.join(map(str, damaged[:5]))}{more}: "
                "not sent",
                "disk or memory fail: look at both, then inspect these parts again, which ends the alarm; where memory "
                "alone had failed, `edge-worker resend --seq` sends them",
            )

    def _mark_sent(self) -> None:
        if self._unmarked:
            self._ledger.mark_sent(self._unmarked, self._clock())
            self._unmarked.clear()

    def _feed(self, accepted: Accepted, now_s: float) -> None:
        """Fill the window in order of seq.

        It begins anew from the oldest unsent row after a refusal, a resend, the end of a connection, and when all is
        settled; rows in flight are left out then, and so are refused ones until they have their turn again. While
        there is no subscriber it goes through all of them, a few at a time.
        """
        if self._refusals.come_back(now_s) or self._is_to_begin_anew.is_set():
            self._is_to_begin_anew.clear()
            self._fed_to = 0
        room = min(self._settings.window, accepted.receive_maximum - len(self._said)) - len(self._in_flight)
        if self._refusals.is_unheard:
            room = min(room, OFFERS - len(self._in_flight))
        if room <= 0:
            return
        unsettled = {*(row.seq for row in self._in_flight.values()), *self._unmarked}
        left_out = unsettled | self._refusals.aside
        rows = self._ledger.outbox(self._fed_to, room)
        for row in rows:
            if row.seq not in left_out and not self._send_row(row, accepted, now_s):
                return
            self._fed_to = row.seq
        if not rows and not unsettled:
            self._fed_to = 0

    def _probe(self, accepted: Accepted, now_s: float) -> None:
        """Send one row alone, when all that was sent before is answered: its answer, or the end, is its own."""
        if self._in_flight or self._said:
            return
        rows = self._ledger.outbox(self._refusals.probe_after, len(self._unmarked) + 1)
        row = next((row for row in rows if row.seq not in self._unmarked), None)
        self._refusals.probe(row.seq if row is not None else None, now_s)
        if row is not None:
            self._send_row(row, accepted, now_s)

    def _send_row(self, row: OutboxRow, accepted: Accepted, now_s: float) -> bool:
        topic = self._topics.of(row.kind)
        stored = STORED[row.kind]
        message_out = Outgoing(topic, row.payload, stored.QOS, stored.RETAINED, stored.schema_id(), row.verdict_id)
        size_bytes = _packet_bytes(message_out)
        if accepted.maximum_packet_bytes is not None and size_bytes > accepted.maximum_packet_bytes:
            message = f"{row.kind} {row.seq} needs {size_bytes} bytes, the broker takes {accepted.maximum_packet_bytes}"
            self._on_row_refused(
                row.seq, AlarmCode.VERDICT_REFUSED, message, "raise the broker's maximum packet size", now_s
            )
            return False
        mid = self._connection.publish(message_out) if self._connection is not None else None
        if mid is not None:
            self._in_flight[mid] = row
        return mid is not None

    def _say(self) -> None:
        """Status and model first, then alarms, then health."""
        while self._accepted is not None and len(self._in_flight) + len(self._said) < self._accepted.receive_maximum:
            notice = self._to_say.popleft() if self._to_say else self._alarms.take()
            if notice is None:
                break
            if not self._send(notice):  # the connection is over, and its end is about to be heard
                self._alarms.give_back([notice] if isinstance(notice, Alarm) else [])
                break
        with self._health_lock:
            health, self._health = self._health, None
        if health is not None and not self._send(health):
            with self._health_lock:
                self._health = self._health or health

    def _send(self, message: Message) -> bool:
        """False if the connection is over. What the broker has no room for is cut or left out: it would hang up, each
        time anew, and no verdict would get through."""
        outgoing = Outgoing.of(message, self._topics)
        limit_bytes = self._accepted.maximum_packet_bytes if self._accepted is not None else None
        if limit_bytes is not None and (excess_bytes := _packet_bytes(outgoing) - limit_bytes) > 0:
            if isinstance(message, Alarm):  # it may name a file, whose name may be any
                words = message.message[: max(0, len(message.message) - excess_bytes - len("…".encode()))] + "…"
                outgoing = Outgoing.of(message.model_copy(update={"message": words}), self._topics)
            if (size_bytes := _packet_bytes(outgoing)) > limit_bytes:
                event(log.warning, "notice too large for the broker", topic=outgoing.topic, size_bytes=size_bytes)
                return True
        mid = self._connection.publish(outgoing) if self._connection is not None else None
        if mid is not None and message.QOS:
            self._said[mid] = message
        return mid is not None

    def _status(self, state: Literal["online", "stopped", "offline"]) -> Status:
        return Status(
            station=self._topics.station,
            boot_id=self._card.boot_id,
            ledger_id=self._ledger_id,
            state=state,
            reason=None,
            hint=None,
            at=self._clock(),
            versions=self._versions,
            degraded=self._card.degraded,
        )


def _packet_bytes(message: Outgoing) -> int:
    return len(message.payload) + len(message.topic.encode()) + PACKET_OVERHEAD_BYTES


class Waker:
    """One thread sleeps, any may wake it; a call between two sleeps ends the next one at once."""

    def __init__(self) -> None:
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)

    def wake(self) -> None:
        with suppress(OSError):  # full: woken already; closed: no thread sleeps any more
            self._waker.send(b"\0")

    def sleep(self, wait_s: float, wanted: tuple[int, int] | None) -> None:
        """Until somebody wakes, for at most `wait_s`. `wanted`: file descriptor and poll(2) events that wake it."""
        poll = select.poll()
        poll.register(self._woken.fileno(), select.POLLIN)
        if wanted is not None:
            poll.register(*wanted)
        poll.poll(wait_s * 1000)
        with suppress(BlockingIOError):
            self._woken.recv(4096)

    def close(self) -> None:
        self._woken.close()
        self._waker.close()


def program_versions() -> dict[str, str]:
    """Name → version of the program and of what it stands on."""
    versions = {"edge-worker": __version__, "python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for name in ("onnxruntime", "paho-mqtt", "tensorrt"):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
