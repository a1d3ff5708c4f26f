"""The gate on real welds (L 4): folds over welds, three trainings of every network, all test sets; resumable.

Every weld is tested exactly once. A fold's arrays are made once and mapped by every process. Each network leaves its
checkpoint, scores and JSON file as it finishes; a run that is started again with the same data, recipe and seed takes
those it finds.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

from edge.system.progress import Reporter
from train.errors import DataError
from train.gate.perturb import Patch, read_photos
from train.papers.welds.data import FoldData, PatchCounts, fold_data
from train.papers.welds.evaluation import Detector, Outcome, TestedOf, evaluate
from train.papers.welds.fold_cache import stored_fold
from train.papers.welds.folds import Fold, weld_folds
from train.papers.welds.images import Weld, digest_of, read_welds
from train.papers.welds.plan import Request
from train.papers.welds.recipes import BenchmarkRecipe
from train.papers.welds.task import EnsembleTask, Task, is_finished, load_scores, run_ensemble, run_task
from train.papers.welds.variants import Training, Variant
from train.runner import Runner

FORMAT = 5
"""Version of the stored networks; rises when the same recipe would learn something else."""
_AnyTask = TypeVar("_AnyTask", Task, EnsembleTask)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What was found."""

    outcomes: dict[str, tuple[Outcome, ...]]
    """By detector name, one per run; of an ensemble one in all."""
    folds: tuple[dict[str, Any], ...]
    """Facts of the folds: names of their welds, counts of their patches."""
    training: Training
    data_digest: str
    tasks: tuple[Task, ...]
    seconds: dict[str, float]
    """Where the time of this run went."""


def run_benchmark(request: Request, runner: Runner, reporter: Reporter) -> Benchmark:
    """Make the folds, train what is missing, evaluate all. Raises DataError, DivergedError, TrainError."""
    welds = read_welds(request.welds)
    photos = read_photos(request.natural, at_most=10_000)
    digest = data_digest(request, welds, photos)
    all_folds = weld_folds(welds, request.seed)
    wrong = [number for number in request.folds if not 1 <= number <= len(all_folds)]
    if wrong:
        raise DataError(f"there is no fold {wrong[0]}", hint=f"these welds make folds 1 to {len(all_folds)}")
    started = time.perf_counter()
    seconds: dict[str, float] = {}
    facts, folders = [], []
    for number in request.folds or range(1, len(all_folds) + 1):
        folder = request.cache / f"fold-{number}"
        make = partial(_make_fold, request, welds, photos, all_folds[number - 1], reporter.counter(f"fold {number}"))
        facts.append(stored_fold(folder, digest, make))
        folders.append(folder)
        reporter.say(_about(facts[-1]))
    del photos
    seconds["data"] = time.perf_counter() - started
    training = request.training
    tasks = tuple(
        Task(
            fold=fact["name"],
            fold_folder=folder,
            variant=variant,
            run=run,
            training=training,
            seed=request.seed,
            device=request.device,
            threads=runner.threads_each,
            out=request.networks,
            experiment=experiment_digest(digest, variant, training, request),
            data=digest,
        )
        for fact, folder in zip(facts, folders, strict=True)
        for variant in request.recipe.variants
        for run in range(1, request.runs + 1)
    )
    started = time.perf_counter()
    ensembles = ensembles_of(request.recipe, tasks)
    run_missing(tasks, run_task, runner, reporter, "networks")
    run_missing(ensembles, run_ensemble, runner, reporter, "ensembles")
    seconds["networks"] = time.perf_counter() - started
    tested_of = [fact["tested_of"] for fact in facts]
    outcomes = {
        detector.name: outcomes_of(detector, tasks, ensembles, request.runs, tested_of)
        for detector in request.recipe.detectors
    }
    return Benchmark(outcomes, tuple(facts), training, digest, tasks, seconds)


def run_missing(
    tasks: Sequence[_AnyTask], function: Callable[[_AnyTask], str], runner: Runner, reporter: Reporter, what: str
) -> None:
    """Run the tasks whose files are not there."""
    missing = [task for task in tasks if not is_finished(task)]
    if not missing:
        return
    reporter.say(f"{len(missing)} {what} to do, {len(tasks) - len(missing)} there already")
    show = reporter.counter(what)
    for done, (_, line) in enumerate(runner.map(function, missing), 1):
        reporter.say(line)
        show(done, len(missing))


def ensembles_of(recipe: BenchmarkRecipe, tasks: Sequence[Task]) -> tuple[EnsembleTask, ...]:
    """One for each fold and each variant whose runs some detector reads together."""
    wanted = {detector.variant for detector in recipe.detectors if detector.ensemble}
    groups: dict[tuple[str, str], list[Task]] = {}
    for task in tasks:
        if task.variant.name in wanted:
            groups.setdefault((task.fold, task.variant.name), []).append(task)
    return tuple(EnsembleTask(tuple(runs)) for runs in groups.values())


def outcomes_of(
    detector: Detector,
    tasks: Sequence[Task],
    ensembles: Sequence[EnsembleTask],
    runs: int,
    tested_of: Sequence[TestedOf],
) -> tuple[Outcome, ...]:
    """The detector's outcome of every run over all folds; of an ensemble there is one."""
    if detector.ensemble:
        ours = [task for task in ensembles if task.runs[0].variant.name == detector.variant]
        return (evaluate(detector, [load_scores(task) for task in ours], tested_of),)
    by_run = [
        [task for task in tasks if task.run == run and task.variant.name == detector.variant]
        for run in range(1, runs + 1)
    ]
    return tuple(evaluate(detector, [load_scores(task) for task in of_run], tested_of) for of_run in by_run)


def scaled(counts: PatchCounts, share: float) -> PatchCounts:
    """A share of every number of patches, at least one of each."""
    return PatchCounts(**{name: max(1, round(share * count)) for name, count in asdict(counts).items()})


def data_digest(request: Request, welds: Sequence[Weld], photos: Sequence[Patch]) -> str:
    """SHA-256 over the pixels of welds, masks and photographs, and all else the folds' arrays depend on."""
    choices = json.dumps([asdict(request.counts), request.seed, FORMAT], sort_keys=True).encode()
    return digest_of(welds, *(photo.tobytes() for photo in photos), choices)


def experiment_digest(data: str, variant: Variant, training: Training, request: Request) -> str:
    """SHA-256 over everything a network depends on but its fold and run."""
    others = {
        "autoencoder": ("classifier_steps", "classifier_settle_share"),
        "classifier": ("autoencoder_steps", "settle_share", "plain_share"),
    }[variant.network]
    values = {name: value for name, value in asdict(training).items() if name not in others}
    facts = [data, asdict(variant), values, request.seed, request.device.split(":")[0], FORMAT]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _make_fold(
    request: Request, welds: Sequence[Weld], photos: Sequence[Patch], fold: Fold, progress: Callable[[int, int], None]
) -> FoldData:
    # Networks share one device, the making of patches only cores.
    jobs = len(os.sched_getaffinity(0)) if request.jobs > 1 else 1
    return fold_data(welds, photos, fold, request.counts, request.seed, jobs=jobs, progress=progress)


def _about(facts: dict[str, Any]) -> str:
    names = "; ".join(f"{part}: {', '.join(facts[part])}" for part in ("training", "validation", "test"))
    return f"{facts['name']}: {names}; {facts['patches']['accepted']} accepted patches to learn from"
