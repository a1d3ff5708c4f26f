"""The parts of gpu-check: `parts.py PART SCRATCH TARGET` measures one and writes its figures as JSON."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402 - after the project became importable
import torch  # noqa: E402

from edge.engines.tensorrt.kernel_args import METHODS, raw_scan  # noqa: E402
from edge.engines.tensorrt.plans import NVCC_PLACES  # noqa: E402
from edge.images.conversion import Bounds, prepare  # noqa: E402
from edge.images.method import Method  # noqa: E402
from edge.records import Counts, Size  # noqa: E402

SCANS = 200
SIZE = Size(2000, 1000)
BOUNDS = Bounds(1600, 2800)
SEED = 77
MOST_TIMES_THE_FLOOR = 2.0
SILENT_S = 100.0
"""A test that takes longer hangs: it shows where."""
NEEDS = {
    "pycuda": ("pycuda",),
    "contract": ("pycuda", "onnx", "onnxruntime", "pydantic", "cryptography", "pytest"),
    "pipeline": ("pycuda",),
    "tensorrt": ("tensorrt", "pycuda", "onnxruntime", "pydantic", "cryptography"),
}
MAY_MISS = {"pycuda", "tensorrt"}
Figures = dict[str, Any]


def machine(_: Path) -> Figures:
    gpu = torch.cuda.get_device_properties(0)
    query = "--query-gpu=driver_version,pcie.link.gen.current,pcie.link.width.current"
    return {
        "gpu": gpu.name,
        "compute_capability": f"{gpu.major}.{gpu.minor}",
        "memory_gb": round(gpu.total_memory / 1e9, 1),
        "multiprocessors": gpu.multi_processor_count,
        "driver, PCIe generation, lanes": _told_by("nvidia-smi", query, "--format=csv,noheader"),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "nvcc": _told_by("nvcc", "--version"),
        "pycuda": find_spec("pycuda") is not None,
        "tensorrt": find_spec("tensorrt") is not None,
    }


def _told_by(tool: str, *arguments: str) -> str:
    """The last line of what a tool says, or that it is not here or says nothing."""
    found = shutil.which(tool) or shutil.which(tool, path=os.pathsep.join(NVCC_PLACES))
    if found is None:
        return "not found"
    done = subprocess.run([found, *arguments], capture_output=True, text=True, errors="replace")
    return next(iter(done.stdout.strip().splitlines()[-1:]), f"exit code {done.returncode}")


def scans(scratch: Path) -> Figures:
    """Simulated scans, written as the station writes them: every later part reads these files."""
    folder = scratch / "scans"
    folder.mkdir()
    started_s = time.perf_counter()
    with ProcessPoolExecutor(_cores()) as pool:
        sizes = list(pool.map(_simulate, [(folder, number) for number in range(SCANS)]))
    return {
        "simulated": len(sizes),
        "height_px": [min(size[0] for size in sizes), max(size[0] for size in sizes)],
        "width_px": [min(size[1] for size in sizes), max(size[1] for size in sizes)],
        "simulating_s": round(time.perf_counter() - started_s, 1),
    }


def _simulate(order: tuple[Path, int]) -> tuple[int, int]:
    import cv2
    import tifffile

    from train.simulator.simulate import simulate_scan

    cv2.setNumThreads(1)
    folder, number = order
    counts = simulate_scan(SEED, number % 20, number // 20).counts
    tifffile.imwrite(folder / f"{number:04d}.tif", counts, metadata=None)
    return counts.shape[0], counts.shape[1]


def kernel(scratch: Path) -> Figures:
    """The fused kernel against OpenCV on every scan, the four methods in turn, and against its twin on some."""
    from tests.gpu import twin
    from tests.gpu.driver_api import Kernels, on_device

    kernels, worst, changed, unlike_twin, counted = Kernels(), 0, [], 0, 0
    for number, counts in enumerate(_counts(scratch)):
        method = METHODS[number % 4]
        bounds = BOUNDS if method.needs_bounds else None
        size = SIZE if number % 10 else Size(*counts.shape)
        scan = raw_scan(counts, method, bounds, size)
        image = torch.full((method.channels, *size), 77, dtype=torch.uint8, device="cuda")
        kernels.run(scan, on_device(scan), image)
        made = image.cpu().numpy()
        difference = np.abs(made.astype(np.int16) - prepare(counts, method, bounds, size))
        worst = max(worst, int(difference.max()))
        changed.append(float((difference > 0).mean()))
        if number < 8:
            unlike_twin += int((made != twin.fused(scan)).sum())
        counted += 1
    return {
        "scans": counted,
        "greatest difference to OpenCV, grey levels": worst,
        "pixels one level off": f"{np.mean(changed):.2%}",
        "pixels unlike the numpy twin, of 8 scans": unlike_twin,
        "is_wrong": worst > 1 or unlike_twin > 0 or counted < SCANS,
    }


def kernel_time(scratch: Path) -> Figures:
    """Kernel time against the time copies of as many bytes take, launched alike; scans enough to defeat the cache."""
    from tests.gpu.driver_api import Kernels, on_device

    kernels, slowest = Kernels(), 0.0
    figures: Figures = {"copy of 512 MB, GB/s read and written": round(_copy_gb_s())}
    real = next(_counts(scratch))
    large = np.tile(real, (4, 4))
    cases = {
        "one scan, resized": (real, SIZE, 64),
        "one scan, same size": (real, Size(*real.shape), 64),
        "16 times the area, resized": (large, Size(8000, 4000), 8),
        "16 times the area, same size": (large, Size(*large.shape), 8),
    }
    for name, (counts, size, copies) in cases.items():
        scan = raw_scan(counts, Method.GLOBAL, BOUNDS, size)
        there = [on_device(scan) for _ in range(copies)]
        images = [torch.empty((1, *size), dtype=torch.uint8, device="cuda") for _ in range(copies)]
        bytes_moved = 2 * counts.size + size.height_px * size.width_px
        half = [torch.empty(bytes_moved // 2, dtype=torch.uint8, device="cuda") for _ in range(2 * copies)]
        kernel_us = _each_us([partial(kernels.run, scan, *pair) for pair in zip(there, images, strict=True)])
        floor_us = _each_us([partial(to.copy_, of) for to, of in zip(half[:copies], half[copies:], strict=True)])
        slowest = max(slowest, kernel_us / floor_us)
        floor = f"a copy of as many bytes ({bytes_moved / 1e6:.1f} MB) {floor_us:.1f} us"
        figures[name] = f"{kernel_us:.1f} us, {floor}, {kernel_us / floor_us:.2f} times"
    return figures | {"is_wrong": slowest > MOST_TIMES_THE_FLOOR}


def _each_us(work: list[Callable[[], object]]) -> float:
    """Device time of each, all launched by one graph: Python launches too slowly for kernels of microseconds."""
    for one in work:
        one()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for one in work:
            one()
    return _best_ms(graph.replay) * 1e3 / len(work)


def bandwidth(_: Path) -> Figures:
    """Host to device, as the line uploads: one scan at a time, and a large block for comparison."""
    figures: Figures = {}
    for name, size in (("one scan, 4.9 MB", 4_900_000), ("256 MB", 256 << 20)):
        there = torch.empty(size, dtype=torch.uint8, device="cuda")
        for kind, pin in (("pinned", True), ("pageable", False)):
            here = torch.ones(size, dtype=torch.uint8, pin_memory=pin)
            ms = _best_ms(partial(there.copy_, here, non_blocking=True))
            figures[f"{name}, {kind}, GB/s"] = round(size / ms / 1e6, 1)
    return figures


def pycuda(scratch: Path) -> Figures:
    """The line's own way to the kernel: pycuda, primary context, pinned memory, no torch in the process' GPU work."""
    import pycuda.driver as cuda

    from edge.engines.tensorrt.kernel_args import FRAME, axis, frame, launch
    from edge.engines.tensorrt.plans import compile_kernels

    cuda.init()
    device = cuda.Device(0)
    context = device.retain_primary_context()
    context.push()
    try:
        module = cuda.module_from_buffer(compile_kernels(".".join(map(str, device.compute_capability()))))
        worst = 0
        for counts in islice(_counts(scratch), 5):
            scan = raw_scan(counts, Method.MIXED, BOUNDS, SIZE)
            stream = cuda.Stream()
            pinned = cuda.pagelocked_empty(scan.counts.shape, np.uint16)
            pinned[...] = scan.counts
            raw, image = cuda.mem_alloc(pinned.nbytes), cuda.mem_alloc(3 * SIZE.height_px * SIZE.width_px)
            axes = [cuda.to_device(axis(a, b)) for a, b in zip(scan.counts.shape, SIZE, strict=True)]
            how = launch(Size(*scan.counts.shape), SIZE)
            function = module.get_function(how.kernel)
            function.prepare([f"{FRAME.itemsize}s"])
            cuda.memcpy_htod_async(raw, pinned, stream)
            argument = frame(scan, counts=int(raw), image=int(image), columns=int(axes[1]), rows=int(axes[0]))
            function.prepared_async_call(how.grid, how.block, stream, argument)
            out = cuda.pagelocked_empty((3, *SIZE), np.uint8)
            cuda.memcpy_dtoh_async(out, image, stream)
            stream.synchronize()
            expected = prepare(counts, Method.MIXED, BOUNDS, SIZE)
            worst = max(worst, int(np.abs(out.astype(np.int16) - expected).max()))
        return {"version": ".".join(map(str, cuda.get_version())), "greatest difference": worst, "is_wrong": worst > 1}
    finally:
        cuda.Context.pop()


def contract(scratch: Path) -> Figures:
    """The engine contract on this GPU, as pytest runs it: see tests/gpu/test_trt_on_gpu.py."""
    report = scratch / "contract.xml"
    # Kernels that load when first launched may wait for the GPU, and it for Python, in which the stand-in computes.
    environment = os.environ | {"CUDA_MODULE_LOADING": "EAGER"}
    command = contract_command(report)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", env=environment)
    if not report.exists():
        return {"failed": next(iter((done.stdout + done.stderr).strip().splitlines()[-1:]), "pytest did not start")}
    suite = ElementTree.parse(report).getroot()[0]
    figures: Figures = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    wrong = [case.attrib["name"] for case in suite.iter("testcase") if case.find("failure") is not None]
    reasons = {skip.attrib["message"] for skip in suite.iter("skipped")}
    words = {"failing": wrong, "why skipped": sorted(reasons)}
    return figures | {name: said for name, said in words.items() if said} | {"is_wrong": done.returncode != 0}


def contract_command(report: Path) -> list[str]:
    """pytest without the project's settings, which ask for plugins that a bare GPU machine lacks."""
    options = ["-c", "/dev/null", f"--rootdir={ROOT}", "--import-mode=importlib", "-q", "-p", "no:cacheprovider"]
    settings = [f"pythonpath={ROOT}", "markers=gpu\ntimeout", f"faulthandler_timeout={SILENT_S:.0f}"]
    overridden = [option for setting in settings for option in ("-o", setting)]
    program = [sys.executable, "-m", "pytest", *options, *overridden, f"--junit-xml={report}"]
    return [*program, "tests/gpu/test_trt_on_gpu.py"]


