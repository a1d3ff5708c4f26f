"""Processes that die, come twice, or come in another version: R1, R2, R20, R21, R23."""

from __future__ import annotations

import time

from tests.support.tiff_files import tiff, written_by_tifffile
from tests.torture.poison import BURNS, CRASHES, EATS
from tests.torture.rig import Rig, wait_until
from tests.torture.stub import expected_p_abnormal
from tests.torture.trial import Trial
from tests.torture.wrap import POINTS

MAX_RSS_BYTES = 512e6


def kill_the_worker(trial: Trial) -> None:
    """R1: SIGKILL at every named point in turn and at random moments, under traffic."""
    kills = trial.size(60, 1000)
    scans_per_kill = 10 if trial.is_long else 5
    by_point = dict.fromkeys([*POINTS, "any moment"], 0)
    with trial.rig() as rig:
        chance = rig.chance
        points = [*POINTS] + ["any moment"] * 2
        for kill in range(kills):
            rig.generator.arrive(chance.randint(1, scans_per_kill - 1))
            point = points[kill % len(points)]
            if point == "any moment":
                rig.worker.start(wait=False)
                time.sleep(chance.uniform(0.0, 1.5))
            else:
                rig.worker.start("--die-at", f"{point}:{chance.randint(1, 4)}", wait=False)
                # Whatever of its point's passings it needs comes from the traffic.
                while rig.worker.is_alive():
                    rig.generator.arrive(1)
                    time.sleep(0.05)
            rig.worker.kill()
            by_point[point] += 1
            integrity = rig.ledger_rows()[1] if (rig.state / "ledger.sqlite").exists() else "ok"
            trial.require(integrity == "ok", f"after kill {kill} at {point}: {integrity}")
        began_s = time.monotonic()
        rig.worker.start()
        rig.await_all()
        trial.recovered(time.monotonic() - began_s)
        trial.require_clean_stop(rig.worker, "last worker")
        trial.take(rig.findings())
        trial.figures |= {"kills": kills, "scans": len(rig.generator.listed), "kills_by_point": by_point}


def kill_the_broker(trial: Trial) -> None:
    """R2: SIGKILL of the broker under traffic; what it forgot comes with one `--resend`."""
    kills = trial.size(5, 100)
    with trial.rig() as rig:
        rig.worker.start()
        for _ in range(kills):
            rig.generator.arrive(rig.chance.randint(5, 30))
            time.sleep(rig.chance.uniform(0.05, 0.6))
            rig.broker.kill()
            rig.generator.arrive(rig.chance.randint(1, 5))
            began_s = time.monotonic()
            rig.broker.start()
            wait_until(lambda: _is_back(rig), "the worker is connected again")
            trial.recovered(time.monotonic() - began_s)
        rig.settle()
        wanted = {listed.sha256 for listed in rig.generator.listed}
        needed = len(wanted - rig.subscriber.distinct())
        done = rig.run_cli("--resend", "1d")
        trial.require(done.returncode == 0, f"--resend: {done.stderr}")
        rig.await_all()
        trial.require_clean_stop(rig.worker)
        trial.take(rig.findings())
        trial.figures |= {"broker_kills": kills, "needed_the_resend": needed}


def _is_back(rig: Rig) -> bool:
    """All is judged, and the worker's last word on the broker is that it is connected."""
    last = [entry["event"] for entry in rig.worker.read_log() if entry["event"].startswith("broker connect")]
    is_judged = rig.worker.count("scan judged") >= len(rig.generator.listed)
    return is_judged and last[-1:] == ["broker connected"]


def _is_judged(rig: Rig, file: str) -> bool:
    return rig.worker.count("scan judged", file=file) > 0


def start_a_second_worker(trial: Trial) -> None:
    """R20: on the same state it is refused, and nothing comes twice."""
    with trial.rig() as rig:
        rig.worker.start()
        rig.generator.arrive(20)
        done = [rig.second_worker() for _ in range(trial.size(3, 20))]
        for second in done:
            trial.require(second.returncode == 74, f"the second worker ended with {second.returncode}")
            trial.require("in use by another worker" in second.stderr, f"it said {second.stderr[-200:]!r}")
        rig.await_all()
        trial.require_clean_stop(rig.worker, "first worker")
        found = trial.take(rig.findings())
        trial.require(found.duplicated == 0, f"{found.duplicated} duplicates")


