"""A broker that is away, forgets, refuses, answers oddly, or has a bad link; an MES that sleeps: R3 to R6, R31."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

from tests.support.relay import Relay
from tests.torture.fake_broker import PUBCOMP, PUBREC, FakeBroker
from tests.torture.packets import lossy, why_none_can_be_lost
from tests.torture.rig import Layout, Rig, TimedOut, wait_until
from tests.torture.trial import Trial

MAX_RSS_GROWTH_BYTES = 50e6
MIN_DRAIN_PER_S = 500
MAX_ALARM_S = 10.0
REFUSALS = {
    0x10: "no matching subscribers",
    0x80: "unspecified error",
    0x83: "implementation specific error",
    0x87: "not authorized",
    0x90: "topic name invalid",
    0x91: "packet identifier in use",
    0x97: "quota exceeded",
    0x99: "payload format invalid",
}
"""Every reason code of PUBACK but success."""
KEEPALIVE_S = 5
HUGE_PACKET = b"\x30\xff\xff\xff\x7f" + bytes(8 << 20)
"""The first 8 MB of a message of 268 MB."""


def broker_away(trial: Trial) -> None:
    """R3: verdicts queue in the ledger and are delivered in order of seq, fast."""
    count = trial.size(1000, 10_000)
    with trial.rig(Layout()) as rig:
        rig.worker.start()
        rig.generator.arrive(1)
        rig.await_all()
        before = rig.worker.usage().rss_bytes
        rig.broker.stop()
        rig.generator.arrive(count)
        rig.await_judged(count + 1)
        growth = rig.worker.usage().rss_bytes - before
        began_s = time.monotonic()
        rig.broker.start()
        rig.await_all()
        trial.recovered(time.monotonic() - began_s)
        arrivals = rig.subscriber.of("verdict")[1:]
        seqs = [message.content["seq"] for message in arrivals]
        trial.require(seqs == sorted(seqs), "verdicts did not arrive in order of seq")
        drain_per_s = (len(arrivals) - 1) / (arrivals[-1].at_s - arrivals[0].at_s)
        trial.require_in_time(
            drain_per_s >= MIN_DRAIN_PER_S, f"drained {drain_per_s:.0f}/s, expected {MIN_DRAIN_PER_S}"
        )
        trial.require(growth < MAX_RSS_GROWTH_BYTES, f"memory grew by {growth / 1e6:.0f} MB meanwhile")
        trial.require_clean_stop(rig.worker)
        trial.take(rig.findings())
        trial.figures |= {"queued": count, "drain_per_s": round(drain_per_s), "rss_growth_mb": round(growth / 1e6, 1)}


def mes_offline(trial: Trial) -> None:
    """R4: mosquitto's default forgets all but 1000 messages of an absent MES; the recommended setting none."""
    count = trial.size(2000, 10_000)
    for name, queued in (("default", None), ("recommended", 0)):
        options: dict[str, Any] = {"persistence": True, "max_queued": queued}
        with trial.rig(Layout(mosquitto=options)) as rig:
            rig.worker.start()
            rig.generator.arrive(1)
            rig.await_all()
            rig.subscriber.end()
            rig.generator.arrive(count)
            rig.await_judged(count + 1)
            rig.settle()
            began_s = time.monotonic()
            rig.subscriber.start()
            if queued == 0:
                rig.await_all()
                trial.recovered(time.monotonic() - began_s)
            else:
                _until_quiet(rig)
                dropped = count + 1 - len(rig.subscriber.distinct())
                trial.require(dropped > 0, "mosquitto's default dropped nothing: the advice in README is out of date")
                trial.figures["dropped_by_mosquittos_default"] = dropped
                done = rig.run_cli("--resend", "1d")
                trial.require(done.returncode == 0, f"--resend: {done.stderr}")
                rig.await_all()
            trial.require_clean_stop(rig.worker)
            trial.take(rig.findings(), name)


def refused_publish(trial: Trial) -> None:
    """R5: no answer but success closes a row, the alarm comes within seconds, 3.1.1 is never fallen back to."""
    refused_by_access_list(trial)
    _refused_by_size(trial)
    _refused_by_every_code(trial)
    _without_subscriber(trial)
    _broker_of_another_protocol(trial)


