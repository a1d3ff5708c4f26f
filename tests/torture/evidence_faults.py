"""Evidence under kills, on a slow disk and on a full one: R37. It shares no code with what writes or reads pieces."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from tests.torture.disk_faults import fill, small_disk
from tests.torture.rig import Layout, Rig
from tests.torture.trial import Skipped, Trial

BUDGET_BYTES = 400_000
"""About twenty pieces of the torture's small scans."""
SLOW_S = 1.0
LATE_S = 60.0


def keep_evidence(trial: Trial) -> None:
    """R37: SIGKILL while pieces are written and pruned; a disk that is slow, and one that is full."""
    kill_while_pieces_are_written(trial)
    _slow_disk(trial)
    try:
        _full_disk(trial)
    except Skipped as reason:
        trial.notes.append(f"no full disk: {reason}")


def kill_while_pieces_are_written(trial: Trial) -> None:
    """A budget that prunes all the time, and SIGKILL in the middle of it."""
    with trial.rig(Layout(evidence={"sample": 1.0, "max_bytes": BUDGET_BYTES})) as rig:
        read = 0
        for kill in range(trial.size(4, 100)):
            rig.generator.arrive(12)
            if kill % 2:
                judged = rig.worker.count("scan judged")
                rig.worker.start()
                rig.worker.wait_for("scan judged", judged + 1)
                time.sleep(rig.chance.uniform(0.0, 0.5))
            else:
                rig.worker.start("--die-at", f"piece:{rig.chance.randint(1, 12)}", wait=False)
                while rig.worker.is_alive():
                    rig.generator.arrive(1)
                    time.sleep(0.05)
            rig.worker.kill()
            read += _read_all(trial, rig, f"after kill {kill}")
        rig.worker.start()
        trial.recovered(rig.await_all())
        trial.require_clean_stop(rig.worker)
        trial.take(rig.findings())
        drafts = list(_folder(rig).glob("*/.tmp-*"))
        trial.require(not drafts, f"{len(drafts)} drafts are left after a clean stop")
        read += _read_all(trial, rig, "at the end")
        size_bytes = sum(file.stat().st_size for file in _folder(rig).glob("*/*/*"))
        trial.require(size_bytes <= BUDGET_BYTES, f"{size_bytes} bytes of evidence, the budget is {BUDGET_BYTES}")
        trial.require(read > 0, "no piece was read: the row shows nothing")
        trial.figures |= {"pieces_read": read}


def _slow_disk(trial: Trial) -> None:
    """No verdict waits for the pictures, and a stop does not wait for all of them."""
    count = trial.size(30, 500)
    with trial.rig(Layout(evidence={"sample": 1.0})) as rig:
        rig.worker.start("--slow-evidence", str(SLOW_S))
        rig.generator.arrive(count)
        took_s = rig.await_all()
        trial.require(took_s < count * SLOW_S, f"{count} verdicts took {took_s:.0f} s: they waited for the pictures")
        began_s = time.monotonic()
        trial.require_clean_stop(rig.worker)
        stop_s = time.monotonic() - began_s
        trial.require(stop_s < LATE_S, f"the stop took {stop_s:.0f} s")
        trial.require(rig.worker.count("evidence dropped") > 0, "nothing was dropped, though the disk was slow")
        trial.take(rig.findings())
        _read_all(trial, rig, "slow disk")
        trial.figures |= {"slow_disk_stop_s": round(stop_s, 1)}


def _full_disk(trial: Trial) -> None:
    with trial.rig(Layout(evidence={"sample": 1.0, "dir": trial.root / "full"})) as rig:
        with small_disk(trial.root / "full", 1 << 20) as disk:
            rig.worker.start()
            rig.generator.arrive(5)
            rig.await_all()
            fill(disk / "ballast")
            rig.generator.arrive(trial.size(30, 200))
            rig.await_all()
            (disk / "ballast").unlink()
            rig.generator.arrive(5)
            rig.await_all()
            trial.require_clean_stop(rig.worker)
            trial.require(rig.worker.count("evidence dropped") > 0, "nothing was dropped, though the disk was full")
            last = {entry.verdict_id for entry in rig.ledger_rows()[0][-5:]}
            kept = {path.name for path in disk.glob("*/*")}
            trial.require(last <= kept, "evidence did not go on when the disk had room again")
            _read_all(trial, rig, "full disk", disk)
        trial.take(rig.findings())


def _folder(rig: Rig) -> Path:
    return rig.state / "evidence"


def _read_all(trial: Trial, rig: Rig, when: str, folder: Path | None = None) -> int:
    """Every piece to its last byte, against its own record and the ledger's message; how many there are."""
    payloads = {row.verdict_id: row.payload for row in rig.ledger_rows()[0]} if rig.state.exists() else {}
    pieces = [path for path in (folder or _folder(rig)).glob("*/*") if not path.name.startswith(".")]
    for path in pieces:
        try:
            record: dict[str, Any] = json.loads((path / "record.json").read_bytes())
            for name, kept in record["files"].items():
                if hashlib.sha256((path / name).read_bytes()).hexdigest() != kept["sha256"]:
                    trial.require(False, f"{when}: {path.name}/{name} is broken")
            said = (path / "verdict.json").read_text()
        except (OSError, ValueError, KeyError) as error:
            trial.require(False, f"{when}: {path.name} is broken: {error!r}")
        else:
            trial.require(said == payloads.get(path.name), f"{when}: {path.name} holds another verdict than the ledger")
    return len(pieces)
