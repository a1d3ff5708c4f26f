"""The publisher against a real broker: delivery, refusals, interruptions, TLS, what the MES is told."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from paho.mqtt.publish import single

import edge.mqtt.publisher
from edge.contract.alarm_code import AlarmCode
from edge.contract.messages import Topics, Verdict
from edge.errors import LedgerError
from edge.mqtt.concessions import CONCESSION_ENDS
from edge.mqtt.publisher import Publisher
from edge.mqtt.refusals import OFFERS
from edge.settings import BrokerSettings, Settings, TopicSettings
from edge.store.ledger import Ledger, OutboxRow, open_ledger
from edge.store.requests import ResendRequest
from tests.support.mosquitto import Mosquitto, Recorder, needs_mosquitto
from tests.support.relay import Relay
from tests.support.samples import MORNING, STATION, sample_answer, sample_entry, sample_health, sample_model_card
from tests.torture.fake_broker import FakeBroker
from tools.examples import BOOT_ID

pytestmark = [pytest.mark.broker, needs_mosquitto]

REPOSITORY = Path(__file__).parents[3]
TOPICS = Topics("acme", "berlin", "coating", "line2", STATION)
PREFIX = f"acme/berlin/coating/line2/{STATION}/inspection"
PATIENCE_S = 60.0


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path / "state" / "ledger.sqlite", STATION) as opened:
        yield opened


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker") as running:
        yield running


@pytest.fixture(autouse=True)
def _soon_stable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A good connection proves itself in a moment."""
    monkeypatch.setattr(edge.mqtt.publisher, "STABLE_S", 0.1)


def settings_for(broker: Mosquitto, **changes: Any) -> BrokerSettings:
    """Short waits; `changes` may go below what the settings file allows."""
    plain = BrokerSettings(host=broker.host, port=broker.port, backoff_min_s=0.05, backoff_max_s=0.4)
    return plain.model_copy(update=changes)


@contextlib.contextmanager
def publishing(settings: BrokerSettings, ledger: Ledger) -> Iterator[Publisher]:
    publisher = Publisher(
        settings,
        TOPICS,
        ledger,
        sample_model_card(),
        versions={"edge-worker": "1.0.0"},
        clock=lambda: datetime.now(UTC),
        rng=random.Random(1),
    )
    try:
        yield publisher
    finally:
        publisher.stop(0)


def drive(publisher: Publisher, is_done: Callable[[], bool]) -> None:
    """Turn the crank until something holds."""
    until_s = time.monotonic() + PATIENCE_S
    while not is_done():
        assert time.monotonic() < until_s, f"{publisher.state}, alarms {publisher.standing_alarms}"
        publisher.step(time.monotonic(), 0.02)


def drive_for(publisher: Publisher, seconds: float) -> None:
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        publisher.step(time.monotonic(), 0.02)


def drain(publisher: Publisher, ledger: Ledger) -> None:
    drive(publisher, lambda: ledger.pending().count == 0)


def fill(ledger: Ledger, first: int, last: int) -> list[OutboxRow]:
    """Verdicts `first` to `last`, as the ledger keeps them."""
    ledger.commit([sample_entry(number) for number in range(first, last + 1)], datetime.now(UTC))
    return ledger.outbox(first - 1, last - first + 1)


def payloads(rows: list[OutboxRow]) -> list[bytes]:
    return [row.payload for row in rows]


def alarms_of(recorder: Recorder) -> list[tuple[str, bool]]:
    said = [json.loads(payload) for payload in recorder.payloads("alarm")]
    return [(alarm["code"], alarm["active"]) for alarm in said]


def broker_of(fake: FakeBroker, **changes: Any) -> BrokerSettings:
    plain = BrokerSettings(host="127.0.0.1", port=fake.port, backoff_min_s=0.05, backoff_max_s=0.1)
    return plain.model_copy(update=changes)


def seqs_of(packets: list[bytes]) -> list[int]:
    return [json.loads(packet[packet.index(b'{"boot_id"') :])["seq"] for packet in packets]


def test_verdicts_arrive_once_in_order_with_the_bytes_of_the_ledger(broker: Mosquitto, ledger: Ledger) -> None:
    rows = fill(ledger, 1, 250)
    with Recorder(broker) as recorder, publishing(settings_for(broker), ledger) as publisher:
        drain(publisher, ledger)
        more = fill(ledger, 251, 260)
        drain(publisher, ledger)
        assert payloads(rows + more) == [message.payload for message in recorder.wait_for("verdict", 260)]
        assert publisher.state.connections == 1
        assert publisher.standing_alarms == ()


def test_a_station_publishes_by_its_settings(broker: Mosquitto, ledger: Ledger) -> None:
    names = TopicSettings(root="acme", site="berlin", area="coating", line="line2")
    settings = Settings(station=STATION, broker=settings_for(broker), topic=names)
    (row,) = fill(ledger, 1, 1)
    with Recorder(broker) as recorder:
        publisher = Publisher.for_station(settings, ledger, sample_model_card())
        drain(publisher, ledger)
        publisher.stop(1.0)
        assert [message.payload for message in recorder.wait_for("verdict", 1)] == [row.payload]
        status = json.loads(recorder.wait_for("status", 1)[0].payload)
        assert status["versions"]["edge-worker"] == edge.__version__
    broker.stop()
    assert f"as {TOPICS.client_id} (p5, c1, k30)" in "\n".join(broker.log)


