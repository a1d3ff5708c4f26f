"""gpu-check itself: what it says without a GPU, and that its parts need nothing that a bare GPU machine lacks."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.gpu import gpu_check, parts

ABSENT = ("pydantic", "pydantic_core", "cryptography", "imagecodecs", "watchdog", "paho", "rich")


def test_without_a_gpu_it_says_so_and_checks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "no_gpu", lambda: "torch finds no NVIDIA GPU here")
    assert gpu_check.main(["--out", str(tmp_path / "out")]) == gpu_check.EXIT_NO_GPU
    assert "nothing was checked: torch finds no NVIDIA GPU here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_part_fails_alone_and_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The parts themselves, on whatever machine this is: without a GPU each fails, and says why."""
    monkeypatch.setattr(gpu_check, "no_gpu", lambda: None)
    monkeypatch.setattr(gpu_check, "USE_SCANS", set())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    code = gpu_check.main(["--out", str(tmp_path), "--only", "bandwidth", "tensorrt"])
    told = json.loads((tmp_path / "gpu_check.json").read_text())
    said = capsys.readouterr()
    assert code == gpu_check.EXIT_FAILED
    assert set(told) == {"carried", "bandwidth", "tensorrt", "total"}
    assert "failed" in told["bandwidth"]
    assert "skipped" in told["tensorrt"] or find_spec("tensorrt") is not None
    assert "wrong or failed: bandwidth" in said.err
    assert "gpu_check.json" in said.out


def results_of(
    monkeypatch: pytest.MonkeyPatch, out: Path, *only: str, **results: dict[str, object]
) -> tuple[int, set[str]]:
    """Exit code and parts that ran, where a part's result is as given, else without a word."""
    monkeypatch.setattr(gpu_check, "no_gpu", lambda: None)
    ran = set()

    def run_part(name: str, *_: object) -> dict[str, object]:
        ran.add(name)
        return results.get(name, {}) | {"took_s": 0.0}

    monkeypatch.setattr(gpu_check, "run_part", run_part)
    arguments = ["--out", str(out), *(["--only", *only] if only else [])]
    return gpu_check.main(arguments), ran


def test_what_failed_or_is_wrong_counts_and_what_is_not_installed_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skipped: dict[str, object] = {"skipped": "not installed: pycuda"}
    assert results_of(monkeypatch, tmp_path, pycuda=skipped, tensorrt=skipped)[0] == 0
    assert results_of(monkeypatch, tmp_path, kernel={"failed": "nvcc fails"})[0] == gpu_check.EXIT_FAILED
    assert results_of(monkeypatch, tmp_path, kernel_time={"is_wrong": True})[0] == gpu_check.EXIT_FAILED


def test_a_part_that_reads_scans_gets_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert results_of(monkeypatch, tmp_path, "kernel")[1] == {"scans", "kernel"}
    assert results_of(monkeypatch, tmp_path, "bandwidth")[1] == {"bandwidth"}
    assert results_of(monkeypatch, tmp_path)[1] == set(gpu_check.PARTS)


def test_a_part_out_of_time_ends_with_all_that_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "parts.py").write_text(
        "import subprocess, sys, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "pathlib.Path(__file__).with_name('pid').write_text(str(child.pid))\n"
        "child.wait()\n"
    )
    monkeypatch.setattr(gpu_check, "__file__", str(tmp_path / "gpu_check.py"))
    monkeypatch.setattr(gpu_check, "LEAST_S", 0.0)
    for limit_s in (1.0, 8.0):  # a busy machine needs more time for the start of two processes
        result = gpu_check.run_part("any", tmp_path, limit_s)
        if (tmp_path / "pid").exists():
            break
    assert result["failed"] == f"ended after {limit_s:.0f} s"
    # SIGKILL was sent; on a busy machine the kernel takes its time.
    grandchild = Path(f"/proc/{(tmp_path / 'pid').read_text()}/status")
    until_s = time.monotonic() + 10.0
    while is_running(grandchild) and time.monotonic() < until_s:
        time.sleep(0.01)
    assert not is_running(grandchild)


def is_running(status: Path) -> bool:
    try:
        return "State:\tZ" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent: set[str] = set()
    monkeypatch.setattr(parts, "find_spec", lambda name: None if name in absent else name)
    assert parts.missing("contract") == {}
    absent |= {"cryptography", "pydantic"}
    assert parts.missing("contract")["failed"].startswith("not installed: pydantic, cryptography; bring")
    absent |= {"pycuda"}
    assert parts.missing("contract")["skipped"].startswith("not installed: pycuda, pydantic, cryptography")
    assert parts.missing("bandwidth") == {}


def test_a_tool_that_is_not_on_the_path_is_no_crash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(parts, "NVCC_PLACES", (str(tmp_path),))
    assert parts._told_by("nvcc", "--version") == "not found"
    (tool := tmp_path / "nvcc").write_text("#!/bin/sh\necho first\necho 'release 13.0'\n")
    tool.chmod(0o755)
    assert parts._told_by("nvcc", "--version") == "release 13.0"


def test_the_contract_is_collected_without_the_projects_plugins(tmp_path: Path) -> None:
    """A GPU machine has pytest, and no pytest-timeout."""
    command = [*parts.contract_command(tmp_path / "contract.xml"), "--collect-only", "-p", "no:timeout"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_the_kernels_convert_the_scans_on_this_gpu[stand-in]" in done.stdout


def test_the_table_needs_no_rich(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for module in ("rich", "rich.console", "rich.table"):
        monkeypatch.setitem(sys.modules, module, None)
    gpu_check.print_table({"kernel": {"greatest difference": 1}, "total": {"took_s": 2.5}})
    assert "kernel  greatest difference  1" in capsys.readouterr().out


def test_the_parts_import_where_only_torch_and_numpy_libraries_are() -> None:
    program = f"""
import sys
for name in {ABSENT!r}:
    sys.modules[name] = None
import tests.gpu.parts, tests.gpu.torch_parts, tests.gpu.torch_engine, tests.gpu.driver_api, tests.gpu.twin
import train.simulator.simulate
sys.modules["onnx"] = sys.modules["onnxruntime"] = None
sys.path.insert(0, "tests/support/scripted_gpu/trt")
import tensorrt  # torch_engine puts it where TensorRT is missing
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
