"""What becomes of worker processes when the program that gives them work is killed."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from train.runner import Processes

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


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition. Raises AssertionError after half a minute."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
