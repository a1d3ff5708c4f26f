"""Where the tasks of an experiment run: here, in processes of this machine, or on a Ray cluster. One function for all.

A task is a function of one argument, both of which can be sent elsewhere; results come back in any order with the
number of their task. A worker that dies costs its own task, which is given to another. Tasks are taken from an iterable
as there is room for them: a few that hold hundreds of megabytes are in memory at a time, not all.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context, parent_process
from types import TracebackType
from typing import Any, Protocol, TypeVar

import cv2

from train.errors import TrainError

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

ATTEMPTS = 3
"""Times a task may lose its worker before the task is taken for the cause."""
AHEAD = 2
"""Tasks handed out for each worker: the one it does, and the next."""


class Runner(Protocol):
    """Runs tasks."""

    threads_each: int
    """Threads that one task may use."""

    def map(self, function: Callable[[_Task], _Result], tasks: Iterable[_Task]) -> Iterator[tuple[int, _Result]]:
        """(number of the task, its result) as they finish. An error of a task is raised."""
        ...


class Here:
    """One task after the other, in this process."""

    def __init__(self) -> None:
        self.threads_each = len(os.sched_getaffinity(0))

    def map(self, function: Callable[[_Task], _Result], tasks: Iterable[_Task]) -> Iterator[tuple[int, _Result]]:
        """(number of the task, its result) one after the other, in the tasks' order."""
        # No name for a task: it would be in memory beside the next one.
        yield from enumerate(map(function, tasks))


class Processes:
    """`jobs` processes on this machine, each with its share of the cores; use as a context manager."""

    def __init__(self, jobs: int) -> None:
        self.threads_each = max(1, len(os.sched_getaffinity(0)) // jobs)
        self._jobs = jobs
        self._pool = self._open()

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, function: Callable[[_Task], _Result], tasks: Iterable[_Task]) -> Iterator[tuple[int, _Result]]:
        """(number of the task, its result) as processes finish them; a task that lost its worker is tried again."""
        source = enumerate(tasks)
        left: dict[int, _Task] = {}  # handed out, no result yet
        futures: dict[Future[_Result], int] = {}
        deaths = 0
        try:
            while left := left | dict(islice(source, AHEAD * self._jobs - len(left))):
                try:
                    for number in sorted(left.keys() - futures.values()):
                        futures[self._pool.submit(function, left[number])] = number
                    done = wait(futures, return_when=FIRST_COMPLETED).done
                    results = {futures.pop(future): future.result() for future in done}
                except BrokenProcessPool as error:
                    # One dead process ends them all: what had not finished goes to a new set.
                    self._pool.shutdown(wait=True)
                    deaths += 1
                    if deaths == ATTEMPTS:
                        raise TrainError(
                            f"worker processes died {ATTEMPTS} times with {len(left)} tasks left: {error}",
                            hint="they may need more memory: give fewer --jobs",
                        ) from error
                    self._pool = self._open()
                    futures.clear()
                    continue
                for number, result in results.items():
                    del left[number]
                    yield number, result
        finally:
            for future in futures:
                future.cancel()

    def _open(self) -> ProcessPoolExecutor:
        # Spawned, not forked: neither torch's nor OpenCV's threads survive a fork.
        return ProcessPoolExecutor(
            self._jobs, mp_context=get_context("spawn"), initializer=_prepare, initargs=(self.threads_each,)
        )


def map_in_order(function: Callable[[_Task], _Result], tasks: Sequence[_Task], jobs: int) -> Iterator[_Result]:
    """Results in the order of the tasks, from `jobs` processes; with 1, from this one."""
    if jobs == 1:
        yield from map(function, tasks)
        return
    with Processes(jobs) as processes:
        waiting: dict[int, _Result] = {}
        due = 0
        for number, result in processes.map(function, tasks):
            waiting[number] = result
            while due in waiting:
                yield waiting.pop(due)
                due += 1


def _prepare(threads: int) -> None:
    cv2.setNumThreads(threads)
    _end_with_parent()


def _end_with_parent() -> None:
    """End this worker process when its parent does, however that ends: a kill tells its children nothing."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


class RayCluster:
    """A Ray cluster; use as a context manager. Every worker must see DATA under the same path."""

    def __init__(self, address: str) -> None:
        """`address` as `ray.init` takes it, `local` for a cluster of this machine's cores. Raises TrainError."""
        try:
            import ray  # the extra of the same name
        except ImportError as error:
            raise TrainError(
                "--ray needs ray, which is not installed", hint="pip install electrode-line[ray]"
            ) from error
        self.threads_each = 1
        self._ray: Any = ray
        try:
            ray.init(address=None if address == "local" else address, log_to_driver=False, include_dashboard=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise TrainError(
                f"no Ray cluster at {address}: {error}", hint="start one with `ray start --head`, or give `local`"
            ) from error

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._ray.shutdown()

    def map(self, function: Callable[[_Task], _Result], tasks: Iterable[_Task]) -> Iterator[tuple[int, _Result]]:
        """(number of the task, its result) as workers finish them; Ray itself gives a lost task to another worker."""
        remote = self._ray.remote(num_cpus=self.threads_each, max_retries=ATTEMPTS - 1)(function)
        numbers = {remote.remote(task): number for number, task in enumerate(tasks)}
        waiting = list(numbers)
        while waiting:
            ready, waiting = self._ray.wait(waiting, num_returns=1)
            for reference in ready:
                try:
                    result = self._ray.get(reference)
                except self._ray.exceptions.RayTaskError as error:
                    raise error.cause from error
                except self._ray.exceptions.RayError as error:  # killed, its machine lost, or for its memory
                    raise TrainError(
                        f"a task lost its worker {ATTEMPTS} times: {error}", hint="look at the workers' memory"
                    ) from error
                yield numbers[reference], result
