"""`edge-worker` on a machine with a scripted GPU: the commands as an operator gives them, and the daemon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.edge.daemon.test_check import settings_file
from tests.edge.daemon.test_line import Daemon, arrive
from tests.gpu import host_kernels
from tests.support import scripted_gpu
from tests.support.mosquitto import free_port

pytestmark = pytest.mark.skipif(host_kernels.COMPILER is None, reason="no C++ compiler stands in for the GPU's")
EXIT_CONFIG, EXIT_DEVICE = 78, 70


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    with scripted_gpu.installed():
        yield monkeypatch


def edge_worker(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge.cli", "--config", str(config), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, env=os.environ | {"COLUMNS": "800"})


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_the_command_builds_the_engine_and_the_next_look_opens_it(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = settings_file(tmp_path, free_port())
    done = edge_worker(config, "--build-engine")
    assert done.returncode == 0, done.stderr
    assert f"is in {tmp_path / 'state' / 'plans'}: it repeats the golden scans in batches of up to 4" in done.stdout
    before = files_in(tmp_path)
    assert {"state/device.key", "state/plans"} <= before
    looked = edge_worker(config, "--check")
    (engine,) = (line for line in looked.stdout.splitlines() if line.split()[1:2] == ["engine"])
    assert engine.startswith("ok") and "tensorrt fp32, batch 4; golden scans reproduced" in engine
    assert files_in(tmp_path) == before


def test_a_build_that_fails_says_what_to_try(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scripted_gpu.play(patch, gpus=0)
    done = edge_worker(settings_file(tmp_path, free_port()), "--build-engine")
    assert done.returncode == EXIT_DEVICE
    assert "edge-worker: CUDA finds 0 GPUs here" in done.stderr
    assert "try: is the card in its slot" in done.stderr


def test_a_look_at_a_gpu_without_an_engine_builds_none(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = settings_file(tmp_path, free_port())
    before = files_in(tmp_path)
    done = edge_worker(config, "--check")
    (engine,) = (line for line in done.stdout.splitlines() if line.split()[1:2] == ["engine"])
    assert engine.startswith("warn")
    assert "there is no plan of classifier for Scripted RTX" in engine and "this command builds none" in engine
    assert "edge-engine-build.service, or run `edge-worker model build`" in engine
    assert files_in(tmp_path) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root leaves files of root")
@pytest.mark.parametrize("arguments", [["--build-engine"], ["--check", "--tune"]], ids=" ".join)
def test_root_leaves_nothing_in_the_workers_folder(
    patch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str]
) -> None:
    (home := tmp_path / "worker").mkdir()
    os.chown(home, 61_001, 61_001)
    config = settings_file(tmp_path, free_port(), dir=str(home / "state"))
    done = edge_worker(config, *arguments)
    assert done.returncode == EXIT_CONFIG
    assert f"root will not work in {home}" in done.stderr
    assert "--reuid=61001" in done.stderr and done.stderr.rstrip().endswith(" ".join(arguments))
    assert list(home.iterdir()) == []


def test_a_daemon_whose_gpu_is_lost_ends_so_that_it_is_started_afresh(
    patch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lost = tmp_path / "the GPU is lost"
    scripted_gpu.play(patch, lost_when_exists=str(lost))
    patch.setenv("EDGE_MODEL__ENGINE", "tensorrt")
    broker: Any = SimpleNamespace(port=free_port())
    daemon = Daemon(tmp_path, broker)
    try:
        daemon.start()
        daemon.wait_for("ready")
        arrive(daemon.folder, "B01_1.tif")
        daemon.wait_for("scan judged")
        lost.touch()
        arrive(daemon.folder, "B01_2.tif", seed=1)
        (died,) = daemon.wait_for("loop died")
        assert died["loop"] == "worker" and "the GPU failed at" in died["error"]
        assert daemon.send(signal.SIGCONT) == EXIT_DEVICE, "the signal changes nothing: `send` waits for the end"
        assert len([line for line in daemon.log if line["event"] == "scan judged"]) == 1, "none is judged without a GPU"
    finally:
        daemon.end()
