"""`make bench`: what the line costs beside its engines, and beside a plain script.

Three programs on the same scans and the same networks, side by side in one run and in turns, because times on a
shared machine drift: (a) each engine alone, in each precision it is meant for, (b) `edge-worker --replay` end to end
on the one that was fastest in the first round, (c) a plain PyTorch script, once with the gate that the model has and
once with the paper's at full resolution. Then the daemon with a stub engine: file
visible to PUBACK, sustained.

The networks have random weights at the size asked for (their speed does not depend on what they learnt). Whether the
engines decide alike is counted on the demo's networks, at their size: see `decisions.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from edge.records import Size  # noqa: E402
from tests.bench import bench_model, decisions, throughput  # noqa: E402
from train.recipe import usual_reduction  # noqa: E402
from train.simulator.simulate import write_lots  # noqa: E402

SCRIPTS = ("script", "paper")
"""The plain script with the gate's reduction as in the model, and at full resolution as in the paper."""


@dataclass(frozen=True)
class Run:
    """One program once over the scans."""

    seconds_per_scan: float
    peak_rss_bytes: int
    wall_s: float
    idle_share: float = 0.0
    """Share of a core that an engine uses between scans."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--scans", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", default="2000x1000")
    parser.add_argument("--throughput-s", type=float, default=15.0, help="seconds of the stub-engine run; 0 skips it")
    parser.add_argument(
        "--decisions",
        type=int,
        default=24,
        metavar="N",
        help="simulated scans on which decisions are compared; 0: none",
    )
    parser.add_argument(
        "--checkpoints", type=Path, default=decisions.CHECKPOINTS, help="run of the demo model, for torch as reference"
    )
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    options.out = options.out.resolve()  # the children have working folders of their own
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)

    folder = write_lots(options.out / "scans", seed=7, lots=2, scans_per_lot=options.scans // 2, jobs=2).parent
    run = bench_model.make(options.out / "model", Size(height, width), folder)
    runs: dict[str, list[Run]] = {name: [] for name in (*bench_model.ENGINES, "replay", *SCRIPTS)}
    best = ""
    for turn in range(options.rounds):
        for name in bench_model.ENGINES:
            runs[name].append(_engine(run / f"{name}.toml", options.scans))
        best = best or min(bench_model.ENGINES, key=lambda name: runs[name][0].seconds_per_scan)
        runs["replay"].append(_replay(run / f"{best}.toml", folder, options.out / f"replay-{turn}"))
        runs["script"].append(_script(run, folder, usual_reduction(Size(height, width))))
        runs["paper"].append(_script(run, folder, 1))
        times = ", ".join(f"{name} {done[-1].seconds_per_scan:.2f} s" for name, done in runs.items())
        print(f"round {turn + 1} of {options.rounds}: {times}", flush=True)
    result = _result(runs, best, options.size)
    if options.throughput_s > 0:
        seconds = options.throughput_s
        result["stub_engine"] = [
            throughput.measure(options.out / "stub", seconds=seconds, size_px=(512, 256), offered_per_s=220),
            throughput.measure(options.out / "stub", seconds=seconds / 3, size_px=(2072, 1145), offered_per_s=40),
        ]
    if options.decisions > 0:
        result["decisions"] = decisions.measure(options.decisions, options.checkpoints)
    (options.out / "bench.json").write_text(json.dumps(result, indent=2) + "\n")
    _print(result)
    return 0


def _engine(config: Path, scans: int) -> Run:
    done = timed("engines_alone.py", config, scans + 1)
    *lines, idle = [float(line.split()[-1]) for line in done.output.splitlines()]
    return Run(statistics.mean(lines[1:]), done.peak_rss_bytes, done.wall_s, idle)  # the first call allocates


def _replay(config: Path, folder: Path, out: Path) -> Run:
    arguments = ("--config", config, "--replay", folder, "--labels", folder / "labels.csv", "--out", out)
    done = timed("-m", "edge.cli", *arguments)
    run = json.loads((out / "run.json").read_text())
    return Run(run["elapsed_s"] / run["judged"], done.peak_rss_bytes, done.wall_s)


def _script(run: Path, folder: Path, reduction: int) -> Run:
    done = timed("plain_script.py", run, folder, reduction)
    seconds = [float(line.split()[-1]) for line in done.output.splitlines()]
    return Run(statistics.mean(seconds), done.peak_rss_bytes, done.wall_s)


class Timed(NamedTuple):
    """A program that ended."""

    output: str
    peak_rss_bytes: int
    """Peak of the largest of its processes."""
    wall_s: float
    busy_s: float
    """Processor time of all its processes."""


def timed(*arguments: object) -> Timed:
    """Run a Python program. Exits where it fails."""
    first = str(arguments[0])
    program = [str(HERE / first)] if first.endswith(".py") else [first]
    command = [sys.executable, *program, *map(str, arguments[1:])]
    reporter = (
        "import json,resource,subprocess,sys,time; t=time.perf_counter();"
        "p=subprocess.run(sys.argv[1:],stdout=subprocess.PIPE,text=True);"
        "u=resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(json.dumps([p.returncode,p.stdout,u.ru_maxrss*1024,time.perf_counter()-t,u.ru_utime+u.ru_stime]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", reporter, *command], stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    code, *found = json.loads(done.stdout)
    if code != 0:
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    return Timed(*found)


def _result(runs: dict[str, list[Run]], best: str, size: str) -> dict[str, Any]:
    """Medians over the rounds; ratios are taken within each round, then their median."""

    def median_ratio(upper: str, lower: str) -> float:
        pairs = zip(runs[upper], runs[lower], strict=True)
        return round(statistics.median(a.seconds_per_scan / b.seconds_per_scan for a, b in pairs), 3)

    return {
        "schema": "bench/4",
        "input": size,
        "machine": f"{_processor()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}",
        "seconds_per_scan": {
            name: round(statistics.median(run.seconds_per_scan for run in done), 4) for name, done in runs.items()
        },
        "seconds_per_scan_spread": {
            name: [round(pick(run.seconds_per_scan for run in done), 4) for pick in (min, max)]
            for name, done in runs.items()
        },
        "ratios": {
            "replay_over_engine": median_ratio("replay", best),
            **{f"{script}_over_{name}": median_ratio(script, name) for script in SCRIPTS for name in ("replay", best)},
        },
        "best_engine": best,
        "idle_share_of_a_core": {
            name: round(max(run.idle_share for run in runs[name]), 4) for name in bench_model.ENGINES
        },
        "peak_rss_bytes": {name: max(run.peak_rss_bytes for run in done) for name, done in runs.items()},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _print(result: dict[str, Any]) -> None:
    console = Console(highlight=False)
    titles = {
        **{name: f"{name} alone" for name in bench_model.ENGINES},
        "replay": f"edge-worker --replay on {result['best_engine']}, per scan of its run",
        "script": "plain PyTorch script, per scan of its loop",
        "paper": "the same, its gate at full resolution as the paper's",
    }
    judged = result.get("decisions", {"engines": {}})
    table = Table(
        "",
        "s per scan",
        "from",
        "to",
        "peak memory",
        "decisions alike",
        title=f"{result['input']}, {result['machine']}",
    )
    for name, title in titles.items():
        low, high = result["seconds_per_scan_spread"][name]
        peak = f"{result['peak_rss_bytes'][name] / 1e9:.2f} GB"
        equal = f"{judged['engines'][name]['equal']} of {judged['scans']}" if name in judged["engines"] else ""
        table.add_row(title, f"{result['seconds_per_scan'][name]:.3f}", f"{low:.3f}", f"{high:.3f}", peak, equal)
    console.print(table)
    for name, found in judged["engines"].items():
        low, high = found["interval"]
        console.print(
            f"{name} decides {found['equal']} of {judged['scans']} scans as {judged['reference']} (networks "
            f"{judged['model']}): 95 % interval {low:.2%} to {high:.2%}; "
            f"p(abnormal) moves by {found['p_abnormal_moved_by']:.1e} at most"
        )
        for flip in found["flips"]:
            console.print(f"  scan {flip}")
    for name, ratio in result["ratios"].items():
        console.print(f"{name.replace('_', ' ')}: {ratio:.2f}")
    console.print(f"share of a core between scans: {result['idle_share_of_a_core']}")
    for run in result.get("stub_engine", ()):
        console.print(json.dumps(run))


if __name__ == "__main__":
    sys.exit(main())
