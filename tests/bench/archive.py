"""What `replay --jobs` makes of an archive: its efficiency beside the engines alone, and its memory over many files.

    python tests/bench/archive.py --out build/archive                       # 2 processes on 2 quiet cores
    python tests/bench/archive.py --out build/archive --scans 0 --stubs 100000

Efficiency is scans a second of `replay --jobs N` over those of N engines of one thread each that run side by side on
converted images: 1 would be a program that costs nothing beside its networks. It counts from opening the processes to
the last verdict, so it rises with the number of scans. Memory is the peak of the largest process; flat means that ten
times the files take hardly more.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from edge.records import Size  # noqa: E402
from tests.bench import bench_model  # noqa: E402
from tests.bench.run_bench import timed  # noqa: E402
from train.simulator.simulate import write_lot  # noqa: E402

DRAWN = 12
"""Scans that are simulated; the others are the same bytes under other names."""
STUB_SIZE = Size(64, 64)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/archive"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--scans", type=int, default=120, help="full scans for the efficiency; 0: none")
    parser.add_argument("--size", default="1000x500", help="input of the networks")
    parser.add_argument("--engine", default="openvino-int8", choices=bench_model.ENGINES)
    parser.add_argument("--stubs", type=int, default=0, help="small files for the memory, and a tenth of them; 0: none")
    options = parser.parse_args()
    options.out = options.out.resolve()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    result: dict[str, Any] = {"schema": "archive-bench/1", "jobs": options.jobs, "cores": len(os.sched_getaffinity(0))}
    if options.scans:
        result["efficiency"] = efficiency(options)
    if options.stubs:
        result["memory"] = memory(options)
    (options.out / "archive.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return 0


def efficiency(options: argparse.Namespace) -> dict[str, float | int | str]:
    """Scans a second of the engines alone, before and after, and of the replay between."""
    height, width = map(int, options.size.split("x"))
    drawn = write_lot(options.out / "drawn", seed=7, bundles=2, scans_per_bundle=DRAWN // 2, jobs=2).parent
    model = bench_model.make(options.out / "model", Size(height, width), drawn)
    config = model / f"{options.engine}.toml"
    text = config.read_text().replace("[model]\n", "[model]\nthreads = 1\n")
    (alone := model / "one-thread.toml").write_text(text)
    folder = copies(sorted(drawn.glob("*.tif")), options.scans, options.out / "scans")
    before = engines_per_s(alone, options.jobs)
    out = options.out / "replay"
    timed("-m", "edge.cli", "--config", config, "replay", folder, "--jobs", options.jobs, "--out", out)
    run = json.loads((out / "run.json").read_text())
    after = engines_per_s(alone, options.jobs)
    replay, engines = run["judged"] / run["elapsed_s"], (before + after) / 2
    return {
        "engine": options.engine,
        "input": options.size,
        "scans": run["judged"],
        "engines_per_s_before": round(before, 4),
        "engines_per_s_after": round(after, 4),
        "replay_per_s": round(replay, 4),
        "efficiency": round(replay / engines, 4),
    }


def engines_per_s(config: Path, jobs: int, images: int = 16) -> float:
    """Images a second of `jobs` engines of one thread each, side by side."""

    def seconds(_: int) -> float:
        done, _, _ = timed("engines_alone.py", config, images + 1)
        return sum(float(line.split()[-1]) for line in done.splitlines()[1:-1])  # the first call allocates

    with ThreadPoolExecutor(jobs) as pool:
        return sum(images / each for each in pool.map(seconds, range(jobs)))


def memory(options: argparse.Namespace) -> dict[str, float | int]:
    """Peak memory of replays of a tenth of the small files and of all of them."""
    drawn = options.out / "stub-drawn"
    drawn.mkdir()
    rng = np.random.default_rng(1)
    for number in range(DRAWN):
        counts = rng.normal(2100, 60, (80, 80)).clip(1, 65535).astype(np.uint16)
        cv2.imwrite(str(drawn / f"{number}.tif"), counts, [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    lot = write_lot(options.out / "stub-lot", seed=7, bundles=1, scans_per_bundle=2, scale=0.2).parent
    model = bench_model.make(options.out / "stub-model", STUB_SIZE, lot)
    found: dict[str, float | int] = {}
    for name, count in (("tenth", options.stubs // 10), ("all", options.stubs)):
        folder = copies(sorted(drawn.glob("*.tif")), count, options.out / name)
        arguments = ("replay", folder, "--jobs", options.jobs, "--out", options.out / f"replay-{name}")
        _, peak, wall_s = timed("-m", "edge.cli", "--config", model / "onnxruntime-fp32.toml", *arguments)
        files = json.loads((options.out / f"replay-{name}" / "summary.json").read_text())["metrics"]["scans_count"]
        found |= {f"{name}_files": files, f"{name}_peak_rss_bytes": peak, f"{name}_wall_s": round(wall_s, 1)}
    found["peak_over_tenth"] = round(found["all_peak_rss_bytes"] / found["tenth_peak_rss_bytes"], 3)
    return found


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
