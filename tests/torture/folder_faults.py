"""A folder that says nothing, goes away, is full, or lives in another time: R14 to R17."""

from __future__ import annotations

import json
import os
import subprocess
import time
from datetime import datetime

from tests.torture.rig import Layout, Rig, wait_until
from tests.torture.trial import Trial

POLL_S = 1.0
MAX_FOUND_S = POLL_S + 0.5
"""One period until a listing finds the scan; then it has to stand still, beside a folder of 50,000 others."""
MAX_FIRST_VERDICT_S = 10.0
MAX_BACKLOG_RSS_BYTES = 250e6


def events_lost(trial: Trial) -> None:
    """R14: a burst without a single event, as from a share or after an overflow: the listing finds all."""
    count = trial.size(5000, 50_000)
    with trial.rig(Layout(folder={"poll_s": POLL_S}, log_level="warning")) as rig:
        rig.worker.start("--deaf", wait=False)
        rig.generator.arrive(1)
        rig.await_all()
        began_s = time.monotonic()
        rig.generator.arrive(count)
        rig.await_all()
        trial.figures["burst_per_s"] = round(count / (time.monotonic() - began_s))
        slowest_s = 0.0
        for _ in range(20 if trial.is_long else 5):  # alone, so that the wait is the looking and not the queue
            time.sleep(rig.chance.uniform(0.1, 0.7))
            listed = rig.generator.arrive(1)[0]
            rig.await_all()
            verdict = next(
                m.content for m in rig.subscriber.of("verdict") if m.content["scan"]["sha256"] == listed.sha256
            )
            found_s = datetime.fromisoformat(verdict["times"]["first_seen_at"]).timestamp() - listed.visible_at_s
            slowest_s = max(slowest_s, found_s)
        trial.recovered(slowest_s)
        trial.require_in_time(
            slowest_s <= MAX_FOUND_S, f"a scan that no event told of was taken after {slowest_s:.2f} s"
        )
        trial.figures |= {"burst": count, "poll_s": POLL_S, "slowest_taken_s": round(slowest_s, 2)}
        trial.require_clean_stop(rig.worker)
        trial.take(rig.findings())


def folder_away(trial: Trial) -> None:
    """R15: renamed away, covered by an empty mount, away at the start: an alarm, and nothing taken for deleted."""
    cycles = trial.size(3, 20)
    elsewhere = "elsewhere"
    with trial.rig() as rig:
        rig.worker.start()
        rig.generator.arrive(5)
        rig.await_all()
        for cycle in range(cycles):
            alarms = len(rig.subscriber.alarms("folder-away"))
            manner = ("renamed", "covered", "away at start")[cycle % 3]
            heard = rig.subscriber.count("verdict")
            if manner == "covered" and not _cover(rig, "mount"):
                trial.notes.append("an empty mount point needs the right to mount")
                manner = "renamed"
            if manner == "away at start":
                rig.worker.stop()
            if manner != "covered":
                rig.scans.rename(rig.root / elsewhere)
            if manner == "away at start":
                rig.worker.start()
            wait_until(lambda before=alarms: len(rig.subscriber.alarms("folder-away")) > before, "the alarm")
            time.sleep(rig.chance.uniform(0.2, 1.0))
            if manner == "covered":
                _cover(rig, "umount")
            else:
                (rig.root / elsewhere).rename(rig.scans)
            rig.generator.arrive(3)
            took_s = rig.await_all()
            trial.recovered(took_s)
            wait_until(lambda: not rig.subscriber.alarms("folder-away")[-1].content["active"], "the end of the alarm")
            again = rig.subscriber.count("verdict") - heard
            trial.require(again == 3, f"{manner}: {again} verdicts after the folder came back, expected 3")
        trial.require_clean_stop(rig.worker)
        found = trial.take(rig.findings())
        trial.require(found.duplicated == 0, f"{found.duplicated} duplicates")
        trial.figures |= {"cycles": cycles}


