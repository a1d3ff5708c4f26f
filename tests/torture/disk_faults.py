"""Disks that are full, read-only, failing or forbidden: R9 and R10."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.torture.rig import Rig, wait_until
from tests.torture.trial import Skipped, Trial

STATE_BYTES = 8 << 20
MAX_RESUME_S = 30.0
WITHOUT_ROOTS_RIGHTS = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")


def disk_full(trial: Trial) -> None:
    """R9: 8 MB for the state directory, filled by somebody else under traffic, and a kill while it is full."""
    rounds = trial.size(2, 10)
    with trial.rig() as rig, small_disk(rig.state, STATE_BYTES):
        rig.worker.start()
        for _ in range(rounds):
            rig.generator.arrive(rig.chance.randint(5, 20))
            rig.await_all()
            stops = rig.worker.count("alarm", alarm="intake-stopped")
            filler = rig.state / "filler"
            fill(filler)
            rig.generator.arrive(rig.chance.randint(20, 40))
            rig.worker.wait_for("alarm", stops + 1, alarm="intake-stopped")
            time.sleep(rig.chance.uniform(0.2, 1.0))
            _require_stored(trial, rig)
            starts = rig.worker.count("loading")
            rig.worker.start(wait=False)
            rig.worker.wait_for("loading", starts + 1)
            time.sleep(1.0)
            filler.unlink()
            rig.worker.start_until_ready()  # no room even to open the ledger: systemd starts it again
            took_s = rig.await_all()
            trial.recovered(took_s)
            trial.require_in_time(took_s < MAX_RESUME_S, f"resumed only after {took_s:.0f} s")
        trial.require_clean_stop(rig.worker)
        trial.take(rig.findings())
        trial.figures |= {"rounds": rounds, "state_mb": STATE_BYTES >> 20}


def disk_fails(trial: Trial) -> None:
    """R10: the state read-only; flushes and reads that fail with EIO; a folder and a file that may not be read."""
    _read_only_state(trial)
    for turn in range(trial.size(2, 12)):
        _failing(trial, "fdatasync", "state", first=2 + turn % 4, calls_failed=6)
    # Of each call in each thread: at six, the scan is read 25 times until it can be, at growing intervals.
    _failing(trial, "pread64", "scan", first=1, calls_failed=2)
    _forbidden(trial)


@contextlib.contextmanager
def small_disk(at: Path, size_bytes: int) -> Iterator[Path]:
    """A tmpfs of `size_bytes`, mode 0700."""
    at.mkdir(mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "torture", str(at)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Skipped(f"needs a mount of its own, and this account may not: {done.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def fill(path: Path) -> None:
    """Take all space that is left."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


def needs(program: str) -> None:
    if shutil.which(program) is None:
        raise Skipped(f"{program} is not installed")


def _require_stored(trial: Trial, rig: Rig) -> None:
    """Kill the worker: every verdict that was heard of is in its ledger."""
    rig.worker.kill()
    heard = {message.content["verdict_id"] for message in rig.subscriber.of("verdict")}
    rows, integrity = rig.ledger_rows()
    missing = heard - {row.verdict_id for row in rows}
    trial.require(integrity == "ok", f"the ledger is damaged: {integrity}")
    trial.require(not missing, f"{len(missing)} verdicts were published without a durable row")


def _read_only_state(trial: Trial) -> None:
    with trial.rig() as rig, small_disk(rig.state, STATE_BYTES * 8):
        rig.worker.start()
        rig.generator.arrive(5)
        rig.await_all()
        if not _remount(rig.state, "ro"):
            # Open for writing: the kernel refuses. What remains is the same seen by a fresh process.
            rig.worker.kill()
            if not _remount(rig.state, "ro"):
                trial.notes.append("the state could not be remounted read-only")
                return
            rig.generator.arrive(5)
            rig.worker.start(wait=False)
            trial.require(rig.worker.wait_end() == 74, "a read-only state directory did not end the start with 74")
            _remount(rig.state, "rw")
            rig.worker.start()
        trial.recovered(rig.await_all())
        trial.require_clean_stop(rig.worker)
        trial.take(rig.findings(), "read-only state")


def _failing(trial: Trial, call: str, where: str, first: int, calls_failed: int) -> None:
    """System calls on one file fail with EIO, so many from the first-th on, by strace's fault injection."""
    try:
        needs("strace")
    except Skipped as reason:
        trial.notes.append(f"EIO: {reason}")
        return
    with trial.rig() as rig:
        rig.worker.start()
        rig.generator.arrive(3)
        rig.await_all()
        rig.worker.kill()
        if where == "state":
            path = rig.state / "ledger.sqlite-wal"
            calls = call
        else:
            path = rig.scans / "B01_000004.tif"
            calls = f"read,{call}"
            rig.generator.arrive(1)
        trace = rig.root / "strace.out"
        prefix = ("strace", "-f", "-qqq", "-o", str(trace), "-P", str(path))
        prefix += ("-e", f"trace={calls}", "-e", f"inject={calls}:error=EIO:when={first}..{first + calls_failed - 1}")
        rig.worker.start(prefix=prefix)
        rig.generator.arrive(10)
        trial.recovered(rig.await_all())
        failed = trace.read_text(errors="replace").count("(INJECTED)")
        trial.figures[f"calls_failed ({where})"] = trial.figures.get(f"calls_failed ({where})", 0) + failed
        if where == "state" and failed:  # whichever thread met it: the commit of verdicts, or the marking of sent ones
            alarms = ("intake-stopped", "outbox-stuck")
            wait_until(
                lambda: any(rig.worker.count("alarm", alarm=alarm) for alarm in alarms), "EIO on state: an alarm"
            )
        rig.worker.kill()
        trial.take(rig.findings(), f"EIO on {where}, call {first}")


def _forbidden(trial: Trial) -> None:
    prefix: Sequence[str] = ()
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            trial.notes.append("permissions: root may read everything, and there is no setpriv to take that away")
            return
        prefix = WITHOUT_ROOTS_RIGHTS
    with trial.rig() as rig:
        rig.worker.start(prefix=prefix)
        rig.generator.arrive(3)
        rig.await_all()
        rig.scans.chmod(0)
        wait_until(lambda: bool(rig.subscriber.alarms("folder-away")), "the alarm folder-away")
        heard = rig.subscriber.count("verdict")
        rig.generator.arrive(5)
        time.sleep(1.0)
        trial.require(rig.subscriber.count("verdict") == heard, "a verdict from a folder that may not be read")
        rig.scans.chmod(0o755)
        trial.recovered(rig.await_all())
        trial.require_clean_stop(rig.worker)
        trial.take(rig.findings(), "forbidden folder")


def _remount(path: Path, mode: str) -> bool:
    return subprocess.run(["mount", "-o", f"remount,{mode}", str(path)], capture_output=True).returncode == 0
