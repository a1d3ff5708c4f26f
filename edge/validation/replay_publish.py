"""`replay --publish`: the verdicts of a replay to the broker, marked as simulated.

They speak as a station of their own, `<station>-replay`: the running line shares the topics' first levels with
it, but neither its sequence numbers, nor its retained status, nor its verdict ids.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from edge.errors import PublishError
from edge.mqtt.publisher import Publisher
from edge.pipeline.loaded_model import LoadedModel
from edge.settings import Settings, StateSettings
from edge.store.ledger import Ledger, open_ledger

STATION_SUFFIX = "-replay"
DELIVERY_TIMEOUT_S = 60.0
"""Without any progress for this long the replay gives up; what is unsent stays in the output's ledger."""


def replay_settings(settings: Settings) -> Settings:
    """Settings under which a replay publishes: the line's, for a station of its own."""
    broker = settings.broker
    client_id = f"{broker.client_id}{STATION_SUFFIX}" if broker.client_id else None
    return settings.model_copy(
        update={
            "station": settings.station + STATION_SUFFIX,
            "broker": broker.model_copy(update={"client_id": client_id}),
        }
    )


@contextmanager
def publishing(settings: Settings, out: Path, model: LoadedModel, boot_id: UUID) -> Iterator[Ledger]:
    """A ledger in `out` whose entries are published as they come; leaving it waits until all are acknowledged.

    Raises LedgerError; PublishError when the broker stops taking them.
    """
    with open_ledger(StateSettings(dir=out / "state").ledger, settings.station) as ledger:
        publisher = Publisher.for_station(settings, ledger, model.card(settings.station, boot_id))
        stop = threading.Event()
        thread = threading.Thread(target=_pump, args=(publisher, stop), name="publish")
        thread.start()
        try:
            yield ledger
            _await_delivery(ledger, publisher)
        finally:
            stop.set()
            publisher.wake()
            thread.join()


def _pump(publisher: Publisher, stop: threading.Event) -> None:
    while not stop.is_set():
        publisher.step(time.monotonic())
    publisher.stop(0.0)


def _await_delivery(ledger: Ledger, publisher: Publisher) -> None:
    """Until nothing is unsent. Raises PublishError when that number stands still for DELIVERY_TIMEOUT_S."""
    left, since_s = ledger.pending().count, time.monotonic()
    while left:
        if time.monotonic() - since_s > DELIVERY_TIMEOUT_S:
            why = ", ".join(publisher.standing_alarms) or "no answer"
            raise PublishError(
                f"{left} verdicts were not acknowledged within {DELIVERY_TIMEOUT_S:.0f} s: {why}",
                hint=f"they stay in {ledger.path}: see to the broker and replay again into the same folder",
            )
        time.sleep(0.05)
        now_left = ledger.pending().count
        if now_left != left:
            left, since_s = now_left, time.monotonic()
