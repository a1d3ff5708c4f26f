"""Power cuts, and the order of flush and publish: R7 and R8."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from edge.errors import LedgerError
from edge.store.ledger import open_ledger
from tests.torture.checker import Message, compare, read_ledger
from tests.torture.disk_faults import needs
from tests.torture.rig import STATION, Rig
from tests.torture.trace import Call, disk_after_power_cut, published, read_trace, strace_command
from tests.torture.trial import Trial

WAL = "ledger.sqlite-wal"


def power_cut(trial: Trial) -> None:
    """R7: what a traced run had published before a moment is in the ledger that a power cut then leaves."""
    needs("strace")
    cuts, restarts = trial.size(60, 200), trial.size(2, 10)
    with trial.rig() as rig:
        calls = _traced_run(rig, trial.size(40, 300))
        said = published(calls)
        trial.findings.tried = len(rig.generator.listed)
        first = next(call.ended for call in calls if call.name == "rename" and call.target.endswith("ledger.sqlite"))
        chance = random.Random(trial.seed)
        for cut in range(cuts):
            moment = chance.randint(first + 1, calls[-1].ended)
            home = rig.root / f"cut-{cut}"
            home.mkdir(mode=0o700)
            for name, data in disk_after_power_cut(calls, moment, chance, rig.state).items():
                if name.startswith("ledger.sqlite"):
                    (home / name).write_bytes(data)
            before = {content["verdict_id"]: payload for call, content, payload in said if call.began < moment}
            _require_held(trial, home, before, cut)
            if cut < restarts:
                _go_on_from(trial, rig, home, before, cut)
            shutil.rmtree(home)
    trial.figures |= {"cuts": cuts, "restarts": restarts, "verdicts_published": len(said)}


def durability_order(trial: Trial) -> None:
    """R8: between the write of a verdict and its way to the network lies a flush of the ledger, every time."""
    needs("strace")
    with trial.rig() as rig:
        calls = _traced_run(rig, trial.size(50, 1000))
        writes = [call for call in calls if call.name == "pwrite64" and call.path.endswith(WAL)]
        flushes = [call for call in calls if call.name in ("fdatasync", "fsync") and call.path.endswith(WAL)]
        said = published(calls)
        in_order = 0
        for call, content, _ in said:
            key = f'"verdict_id":"{content["verdict_id"]}"'.encode()
            written = next((write.ended for write in writes if key in write.data), None)
            in_order += written is not None and any(
                written < flush.began and flush.ended < call.began for flush in flushes
            )
        trial.require(len(said) >= len(rig.generator.listed), f"{len(said)} publications were seen")
        trial.require(
            in_order == len(said), f"{len(said) - in_order} of {len(said)} were sent before they were flushed"
        )
        trial.take(rig.findings())
        trial.figures |= {"publications": len(said), "flushed_before": in_order, "flushes": len(flushes)}


def _traced_run(rig: Rig, count: int) -> list[Call]:
    output = rig.root / "strace.out"
    rig.worker.start(prefix=strace_command(output))
    while len(rig.generator.listed) < count:
        rig.generator.arrive(rig.chance.randint(1, 8))
        rig.await_all()
    rig.worker.kill()
    return read_trace(output)


def _require_held(trial: Trial, home: Path, before: dict[str, bytes], cut: int) -> None:
    try:
        with open_ledger(home / "ledger.sqlite", STATION) as ledger:
            ledger.database.check()
    except LedgerError as error:
        trial.require(False, f"cut {cut}: {error.message}")
        return
    stored = {row.verdict_id: row.payload.encode() for row in read_ledger(home / "ledger.sqlite")[0]}
    missing = sum(verdict_id not in stored for verdict_id in before)
    differs = sum(stored.get(verdict_id, payload) != payload for verdict_id, payload in before.items())
    trial.findings.lost += missing
    trial.findings.contradictory += differs
    trial.require(not missing, f"cut {cut}: {missing} of {len(before)} published verdicts are not in the ledger")
    trial.require(not differs, f"cut {cut}: {differs} published verdicts differ from the ledger")


def _go_on_from(trial: Trial, rig: Rig, home: Path, before: dict[str, bytes], cut: int) -> None:
    """A fresh worker on what the cut left: with what was published before, nothing is lost or contradicted."""
    with trial.rig() as after:
        shutil.rmtree(after.scans)
        shutil.copytree(rig.scans, after.scans)
        shutil.copytree(home, after.state)
        after.state.chmod(0o700)
        after.generator.listed = list(rig.generator.listed)
        after.worker.start()
        after.worker.wait_for("broker connected")
        wanted = {listed.sha256 for listed in rig.generator.listed}
        kept = len(read_ledger(home / "ledger.sqlite")[0])
        after.await_judged(len(wanted) - kept)
        after.settle()
        after.worker.stop()
        rows, _ = after.ledger_rows()
        earlier = [Message(0.0, "verdict", payload.decode()) for payload in before.values()]
        found = compare(rig.generator.listed, [*earlier, *after.subscriber.read()], rows)
        trial.require(not found.faults, f"after cut {cut}: {'; '.join(found.faults[:3])}")
        trial.require(len(wanted) == len(rows), f"after cut {cut}: {len(rows)} rows for {len(wanted)} scans")
