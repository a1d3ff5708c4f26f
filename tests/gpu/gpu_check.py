"""`make gpu-check`: what a machine with an NVIDIA GPU does with this code, as a table and as gpu_check.json.

It installs nothing and needs no registry: torch, torchvision, numpy, OpenCV and tifffile must be there, nvcc for the
kernels. pycuda and TensorRT may be; `--wheels DIR` brings wheels, or pycuda's sdist, for the length of the run. Each
part runs in a process of its own with its own time, and fails alone; all of it stays under eight minutes. The exit
code is 1 when a part failed or found something wrong; that pycuda or TensorRT is not installed is no failure.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 460.0
LEAST_S = 5.0
"""With less left a part is not begun."""
PARTS = {  # name: most seconds it may take
    "machine": 60.0,
    "scans": 120.0,
    "kernel": 120.0,
    "kernel_time": 60.0,
    "bandwidth": 60.0,
    "pycuda": 60.0,
    "contract": 150.0,
    "networks": 100.0,
    "pipeline": 100.0,
    "tensorrt": 240.0,
    "training": 80.0,
}
USE_SCANS = {"kernel", "kernel_time", "pycuda", "pipeline", "tensorrt"}
"""They read what the part `scans` writes."""
PROBE_S = 120.0
EXIT_NO_GPU, EXIT_FAILED = 3, 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder of gpu_check.json")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="wheels and sdists to use, installed nowhere")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    options = parser.parse_args(arguments)
    started_s = time.monotonic()
    reason = no_gpu()
    if reason is not None:
        print(f"gpu-check: nothing was checked: {reason}", file=sys.stderr)
        return EXIT_NO_GPU
    wanted = set(options.only or PARTS)
    wanted |= {"scans"} if wanted & USE_SCANS else set()
    chosen = [name for name in PARTS if name in wanted]
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
    wrong = [name for name, result in results.items() if result.get("is_wrong") or "failed" in result]
    if wrong:
        print(f"gpu-check: wrong or failed: {', '.join(wrong)}", file=sys.stderr)
    return EXIT_FAILED if wrong else 0


def no_gpu() -> str | None:
    """Why there is nothing to check; asked in a child, so that this process never holds the GPU."""
    program = "import torch, sys; sys.exit(0 if torch.cuda.is_available() else 9)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, errors="replace", timeout=PROBE_S
        )
    except subprocess.TimeoutExpired:
        return f"torch finds no answer within {PROBE_S:.0f} s"
    if done.returncode == 0:
        return None
    if done.returncode == 9:
        return "torch finds no NVIDIA GPU here (torch.cuda.is_available() is false)"
    return f"torch cannot be imported by {sys.executable}: {last_line(done.stderr)}"


def carried(wheels: Path, site: Path) -> dict[str, Any]:
    """Unpack what was carried along; pycuda's sdist is compiled here, against this machine's CUDA."""
    found: dict[str, Any] = {}
    if find_spec("pip") is None:  # a wheel is an archive of what it installs
        for wheel in sorted(wheels.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
            found[wheel.name.split("-")[0]] = "unpacked"
        os.environ["PYTHONPATH"] = _path_with(site)
        return found
    stubs = Path("/usr/local/cuda/lib64/stubs")
    environment = os.environ | {"LIBRARY_PATH": f"{stubs}:{os.environ.get('LIBRARY_PATH', '')}"}
    for packages in (sorted(wheels.glob("*.whl")), *([sdist] for sdist in sorted(wheels.glob("*.tar.gz")))):
        if not packages:
            continue
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation"]
        command += ["--no-compile", "--upgrade", "--target", str(site), *map(str, packages)]
        name = ", ".join(package.name.split("-")[0] for package in packages)
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=150, env=environment
            )
            found[name] = "installed" if done.returncode == 0 else last_line(done.stderr)
        except subprocess.TimeoutExpired:
            found[name] = "not installed within 150 s"
        found["is_wrong"] = bool(found.get("is_wrong")) or found[name] != "installed"
    os.environ["PYTHONPATH"] = _path_with(site)
    return found


def _path_with(folder: Path) -> str:
    """Where Python looks for modules now, and in `folder` before."""
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


def run_part(name: str, scratch: Path, limit_s: float) -> dict[str, Any]:
    """One part's figures, or `failed` with its reason. Out of time, it ends with all that it started."""
    started_s = time.monotonic()
    target = scratch / f"{name}.json"
    program = [sys.executable, str(Path(__file__).with_name("parts.py")), name, str(scratch), str(target)]
    result: dict[str, Any]
    if limit_s < LEAST_S:
        result = {"failed": f"no time left of {LIMIT_S:.0f} s"}
    else:
        part = subprocess.Popen(
            program,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": _path_with(ROOT)},  # the build of a plan takes nothing from its folder
            start_new_session=True,
        )
        try:
            _, words = part.communicate(timeout=limit_s)
            if target.exists():
                result = json.loads(target.read_text(encoding="utf-8"))
            else:
                result = {"failed": last_line(words) or f"exit code {part.returncode}"}
        except subprocess.TimeoutExpired:
            os.killpg(part.pid, signal.SIGKILL)
            part.communicate()
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