def bad_link(trial: Trial) -> None:
    """R6: half-open connections, silence, delay, resets and lost packets between worker and broker."""
    span_s = trial.size(60, 1800)
    with trial.rig() as rig, Relay(rig.broker.port) as relay:
        rig.write_config(Layout(worker_port=relay.port, broker={"keepalive_s": KEEPALIVE_S}))
        rig.worker.start()
        rig.generator.arrive(5)
        rig.await_all()
        threads = rig.worker.usage().threads
        faults = dict.fromkeys(("half-open", "silence", "delay", "loss", "reset"), 0)
        if (why_not := why_none_can_be_lost()) is not None:
            del faults["loss"]
            trial.notes.append(f"no packet is lost below TCP: {why_not}")
        began_s = time.monotonic()
        while time.monotonic() - began_s < span_s:
            fault = [*faults][sum(faults.values()) % len(faults)]
            faults[fault] += 1
            connections = rig.worker.count("broker connected")
            rig.generator.arrive(rig.chance.randint(1, 40))
            match fault:
                case "half-open":
                    relay.abandon()
                    rig.generator.arrive(5)
                    took_s = wait_until(
                        lambda before=connections: rig.worker.count("broker connected") > before, "a new connection"
                    )
                    trial.recovered(took_s)
                    bar_s = 2 * KEEPALIVE_S
                    trial.require_in_time(took_s < bar_s, f"a half-open link took {took_s:.1f} s, expected < {bar_s} s")
                case "silence":
                    relay.freeze()
                    time.sleep(rig.chance.uniform(0.5, 3.0))
                    relay.thaw()
                case "delay":
                    relay.delay_s = rig.chance.uniform(0.01, 0.2)
                    time.sleep(rig.chance.uniform(1.0, 4.0))
                    relay.delay_s = 0.0
                case "loss":
                    with lossy(relay.port, percent=rig.chance.randint(5, 40)):
                        rig.generator.arrive(rig.chance.randint(1, 40))
                        time.sleep(rig.chance.uniform(1.0, 6.0))
                case _:
                    for _ in range(rig.chance.randint(1, 5)):
                        rig.generator.arrive(3)
                        time.sleep(rig.chance.uniform(0.0, 0.3))
                        relay.cut()
        rig.await_all()
        after = rig.worker.usage().threads
        trial.require(after <= threads + 1, f"{threads} threads before, {after} after")
        trial.require_clean_stop(rig.worker)
        trial.take(rig.findings())
        trial.figures |= {"faults": faults, "threads_before": threads, "threads_after": after}


def odd_answers(trial: Trial) -> None:
    """R31: keep-alives that nobody keeps, answers that are none, no subscriber, a huge packet, no retain, no will."""
    no_acknowledgement(trial)
    with FakeBroker() as fake, trial.rig(Layout(worker_port=fake.port, broker={"keepalive_s": KEEPALIVE_S})) as rig:
        rig.worker.start()
        _silent(trial, fake)
        _huge_packet(trial, rig, fake)
        _unheard_for_ever(trial, rig, fake)
        fake.properties, fake.refuses_retained = b"\x25\x00", "will"
        fake.drop()
        rig.worker.wait_for("alarm", alarm="no-retain")
        fake.code = 0
        rig.generator.arrive(5)
        count = len(rig.generator.listed)
        trial.recovered(wait_until(lambda: len(set(_seqs(fake.taken))) == count, "all verdicts, without retain"))
        fake.properties, fake.refuses_retained, fake.refuses_wills = b"", "", "all"
        fake.drop()
        rig.generator.arrive(2)
        count += 2
        wait_until(lambda: len(set(_seqs(fake.taken))) == count, "all verdicts, without a last will")
        trial.require_clean_stop(rig.worker)
        rows, _ = rig.ledger_rows()
        trial.require(len(rows) == count and all(row.is_sent for row in rows), "accepted rows stay open")
        trial.findings.tried = count


