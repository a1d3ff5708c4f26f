"""A decoder under a file's control, and files that burn time or disk: R29 and R30."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from tests.support.tiff_files import coded, written_by_tifffile
from tests.torture.poison import BURNS, REACHES, WORKS
from tests.torture.rig import Layout, Rig, wait_until
from tests.torture.stub import expected_p_abnormal
from tests.torture.trial import Trial

LZW = 5
CLEARINGS = int("100000000" * 8, 2).to_bytes(9, "big")
"""Eight LZW codes that clear the table."""
MAX_CPU_S = 2.0
"""Processor time that the unpackers of one file may burn."""
BUDGET_BYTES = 1_000_000
GROWN_BYTES = 16 * BUDGET_BYTES


def decoder_taken_over(trial: Trial) -> None:
    """R29: a decoder that a file controls reaches no file and no process; its scan is judged as any other."""
    with trial.rig() as rig:
        rig.worker.start("--poison")
        pid = rig.worker.pid
        rig.generator.arrive(1)
        rig.await_all()
        before = sorted(path.name for path in rig.state.iterdir())
        for index in range(trial.size(4, 40)):
            counts, _ = rig.generator.scan()
            data = written_by_tifffile(counts, compression="lzw" if index % 2 else "zlib")
            reach = REACHES + os.fsencode(rig.state) + b"\n"
            rig.generator.put(f"B01_reach_{index:03}.tif", data + reach, expected_p_abnormal(counts))
        trial.recovered(rig.await_all())
        trial.require(rig.worker.is_alive() and rig.worker.pid == pid, "the decoder ended the daemon")
        after = sorted(path.name for path in rig.state.iterdir())
        trial.require(before == after, f"the decoder changed the state directory from {before} to {after}")
        if rig.worker.is_alive() and (rig.state / "ledger.sqlite").exists():
            trial.require_clean_stop(rig.worker)
            trial.take(rig.findings())


def files_that_burn(trial: Trial) -> None:
    """R30: clearings without end, a decoder that is stopped, a bad file that grows while it is copied."""
    layout = Layout(evidence={"max_bytes": BUDGET_BYTES})
    with trial.rig(layout) as rig:
        rig.worker.start("--poison")
        counts, _ = rig.generator.scan()
        rig.generator.put("B01_first.tif", written_by_tifffile(counts, compression="lzw"), expected_p_abnormal(counts))
        rig.await_all()
        burning = {
            "B01_clearings.tif": coded(CLEARINGS * (trial.size(40, 250) * 100_000 // 9), LZW, counts),
            "B01_forever.tif": written_by_tifffile(counts, compression="zlib") + BURNS,
        }
        slowest_s = 0.0
        for name, data in burning.items():
            before_s = rig.worker.usage().children_cpu_s
            rig.generator.put(name, data, None)
            trial.recovered(rig.await_all())
            slowest_s = max(slowest_s, rig.worker.usage().children_cpu_s - before_s)
        trial.require_in_time(slowest_s <= MAX_CPU_S, f"a burning file took {slowest_s:.1f} s of processor time")
        trial.figures |= {"cpu_s_of_a_burning_file": round(slowest_s, 2)}
        _stop_the_decoder(trial, rig)
        data = _grow_a_bad_file(trial, rig)
        trial.require_clean_stop(rig.worker)
        pieces = [path for path in (rig.state / "evidence").glob("*/*/*") if path.is_file()]
        kept_bytes = sum(path.stat().st_size for path in pieces)
        trial.require(kept_bytes <= BUDGET_BYTES, f"{kept_bytes} bytes of evidence, its budget is {BUDGET_BYTES}")
        copies = [path.read_bytes() for path in pieces if path.name == "scan.bin"]
        trial.require(data in copies, "no copy was made of what was judged")
        trial.take(rig.findings())


def _stop_the_decoder(trial: Trial, rig: Rig) -> None:
    """Twice, in the middle of a good scan: it waits, and is judged in the end."""
    counts, _ = rig.generator.scan()
    data = written_by_tifffile(counts, compression="zlib") + WORKS
    rig.generator.put("B01_starved.tif", data, expected_p_abnormal(counts))
    until_s = time.monotonic() + 60.0
    while (starved := rig.worker.count("scan not complete", file="B01_starved.tif")) < 2:
        if rig.worker.count("scan judged", file="B01_starved.tif") or time.monotonic() > until_s:
            break
        for pid in rig.worker.children():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if "Seccomp:\t2" in Path(f"/proc/{pid}/status").read_text():  # not while it starts
                    os.kill(pid, signal.SIGSTOP)
        time.sleep(0.02)
    trial.recovered(rig.await_all())
    trial.require(starved == 2, f"the scan whose decoder was stopped waited {starved} times, not 2")
    outcomes = [m.content["outcome"] for m in rig.subscriber.of("verdict") if "starved" in m.content["scan"]["file"]]
    trial.require("unreadable" not in outcomes, "a scan was called unreadable because its decoder was stopped")


def _grow_a_bad_file(trial: Trial, rig: Rig) -> bytes:
    """After its verdict and its opening for the copy, which is held up for a moment; what was judged."""
    data = f"junk {trial.seed}".encode()
    bad = rig.scans / "B01_grows.tif"
    rig.generator.put(bad.name, data, None)
    wait_until(lambda: rig.worker.count("scan judged", file=bad.name) > 0, "the bad file is judged")
    wait_until(lambda: _is_open(rig.worker.pid, bad), "the bad file is open for its copy")
    os.truncate(bad, GROWN_BYTES)
    rig.generator.note(bad.name, data.ljust(GROWN_BYTES, b"\0"), None)  # another file by now, with its own verdict
    rig.await_all()
    bad.unlink()
    return data


def _is_open(pid: int, path: Path) -> bool:
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if handle.readlink() == path:
                return True
    return False