def backlog(trial: Trial) -> None:
    """R16: a cold start on many files: the first verdict soon, oldest first, new ones not starved, memory bounded."""
    count = trial.size(10_000, 100_000)
    with trial.rig(Layout(log_level="warning", by_exec=True)) as rig:
        rig.generator.arrive(count)
        oldest_ns = time.time_ns() - 10 * count * 1_000_000
        for index, listed in enumerate(rig.generator.listed):
            moment = oldest_ns + index * 1_000_000
            os.utime(rig.scans / listed.file, ns=(moment, moment))
        began_s = time.monotonic()
        rig.worker.start(wait=False)
        wait_until(lambda: rig.subscriber.count("verdict") > 0, "the first verdict")
        first_s = time.monotonic() - began_s
        trial.recovered(first_s)
        trial.require_in_time(first_s < MAX_FIRST_VERDICT_S, f"the first verdict took {first_s:.1f} s")
        wait_until(lambda: rig.subscriber.count("verdict") > 200, "some verdicts")
        early = [message.content["scan"]["file"] for message in rig.subscriber.of("verdict")[:200]]
        trial.require(early == sorted(early), "the oldest were not the first")
        fresh = rig.generator.arrive(1, prefix="new")[0]
        before = rig.subscriber.count("verdict")
        wait_until(lambda: fresh.sha256 in rig.subscriber.distinct(), "the new scan's verdict")
        overtook = rig.subscriber.count("verdict") - before
        trial.require(overtook < count / 2, f"a new scan waited for {overtook} old ones")
        rig.await_all()
        span_s = time.monotonic() - began_s
        peak = rig.worker.usage().peak_rss_bytes
        trial.require(peak < MAX_BACKLOG_RSS_BYTES, f"peak memory {peak / 1e6:.0f} MB")
        trial.require_clean_stop(rig.worker)
        trial.take(rig.findings())
        trial.figures |= {
            "files": count,
            "first_verdict_s": round(first_s, 2),
            "before_a_new_scan": overtook,
            "peak_rss_mb": round(peak / 1e6),
            "scans_per_s": round(count / span_s),
        }


def clock_jumps(trial: Trial) -> None:
    """R17: the wall clock and the station's clock jump by hours and years: nothing is judged again or forgotten."""
    hour, year = 3600.0, 365 * 86_400.0
    offset = trial.root / "offset"
    offset.write_text("0")
    with trial.rig() as rig:
        rig.worker.start("--clock", str(offset), "--housekeeping-s", "0.5")
        for jump_s in (0.0, hour, -hour, 10 * year, -10 * year, 0.0) * trial.size(1, 5):
            offset.write_text(str(jump_s))
            for listed in rig.generator.arrive(4):
                moment = time.time() + jump_s
                os.utime(rig.scans / listed.file, (moment, moment))
            rig.await_all()
            time.sleep(0.7)  # one turn of housekeeping in that time
        rig.worker.kill()
        offset.write_text(str(10 * year))
        rig.worker.start("--clock", str(offset), "--housekeeping-s", "0.5")
        rig.generator.arrive(4)
        rig.await_all()
        trial.require_clean_stop(rig.worker)
        rows, _ = rig.ledger_rows()
        trial.require(len(rows) == len(rig.generator.listed), f"{len(rows)} rows for {len(rig.generator.listed)} scans")
        seqs = [json.loads(message.payload)["seq"] for message in rig.subscriber.of("verdict")]
        first_times = list(dict.fromkeys(seqs))
        trial.require(first_times == sorted(first_times), "the order of seq follows the clock")
        trial.take(rig.findings())
        trial.figures["jumps_s"] = [hour, -hour, 10 * year, -10 * year]


def _cover(rig: Rig, what: str) -> bool:
    """Mount an empty file system over the station's folder, or take it away again."""
    command = ["umount", "--lazy", str(rig.scans)]
    if what == "mount":
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "torture", str(rig.scans)]
    return subprocess.run(command, capture_output=True).returncode == 0
