"""gpu-check itself: what it says without a GPU, and that its parts need nothing that a bare GPU machine lacks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu import gpu_check

ABSENT = ("pydantic", "pydantic_core", "pydantic_settings", "cryptography", "imagecodecs", "watchdog", "paho", "rich")


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
    code = gpu_check.main(["--out", str(tmp_path), "--only", "pycuda", "tensorrt"])
    told = json.loads((tmp_path / "gpu_check.json").read_text())
    assert code == 0
    assert set(told) == {"carried", "pycuda", "tensorrt", "total"}
    for part in ("pycuda", "tensorrt"):
        assert told[part]["took_s"] >= 0
        assert "failed" in told[part] or "greatest difference" in told[part] or len(told[part]) > 2
    assert "gpu_check.json" in capsys.readouterr().out


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
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
