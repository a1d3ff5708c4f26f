"""The service unit: what systemd's own tools say of it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "systemd" / "edge-worker.service"
MAX_EXPOSURE = 2.0

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@needs_systemd
def test_the_service_is_exposed_at_most_two_points() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", UNIT],
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= MAX_EXPOSURE


@needs_systemd
def test_the_unit_has_no_mistake_that_systemd_sees() -> None:
    done = subprocess.run(["systemd-analyze", "verify", UNIT], capture_output=True, text=True, timeout=60)
    newer = ("RestartSteps", "RestartMaxDelaySec")  # systemd 254; older ones say that they ignore them
    not_installed = "is not executable: No such file or directory"
    complaints = [
        line
        for line in done.stderr.splitlines()
        if UNIT.name in line and not_installed not in line and not any(key in line for key in newer)
    ]
    assert complaints == []


def test_systemd_waits_for_ready_and_feeds_on_the_beat() -> None:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    assert "Type=notify" in lines
    assert any(line.startswith("WatchdogSec=") for line in lines)
    assert "RestartPreventExitStatus=78" in lines


def test_the_tasks_of_a_processor_with_128_threads_fit() -> None:
    """A thread that cannot be started ends the service, at every start."""
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    assert "Environment=OPENBLAS_NUM_THREADS=1" in lines, "numpy starts a thread per processor in every process"
    (limit,) = (int(line.removeprefix("TasksMax=")) for line in lines if line.startswith("TasksMax="))
    pools, own, unpackers = 3, 20, 32
    assert limit >= pools * (128 - 1) + own + unpackers


@pytest.mark.parametrize("unit", ["edge-worker.service", "edge-engine-build.service"])
def test_the_units_name_no_file_that_nothing_installs(unit: str) -> None:
    assert "Documentation=file:" not in UNIT.with_name(unit).read_text(encoding="utf-8")