def test_a_verdict_carries_its_mqtt5_properties(broker: Mosquitto, ledger: Ledger) -> None:
    (row,) = fill(ledger, 1, 1)
    with Recorder(broker) as recorder, publishing(settings_for(broker), ledger) as publisher:
        drain(publisher, ledger)
        (message,) = recorder.wait_for("verdict", 1)
    assert message.topic == f"{PREFIX}/verdict"
    assert (message.qos, message.retained) == (1, False)
    assert message.properties["ContentType"] == "application/json"
    assert message.properties["PayloadFormatIndicator"] == 1
    assert dict(message.properties["UserProperty"]) == {"schema": "verdict/1", "verdict_id": row.verdict_id}
    assert Verdict.model_validate_json(message.payload).seq == 1


def test_a_broker_that_is_absent_at_the_start_is_served_when_it_comes(tmp_path: Path, ledger: Ledger) -> None:
    rows = fill(ledger, 1, 30)
    broker = Mosquitto(tmp_path / "broker")
    with publishing(settings_for(broker), ledger) as publisher:
        drive(publisher, lambda: "broker-away" in publisher.standing_alarms)
        with broker, Recorder(broker) as recorder:
            drain(publisher, ledger)
            assert [message.payload for message in recorder.wait_for("verdict", 30)] == payloads(rows)
            drive(publisher, lambda: ("broker-away", False) in alarms_of(recorder))
        assert publisher.standing_alarms == ()


def test_a_broker_that_goes_and_comes_back_gets_everything_in_order(tmp_path: Path, ledger: Ledger) -> None:
    broker = Mosquitto(tmp_path / "broker", persistence=True, max_queued=0)
    with broker, Recorder(broker) as recorder, publishing(settings_for(broker), ledger) as publisher:
        rows = fill(ledger, 1, 20)
        drain(publisher, ledger)
        broker.stop()
        rows += fill(ledger, 21, 60)
        drive(publisher, lambda: "broker-away" in publisher.standing_alarms)
        rows += fill(ledger, 61, 80)
        broker.start()
        drain(publisher, ledger)
        recorder.wait_for_payload("verdict", rows[-1].payload)
        seen = list(dict.fromkeys(recorder.payloads("verdict")))
        assert seen == payloads(rows)
        assert publisher.state.connections == 2


def resend(publisher: Publisher, ledger: Ledger, since: datetime) -> None:
    """As the line does it on request."""
    ledger.requeue(ResendRequest(since=since))
    publisher.begin_anew()


def test_what_a_killed_broker_acknowledged_and_forgot_comes_with_a_resend(tmp_path: Path, ledger: Ledger) -> None:
    """Rows in flight at the kill go out again by themselves; an acknowledgement in vain needs the resend."""
    broker = Mosquitto(tmp_path / "broker")
    rows = fill(ledger, 1, 1500)
    started_at = datetime.now(UTC)
    with broker, publishing(settings_for(broker), ledger) as publisher:
        with Recorder(broker) as before:
            drive(publisher, lambda: publisher.state.acknowledged >= 200)
            broker.kill()
            drive(publisher, lambda: not publisher.state.is_connected)
            assert publisher.state.in_flight == 0
        unsent = ledger.outbox(0, 5000)
        assert 0 < len(unsent) < 1500
        broker.start()
        with Recorder(broker, client_id="second") as after:
            drain(publisher, ledger)
            after.wait_for("verdict", len(unsent))
            assert after.payloads("verdict") == payloads(unsent)
            resend(publisher, ledger, started_at)
            drive(publisher, lambda: publisher.state.acknowledged >= 3000)
            after.wait_for("verdict", len(unsent) + 1500)
        assert after.payloads("verdict")[len(unsent) :] == payloads(rows)
        assert set(before.payloads("verdict")) <= set(payloads(rows))


def test_a_refusal_is_heard_from_a_broker_that_hangs_up_with_it(ledger: Ledger) -> None:
    """So does mosquitto 2.0.11 without a limit on queued messages; rows behind the refused one hide the refusal."""
    fill(ledger, 1, 200)
    with FakeBroker() as fake:
        fake.code, fake.hangs_up = 0x87, True
        with publishing(broker_of(fake, backoff_max_s=0.4), ledger) as publisher:
            drive(publisher, lambda: "verdict-refused" in publisher.standing_alarms)
            assert ledger.pending().count == 200
            fake.code = 0
            drain(publisher, ledger)


@pytest.mark.parametrize("way", ["answers", "hangs_up", "disconnects"])
@pytest.mark.parametrize("seqs", [(1,), (3, 70, 71)])
def test_verdicts_the_broker_cannot_bear_do_not_hold_up_the_others(
    ledger: Ledger, way: str, seqs: tuple[int, ...]
) -> None:
    """Each refused row stays unsent under its alarm, is tried again, and closed only when the broker takes it."""
    rows = fill(ledger, 1, 200)
    with FakeBroker() as fake:
        fake.poison = tuple(rows[seq - 1].verdict_id.encode() for seq in seqs)
        fake.code, fake.hangs_up, fake.disconnects = 0x99, way == "hangs_up", way == "disconnects"
        with publishing(broker_of(fake, backoff_max_s=0.4), ledger) as publisher:
            drive(publisher, lambda: ledger.pending().count == len(seqs))
            assert [row.seq for row in ledger.outbox(0, 10)] == [*seqs]
            fill(ledger, 201, 220)
            drive(publisher, lambda: ledger.pending().count == len(seqs))
            refused = publisher.state.refused
            drive(publisher, lambda: publisher.state.refused > refused + len(seqs))
            drive(publisher, lambda: "verdict-refused" in publisher.standing_alarms)
            fake.code = 0
            drain(publisher, ledger)
            drive(publisher, lambda: publisher.standing_alarms == ())
        assert all(any(row.payload in packet for packet in fake.taken) for row in rows)


