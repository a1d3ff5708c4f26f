"""The daemon with a stub engine under a steady stream of scans: latency from file visible to PUBACK, processor time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from edge.contract.messages import Kind
from tests.support import signed_models
from tests.support.mosquitto import PROGRAM, Mosquitto, Recorder


def measure(root: Path, *, seconds: float, size_px: tuple[int, int], offered_per_s: int) -> dict[str, Any]:
    """Offer scans of (height, width) px at a fixed rate; rate and latency (ms) of the acknowledgements, peak memory.

    Processor time of a scan is from the ready daemon to its end, without what the start takes once.
    """
    if PROGRAM is None:
        return {"skipped": "the mosquitto program is not installed"}
    shutil.rmtree(root, ignore_errors=True)
    (root / "scans").mkdir(parents=True)
    count = round(offered_per_s * seconds)
    topic = f"+/+/+/+/+/inspection/{Kind.VERDICT}"
    with Mosquitto(root / "broker", max_queued=0) as broker, Recorder(broker, topic) as mes:
        daemon = subprocess.Popen([sys.executable, "-m", "tests.bench.stub_daemon", str(_config(root, broker))])
        _await_ready(root)
        start_cpu_s = _cpu_s(daemon.pid)
        visible_at = _offer(root, count, size_px, offered_per_s)
        deadline_s = time.monotonic() + 60
        while len(mes.messages("verdict")) < count and time.monotonic() < deadline_s:
            time.sleep(0.02)
        peak_rss_bytes = _peak_rss_bytes(daemon.pid)
        daemon.send_signal(signal.SIGTERM)
        _, status, usage = os.wait4(daemon.pid, 0)
        if status != 0:
            raise SystemExit(f"the stub daemon ended with status {status}")
    acknowledged_at = _acknowledgements(root / "state" / "ledger.sqlite")
    shutil.rmtree(root / "scans")
    latencies_ms = [1e3 * (moment - visible_at[name]) for name, moment in acknowledged_at.items()]
    span_s = max(acknowledged_at.values()) - min(acknowledged_at.values())
    percentiles = (50, 90, 99, 100)
    return {
        "scan_px": list(size_px),
        "offered_per_s": offered_per_s,
        "scans": count,
        "acknowledged": len(latencies_ms),
        "acknowledged_per_s": round((len(latencies_ms) - 1) / span_s, 1),
        "latency_ms": {f"p{p}": round(float(np.percentile(latencies_ms, p)), 1) for p in percentiles},
        "start_cpu_ms": round(1e3 * start_cpu_s),
        "cpu_ms_per_scan": round(1e3 * (usage.ru_utime + usage.ru_stime - start_cpu_s) / count, 2),
        "peak_rss_bytes": peak_rss_bytes,
    }


def _peak_rss_bytes(pid: int) -> int:
    """From /proc: what wait4 reports includes this process's own size, from between fork and exec."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"no peak memory of process {pid}")


def _cpu_s(pid: int) -> float:
    """Processor time a process has used, in user mode and in the kernel."""
    _, _, behind_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    user, system = behind_name.split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _config(root: Path, broker: Mosquitto) -> Path:
    signed_models.make_signed_model(root / "model", edit=_any_size)
    key = signed_models.write_public_key(root / "key.pub.pem")
    path = root / "edge.toml"
    path.write_text(
        f'[folder]\npath = "{root / "scans"}"\nstable_polls = 2\nstable_for_s = 0.05\n'
        f'[model]\ndir = "{root / "model"}"\ntrusted_key = "{key}"\n'
        f'[state]\ndir = "{root / "state"}"\nmin_free_bytes = 0\n[broker]\nport = {broker.port}\n'
        '[log]\nlevel = "warning"\n'
    )
    return path


def _await_ready(root: Path) -> None:
    """The ledger appears when the model is loaded and the threads are about to start."""
    deadline_s = time.monotonic() + 60
    while not (root / "state" / "ledger.sqlite").exists():
        if time.monotonic() > deadline_s:
            raise SystemExit("the stub daemon does not start")
        time.sleep(0.05)


def _offer(root: Path, count: int, size_px: tuple[int, int], offered_per_s: int, first: int = 0) -> dict[str, float]:
    """Write and rename scans, numbered from `first` on, on a fixed schedule; when each was visible (wall clock, s)."""
    template = root / "template.tif"
    counts = np.random.default_rng(0).integers(1800, 2600, size_px).astype(np.uint16)
    tifffile.imwrite(template, counts, metadata=None)
    data = bytearray(template.read_bytes())
    visible_at: dict[str, float] = {}
    started_s = time.perf_counter()
    for index in range(first, first + count):
        time.sleep(max(0.0, started_s + (index - first) / offered_per_s - time.perf_counter()))
        data[-8:] = (index + (1800 << 48)).to_bytes(8, "little")  # unique bytes, last sample in range
        name = f"T01_{index:06}.tif"
        draft = root / "scans" / f".{name}.tmp"
        draft.write_bytes(data)
        visible_at[name] = time.time()
        os.rename(draft, root / "scans" / name)  # noqa: PTH104 - the hot loop
    return visible_at


def _acknowledgements(ledger: Path) -> dict[str, float]:
    """When the PUBACK of each file's verdict was marked (wall clock, s)."""
    with sqlite3.connect(ledger) as sql:
        rows = sql.execute(
            "SELECT payload, sent_at_ms FROM outbox JOIN payloads USING (seq) WHERE sent_at_ms IS NOT NULL"
        )
        return {json.loads(payload)["scan"]["file"]: sent_at_ms / 1e3 for payload, sent_at_ms in rows}


def _any_size(manifest: signed_models.Content) -> None:
    manifest["scan_spec"] |= {"height_px": [32, 4096], "width_px": [32, 4096], "max_clipped_fraction": 0.5}
