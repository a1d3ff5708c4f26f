"""What `replay --jobs` makes of an archive: its efficiency beside the engines alone, and its memory over many files.

    python tests/bench/archive.py --out build/archive                       # about five minutes on 2 cores
    python tests/bench/archive.py --out build/archive --scans 0 --stubs 100000     # about an hour of processor

Efficiency is scans a second of `replay --jobs N` over those of N engines of one thread each that run side by side on
converted images: 1 would be a program that costs nothing beside its networks. Engines and replay take turns, and each
replay is set against the engines before and after it, so that what else the machine does strikes both. It is given
twice: by the clock, and by processor time, which hardly knows the machine's other work. Opening processes and models
and writing the report is a cost of every replay, not of every scan: it is measured by a short replay each round, taken
off, and given beside. Memory is the peak of the largest process, and the course of
the one that gathers the results; flat means that ten times the files take hardly more.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from edge.records import Size  # noqa: E402
from tests.bench import bench_model  # noqa: E402
from tests.bench.run_bench import timed  # noqa: E402
from train.simulator.simulate import write_lots  # noqa: E402

DRAWN = 12
"""Scans that are simulated; the others are the same bytes under other names."""
SHORT_PER_JOB = 8
"""Scans of each process in the replay that shows what every replay costs."""
STUB_SIZE, STUB_SCALE = Size(64, 64), 0.1
"""Networks and scans that cost little, so that what is left is the program. Scans of 0.1 are 205 x 112 px."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/archive"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--scans", type=int, default=60, help="full scans for the efficiency; 0: none")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", default="1000x500", help="input of the networks")
    parser.add_argument("--engine", default="openvino-int8", choices=bench_model.ENGINES)
    parser.add_argument("--stubs", type=int, default=0, help="small files for the memory, and a tenth of them; 0: none")
    options = parser.parse_args()
    options.out = options.out.resolve()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    result: dict[str, Any] = {"schema": "archive-bench/3", "jobs": options.jobs, "cores": len(os.sched_getaffinity(0))}
    if options.scans:
        result["efficiency"] = efficiency(options)
    if options.stubs:
        result["memory"] = memory(options)
    (options.out / "archive.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return 0


def efficiency(options: argparse.Namespace) -> dict[str, Any]:
    """Rounds of a short and a long replay between the engines alone; shares as (lowest, median, highest)."""
    height, width = map(int, options.size.split("x"))
    drawn = write_lots(options.out / "drawn", seed=7, lots=2, scans_per_lot=DRAWN // 2, jobs=2).parent
    model = bench_model.make(options.out / "model", Size(height, width), drawn)
    config = model / f"{options.engine}.toml"
    text = config.read_text().replace("[model]\n", "[model]\nthreads = 1\n")
    (alone := model / "one-thread.toml").write_text(text)
    files = sorted(drawn.glob("*.tif"))
    short = copies(files, SHORT_PER_JOB * options.jobs, options.out / "short")
    long = copies(files, options.scans, options.out / "scans")
    engines = [engines_alone(alone, options.jobs)]
    replays: list[Cost] = []
    starts: list[Cost] = []
    for turn in range(options.rounds):
        few, many = (replay_of(config, folder, options) for folder in (short, long))
        per_scan = many.less(few).over(options.scans - SHORT_PER_JOB * options.jobs)
        replays.append(per_scan)
        starts.append(few.less(per_scan.over(1 / (SHORT_PER_JOB * options.jobs))))
        engines.append(engines_alone(alone, options.jobs))
        print(f"round {turn + 1} of {options.rounds}: engines {engines[-1]}, replay {per_scan}", flush=True)
    beside = [(before.plus(after)).over(2) for before, after in pairwise(engines)]
    return {
        "engine": options.engine,
        "input": options.size,
        "scans": options.scans,
        "rounds": options.rounds,
        "engines_wall_s_per_scan": spread([each.wall_s for each in engines]),
        "engines_busy_s_per_scan": spread([each.busy_s for each in engines]),
        "replay_wall_s_per_scan": spread([each.wall_s for each in replays]),
        "replay_busy_s_per_scan": spread([each.busy_s for each in replays]),
        "start_and_report_wall_s": spread([each.wall_s for each in starts]),
        "start_and_report_busy_s": spread([each.busy_s for each in starts]),
        "efficiency_wall": spread([e.wall_s / r.wall_s for e, r in zip(beside, replays, strict=True)]),
        "efficiency_busy": spread([e.busy_s / r.busy_s for e, r in zip(beside, replays, strict=True)]),
    }


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds by the clock and of the processor."""

    wall_s: float
    busy_s: float

    def plus(self, other: Cost) -> Cost:
        return Cost(self.wall_s + other.wall_s, self.busy_s + other.busy_s)

    def less(self, other: Cost) -> Cost:
        return Cost(self.wall_s - other.wall_s, self.busy_s - other.busy_s)

    def over(self, count: float) -> Cost:
        return Cost(self.wall_s / count, self.busy_s / count)

    def __str__(self) -> str:
        return f"{self.wall_s:.3f} s, {self.busy_s:.3f} s of processor"


def replay_of(config: Path, folder: Path, options: argparse.Namespace) -> Cost:
    """A whole replay, from the command to its end."""
    out = options.out / "replay"
    shutil.rmtree(out, ignore_errors=True)
    done = timed("-m", "edge.cli", "--config", config, "replay", folder, "--jobs", options.jobs, "--out", out)
    return Cost(done.wall_s, done.busy_s)


def engines_alone(config: Path, jobs: int, images: int = 16) -> Cost:
    """An image's share where `jobs` engines of one thread each run side by side."""

    def alone(_: int) -> list[list[float]]:
        lines = timed("engines_alone.py", config, images + 1).output.splitlines()[1:-1]  # the first call allocates
        return [[float(word) for word in line.split()[-2:]] for line in lines]

    with ThreadPoolExecutor(jobs) as pool:
        found = list(pool.map(alone, range(jobs)))
    per_s = sum(images / sum(elapsed for _, elapsed in lines) for lines in found)
    return Cost(1 / per_s, sum(busy for lines in found for busy, _ in lines) / (images * jobs))


def spread(values: list[float]) -> list[float]:
    """Lowest, median, highest."""
    return [round(value, 4) for value in (min(values), statistics.median(values), max(values))]


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of replays of a tenth of the small files and of all of them, and its course over the latter."""
    drawn = write_lots(options.out / "stub-drawn", seed=7, lots=2, scans_per_lot=DRAWN // 2, scale=STUB_SCALE)
    model = bench_model.make(options.out / "stub-model", STUB_SIZE, drawn.parent, STUB_SCALE)
    found: dict[str, Any] = {}
    for name, count in (("tenth", options.stubs // 10), ("all", options.stubs)):
        folder, out = (
            copies(sorted(drawn.parent.glob("*.tif")), count, options.out / name),
            options.out / f"replay-{name}",
        )
        arguments = ("replay", folder, "--jobs", options.jobs, "--out", out)
        with Watch(options.out) as watch:
            done = timed("-m", "edge.cli", "--config", model / "onnxruntime-fp32.toml", *arguments)
        run = json.loads((out / "run.json").read_text())
        found |= {
            f"{name}_files": run["judged"],
            f"{name}_scans_per_s": round(run["speed"]["scans_per_s"], 1),
            f"{name}_peak_rss_bytes": done.peak_rss_bytes,
            f"{name}_wall_s": round(done.wall_s, 1),
            f"{name}_busy_s": round(done.busy_s, 1),
            f"{name}_infer_ms_p50": run["speed"]["infer_ms_p50"],
        }
        found["curve_s_rss_mb"] = watch.curve()
    files = found["all_files"] - found["tenth_files"]
    found["busy_ms_per_file"] = round(1e3 * (found["all_busy_s"] - found["tenth_busy_s"]) / files, 3)
    found["peak_over_tenth"] = round(found["all_peak_rss_bytes"] / found["tenth_peak_rss_bytes"], 3)
    return found


class Watch:
    """Looks at the memory of the processes whose command line names a folder, while inside."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder).encode()
        self._seen: list[tuple[float, int]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def curve(self, points: int = 20) -> list[list[float]]:
        """Seconds since the start with MB of the replay's own process, evenly spread."""
        step = max(1, len(self._seen) // points)
        return [[round(at_s), round(rss / 1e6)] for at_s, rss in self._seen[::step]]

    def _look(self) -> None:
        started_s = time.monotonic()
        while not self._over.wait(1.0):
            rss = 0
            for process in Path("/proc").iterdir():
                with suppress(OSError, ValueError):
                    words = (process / "cmdline").read_bytes().split(b"\0")
                    if b"edge.cli" in words[:3] and any(self._folder in word for word in words):
                        pages = int((process / "statm").read_text().split()[1])
                        rss = max(rss, pages * os.sysconf("SC_PAGESIZE"))
            self._seen.append((time.monotonic() - started_s, rss))


def copies(drawn: list[Path], count: int, folder: Path) -> Path:
    """`count` names for the drawn files, in one folder; hard links, so that they take no room."""
    folder.mkdir()
    for number in range(count):
        os.link(drawn[number % len(drawn)], folder / f"B01_{number:06}.tif")
    return folder


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd} ended with {error.returncode}")
