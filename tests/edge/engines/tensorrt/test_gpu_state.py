"""What the health message says of the GPU, from the words of a scripted nvidia-smi."""

from __future__ import annotations

from pathlib import Path

import pytest

import edge.engines.tensorrt.gpu_state
from edge.contract.messages import Gpu
from edge.engines.tensorrt.gpu_state import gpu_state


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path / "nvidia-smi"


def say(smi: Path, script: str) -> None:
    smi.write_text(f"#!/bin/sh\n{script}\n")
    smi.chmod(0o755)


def test_memory_temperature_and_load_are_told_in_the_units_of_their_names(smi: Path) -> None:
    say(smi, "echo 'NVIDIA RTX A2000, 12GB, 1024, 12282, 54, 37'")
    assert gpu_state() == Gpu(
        name="NVIDIA RTX A2000, 12GB",
        memory_used_bytes=1 << 30,
        memory_total_bytes=12282 << 20,
        temperature_c=54.0,
        utilization_percent=37.0,
    )


def test_what_a_gpu_does_not_measure_is_null(smi: Path) -> None:
    say(smi, "echo 'Orin, 10, 20, [N/A], [Not Supported]'")
    state = gpu_state()
    assert state is not None
    assert (state.temperature_c, state.utilization_percent) == (None, None)


@pytest.mark.parametrize(
    "script",
    [
        "echo 'A, 1, 2, 3, 4'; echo 'B, 1, 2, 3, 4'",
        "echo 'Orin, [N/A], [N/A], 50, 3'",
        "echo 'A, 1'",
        "true",
        "echo 'NVIDIA-SMI has failed because it could not communicate with the driver'; exit 9",
        "exec /bin/sleep 60",
    ],
)
def test_where_it_does_not_tell_nothing_is_said(smi: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(edge.engines.tensorrt.gpu_state, "TIMEOUT_S", 0.5)
    say(smi, script)
    assert gpu_state() is None


def test_a_machine_without_the_program_has_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_state() is None