def upgrade_and_roll_back(trial: Trial) -> None:
    """R21: a release with a newer schema takes over pending rows; the older one refuses its ledger, unharmed."""
    with trial.rig() as rig:
        rig.broker.stop()
        rig.generator.arrive(50)
        rig.worker.start()
        rig.worker.wait_for("scan judged", 50)
        rig.worker.kill()
        rig.worker.start("--newer-schema")
        trial.require(rig.worker.count("ledger upgraded") == 1, "the ledger was not upgraded")
        rig.generator.arrive(10)
        rig.worker.wait_for("scan judged", 60)
        rig.worker.kill()
        rig.worker.start(wait=False)
        trial.require(rig.worker.wait_end() == 74, "the older release took the newer ledger")
        rig.broker.start()
        rig.worker.start("--newer-schema")
        rig.await_all()
        trial.require_clean_stop(rig.worker, "newer release")
        found = trial.take(rig.findings())
        trial.require(found.duplicated == 0, f"{found.duplicated} duplicates")


def poison_a_scan(trial: Trial) -> None:
    """R23: files that crash, fill or never end their decoder: `decoder-crash`, and the line goes on.

    Uncompressed ones are read in the daemon: it dies, and a child that dies of it too condemns the file. Coded ones
    are unpacked in a child: the daemon lives.
    """
    with trial.rig() as rig:
        rig.generator.arrive(3)
        counts, _ = rig.generator.scan()
        condemned = [rig.generator.put("B01_poison.tif", tiff(counts) + CRASHES, None)]
        deaths = 0
        began_s = time.monotonic()
        for _ in range(5):
            rig.worker.start("--poison", wait=False)
            wait_until(lambda: not rig.worker.is_alive() or _is_judged(rig, "B01_poison.tif"), "a death or a verdict")
            if _is_judged(rig, "B01_poison.tif"):
                break
            deaths += 1
        trial.recovered(time.monotonic() - began_s)
        trial.require(1 <= deaths <= 2, f"{deaths} deaths before the scan was condemned")
        pid = rig.worker.pid
        for index, deed in enumerate((CRASHES, EATS, BURNS) * trial.size(2, 10)):
            began_s = time.monotonic()
            counts, _ = rig.generator.scan()
            coded = written_by_tifffile(counts, compression="lzw" if index % 2 else "zlib")
            name = f"B01_coded_{index:03}.tif"
            condemned.append(rig.generator.put(name, coded + deed, None))
            counts, _ = rig.generator.scan()
            healthy = written_by_tifffile(counts, compression="lzw")
            rig.generator.put(f"B01_coded_{index:03}_next.tif", healthy, expected_p_abnormal(counts))
            rig.generator.arrive(2)
            rig.await_all()
            trial.recovered(time.monotonic() - began_s)
        trial.require(rig.worker.is_alive() and rig.worker.pid == pid, "the daemon died of a coded file")
        peak = rig.worker.usage().peak_rss_bytes
        trial.require(peak < MAX_RSS_BYTES, f"peak memory {peak / 1e6:.0f} MB")
        trial.require_clean_stop(rig.worker)
        trial.take(rig.findings())
        verdicts = {m.content["scan"]["file"]: m.content["reasons"] for m in rig.subscriber.of("verdict")}
        said = {entry.file: verdicts.get(entry.file) for entry in condemned}
        wrong = {file: reasons for file, reasons in said.items() if reasons != ["decoder-crash"]}
        trial.require(not wrong, f"expected decoder-crash: {wrong}")
        trial.figures |= {
            "deaths_of_the_daemon": deaths,
            "coded_files_that_crash_eat_or_hang": len(condemned) - 1,
            "deaths_of_decoders": rig.worker.count("decoder died"),
        }
