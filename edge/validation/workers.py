"""Many processes judge one replay: on this machine, or on a Ray cluster. Each has one engine on one core.

One core each, however many there are: threads may add floats in another order, and a report must not depend on them.
A process that dies costs the part it was judging; another goes on there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

from edge.errors import EngineError, SettingsError
from edge.model.signed_model import SignedModel
from edge.pipeline.loaded_model import LoadedModel, open_model
from edge.records import Outcome
from edge.settings import Settings
from edge.validation.file_list import FileList
from edge.validation.judging import Job, Judge, JudgedFile, Parts, judge_parts

ATTEMPTS = 3
"""Times a part may lose its process before the part is taken for the cause."""
REMOVAL_S = 30.0
"""What a node may take to start the process that removes its marks."""
QUEUED_PER_WORKER = 2
"""Parts given out ahead, so that no process waits for the next."""

OnPart = Callable[[Counter[Outcome]], None]
"""Told of every finished part, by the outcomes of its files."""


@dataclass(frozen=True, slots=True)
class Workers:
    """Where a replay is judged: `jobs` processes here, or on the cluster at `ray`; neither: in this process."""

    jobs: int | None = None
    ray: str | None = None

    @property
    def is_here(self) -> bool:
        """Whether this process judges by itself."""
        return self.jobs is None and self.ray is None


def judge_elsewhere(
    workers: Workers, job: Job, model: LoadedModel, files: FileList, parts: Parts, on_part: OnPart
) -> int:
    """Judge what is left of all parts; the number of processes. Raises EdgeError, OSError."""
    single = replace(job, settings=_single(job.settings, model))
    # Plain: what a process is sent must be a copy, and a view of a dictionary is none.
    signed = replace(model.signed, contents=dict(model.signed.contents))
    if workers.ray is not None:
        return _judge_on_ray(workers, single, signed, files, parts, on_part)
    assert workers.jobs is not None
    _judge_in_processes(workers.jobs, single, signed, files, parts, on_part)
    return workers.jobs


def _single(settings: Settings, model: LoadedModel) -> Settings:
    """Settings of a process with one core, and with the engine that was chosen here."""
    alone = {"threads": 1, "decode_threads": 1, "engine": model.engine.spec.name}
    return settings.model_copy(update={"model": settings.model.model_copy(update=alone)})


def _judge_in_processes(
    jobs: int, job: Job, model: SignedModel, files: FileList, parts: Parts, on_part: OnPart
) -> None:
    left = parts.unfinished()
    lost = 0
    while left:
        before = parts.judged
        # Spawned, not forked: neither the engines' threads nor OpenCV's survive a fork.
        pool = ProcessPoolExecutor(
            jobs, mp_context=get_context("spawn"), initializer=_start, initargs=(job, model, files, parts.folder)
        )
        given: dict[Future[Counter[Outcome]], int] = {}
        waiting = iter(left)
        try:
            while True:
                while len(given) < QUEUED_PER_WORKER * jobs and (number := next(waiting, None)) is not None:
                    given[pool.submit(_judge_part, number)] = number
                if not given:
                    break
                for future in wait(given, return_when=FIRST_COMPLETED).done:
                    outcomes = future.result()
                    parts.look_again(given.pop(future))
                    on_part(outcomes)
        except BrokenProcessPool as error:  # one dead process ends them all
            pool.shutdown(wait=True)
            for number in left:
                parts.look_again(number)
            lost = 0 if parts.judged > before else lost + 1
            if lost == ATTEMPTS:
                raise _worker_error(f"{len(parts.unfinished())} parts left") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        left = parts.unfinished()


class _Process:
    """A worker process: its model is opened for the first part, so that an error is that part's."""

    def __init__(self, job: Job, model: SignedModel, files: FileList, folder: Path) -> None:
        self._job = job
        self._signed = model
        self._parts = Parts(folder, files)
        self._judge: Judge | None = None

    def judge(self, number: int) -> Counter[Outcome]:
        """Judge what is left of a part into its file on disk."""
        self._judge = self._judge or _open_judge(self._job, self._signed)
        outcomes = Counter[Outcome]()
        self._parts.look_again(number)
        judge_parts(self._judge, self._parts, [number], lambda verdict: outcomes.update([verdict.outcome]))
        return outcomes


_process: _Process | None = None
"""The one of a worker process."""


def _start(job: Job, model: SignedModel, files: FileList, folder: Path) -> None:
    global _process
    parent = parent_process()
    assert parent is not None

    def end_with_parent() -> None:  # a kill tells its children nothing
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, name="parent", daemon=True).start()
    _process = _Process(job, model, files, folder)