def _silent(trial: Trial, fake: FakeBroker) -> None:
    wait_until(lambda: bool(fake.levels), "a connection")
    fake.is_mute = True
    for asked_s in (0, 65_535):
        fake.properties = b"\x13" + asked_s.to_bytes(2, "big")
        seen = len(fake.levels)
        fake.drop()
        wait_until(lambda seen=seen: len(fake.levels) > seen, "a connection to the broker that falls silent")  # type: ignore[misc]
        try:
            took_s = wait_until(lambda seen=seen: len(fake.levels) > seen + 1, "another one", 4 * KEEPALIVE_S)  # type: ignore[misc]
        except TimedOut:
            trial.require(False, f"asked for a keep-alive of {asked_s} s, the worker waits for ever")
        else:
            trial.figures[f"left_after_s (keep-alive {asked_s})"] = round(took_s, 1)
            trial.require_in_time(took_s < 2 * KEEPALIVE_S, f"a silent broker was left after {took_s:.1f} s")
    fake.is_mute, fake.properties = False, b""
    fake.drop()


def no_acknowledgement(trial: Trial) -> None:
    """PUBREC and PUBCOMP answer nothing that was sent; a row closed by them is lost if the broker meant a refusal."""
    with FakeBroker() as fake, trial.rig(Layout(worker_port=fake.port)) as rig:
        rig.worker.start()
        for code, answer in ((0x97, PUBREC), (0, PUBREC), (0, PUBCOMP)):
            fake.code, fake.answer, seen = code, answer, len(fake.offered)
            rig.generator.arrive(1)
            wait_until(lambda seen=seen: len(fake.offered) > seen, "a verdict is offered")  # type: ignore[misc]
        _require_none_closed(trial, rig, "PUBREC and PUBCOMP")


def _huge_packet(trial: Trial, rig: Rig, fake: FakeBroker) -> None:
    before, fake.then = rig.worker.usage().rss_bytes, HUGE_PACKET
    seen = len(fake.levels)
    fake.drop()
    wait_until(lambda: len(fake.levels) > seen + 3, "three connections that brought a huge packet")
    fake.then = b""
    growth = rig.worker.usage().peak_rss_bytes - before
    trial.require(growth < MAX_RSS_GROWTH_BYTES, f"a huge packet made the memory grow by {growth / 1e6:.0f} MB")


def _unheard_for_ever(trial: Trial, rig: Rig, fake: FakeBroker) -> None:
    fake.code = 0x10
    rig.generator.arrive(trial.size(12, 60))
    count = len(rig.generator.listed)
    rig.worker.wait_for("alarm", alarm="no-subscriber")
    wait_until(lambda: len(set(_seqs(fake.offered))) == count, "each verdict is offered")
    seen = len(fake.offered)
    wait_until(lambda: len(fake.offered) >= seen + 2 * count, "two more rounds")
    times = Counter(_seqs(fake.offered[seen:]))
    trial.require(max(times.values()) <= 4, f"one verdict was offered {max(times.values())} times in two rounds")
    trial.require(len(times) == count, f"{count - len(times)} of {count} verdicts were not offered again")


def _seqs(packets: list[bytes]) -> list[int]:
    return [json.loads(packet[packet.index(b'{"') :])["seq"] for packet in packets]


def refused_by_access_list(trial: Trial) -> None:
    """The broker takes alarms and refuses verdicts; later it takes them, too."""
    open_acl = "topic readwrite #\n"
    closed_acl = "topic read #\n" + "".join(
        f"topic write +/+/+/+/+/inspection/{kind}\n" for kind in ("alarm", "status", "model", "health")
    )
    layout = Layout(mosquitto={"persistence": True, "max_queued": 0, "acl": closed_acl})
    with trial.rig(layout) as rig:
        rig.worker.start()
        rig.generator.arrive(10)
        _require_alarm(trial, rig, "verdict-refused", "access list")
        _require_none_closed(trial, rig, "access list")
        rig.broker.write_acl(open_acl)
        rig.broker.reload()
        rig.worker.start()
        trial.recovered(rig.await_all())
        trial.require_clean_stop(rig.worker)
        trial.take(rig.findings(), "access list")


def _refused_by_size(trial: Trial) -> None:
    options: dict[str, Any] = {"persistence": True, "max_queued": 0, "extra": ["max_packet_size 800"]}
    with trial.rig(Layout(mosquitto=options)) as rig:
        rig.worker.start()
        rig.generator.arrive(3)
        rig.worker.wait_for("alarm", alarm="verdict-refused")
        _require_none_closed(trial, rig, "packet size")


