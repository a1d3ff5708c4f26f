"""Many processes, one report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from weakref import ReferenceType, ref

import pytest

from edge.errors import EngineError, SettingsError
from edge.pipeline.loaded_model import LoadedModel, load_model
from edge.settings import ModelSettings, Settings, StateSettings
from edge.validation import workers
from edge.validation.replay import ReplayOptions, ReplayResult, check_replay, run_replay
from edge.validation.workers import RayJudge, Workers
from tests.support.fakes import BOOT_ID, write_scan
from tests.support.signed_models import make_signed_model, write_public_key

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    root = tmp_path_factory.mktemp("model")
    model = ModelSettings(dir=make_signed_model(root / "model"), trusted_key=write_public_key(root / "key.pem"))
    return Settings(station="xray-1", model=model, state=StateSettings(dir=root / "state"))


@pytest.fixture(scope="module")
def lot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty scans in five parts, with every outcome."""
    folder = tmp_path_factory.mktemp("lot")
    lines = ["file,bundle,label"]
    for number in range(40):
        name = f"B0{number % 5}_{number:04}.tif"
        write_scan(folder / name, (1900, 2150, 2700)[number % 3], seed=number)
        lines.append(f"{name},B0{number % 5},{'abnormal' if number % 4 == 0 else 'normal'}")
    (folder / "B07_0001.tif").write_bytes(b"no scan")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def model(settings: Settings) -> LoadedModel:
    return load_model(settings)


def run(lot: Path, out: Path, settings: Settings, model: LoadedModel, workers: Workers) -> ReplayResult:
    options = ReplayOptions(folder=lot, labels=lot / "labels.csv", out=out, workers=workers)
    return run_replay(check_replay(options, settings), settings, model, BOOT_ID)