def tensorrt(scratch: Path) -> Figures:
    """The real engine: build on this GPU, golden scans, raw scans."""
    from edge.engines import PlanSettings, RawEngine
    from edge.engines.preprocessor import Preprocessor
    from edge.engines.tensorrt.open import open_tensorrt
    from edge.model.signed_model import read_model

    model = read_model(ROOT / "demo" / "model", ROOT / "edge" / "pipeline" / "demo-key.pub.pem")
    settings = PlanSettings(scratch / "plans", scratch / "device.key", 8 << 30, 250.0)
    figures: Figures = {}
    started_s = time.perf_counter()
    open_tensorrt(model, settings, max_batch=8).close()
    figures["build, golden scans reproduced, s"] = round(time.perf_counter() - started_s, 1)
    engine = open_tensorrt(model, settings, max_batch=8)
    preprocessor = Preprocessor(engine, model.input_spec())
    batch = [preprocessor.prepare(counts) for _, counts in enumerate(islice(_counts(scratch), 8))]
    ms = min(_wall_ms(lambda: preprocessor.infer(batch)) for _ in range(10)) / len(batch)
    figures[f"demo model, {'raw' if isinstance(engine, RawEngine) else 'converted'} scans, ms per scan"] = round(ms, 3)
    engine.close()
    return figures


