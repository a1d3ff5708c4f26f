"""The worker's drop-ins, for a GPU and for OpenVINO, and the GPU's build unit."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parents[2] / "systemd"
BUILD = SYSTEMD / "edge-engine-build.service"
DROP_IN = SYSTEMD / "edge-worker-gpu.conf"
OPENVINO = SYSTEMD / "edge-worker-openvino.conf"
MAX_EXPOSURE = 2.0
UNITS = ("build", "gpu", "openvino")

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def analysed(*arguments: str | Path) -> str:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def worker_with(drop_in: Path, folder: Path) -> Path:
    """The worker's unit as systemd merges it: what stands last wins, lists grow."""
    unit = (SYSTEMD / "edge-worker.service").read_text(encoding="utf-8")
    lines = drop_in.read_text(encoding="utf-8").split("[Service]\n")[1]
    merged = folder / "edge-worker.service"
    merged.write_text(unit.replace("[Install]", f"{lines}\n[Install]"), encoding="utf-8")
    return merged


def unit_of(name: str, folder: Path) -> Path:
    return BUILD if name == "build" else worker_with(OPENVINO if name == "openvino" else DROP_IN, folder)


@needs_systemd
def test_none_is_exposed_more_than_two_points(tmp_path: Path) -> None:
    for name in UNITS:
        unit = unit_of(name, tmp_path)
        text = analysed("security", "--offline=true", "--no-pager", unit)
        found = re.search(r"Overall exposure level for \S+: ([\d.]+)", text)
        assert found is not None, text
        assert float(found[1]) <= MAX_EXPOSURE, text


@needs_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_sees_no_mistake(tmp_path: Path, unit: str) -> None:
    path = unit_of(unit, tmp_path)
    harmless = ("RestartSteps", "RestartMaxDelaySec", "is not executable: No such file or directory")
    text = analysed("verify", path)
    complaints = [
        line for line in text.splitlines() if path.name in line and not any(word in line for word in harmless)
    ]
    assert complaints == []


def test_the_build_comes_first_and_the_line_starts_without_it() -> None:
    build, drop_in = BUILD.read_text(encoding="utf-8"), DROP_IN.read_text(encoding="utf-8")
    assert "Type=oneshot" in build
    assert "Before=edge-worker.service" in build
    assert "--build-engine" in build
    assert "Wants=edge-engine-build.service" in drop_in
    assert "Requires=" not in drop_in
    assert "SetCredential=device.key:" in drop_in, "without it a missing key would keep the worker from starting"


def test_the_worker_compiles_nothing_and_the_build_may() -> None:
    assert "MemoryDenyWriteExecute=yes" in (SYSTEMD / "edge-worker.service").read_text(encoding="utf-8")
    assert "MemoryDenyWriteExecute" not in DROP_IN.read_text(encoding="utf-8")
    assert "MemoryDenyWriteExecute=yes" not in BUILD.read_text(encoding="utf-8")


def test_openvinos_drop_in_gives_up_one_thing() -> None:
    settings = [line for line in OPENVINO.read_text(encoding="utf-8").splitlines() if line and line[0] not in "#["]
    assert settings == ["MemoryDenyWriteExecute=no"]


def test_they_do_not_share_a_user() -> None:
    build = BUILD.read_text(encoding="utf-8")
    assert "User=edge-engine\nGroup=edge-worker" in build
