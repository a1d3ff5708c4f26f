"""Alarms that stand, and those the MES has yet to hear of. Thread-safe."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime
from uuid import UUID

from edge.contract.alarm_code import AlarmCode
from edge.contract.messages import Alarm
from edge.system.logs import event

log = logging.getLogger(__name__)

MAX_WAITING = 200
"""Starts and ends kept while the broker is away; the oldest give way. What stands is said anew anyway."""


class AlarmBoard:
    """Every start and end of an alarm is logged once and handed out once to be published."""

    def __init__(self, station: str, boot_id: UUID, clock: Callable[[], datetime]) -> None:
        self._station = station
        self._boot_id = boot_id
        self._clock = clock
        self._lock = threading.Lock()
        self._standing: dict[AlarmCode, Alarm] = {}
        self._waiting: deque[Alarm] = deque(maxlen=MAX_WAITING)

    @property
    def standing(self) -> tuple[AlarmCode, ...]:
        """Codes, sorted."""
        with self._lock:
            return tuple(sorted(self._standing))

    def start(self, code: AlarmCode, message: str, hint: str) -> bool:
        """False if it stands already: these are then its words at its end and over a new connection."""
        alarm = self._alarm(code, message, hint, active=True)
        with self._lock:
            begun = self._standing.get(code)
            if begun is not None:
                self._standing[code] = alarm.model_copy(update={"at": begun.at})
                return False
            self._standing[code] = alarm
            self._waiting.append(alarm)
        event(log.error, "alarm", alarm=code, message=alarm.message, hint=alarm.hint)
        return True

    def end(self, code: AlarmCode) -> bool:
        """False if it does not stand."""
        with self._lock:
            begun = self._standing.pop(code, None)
            if begun is None:
                return False
            self._waiting.append(self._alarm(code, begun.message, begun.hint, active=False))
        event(log.info, "alarm over", alarm=code)
        return True

    def take(self) -> Alarm | None:
        """The next one to publish; None when all are said."""
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def give_back(self, alarms: Iterable[Alarm]) -> None:
        """They did not arrive: first in line again, in this order."""
        with self._lock:
            waiting = [*alarms, *self._waiting]
            self._waiting.clear()
            self._waiting.extend(waiting)

    def say_again(self) -> None:
        """A new connection: hand out what stands once more."""
        with self._lock:
            waiting = {(alarm.code, alarm.at) for alarm in self._waiting if alarm.active}
            self._waiting.extend(alarm for alarm in self._standing.values() if (alarm.code, alarm.at) not in waiting)

    def has_waiting(self) -> bool:
        with self._lock:
            return bool(self._waiting)

    def _alarm(self, code: AlarmCode, message: str, hint: str, *, active: bool) -> Alarm:
        return Alarm(
            station=self._station,
            boot_id=self._boot_id,
            at=self._clock(),
            code=code,
            active=active,
            message=message,
            hint=hint,
        )
