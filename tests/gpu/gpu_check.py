"""`make gpu-check`: what a machine with an NVIDIA GPU does with this code, as a table and as gpu_check.json.

It installs nothing and needs no registry: torch, torchvision, numpy, OpenCV and tifffile must be there, nvcc for the
kernels. pycuda and TensorRT may be; `--wheels DIR` brings wheels, or pycuda's sdist, for the length of the run. Each
part runs in a process of its own with its own time, and fails alone; all of it stays under eight minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 460.0
PARTS = {  # name: most seconds it may take
    "machine": 60.0,
    "scans": 120.0,
    "kernel": 120.0,
    "kernel_time": 60.0,
    "bandwidth": 60.0,
    "pycuda": 60.0,
    "contract": 120.0,
    "networks": 100.0,
    "pipeline": 100.0,
    "training": 80.0,
    "tensorrt": 300.0,
}
EXIT_NO_GPU, EXIT_FAILED = 3, 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder of gpu_check.json")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="wheels and sdists to use, installed nowhere")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    options = parser.parse_args(arguments)
    reason = no_gpu()
    if reason is not None:
        print(f"gpu-check: nothing was checked: {reason}", file=sys.stderr)
        return EXIT_NO_GPU
    chosen = [name for name in PARTS if options.only is None or name in options.only]
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as scratch:
        site = carried(options.wheels, Path(scratch) / "site") if options.wheels else {"installed": "none carried"}
        results: dict[str, dict[str, Any]] = {"carried": site}
        for name in chosen:
            left_s = LIMIT_S - (time.monotonic() - started_s)
            results[name] = run_part(name, Path(scratch), min(PARTS[name], left_s))
            print(f"{name}: {results[name]['took_s']:.0f} s", file=sys.stderr, flush=True)
    results["total"] = {"took_s": round(time.monotonic() - started_s, 1)}
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / "gpu_check.json"
    target.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print_table(results)
    print(f"written: {target}")
    return EXIT_FAILED if any(result.get("is_wrong") for result in results.values()) else 0


def no_gpu() -> str | None:
    """Why there is nothing to check; asked in a child, so that this process never holds the GPU."""
    program = "import torch, sys; sys.exit(0 if torch.cuda.is_available() else 9)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if done.returncode == 0:
        return None
    if done.returncode == 9:
        return "torch finds no NVIDIA GPU here (torch.cuda.is_available() is false)"
    return f"torch cannot be imported by {sys.executable}: {last_line(done.stderr)}"


def carried(wheels: Path, site: Path) -> dict[str, Any]:
    """Unpack what was carried along; pycuda's sdist is compiled here, against this machine's CUDA."""
    found: dict[str, Any] = {}
    stubs = Path("/usr/local/cuda/lib64/stubs")
    environment = os.environ | {"LIBRARY_PATH": f"{stubs}:{os.environ.get('LIBRARY_PATH', '')}"}
    for packages in (sorted(wheels.glob("*.whl")), *([sdist] for sdist in sorted(wheels.glob("*.tar.gz")))):
        if not packages:
            continue
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation"]
        command += ["--no-compile", "--upgrade", "--target", str(site), *map(str, packages)]
        name = ", ".join(package.name.split("-")[0] for package in packages)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=150, env=environment)
            found[name] = "installed" if done.returncode == 0 else last_line(done.stderr)
        except subprocess.TimeoutExpired:
            found[name] = "not installed within 150 s"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return found


def run_part(name: str, scratch: Path, limit_s: float) -> dict[str, Any]:
    """One part's figures, or `failed` with its reason."""
    started_s = time.monotonic()
    target = scratch / f"{name}.json"
    program = [sys.executable, str(Path(__file__).with_name("parts.py")), name, str(scratch), str(target)]
    result: dict[str, Any]
    if limit_s < 5:
        result = {"failed": f"no time left of {LIMIT_S:.0f} s"}
    else:
        try:
            done = subprocess.run(program, capture_output=True, text=True, timeout=limit_s, cwd=ROOT)
            if target.exists():
                result = json.loads(target.read_text(encoding="utf-8"))
            else:
                result = {"failed": last_line(done.stderr) or f"exit code {done.returncode}"}
        except subprocess.TimeoutExpired:
            result = {"failed": f"ended after {limit_s:.0f} s"}
    return result | {"took_s": round(time.monotonic() - started_s, 1)}


def print_table(results: dict[str, dict[str, Any]]) -> None:
    """With rich where it is, else in plain columns."""
    rows = [
        (part, name, json.dumps(value) if isinstance(value, dict | list) else str(value))
        for part, figures in results.items()
        for name, value in figures.items()
    ]
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        for part, name, value in rows:
            print(f"{part:<{widths[0]}}  {name:<{widths[1]}}  {value}")
        return
    table = Table("part", "figure", "value", title="gpu-check", title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 150).print(table)


def last_line(text: str) -> str:
    return next(iter(text.strip().splitlines()[-1:]), "")


if __name__ == "__main__":
    sys.exit(main())