@pytest.fixture(scope="module")
def alone(lot: Path, settings: Settings, model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> ReplayResult:
    return run(lot, tmp_path_factory.mktemp("alone"), settings, model, Workers())


def same(first: ReplayResult, second: ReplayResult) -> bool:
    return all(
        getattr(first, name).read_bytes() == getattr(second, name).read_bytes() for name in ("report", "summary")
    )


def test_two_processes_make_the_report_of_one(
    lot: Path, settings: Settings, model: LoadedModel, alone: ReplayResult, tmp_path: Path
) -> None:
    result = run(lot, tmp_path / "out", settings, model, Workers(jobs=2))
    assert same(result, alone)
    assert (result.run.workers, result.run.judged, result.run.resumed) == (2, 41, 0)
    files = [json.loads(line)["scan"]["file"] for line in result.verdicts.read_bytes().splitlines()]
    assert files == sorted(files) and len(files) == 41


def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost(
    lot: Path, settings: Settings, model: LoadedModel, alone: ReplayResult, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = [str(lot), "--labels", str(lot / "labels.csv"), "--out", str(out), "--jobs", "1"]
    words += ["--model", str(settings.model.dir), "--trusted-key", str(settings.model.trusted_key)]
    environment = {**os.environ, "EDGE_STATION": "xray-1", "EDGE_STATE__DIR": str(tmp_path / "state")}
    program = subprocess.Popen([sys.executable, "-m", "edge.cli", "replay", *words], cwd=ROOT, env=environment)
    try:
        until(lambda: any((out / ".parts").glob("*/*.jsonl")) or program.poll() is not None)
        for child in children(program.pid):
            os.kill(child, signal.SIGKILL)
        assert program.wait(60) == 0
    finally:
        program.kill()
        program.wait()
    assert (out / "report.html").read_bytes() == alone.report.read_bytes()
    assert len((out / "verdicts.jsonl").read_bytes().splitlines()) == 41


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_replay_on_ray_makes_the_report_of_one_process_though_a_worker_dies(
    lot: Path, settings: Settings, model: LoadedModel, alone: ReplayResult, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    program = f"""
import os, threading, time
from pathlib import Path
from edge.errors import EngineError
from edge.pipeline.loaded_model import load_model
from edge.settings import ModelSettings, Settings, StateSettings
from edge.validation.replay import ReplayOptions, check_replay, run_replay
from edge.validation.workers import Workers
from tests.edge.validation.test_workers import kill_one_ray_actor
from tests.support.fakes import BOOT_ID
directory, key = Path({str(settings.model.dir)!r}), Path({str(settings.model.trusted_key)!r})
model = ModelSettings(dir=directory, trusted_key=key)
settings = Settings(station="xray-1", model=model, state=StateSettings(dir=Path({str(tmp_path / "state")!r})))
lot, out = Path({str(lot)!r}), Path({str(tmp_path / "out")!r})
options = ReplayOptions(folder=lot, labels=lot / "labels.csv", out=out, workers=Workers(jobs=2, ray="local"))
threading.Thread(target=kill_one_ray_actor, args=(out / ".parts",), daemon=True).start()
print("judged", run_replay(check_replay(options, settings), settings, load_model(settings), BOOT_ID).run.judged)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert "killed" in done.stdout and "judged 41" in done.stdout
    assert (tmp_path / "out" / "report.html").read_bytes() == alone.report.read_bytes()
    assert not (Path(tempfile.gettempdir()) / f"edge-replay-{BOOT_ID}").exists(), "marks are of this replay alone"


class RayHere:
    """What a replay asks of ray, in this process; the first answers of its actors are lost for want of memory.

    An actor has one of the `cores` for as long as somebody holds it; the others wait for one.
    """

    def __init__(self, exceptions: ModuleType, lost: int = 0, cores: int = 2) -> None:
        self.exceptions = exceptions
        self.lost = lost
        self._cores = cores
        self._actors: list[ReferenceType[Actor]] = []

    def remote(self, **_: object) -> Callable[[object], object]:
        def actor(*arguments: Any) -> Actor:
            made = Actor(RayJudge(*arguments))
            self._actors.append(ref(made))
            return made

        return lambda made: SimpleNamespace(remote=actor if made is RayJudge else made)

    def nodes(self) -> list[dict[str, object]]:
        return [{"Alive": True, "NodeManagerAddress": "10.0.0.1"}, {"Alive": False, "NodeManagerAddress": "10.0.0.2"}]

    def wait(self, waiting: list[Asked], num_returns: int, timeout: float | None = None) -> tuple[list[Asked], object]:
        if timeout is not None:
            return waiting, []
        held = [actor for actor in self._actors if actor() is not None][: self._cores]
        ready = [asked for asked in waiting if asked.actor in held]
        assert ready, "what is asked for waits for ever"
        return ready[:num_returns], []

    def get(self, ready: Asked) -> list[bytes]:
        if self.lost:
            self.lost -= 1
            raise self.exceptions.OutOfMemoryError("the memory monitor killed this worker")
        return ready.answer()

    def put(self, value: object) -> object:
        return value

    def shutdown(self) -> None:
        pass


class Actor:
    """A handle of an actor."""

    def __init__(self, judge: RayJudge) -> None:
        itself = ref(self)
        self.judge = SimpleNamespace(remote=lambda todo: Asked(itself, partial(judge.judge, todo)))


@dataclass(frozen=True, eq=False)
class Asked:
    """What an actor was asked for."""

    actor: ReferenceType[Actor]
    answer: Callable[[], list[bytes]]


def test_more_workers_than_a_cluster_has_cores_come_to_an_end(
    lot: Path,
    settings: Settings,
    model: LoadedModel,
    alone: ReplayResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray starts a worker when a core is free: the first ones leave theirs when nothing is left for them."""
    exceptions = pytest.importorskip("ray").exceptions
    monkeypatch.setattr(workers, "_connect_to_ray", lambda _: RayHere(exceptions, cores=1))
    assert same(run(lot, tmp_path, settings, model, Workers(jobs=3, ray="local")), alone)


def test_a_cluster_that_does_not_start_in_time_is_told_in_words(
    lot: Path, settings: Settings, model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray raises a bare Exception then."""
    ray = pytest.importorskip("ray")

    def late(**_: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", late)
    with pytest.raises(SettingsError, match=r"no Ray cluster at local: .*timed out during startup") as caught:
        run(lot, tmp_path, settings, model, Workers(ray="local"))
    assert "second try" in caught.value.hint


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files of a node."""
    folder = tmp_path / "node"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("lost", [1, 100])
def test_a_worker_that_ray_ends_for_its_memory_costs_its_part(
    lot: Path,
    settings: Settings,
    model: LoadedModel,
    alone: ReplayResult,
    tmp_path: Path,
    node: Path,
    monkeypatch: pytest.MonkeyPatch,
    lost: int,
) -> None:
    exceptions = pytest.importorskip("ray").exceptions
    monkeypatch.setattr(workers, "_connect_to_ray", lambda _: RayHere(exceptions, lost))
    if lost == 1:
        assert same(run(lot, tmp_path / "out", settings, model, Workers(jobs=2, ray="local")), alone)
    else:
        with pytest.raises(EngineError, match="worker processes died 3 times in a row") as caught:
            run(lot, tmp_path / "out", settings, model, Workers(jobs=1, ray="local"))
        assert "more memory" in caught.value.hint
    assert not list(node.glob("edge-replay-*")), "marks are of this replay alone"


def kill_one_ray_actor(parts: Path) -> None:
    """Kill the first actor of this program that is seen once a part is judged. Busy, the next one takes 20 s."""
    until(lambda: any(parts.glob("*/*.jsonl")))
    actors = [pid for pid in descendants(os.getpid()) if command_of(pid).startswith(b"ray::RayJudge")]
    os.kill(actors[0], signal.SIGKILL)
    print("killed", flush=True)


def children(pid: int) -> list[int]:
    """Worker processes of a program, by what spawns them."""
    return [child for child in descendants(pid) if b"spawn_main" in command_of(child)]


def descendants(pid: int) -> list[int]:
    """Processes below one, the nearest first."""
    below = [pid]
    for each in below:
        with suppress(OSError):
            below += [int(child) for child in Path(f"/proc/{each}/task/{each}/children").read_text().split()]
    return below[1:]


def command_of(pid: int) -> bytes:
    """The command line of a process, empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def until(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    """Wait for a condition. Raises AssertionError at the limit."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