def _counts(scratch: Path) -> Iterator[Counts]:
    import tifffile

    for path in sorted((scratch / "scans").glob("*.tif")):
        yield tifffile.imread(path)


def _copy_gb_s() -> float:
    source = torch.empty(512 << 20, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / _best_ms(lambda: target.copy_(source)) / 1e6


def _best_ms(work: Callable[[], object], rounds: int = 20) -> float:
    """Device time of the fastest round."""
    work()
    times = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    least_ms: float = min(times)
    return least_ms


def _wall_ms(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return (time.perf_counter() - started_s) * 1e3


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def missing(part: str) -> Figures:
    """Why a part cannot run with what is installed; empty where it can."""
    lacking = [name for name in NEEDS.get(part, ()) if find_spec(name) is None]
    if not lacking:
        return {}
    why = f"not installed: {', '.join(lacking)}; bring the wheels along with --wheels"
    return {"skipped" if MAY_MISS & set(lacking) else "failed": why}


def main(part: str, scratch: Path, target: Path) -> None:
    try:
        figures = missing(part) or _work_of(part)(scratch)
    except Exception as error:  # noqa: BLE001 - a part fails alone, with its reason
        figures = {"failed": f"{type(error).__name__}: {getattr(error, 'message', error)}"}
    target.write_text(json.dumps(figures), encoding="utf-8")


def _work_of(part: str) -> Callable[[Path], Figures]:
    own = {work.__name__: work for work in (machine, scans, kernel, kernel_time, bandwidth, pycuda, contract, tensorrt)}
    if part in own:
        return own[part]
    from tests.gpu import torch_parts  # needs torchvision, which takes seconds to import

    return {work.__name__: work for work in (torch_parts.networks, torch_parts.pipeline, torch_parts.training)}[part]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
