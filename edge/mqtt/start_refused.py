"""The last word of a worker that does not start: the MES reads `refused` and why, within seconds or not at all.

Such a worker ends before there is a line to speak for it: without this the MES would read `stopped` or `offline` and
nothing of the reason. It speaks under the station's own client id, which may be all that the broker lets in, and only
while no other worker holds the station's ledger. Where the lock may not be read, it speaks
under another id and leaves the retained status alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import uuid4

from edge.contract.alarm_code import AlarmCode
from edge.contract.messages import Alarm, Message, Status, Topics
from edge.errors import EdgeError, PublishError, library_error
from edge.mqtt.connection import Outgoing, exchange
from edge.mqtt.publisher import program_versions
from edge.settings import Settings
from edge.store.ledger_file import keep_free
from edge.system.logs import event

log = logging.getLogger(__name__)

PATIENCE_S = 5.0
UNSURE = "-refused"
"""Behind the client id where another worker may be connected under it."""


@contextmanager
def report_start_refusal(settings: Settings) -> Iterator[None]:
    """Inside, an error is what keeps the worker from starting: the MES is told before it goes on its way."""
    try:
        yield
    except (EdgeError, OSError) as error:
        tell_start_refused(settings, error)
        raise
    except ImportError as error:
        refusal = library_error(error)
        tell_start_refused(settings, refusal)
        raise refusal from error


def tell_start_refused(settings: Settings, refusal: EdgeError | OSError) -> None:
    """Publish status and alarm if the broker takes them in time. Raises nothing: the caller raises the refusal."""
    if isinstance(refusal, EdgeError):
        message, hint = refusal.message, refusal.hint
    else:
        message, hint = str(refusal), "look at the log of the worker: journalctl -u edge-worker"
    try:
        with keep_free(settings.state.ledger) as is_free:
            told = _tell(settings, message, hint) if is_free else "another worker speaks for this station"
    except OSError:
        told = _tell(settings, message, hint, is_sure=False)
    event(log.error, "start refused", error=message, told=told)


def _tell(settings: Settings, message: str, hint: str, *, is_sure: bool = True) -> str:
    """What became of it."""
    topics, broker = Topics.of_station(settings), settings.broker
    boot_id, now = uuid4(), datetime.now(UTC)
    alarm = Alarm(
        station=settings.station,
        boot_id=boot_id,
        at=now,
        code=AlarmCode.START_REFUSED,
        active=True,
        message=message,
        hint=hint,
    )
    status = Status(
        station=settings.station,
        boot_id=boot_id,
        ledger_id=None,
        state="refused",
        reason=message,
        hint=hint,
        at=now,
        versions=program_versions(),
        degraded=None,
    )
    messages: tuple[Message, ...] = (alarm, status) if is_sure else (alarm,)
    client_id = (broker.client_id or topics.client_id) + ("" if is_sure else UNSURE)
    try:
        outgoing = [Outgoing.of(message, topics) for message in messages]
        _, answers = exchange(broker, client_id, outgoing, patience_s=PATIENCE_S)
    except PublishError as error:
        return error.message
    return answers[-1].reason