def _refused_by_every_code(trial: Trial) -> None:
    with FakeBroker() as fake, trial.rig(Layout(worker_port=fake.port)) as rig:
        fake.code = next(iter(REFUSALS))
        rig.worker.start()
        rig.generator.arrive(5)
        for code, meaning in REFUSALS.items():
            fake.code = code
            wait_until(
                lambda code=code: any(seen == code for seen, _ in fake.verdicts), f"a verdict refused: {meaning}"
            )
        _require_none_closed(trial, rig, "every reason code")
        trial.figures["reason_codes"] = len(REFUSALS)
        fake.code = 0
        rig.worker.start()
        wait_until(lambda: sum(code == 0 for code, _ in fake.verdicts) >= 5, "the verdicts are taken")
        trial.require_clean_stop(rig.worker)
        rows, _ = rig.ledger_rows()
        trial.require(all(row.is_sent for row in rows), "accepted rows stay open")


def _without_subscriber(trial: Trial) -> None:
    with trial.rig() as rig:
        rig.subscriber.end()
        rig.broker.stop()
        for store in rig.broker.directory.glob("*.db"):
            store.unlink()  # the MES has never subscribed
        rig.broker.start()
        rig.worker.start()
        rig.generator.arrive(10)
        rig.worker.wait_for("alarm", alarm="no-subscriber")
        _require_none_closed(trial, rig, "no subscriber")
        rig.worker.start()
        rig.subscriber.start()
        trial.recovered(rig.await_all())
        trial.require_clean_stop(rig.worker)
        trial.take(rig.findings(), "no subscriber")


def _broker_of_another_protocol(trial: Trial) -> None:
    with FakeBroker(speaks_5=False) as fake, trial.rig(Layout(worker_port=fake.port)) as rig:
        rig.worker.start()
        rig.generator.arrive(2)
        wait_until(lambda: len(fake.levels) >= 3, "three attempts")
        trial.require(set(fake.levels) == {5}, f"protocol levels {fake.levels}: fell back without being told")
        rig.worker.kill()
        rig.write_config(Layout(worker_port=fake.port, broker={"protocol": "3.1.1"}))
        rig.worker.start()
        wait_until(lambda: fake.levels[-1] == 4, "MQTT 3.1.1, now that it is chosen")
        said = [entry["event"] for entry in rig.worker.read_log() if "3.1.1 chosen" in entry["event"]]
        trial.require(bool(said), "the log does not say what MQTT 3.1.1 loses")


def _require_alarm(trial: Trial, rig: Rig, code: str, what: str) -> None:
    """At the MES, within the bar after the first scan was visible."""
    try:
        wait_until(lambda: bool(rig.subscriber.alarms(code)), f"the alarm {code}")
    except TimedOut as late:
        trial.require(False, f"{what}: {late}")
        return
    took_s = rig.subscriber.alarms(code)[0].at_s - rig.generator.listed[0].visible_at_s
    trial.figures[f"alarm_after_s ({what})"] = round(took_s, 2)
    trial.require_in_time(took_s < MAX_ALARM_S, f"{what}: the alarm took {took_s:.1f} s")


def _require_none_closed(trial: Trial, rig: Rig, what: str) -> None:
    """Ends the worker."""
    rig.worker.wait_for("scan judged", len(rig.generator.listed))
    time.sleep(1.0)  # time to do wrong
    rig.worker.kill()
    rows, _ = rig.ledger_rows()
    closed = sum(row.is_sent for row in rows)
    trial.require(len(rows) == len(rig.generator.listed), f"{what}: {len(rows)} rows in the ledger")
    trial.require(closed == 0, f"{what}: {closed} refused rows are closed")


def _until_quiet(rig: Rig, quiet_s: float = 2.0) -> None:
    last = (-1, time.monotonic())
    while time.monotonic() - last[1] < quiet_s:
        count = rig.subscriber.count("verdict")
        if count != last[0]:
            last = (count, time.monotonic())
        time.sleep(0.05)