def test_the_alarm_of_one_refused_verdict_stands_while_others_pass(ledger: Ledger) -> None:
    rows = fill(ledger, 1, 1)
    with FakeBroker() as fake:
        fake.poison, fake.code = (rows[0].verdict_id.encode(),), 0x99
        with publishing(broker_of(fake, backoff_max_s=0.4), ledger) as publisher:
            drive(publisher, lambda: "verdict-refused" in publisher.standing_alarms)
            drive_for(publisher, 0.3)
            fill(ledger, 2, 100)
            for number in range(101, 130):
                fill(ledger, number, number)
                drive(publisher, lambda: ledger.pending().count == 1)
                assert publisher.standing_alarms == ("verdict-refused",)
            taken = seqs_of(fake.taken)
    assert taken == list(range(2, 130))


def test_without_a_subscriber_rows_stay_and_go_out_when_one_comes(broker: Mosquitto, ledger: Ledger) -> None:
    rows = fill(ledger, 1, 300)
    with publishing(settings_for(broker), ledger) as publisher:
        drive(publisher, lambda: "no-subscriber" in publisher.standing_alarms)
        drive_for(publisher, 0.5)
        assert ledger.pending().count == 300
        assert publisher.state.is_connected
        with Recorder(broker) as recorder:
            drain(publisher, ledger)
            found = [message.payload for message in recorder.wait_for("verdict", 300)]
            assert sorted(found) == sorted(payloads(rows))
            behind = found[OFFERS:]  # those in front found the subscriber; all others come in order
            assert behind == [payload for payload in payloads(rows) if payload in set(behind)]
            assert publisher.standing_alarms == ()
        assert publisher.state.connections == 1


@pytest.mark.parametrize("swallows", ["hangs up", "says nothing"])
def test_a_verdict_that_the_broker_swallows_without_a_word_does_not_hold_up_the_others(
    ledger: Ledger, swallows: Literal["hangs up", "says nothing"]
) -> None:
    fill(ledger, 1, 5)
    with FakeBroker() as fake:
        fake.code, fake.poison, fake.swallows = 0x83, (b'"seq":3,',), swallows
        with publishing(broker_of(fake, keepalive_s=1), ledger) as publisher:
            drive(publisher, lambda: len(fake.levels) >= 3)
            fill(ledger, 6, 9)  # what comes when the broker is known to end connections
            drive(publisher, lambda: ledger.pending().count == 1)
            assert "verdict-refused" in publisher.standing_alarms
            assert [row.seq for row in ledger.outbox(0, 10)] == [3]
            fake.code = 0
            drain(publisher, ledger)
            drive(publisher, lambda: "verdict-refused" not in publisher.standing_alarms)
        assert set(seqs_of(fake.taken)) == set(range(1, 10))


def test_while_nobody_is_subscribed_each_row_is_offered_in_turn(ledger: Ledger) -> None:
    """Rules of the broker may take them; one row over and over is no use to anybody."""
    fill(ledger, 1, 10)
    with FakeBroker() as fake, publishing(broker_of(fake, window=5), ledger) as publisher:
        fake.code = 0x10
        drive(publisher, lambda: len(fake.offered) >= 32)
        fill(ledger, 11, 11)
        drive(publisher, lambda: 11 in seqs_of(fake.offered))
        times = Counter(seqs_of(fake.offered))
        assert max(times.values()) - min(times[seq] for seq in range(1, 11)) <= 2
        assert ledger.pending().count == 11
        assert publisher.standing_alarms == ("no-subscriber",)
        fake.code = 0
        drain(publisher, ledger)
        assert publisher.standing_alarms == ()
        first, *others = seqs_of(fake.taken)
        assert others == [seq for seq in range(1, 12) if seq != first]


def test_a_turn_goes_on_over_a_new_connection(ledger: Ledger) -> None:
    fill(ledger, 1, 20)
    with FakeBroker() as fake, publishing(broker_of(fake, window=3), ledger) as publisher:
        fake.code = 0x10
        for count in (4, 8, 12, 16, 20):
            drive(publisher, lambda count=count: len(set(seqs_of(fake.offered))) >= count)  # type: ignore[misc]
            fake.drop()
        assert len(fake.offered) <= 20 + 5 * OFFERS
        assert ledger.pending().count == 20


def test_one_topic_without_a_subscriber_does_not_hold_up_the_others(ledger: Ledger) -> None:
    rows = fill(ledger, 1, 60)
    with FakeBroker() as fake, publishing(broker_of(fake), ledger) as publisher:
        fake.poison, fake.code = tuple(rows[seq - 1].verdict_id.encode() for seq in (2, 40)), 0x10
        drive(publisher, lambda: ledger.pending().count == 2)
        fill(ledger, 61, 70)
        drive(publisher, lambda: ledger.pending().count == 2)
        assert publisher.standing_alarms == ("no-subscriber",)
        fake.code = 0
        drain(publisher, ledger)


def test_a_broker_whose_rules_alone_take_verdicts_may_count_as_delivery(ledger: Ledger) -> None:
    fill(ledger, 1, 20)
    with FakeBroker() as fake, publishing(broker_of(fake, no_subscriber="delivered"), ledger) as publisher:
        fake.code = 0x10
        drain(publisher, ledger)
        assert seqs_of(fake.offered) == list(range(1, 21))
        assert publisher.standing_alarms == ()
        fake.code = 0x87
        fill(ledger, 21, 21)
        drive(publisher, lambda: publisher.standing_alarms == ("verdict-refused",))
        assert ledger.pending().count == 1