def _judge_part(number: int) -> Counter[Outcome]:
    assert _process is not None
    return _process.judge(number)


class RayJudge:
    """An actor of a Ray cluster: sends verdicts back, for its disk is not the caller's."""

    def __init__(self, job: Job, model: SignedModel) -> None:
        self._job = replace(job, marks=_marks_of(job))
        self._signed = model
        self._judge: Judge | None = None

    def judge(self, todo: Sequence[tuple[int, str]]) -> list[bytes]:
        """Judge files by their places; their lines of a part."""
        self._judge = self._judge or _open_judge(self._job, self._signed)
        lines: list[bytes] = []

        def keep(_: int, judged: JudgedFile) -> None:
            lines.append(judged.line())

        self._judge.judge(todo, keep)
        return lines


def _marks_of(job: Job) -> Path:
    """One folder for all actors of a node: what killed one is looked at with care by the next."""
    return Path(tempfile.gettempdir()) / f"edge-replay-{job.boot_id}"


def remove_marks(job: Job) -> None:
    """Runs on a node, at the end: no other replay would ask for them."""
    shutil.rmtree(_marks_of(job), ignore_errors=True)


def _remove_from_nodes(ray: Any, job: Job) -> None:
    nodes = [f"node:{node['NodeManagerAddress']}" for node in ray.nodes() if node["Alive"]]
    removed = [ray.remote(num_cpus=0, resources={node: 0.001})(remove_marks).remote(job) for node in nodes]
    ray.wait(removed, num_returns=len(removed), timeout=REMOVAL_S)


def _judge_on_ray(
    workers: Workers, job: Job, model: SignedModel, files: FileList, parts: Parts, on_part: OnPart
) -> int:
    ray = _connect_to_ray(workers.ray)
    try:
        jobs = workers.jobs or max(1, int(ray.cluster_resources().get("CPU", 1)))
        shared = ray.put(model)
        remote = ray.remote(num_cpus=1)(RayJudge)
        actors = [remote.remote(job, shared) for _ in range(min(jobs, files.parts_count))]
        waiting = parts.unfinished()[::-1]
        lost: Counter[int] = Counter()
        given: dict[Any, tuple[int, int]] = {}  # what is asked for -> number of the actor, of the part

        def give(actor: int) -> None:
            if waiting:
                number = waiting.pop()
                given[actors[actor].judge.remote(parts.left(number))] = actor, number
            else:
                actors[actor] = None  # ends it: its core may be what another one waits for to begin

        for actor in range(len(actors)):
            give(actor)
        while given:
            (ready,), _ = ray.wait(list(given), num_returns=1)
            actor, number = given.pop(ready)
            try:
                lines = ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.RayError as error:  # the process is gone: killed, its machine lost, or for its memory
                lost[number] += 1
                if lost[number] == ATTEMPTS:
                    raise _worker_error(f"part {number} of {files.parts_count}") from error
                waiting.append(number)
                actors[actor] = remote.remote(job, shared)
            else:
                outcomes = Counter[Outcome]()
                for (place, _), line in zip(parts.left(number), lines, strict=True):
                    parts.append(place, line)
                    outcomes[JudgedFile.of_line(line).verdict.outcome] += 1
                on_part(outcomes)
            give(actor)
        return len(actors)
    finally:
        with suppress(ray.exceptions.RayError):  # what ended the replay is told, not this
            _remove_from_nodes(ray, job)
        ray.shutdown()


def _connect_to_ray(address: str | None) -> Any:
    try:
        import ray  # the extra of the same name
    except ImportError:
        raise SettingsError("--ray needs ray, which is not installed", hint="pip install electrode-line[ray]") from None
    try:
        ray.init(address=None if address == "local" else address, log_to_driver=False, include_dashboard=False)
    except BaseException as error:
        ray.shutdown()  # what had started
        if not isinstance(error, Exception):
            raise
        # Where a node does not start in time it is of no class of its own.
        raise SettingsError(
            f"no Ray cluster at {address}: {error}",
            hint="start one with `ray start --head`, or give `local`; a machine that is busy may need a second try",
        ) from None
    return ray


def _open_judge(job: Job, model: SignedModel) -> Judge:
    return Judge(job, open_model(job.settings, model, may_build=False))


def _worker_error(left: str) -> EngineError:
    return EngineError(
        f"worker processes died {ATTEMPTS} times in a row without a verdict: {left}",
        hint="they may need more memory: give fewer --jobs; what was judged is kept for the next run",
    )
