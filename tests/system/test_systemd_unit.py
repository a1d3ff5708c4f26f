"""The service unit: what systemd's own tools say of it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.systemd_box import commands_under, exposure, mistakes, needs_systemd

UNIT = Path(__file__).parents[2] / "systemd" / "edge-worker.service"
DESK = UNIT.with_name("edge-desk.service")


@needs_systemd
@pytest.mark.parametrize("unit", [UNIT, DESK], ids=lambda unit: unit.name)
def test_a_service_is_exposed_at_most_two_points(unit: Path) -> None:
    assert exposure(unit) <= 2.0


@needs_systemd
@pytest.mark.parametrize("unit", [UNIT, DESK], ids=lambda unit: unit.name)
def test_a_unit_has_no_mistake_that_systemd_sees(unit: Path) -> None:
    assert mistakes(unit) == []


def test_systemd_waits_for_ready_and_feeds_on_the_beat() -> None:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    assert "Type=notify" in lines
    assert any(line.startswith("WatchdogSec=") for line in lines)
    assert "RestartPreventExitStatus=78" in lines


@pytest.mark.parametrize("unit", [UNIT, DESK], ids=lambda unit: unit.name)
def test_a_hangup_that_a_log_rotation_sends_does_not_end_a_service_for_good(unit: Path) -> None:
    """With Restart=on-failure alone it would: systemd calls an end by SIGHUP clean."""
    assert "RestartForceExitStatus=SIGHUP" in unit.read_text(encoding="utf-8").splitlines()


def setting(key: str) -> str:
    (value,) = re.findall(rf"^{key}=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)
    return str(value)


WORKERS_THREADS = """
import os, resource, sys, threading
import cv2, numpy
from edge.engines.ort import OrtEngine
from edge.engines.cpu import PairOfNetworks
from tests.support.signed_models import SIZE, brightness_graph, spot_graph

processors, tasks, user = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NPROC, (tasks, tasks))
os.setgid(user)
os.setuid(user)  # root is not limited
cv2.setNumThreads(processors)  # what OpenCV and onnxruntime take by themselves on such a machine
engine = OrtEngine(PairOfNetworks(brightness_graph(), spot_graph(), SIZE, 1), threads=processors)
engine.infer(numpy.zeros((1, 1, *SIZE), numpy.uint8))
cv2.resize(numpy.zeros((2072, 1145), numpy.uint8), (1000, 2000))
for _ in range(20 + 32):  # loops of the line, and the most unpackers with one thread each
    threading.Thread(target=threading.Event().wait, daemon=True).start()
print(len(os.listdir("/proc/self/task")), flush=True)
os._exit(0)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a user of its own, whose tasks are limited")
def test_the_worker_starts_on_a_processor_of_128_threads() -> None:
    """A thread that cannot be started ends the service, at every start."""
    done = subprocess.run(
        [sys.executable, "-c", WORKERS_THREADS, "128", setting("TasksMax"), "54321"],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | dict([setting("Environment").split("=")]),
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 300, "onnxruntime and OpenCV have started theirs"


def test_numpy_starts_no_threads_in_the_service() -> None:
    """It would start one per processor in every process, before any limit of ours is read."""
    assert setting("Environment") == "OPENBLAS_NUM_THREADS=1"


@pytest.mark.parametrize("unit", ["edge-worker.service", "edge-engine-build.service", "edge-desk.service"])
def test_the_units_name_no_file_that_nothing_installs(unit: str) -> None:
    assert "Documentation=file:" not in UNIT.with_name(unit).read_text(encoding="utf-8")


def test_the_desk_writes_nothing_of_the_workers_but_its_drop_box() -> None:
    text = DESK.read_text(encoding="utf-8")
    assert re.findall(r"^ReadWritePaths=(.*)$", text, re.MULTILINE) == ["-/var/lib/edge-worker/state/requests"]
    assert re.findall(r"^ReadOnlyPaths=(.*)$", text, re.MULTILINE) == ["-/var/lib/edge-worker"]
    assert ("User=edge-desk" in text) and ("User=edge-worker" not in text)
    assert re.findall(r"^IPAddress.*$", text, re.MULTILINE) == ["IPAddressDeny=any", "IPAddressAllow=localhost"]


def test_the_unit_of_a_second_station_differs_in_its_settings_alone(tmp_path: Path) -> None:
    commands = commands_under("install.md", "A second station on the same box").splitlines()
    (make,) = [command for command in commands if command.startswith("sed ")]
    second = tmp_path / "edge-worker-2.service"
    made = make.replace("/etc/systemd/system/edge-worker-2.service", str(second))
    subprocess.run(made, shell=True, check=True, cwd=UNIT.parents[1])
    first = UNIT.read_text(encoding="utf-8").splitlines()
    changed = [line for line in second.read_text(encoding="utf-8").splitlines() if line not in first and line[0] != "#"]
    assert changed == ["ExecStart=/opt/edge-worker/bin/edge-worker --config /etc/edge-worker/edge-2.toml"]