@pytest.mark.parametrize("way", ["", "will", "message"])
def test_a_broker_without_retained_messages_gets_verdicts_and_an_alarm_says_what_it_cannot_have(
    ledger: Ledger, way: Literal["", "will", "message"]
) -> None:
    fill(ledger, 1, 20)
    with FakeBroker() as fake:
        fake.refuses_retained = way
        fake.properties = b"\x25\x00" if way != "message" else b""
        with publishing(broker_of(fake), ledger) as publisher:
            drain(publisher, ledger)
            drive(publisher, lambda: publisher.standing_alarms == ("no-retain",))
            connections = publisher.state.connections
            drive_for(publisher, 0.3)
            assert publisher.state.connections == connections
            if way != "message":  # a refusal may be lost with the connection it ends
                assert (connections, fake.retained) == (1, [])
            fake.refuses_retained, fake.properties = "", b""
            fake.drop()
            drive(publisher, lambda: publisher.state.connections > connections)
            fake.drop()
            drive(publisher, lambda: publisher.standing_alarms == ())


@pytest.mark.parametrize(("wills", "code"), [("retained", None), ("retained", 0x87), ("all", None), ("all", 0x83)])
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_broker_that_refuses_the_last_will_gets_verdicts_and_an_alarm_says_what_it_cannot_have(
    ledger: Ledger,
    wills: Literal["retained", "all"],
    code: int | None,
    protocol: Literal["5", "3.1.1"],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Before it accepts the connection, with a code that says nothing of it, or no word at all."""
    fill(ledger, 1, 20)
    with FakeBroker() as fake:
        fake.refuses_wills, fake.will_code = wills, code if protocol == "5" or code is None else 5
        with publishing(broker_of(fake, protocol=protocol), ledger) as publisher:
            drain(publisher, ledger)
            drive(publisher, lambda: "no-retain" in publisher.standing_alarms)
            assert publisher.state.connections == 1
            said = [str(record.__dict__) for record in caplog.records]
            assert any("takes no last will" in text for text in said) is (wills == "all")
            fake.drop()
            drive(publisher, lambda: publisher.state.connections == 2)
            fill(ledger, 21, 22)
            drain(publisher, ledger)
            assert fake.retained == []
            fake.refuses_wills = ""
            fake.drop()
            drive(publisher, lambda: "no-retain" not in publisher.standing_alarms)
            assert fake.retained


def test_a_broker_that_refused_connections_for_another_reason_is_not_left_without_a_will(ledger: Ledger) -> None:
    """An access list that is mended while the worker tries in turn without what may be refused."""
    with FakeBroker() as fake:
        fake.refuses_wills, fake.will_code = "all", 0x87
        with publishing(broker_of(fake), ledger) as publisher:
            drive(publisher, lambda: len(fake.levels) > CONCESSION_ENDS)
            fake.refuses_wills = ""
            drive(publisher, lambda: bool(fake.retained))
            assert publisher.standing_alarms in ((), ("broker-refuses",))
            assert publisher.state.connections == 1


@pytest.mark.parametrize(("way", "protocol"), [("kicks", "5"), ("closes", "5"), ("closes", "3.1.1")])
def test_a_broker_that_ends_the_connection_at_a_retained_message_gets_verdicts_and_no_row_is_blamed(
    ledger: Ledger, way: Literal["kicks", "closes"], protocol: Literal["5", "3.1.1"]
) -> None:
    """Some say 0x83 instead of 0x9A; MQTT 3.1.1 has no word for it at all."""
    fill(ledger, 1, 20)
    with FakeBroker() as fake:
        fake.refuses_retained = way
        with publishing(broker_of(fake, protocol=protocol), ledger) as publisher:
            drive(publisher, lambda: ledger.pending().count == 0 or "verdict-refused" in publisher.standing_alarms)
            drive(publisher, lambda: publisher.standing_alarms == ("no-retain",))
            connections = publisher.state.connections
            assert connections <= CONCESSION_ENDS + 1
            fill(ledger, 21, 22)
            drain(publisher, ledger)
            assert publisher.state.connections == connections
            fake.drop()
            drive(publisher, lambda: publisher.state.connections > connections)  # tries once whether it retains by now
            fill(ledger, 23, 24)
            drain(publisher, ledger)
            assert "no-retain" in publisher.standing_alarms
            assert publisher.state.connections <= connections + 2
            fake.refuses_retained = ""
            fake.drop()
            drive(publisher, lambda: publisher.standing_alarms == ())


def test_an_alarm_that_the_broker_refused_for_a_while_is_said_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a quota: else the MES would hear of its end alone."""
    monkeypatch.setattr(edge.mqtt.publisher, "STATE_AGAIN_S", 0.2)
    with FakeBroker() as fake, publishing(broker_of(fake), ledger) as publisher:
        drive(publisher, lambda: publisher.state.is_connected)
        fake.alarm_code = 0x97
        publisher.raise_alarm(AlarmCode.DISK_LOW, "little is free", "free some")
        drive(publisher, lambda: len(fake.refused_alarms) >= 2)
        fake.alarm_code = 0
        drive(publisher, lambda: len(fake.alarms) == 1)
        drive_for(publisher, 0.5)
        assert len(fake.alarms) == 1
        assert publisher.state.connections == 1


def test_a_refusal_is_probed_with_single_rows_at_growing_intervals(broker: Mosquitto, ledger: Ledger) -> None:
    fill(ledger, 1, 50)
    with publishing(settings_for(broker, window=50), ledger) as publisher:
        drive(publisher, lambda: "no-subscriber" in publisher.standing_alarms)
        drive(publisher, lambda: publisher.state.in_flight == 0)
        refused = publisher.state.refused
        drive_for(publisher, 1.5)
        assert 6 <= publisher.state.refused - refused <= 30


ACL = f"user mes\ntopic read #\nuser edge\ntopic write {PREFIX}/status\ntopic write {PREFIX}/alarm\n"


def test_an_access_list_that_denies_verdicts_closes_no_row(tmp_path: Path, ledger: Ledger) -> None:
    passwords = tmp_path / "password"
    passwords.write_text("secret\n")
    broker = Mosquitto(tmp_path / "broker", acl=ACL, users={"edge": "secret", "mes": "other"})
    settings = settings_for(broker, username="edge", password_file=passwords)
    rows = fill(ledger, 1, 40)
    with broker, Recorder(broker, username="mes", password="other") as recorder:
        with publishing(settings, ledger) as publisher:
            drive(publisher, lambda: ("verdict-refused", True) in alarms_of(recorder))
            assert ledger.pending().count == 40
            broker.write_acl(ACL + f"topic write {PREFIX}/verdict\n")
            broker.reload()
            drain(publisher, ledger)
            recorder.wait_for_payload("verdict", rows[-1].payload)
            drive(publisher, lambda: ("verdict-refused", False) in alarms_of(recorder))
        assert list(dict.fromkeys(recorder.payloads("verdict"))) == payloads(rows)


@pytest.mark.parametrize("limit", ["message_size_limit 800", "max_packet_size 1000"])
def test_a_message_too_large_for_the_broker_closes_no_row(tmp_path: Path, ledger: Ledger, limit: str) -> None:
    fill(ledger, 1, 5)
    with (
        Mosquitto(tmp_path / "broker", extra=[limit]) as broker,
        Recorder(broker),
        publishing(settings_for(broker), ledger) as publisher,
    ):
        drive(publisher, lambda: "verdict-refused" in publisher.standing_alarms)
        drive_for(publisher, 0.3)
        assert ledger.pending().count == 5


def test_a_notice_too_large_for_the_broker_is_cut_or_left_out_and_the_verdicts_get_through(
    tmp_path: Path, ledger: Ledger
) -> None:
    """Broker that ends the connection at such a packet, each time anew."""
    with (
        Mosquitto(tmp_path / "broker", extra=["max_packet_size 2000"]) as broker,
        Recorder(broker) as recorder,
        publishing(settings_for(broker), ledger) as publisher,
    ):
        publisher.raise_alarm("scans-refused", "the last one: " + "\\u0001" * 250, "look at the station")
        publisher.raise_alarm("share-away", "the share is away", "mount it " * 250)
        drive(publisher, lambda: len(alarms_of(recorder)) == 1)
        rows = fill(ledger, 1, 5)
        drain(publisher, ledger)
        assert [message.payload for message in recorder.wait_for("verdict", 5)] == payloads(rows)
        assert publisher.state.connections == 1
        (said,) = recorder.payloads("alarm")
        words = json.loads(said)["message"]
        assert words.startswith("the last one: ") and words.endswith("…") and len(words) > 1000


def test_a_broker_that_takes_two_messages_at_a_time_is_given_no_more(tmp_path: Path, ledger: Ledger) -> None:
    """The receive maximum of MQTT 5, notices included."""
    rows = fill(ledger, 1, 50)
    most = 0
    with (
        Mosquitto(tmp_path / "broker", extra=["max_inflight_messages 2"]) as broker,
        Recorder(broker) as recorder,
        publishing(settings_for(broker), ledger) as publisher,
    ):
        publisher.raise_alarm("share-away", "the share is away", "mount it")
        while ledger.pending().count:
            publisher.step(time.monotonic(), 0.02)
            most = max(most, publisher.state.in_flight)
        assert [message.payload for message in recorder.wait_for("verdict", 50)] == payloads(rows)
    assert most == 2


def test_a_wrong_password_raises_an_alarm_and_a_mended_file_needs_no_restart(tmp_path: Path, ledger: Ledger) -> None:
    passwords = tmp_path / "password"
    passwords.write_text("wrong\n")
    fill(ledger, 1, 3)
    with Mosquitto(tmp_path / "broker", users={"edge": "secret", "mes": "other"}) as broker:
        settings = settings_for(broker, username="edge", password_file=passwords)
        with (
            Recorder(broker, username="mes", password="other") as recorder,
            publishing(settings, ledger) as publisher,
        ):
            drive(publisher, lambda: "broker-refuses" in publisher.standing_alarms)
            passwords.write_text("secret\n")
            drain(publisher, ledger)
            drive(publisher, lambda: ("broker-refuses", False) in alarms_of(recorder))
            said = json.loads(recorder.payloads("alarm")[0])
            assert "Not authorized" in said["message"]
            assert "password_file" in said["hint"]


def test_status_and_model_are_retained_and_say_stopped_after_a_clean_stop(broker: Mosquitto, ledger: Ledger) -> None:
    with publishing(settings_for(broker), ledger) as publisher:
        drive(publisher, lambda: publisher.state.is_connected)
        drive_for(publisher, 0.1)
        with Recorder(broker, client_id="late") as late:
            (online,) = late.wait_for("status", 1)
            (model,) = late.wait_for("model", 1)
            assert online.retained and model.retained
            assert json.loads(online.payload)["state"] == "online"
            assert json.loads(online.payload)["boot_id"] == str(BOOT_ID)
            assert json.loads(model.payload)["id"] == "demo-1"
            publisher.stop(1.0)
            late.wait_for("status", 2)
        with Recorder(broker, client_id="later") as later:
            (stopped,) = later.wait_for("status", 1)
            assert json.loads(stopped.payload)["state"] == "stopped"


def test_a_status_that_another_client_left_stands_until_it_is_said_again(
    broker: Mosquitto, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker subscribes to nothing, so it cannot see it; an access list of the broker keeps it away."""
    monkeypatch.setattr(edge.mqtt.publisher, "STATE_AGAIN_S", 0.2)
    with publishing(settings_for(broker), ledger) as publisher, Recorder(broker) as mes:
        drive(publisher, lambda: len(mes.messages("model")) == 1)
        forged = b'{"state":"stopped"}'
        single(f"{PREFIX}/status", forged, 1, retain=True, hostname=broker.host, port=broker.port)
        drive(publisher, lambda: forged in mes.payloads("status")[:-1])
        with Recorder(broker, client_id="late") as late:
            (kept,) = late.wait_for("status", 1)
            assert json.loads(kept.payload)["state"] == "online"
        assert publisher.state.connections == 1


def test_a_stop_delivers_what_is_left_within_its_time(broker: Mosquitto, ledger: Ledger) -> None:
    with Recorder(broker) as recorder, publishing(settings_for(broker), ledger) as publisher:
        drive(publisher, lambda: publisher.state.is_connected)
        fill(ledger, 1, 200)
        publisher.stop(5.0)
        assert ledger.pending().count == 0
        assert len(recorder.wait_for("verdict", 200)) == 200
        assert json.loads(recorder.wait_for("status", 2)[-1].payload)["state"] == "stopped"


def test_a_stop_without_a_broker_is_immediate(tmp_path: Path, ledger: Ledger) -> None:
    fill(ledger, 1, 5)
    with publishing(settings_for(Mosquitto(tmp_path / "broker")), ledger) as publisher:
        drive(publisher, lambda: "broker-away" in publisher.standing_alarms)
        started_s = time.monotonic()
        publisher.stop(30.0)
        assert time.monotonic() - started_s < 1.0


def test_a_stop_before_a_paused_broker_is_bounded(broker: Mosquitto, ledger: Ledger) -> None:
    with publishing(settings_for(broker), ledger) as publisher:
        drive(publisher, lambda: publisher.state.is_connected)
        broker.pause()
        fill(ledger, 1, 5)
        started_s = time.monotonic()
        publisher.stop(0.5)
        assert time.monotonic() - started_s < 5.0
    broker.resume()


PUBLISHING = """
import random, sys, time
from datetime import UTC, datetime
from pathlib import Path
from edge.store.ledger import open_ledger
from edge.contract.messages import Topics
from edge.mqtt.publisher import Publisher
from edge.settings import BrokerSettings, TopicSettings
from edge.settings import Settings
from tests.support.samples import sample_model_card
ledger = open_ledger(Path(sys.argv[1]), "xray-1")
publisher = Publisher(
    BrokerSettings(host="localhost", port=int(sys.argv[2])), Topics("acme", "berlin", "coating", "line2", "xray-1"),
    ledger, sample_model_card(), versions={}, clock=lambda: datetime.now(UTC), rng=random.Random(1),
)
while True:
    publisher.step(time.monotonic())
"""


def test_a_killed_worker_is_reported_offline_by_its_last_will(broker: Mosquitto, tmp_path: Path) -> None:
    with Recorder(broker) as recorder:
        worker = subprocess.Popen(
            [sys.executable, "-c", PUBLISHING, tmp_path / "state" / "ledger.sqlite", str(broker.port)], cwd=REPOSITORY
        )
        try:
            recorder.wait_for("status", 1)
        finally:
            worker.send_signal(signal.SIGKILL)
            worker.wait(PATIENCE_S)
        online, offline = (json.loads(message.payload) for message in recorder.wait_for("status", 2))
        assert (online["state"], offline["state"]) == ("online", "offline")
        assert offline["boot_id"] == online["boot_id"]
        assert recorder.messages("status")[1].retained


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_stop_after_a_failure_delivers_and_says_offline_never_stopped(
    broker: Mosquitto, ledger: Ledger, protocol: str
) -> None:
    with Recorder(broker) as recorder, publishing(settings_for(broker, protocol=protocol), ledger) as publisher:
        drive(publisher, lambda: publisher.state.is_connected)
        fill(ledger, 1, 20)
        publisher.stop(5.0, is_clean=False)
        assert ledger.pending().count == 0
        states = [json.loads(message.payload)["state"] for message in recorder.wait_for("status", 2)]
        assert states == ["online", "offline"]
        with Recorder(broker, client_id="later") as later:
            (offline,) = later.wait_for("status", 1)
            assert json.loads(offline.payload)["state"] == "offline"


def test_health_is_retained_and_only_the_newest_waits(broker: Mosquitto, ledger: Ledger) -> None:
    with Recorder(broker) as recorder, publishing(settings_for(broker), ledger) as publisher:
        first, second, third = (sample_health().model_copy(update={"uptime_s": float(number)}) for number in (1, 2, 3))
        publisher.publish_health(first)
        publisher.publish_health(second)
        drive(publisher, lambda: len(recorder.messages("health")) >= 1)
        publisher.publish_health(third)
        drive(publisher, lambda: len(recorder.messages("health")) >= 2)
        messages = recorder.messages("health")
        assert [json.loads(message.payload)["uptime_s"] for message in messages] == [2.0, 3.0]
        assert {(message.qos, message.retained) for message in messages} == {(0, True)}


def test_a_disposition_goes_out_on_its_own_topic_as_it_is_stored(broker: Mosquitto, ledger: Ledger) -> None:
    fill(ledger, 1, 1)
    answered = ledger.commit_disposition(sample_answer(1))
    with Recorder(broker) as recorder, publishing(settings_for(broker), ledger) as publisher:
        drain(publisher, ledger)
        (message,) = recorder.wait_for("disposition", 1)
    assert (message.payload, message.qos, message.retained) == (answered.payload, 1, False)
    assert dict(message.properties["UserProperty"]) == {
        "schema": "disposition/1",
        "verdict_id": sample_answer(1).verdict_id,
    }


def test_a_message_that_changed_in_the_ledger_is_never_sent_and_is_an_alarm(broker: Mosquitto, ledger: Ledger) -> None:
    rows = fill(ledger, 1, 3)
    with ledger.database.transaction("write") as sql:
        sql.execute("UPDATE payloads SET payload = x'7b7d' WHERE seq = 2")
    with Recorder(broker) as recorder, publishing(settings_for(broker), ledger) as publisher:
        drive(publisher, lambda: ("message-damaged", True) in alarms_of(recorder))
        drain(publisher, ledger)
        assert recorder.payloads("verdict") == [rows[0].payload, rows[2].payload]
        assert "message 2: not sent" in json.loads(recorder.messages("alarm")[0].payload)["message"]
        again = sample_entry(4)
        verdict = again.verdict.model_copy(update={"part_id": sample_entry(2).verdict.part_id})
        ledger.commit([dataclasses.replace(again, verdict=verdict)], MORNING)
        drive(publisher, lambda: ("message-damaged", False) in alarms_of(recorder))


def test_a_standing_alarm_is_said_again_after_each_new_connection(tmp_path: Path, ledger: Ledger) -> None:
    with Mosquitto(tmp_path / "broker") as broker, publishing(settings_for(broker), ledger) as publisher:
        with Recorder(broker) as first:
            publisher.raise_alarm("share-away", "the share is away", "mount it")
            publisher.raise_alarm("share-away", "the share is still away", "mount it")
            drive(publisher, lambda: len(first.messages("alarm")) >= 1)
            drive_for(publisher, 0.1)
            assert alarms_of(first) == [("share-away", True)]
        broker.stop()
        drive(publisher, lambda: not publisher.state.is_connected)
        broker.start()
        with Recorder(broker, client_id="second") as second:
            drive(publisher, lambda: ("share-away", True) in alarms_of(second))
            publisher.clear_alarm("share-away")
            drive(publisher, lambda: ("share-away", False) in alarms_of(second))


def test_a_resend_request_delivers_identical_bytes_again(broker: Mosquitto, ledger: Ledger) -> None:
    rows = fill(ledger, 1, 20)
    with Recorder(broker) as recorder, publishing(settings_for(broker), ledger) as publisher:
        drain(publisher, ledger)
        resend(publisher, ledger, datetime.now(UTC) - timedelta(minutes=1))
        drive(publisher, lambda: len(recorder.messages("verdict")) >= 40)
        drain(publisher, ledger)
        assert recorder.payloads("verdict") == 2 * payloads(rows)


def test_a_resend_is_served_while_the_traffic_never_pauses(broker: Mosquitto, ledger: Ledger) -> None:
    """Acknowledgements take longer than the gap between scans: there is always a row in flight."""
    rows = fill(ledger, 1, 10)
    with Relay(broker.port) as relay, Recorder(broker) as recorder:
        settings = settings_for(broker, port=relay.port, host="127.0.0.1")
        with publishing(settings, ledger) as publisher:
            drain(publisher, ledger)
            relay.delay_s = 0.1
            stop = threading.Event()

            def scan() -> None:
                number = 10
                while not stop.wait(0.02):
                    number += 1
                    ledger.commit([sample_entry(number)], datetime.now(UTC))
                    publisher.wake()

            scanning = threading.Thread(target=scan)
            scanning.start()
            try:
                drive(publisher, lambda: len(recorder.messages("verdict")) >= 40)
                resend(publisher, ledger, datetime.now(UTC) - timedelta(minutes=1))
                until_s = time.monotonic() + 5.0
                while recorder.payloads("verdict").count(rows[9].payload) < 2 and time.monotonic() < until_s:
                    publisher.step(time.monotonic(), 0.02)
            finally:
                stop.set()
                scanning.join()
            said = recorder.payloads("verdict")
            assert [said.count(payload) for payload in payloads(rows)] == [2] * 10
            relay.delay_s = 0.0
            drain(publisher, ledger)


def test_wake_ends_the_sleep_of_a_step(broker: Mosquitto, ledger: Ledger) -> None:
    with publishing(settings_for(broker), ledger) as publisher:
        drive(publisher, lambda: publisher.state.is_connected)
        drive_for(publisher, 0.1)
        threading.Timer(0.1, publisher.wake).start()
        started_s = time.monotonic()
        publisher.step(started_s, 30.0)
        assert time.monotonic() - started_s < 10.0


def test_a_ledger_that_cannot_be_written_holds_the_verdicts_and_repeats_none(
    broker: Mosquitto, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Acknowledged rows wait for their mark; nothing is fed meanwhile, so nothing is sent twice."""
    rows = fill(ledger, 1, 150)

    def disk_full(*_: object) -> None:
        raise LedgerError("disk full", hint="free some space")

    with Recorder(broker) as recorder, publishing(settings_for(broker, window=10), ledger) as publisher:
        drive(publisher, lambda: publisher.state.acknowledged >= 20)
        with monkeypatch.context() as patch:
            patch.setattr(ledger, "mark_sent", disk_full)
            drive(publisher, lambda: "outbox-stuck" in publisher.standing_alarms)
            acknowledged = publisher.state.acknowledged
            drive_for(publisher, 0.3)
            assert publisher.state.acknowledged <= acknowledged + 10
        drain(publisher, ledger)
        recorder.wait_for("verdict", 150)
        assert recorder.payloads("verdict") == payloads(rows)
        assert publisher.standing_alarms == ()


def test_a_half_open_link_is_noticed_and_its_rows_are_sent_again(broker: Mosquitto, ledger: Ledger) -> None:
    """Packets vanish without a word; keep-alive 1 s."""
    with Relay(broker.port) as relay, Recorder(broker) as recorder:
        settings = settings_for(broker, port=relay.port, host="127.0.0.1", keepalive_s=1)
        with publishing(settings, ledger) as publisher:
            rows = fill(ledger, 1, 5)
            drain(publisher, ledger)
            relay.freeze()
            frozen_s = time.monotonic()
            rows += fill(ledger, 6, 10)
            drive(publisher, lambda: not publisher.state.is_connected)
            assert time.monotonic() - frozen_s < 2.0 + 0.5
            relay.thaw()
            drain(publisher, ledger)
            recorder.wait_for_payload("verdict", rows[-1].payload)
            assert list(dict.fromkeys(recorder.payloads("verdict"))) == payloads(rows)


def test_an_idle_half_open_link_is_noticed_by_its_silence(broker: Mosquitto, ledger: Ledger) -> None:
    with Relay(broker.port) as relay:
        settings = settings_for(broker, port=relay.port, host="127.0.0.1", keepalive_s=2)
        with publishing(settings, ledger) as publisher:
            drive(publisher, lambda: publisher.state.is_connected)
            drive_for(publisher, 4.3)
            assert publisher.state.connections == 1  # idle alone is no fault: pings keep it alive
            relay.freeze()
            frozen_s = time.monotonic()
            drive(publisher, lambda: not publisher.state.is_connected)
            # Just after a ping at 4.0 s: 1.5 keep-alives of silence end at 7.0 s, paho alone would wait until 8.0 s.
            assert time.monotonic() - frozen_s < 3.4


def test_resets_in_the_middle_of_packets_lose_nothing_and_leak_no_thread(broker: Mosquitto, ledger: Ledger) -> None:
    rows = fill(ledger, 1, 1500)
    with Relay(broker.port) as relay, Recorder(broker) as recorder:
        settings = settings_for(broker, port=relay.port, host="127.0.0.1", window=20)
        with publishing(settings, ledger) as publisher:
            drive(publisher, lambda: publisher.state.is_connected)
            for cut in range(1, 11):
                drive(publisher, lambda cut=cut: publisher.state.acknowledged >= 40 * cut)  # type: ignore[misc]
                relay.cut()
                drive(publisher, lambda cut=cut: publisher.state.connections > cut)  # type: ignore[misc]
            dialling = [thread.name for thread in threading.enumerate() if thread.name == "broker-dial"]
            assert len(dialling) <= 1
            drain(publisher, ledger)
        recorder.wait_for_payload("verdict", rows[-1].payload)
        assert set(recorder.payloads("verdict")) == set(payloads(rows))


def test_a_client_id_used_twice_is_explained(broker: Mosquitto, ledger: Ledger) -> None:
    """mosquitto 2.0.11 ends the elder connection without a word: once is a lost one, again and again two boxes."""
    settings = settings_for(broker, client_id="same")
    with Recorder(broker) as recorder, publishing(settings, ledger) as publisher:
        drive(publisher, lambda: publisher.state.is_connected)
        with Recorder(broker, client_id="same"):
            drive(publisher, lambda: ("broker-away", True) in alarms_of(recorder))
        assert "another client uses the client id 'same'" in json.loads(recorder.payloads("alarm")[0])["hint"]
        with Recorder(broker, client_id="same"):
            drive(publisher, lambda: ("station-twice", True) in alarms_of(recorder))
        assert publisher.state.connections > edge.mqtt.publisher.TAKEOVERS


def test_two_boxes_as_one_station_are_an_alarm_until_they_meet_no_more(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge.mqtt.publisher, "TAKEN_OVER_S", 0.3)
    fill(ledger, 1, 5)
    with FakeBroker() as fake:
        fake.then = bytes([0xE0, 2, 0x8E, 0])
        with publishing(broker_of(fake), ledger) as publisher:
            drive(publisher, lambda: publisher.standing_alarms == ("station-twice",))
            fake.then = b""
            drain(publisher, ledger)
            assert "station-twice" in publisher.standing_alarms
            drive(publisher, lambda: publisher.standing_alarms == ())


def test_an_unstable_connection_keeps_its_alarm(
    broker: Mosquitto, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge.mqtt.publisher, "STABLE_S", 0.5)
    with (
        Relay(broker.port) as relay,
        publishing(settings_for(broker, port=relay.port, host="127.0.0.1"), ledger) as publisher,
    ):
        for cuts in range(3):
            drive(publisher, lambda count=cuts: publisher.state.connections > count)  # type: ignore[misc]
            drive(publisher, lambda: not publisher._said)  # cut before, three times in a row, is what no-retain means
            relay.cut()
            drive(publisher, lambda: not publisher.state.is_connected)
            assert publisher.standing_alarms == ("broker-away",)
        drive(publisher, lambda: publisher.state.connections == 4)
        assert publisher.standing_alarms == ("broker-away",)
        drive(publisher, lambda: publisher.standing_alarms == ())


def test_mqtt_3_1_1_works_and_the_log_says_what_it_costs(
    broker: Mosquitto, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    rows = fill(ledger, 1, 20)
    with Recorder(broker) as recorder, publishing(settings_for(broker, protocol="3.1.1"), ledger) as publisher:
        drain(publisher, ledger)
        assert [message.payload for message in recorder.wait_for("verdict", 20)] == payloads(rows)
        assert "acknowledges what it refuses" in caplog.text
        publisher.stop(1.0)
        assert json.loads(recorder.wait_for("status", 2)[-1].payload)["state"] == "stopped"


def test_throughput_is_printed(broker: Mosquitto, ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    rows = fill(ledger, 1, 1000)
    with Recorder(broker) as recorder, publishing(settings_for(broker), ledger) as publisher:
        drive(publisher, lambda: publisher.state.is_connected)
        started_s = time.monotonic()
        drain(publisher, ledger)
        elapsed_s = time.monotonic() - started_s
        assert [message.payload for message in recorder.wait_for("verdict", 1000)] == payloads(rows)
    with capsys.disabled():
        print(f"\n1000 verdicts in {elapsed_s:.2f} s: {1000 / elapsed_s:.0f} per second")
