"""What becomes of tasks whose worker process dies, and of workers when the program that gives them work is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest

from train.errors import TrainError
from train.runner import AHEAD, Processes, RayCluster

ROOT = Path(__file__).resolve().parents[2]


def stay(marker: str) -> None:
    """A task that says which process it runs in, and goes on for a minute."""
    path = Path(marker)
    path.with_suffix(".part").write_text(str(os.getpid()))
    path.with_suffix(".part").rename(path)
    time.sleep(60)


def work(marker: str) -> None:
    """A program that waits for that task."""
    with Processes(1) as processes:
        list(processes.map(stay, [marker]))


def runs(pid: int) -> bool:
    """Whether the process is there, and not only its entry waiting for a parent to take it away."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_workers_end_with_a_program_that_is_killed(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    code = f"from tests.train.test_runner import work; work({str(marker)!r})"
    program = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        until(marker.exists)
        worker = int(marker.read_text())
        assert runs(worker)
    finally:
        program.kill()
        program.wait()
    until(lambda: not runs(worker))


def die_once(marker: str) -> str:
    """A task whose first worker is killed."""
    path = Path(marker)
    if path.name.startswith("fatal") and not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return path.name


def test_a_killed_worker_costs_only_its_task(tmp_path: Path) -> None:
    markers = [str(tmp_path / name) for name in ("one", "fatal", "three")]
    with Processes(2) as processes:
        assert dict(processes.map(die_once, markers)) == {0: "one", 1: "fatal", 2: "three"}


def test_tasks_are_made_when_there_is_room_for_them() -> None:
    made = []
    tasks = (made.append(number) or number for number in range(20))  # type: ignore[func-returns-value]
    with Processes(1) as processes:
        results = processes.map(abs, tasks)
        assert next(results) in {(0, 0), (1, 1)}
        assert len(made) <= AHEAD
        assert len(list(results)) == 19


def always_dies(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_task_that_kills_every_worker_is_an_error_and_not_an_endless_loop() -> None:
    with Processes(1) as processes, pytest.raises(TrainError, match="died 3 times with 1 tasks left"):
        list(processes.map(always_dies, [0]))


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition. Raises AssertionError after half a minute."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_task_whose_workers_ray_ends_for_their_memory_is_told_as_such() -> None:
    exceptions = pytest.importorskip("ray").exceptions

    def get(_: object) -> NoReturn:
        raise exceptions.OutOfMemoryError("the memory monitor killed this worker")

    cluster = RayCluster.__new__(RayCluster)
    cluster.threads_each = 1
    cluster._ray = SimpleNamespace(
        remote=lambda **_: lambda _: SimpleNamespace(remote=lambda task: task),
        wait=lambda waiting, num_returns: (waiting[:num_returns], waiting[num_returns:]),
        get=get,
        exceptions=exceptions,
    )
    with pytest.raises(TrainError, match="lost its worker 3 times: the memory monitor"):
        list(cluster.map(str, [1]))
