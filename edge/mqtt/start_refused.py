"""The last word of a worker that does not start because its model is refused: one alarm, within seconds or not at all.

Such a worker ends before there is a line, and systemd does not start it again: without this the MES would see no more
than a station that is offline. It speaks under the station's own client id, which may be all that the broker lets in,
and only while no other worker holds the station's ledger.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime
from uuid import uuid4

from edge.contract.messages import Alarm, Status, Topics
from edge.errors import BundleError
from edge.mqtt.connection import Accepted, Acknowledged, Connection, Ended, Outgoing
from edge.mqtt.publisher import program_versions
from edge.settings import Settings
from edge.store.ledger_file import kept_free
from edge.system.logs import event

log = logging.getLogger(__name__)

PATIENCE_S = 5.0
TURN_S = 0.02


def say_model_refused(settings: Settings, refusal: BundleError) -> None:
    """Publish the alarm, if the broker takes it in time. Raises nothing: the refusal is what the caller has to tell."""
    try:
        with kept_free(settings.state.ledger) as is_free:
            outcome = _said(settings, refusal) if is_free else "another worker speaks for this station"
    except OSError as error:
        outcome = f"nobody can say whether another worker runs: {error.strerror}"
    event(log.error, "model refused", error=refusal.message, alarm=outcome)


def _said(settings: Settings, refusal: BundleError) -> str:
    """What became of the alarm."""
    topics, boot_id, now = Topics.of_station(settings), uuid4(), datetime.now(UTC)
    will = Status(
        station=settings.station,
        boot_id=boot_id,
        ledger_id=None,
        state="offline",
        at=now,
        versions=program_versions(),
        degraded=None,
    )
    alarm = Alarm(
        station=settings.station,
        boot_id=boot_id,
        at=now,
        code="model-refused",
        active=True,
        message=refusal.message,
        hint=refusal.hint,
    )
    woken = threading.Event()
    client_id = settings.broker.client_id or topics.client_id
    connection = Connection(settings.broker, client_id, Outgoing.of(will, topics), woken.set)
    try:
        until_s = time.monotonic() + PATIENCE_S
        while (now_s := time.monotonic()) < until_s:
            for event in connection.step(now_s):
                match event:
                    case Accepted():
                        connection.publish(Outgoing.of(alarm, topics))
                    case Acknowledged():
                        return event.reason
                    case Ended():
                        return event.error.message
            woken.wait(TURN_S)
            woken.clear()
        return f"the broker did not take it within {PATIENCE_S:g} s"
    finally:
        connection.close()
