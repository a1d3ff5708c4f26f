"""What a report every few seconds costs the worker: its processor time a scan and its latency, in alternating spans.

    .venvs/test/bin/python -m tests.bench.reader [--pairs 8] [--span-s 8]

One stub worker judges scans that are offered at a fixed rate. In every second span `edge-worker report --since 8h` runs
again as soon as `--every` seconds have passed. All spans last equally long, for a worker costs something while it
waits. Printed: the mean of the paired differences with its 95 % interval.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.throughput import _acknowledgements, _await_ready, _config, _cpu_s, _offer
from tests.support.mosquitto import Mosquitto, Recorder

SIZE_PX = (512, 256)
SETTLE_S = 4.0
"""From the end of a span's scans to the end of the span: its last report is done by then."""
T_95 = {4: 2.78, 6: 2.45, 8: 2.31, 10: 2.23, 12: 2.18}
"""Student's t, two-sided 95 %, by pairs; one degree fewer is within 5 % of it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, choices=sorted(T_95), default=8)
    parser.add_argument("--span-s", type=float, default=8.0)
    parser.add_argument("--per-s", type=int, default=30, help="scans offered a second")
    parser.add_argument("--every", type=float, default=3.0, help="seconds from the begin of a report to the next")
    options = parser.parse_args(arguments)
    cpu_ms: dict[bool, list[float]] = {False: [], True: []}
    spans: list[tuple[bool, dict[str, float]]] = []
    late = 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "scans").mkdir()
        with Mosquitto(root / "broker", max_queued=0) as broker, Recorder(broker):
            config = _config(root, broker)
            worker = subprocess.Popen([sys.executable, "-m", "tests.bench.stub_daemon", str(config)])
            try:
                _await_ready(root)
                count = int(options.span_s * options.per_s)
                _offer(root, count, SIZE_PX, options.per_s)  # warm
                for number in range(1, 2 * options.pairs + 1):
                    is_read = bool(number % 2) ^ bool(number // 2 % 2)  # ABBA: a drift meets both alike
                    stop = threading.Event()
                    reader = threading.Thread(target=_read, args=(config, stop, options.every if is_read else None))
                    before_s, end_s = _cpu_s(worker.pid), time.monotonic() + options.span_s + SETTLE_S
                    reader.start()
                    visible = _offer(root, count, SIZE_PX, options.per_s, number * count)
                    stop.set()
                    reader.join()
                    late += time.monotonic() > end_s
                    time.sleep(max(0.0, end_s - time.monotonic()))
                    cpu_ms[is_read].append((_cpu_s(worker.pid) - before_s) / count * 1e3)
                    spans.append((is_read, visible))
            finally:
                worker.terminate()
                worker.wait(timeout=60)
        acknowledged = _acknowledgements(root / "state" / "ledger.sqlite")
    latency_ms: dict[bool, list[float]] = {False: [], True: []}
    for is_read, visible in spans:
        waits = [acknowledged[file] - at for file, at in visible.items() if file in acknowledged]
        latency_ms[is_read].append(statistics.median(waits) * 1e3)
    for words, values in (("ms of processor a scan", cpu_ms), ("ms latency, p50", latency_ms)):
        differences = [read - alone for read, alone in zip(values[True], values[False], strict=True)]
        alone = statistics.mean(values[False])
        reach = T_95[options.pairs] * statistics.stdev(differences) / len(differences) ** 0.5
        mean = statistics.mean(differences)
        print(
            f"{words}: {alone:.2f} alone, {100 * mean / alone:+.1f} % with a report every {options.every:g} s "
            f"(95 % interval {100 * (mean - reach) / alone:+.1f} to {100 * (mean + reach) / alone:+.1f} %)"
        )
    if late:
        print(f"{late} spans lasted longer, which counts against the reports: ask again on a quieter machine")
    return 0


def _read(config: Path, stop: threading.Event, every_s: float | None) -> None:
    while every_s is not None and not stop.is_set():
        began_s = time.monotonic()
        command = [sys.executable, "-m", "edge.cli", "report", "--since", "8h", "--out", "-", "--config", str(config)]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        stop.wait(max(0.0, began_s + every_s - time.monotonic()))


if __name__ == "__main__":
    sys.exit(main())
