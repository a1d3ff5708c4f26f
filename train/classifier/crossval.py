"""Leave one lot out, for every conversion: the paper's whole experiment (J 3.2), resumable fold by fold.

The backbone runs first, once per scan, view and conversion; then each fold learns from features alone. A fold's result
is one JSON file, written whole or not at all; a run that is started again with the same recipe, scans and weights
takes the results it finds.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edge.images.conversion import Bounds
from edge.images.method import Method
from edge.system.progress import Reporter
from train.classifier.experiment import ExperimentRecipe, recipe_values
from train.classifier.feature_cache import FeatureCache
from train.classifier.features import Backbone, Conversion, FeatureTable, compute_features
from train.classifier.folds import FoldResult, FoldTask, run_fold
from train.classifier.heads import starting_layers
from train.classifier.image_folds import ImageFoldTask, run_image_fold
from train.classifier.learner import Samples
from train.dataset import LABELS, Row
from train.errors import DataError
from train.files import write_json
from train.runner import Runner
from train.survey import Survey

FOLDS_FOLDER = "folds"
FORMAT = 2
"""Version of a fold's result; rises when the same recipe would find something else."""


@dataclass(frozen=True, slots=True)
class Fold:
    """A lot held out under a conversion, with the bounds of all the others."""

    method: Method
    lot: str
    bounds: Bounds

    @property
    def conversion(self) -> Conversion:
        return Conversion.of(self.method, self.bounds)


@dataclass(frozen=True)
class Schedule:
    """The folds, and the backbone passes they take."""

    folds: tuple[Fold, ...]
    wanted: dict[Conversion, dict[int, tuple[int, ...]]]
    """Views by scan number."""
    passes_uncached: int
    """As the paper's procedure has it: every training scan in every epoch of every fold, and every test scan once."""

    @property
    def passes(self) -> int:
        return sum(len(views) for scans in self.wanted.values() for views in scans.values())


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of this run went."""

    backbone_s: float
    heads_s: float
    folds: int
    """Learnt in this run; the others were there already."""


def make_schedule(
    rows: Sequence[Row], survey: Survey, methods: Sequence[Method], recipe: ExperimentRecipe, done: set[tuple[str, str]]
) -> Schedule:
    """The folds that are still to do. Raises DataError for fewer than two lots."""
    if len(survey.lots) < 2:
        raise DataError(
            f"all {len(rows)} scans are of lot {survey.lots[0]}",
            hint="cross-validation leaves one lot out: label scans of at least 2 lots",
        )
    known = survey.labelled(recipe.learns_from)
    bounds = {lot: known.bounds_without([lot], recipe.bounds_mode) for lot in survey.lots}
    folds = [
        Fold(method, lot, bounds[lot]) for method in methods for lot in survey.lots if (str(method), lot) not in done
    ]
    views: dict[Conversion, dict[int, set[int]]] = {}
    uncached = 0
    for fold in folds:
        of_conversion = views.setdefault(fold.conversion, {})
        for number, row in enumerate(rows):
            is_test = row.lot == fold.lot
            of_conversion.setdefault(number, set()).update((0,) if is_test else recipe.views)
            uncached += 1 if is_test else recipe.epochs
    wanted = {c: {n: tuple(sorted(shown)) for n, shown in scans.items()} for c, scans in views.items()}
    return Schedule(tuple(folds), wanted, uncached)


def cross_validate(
    survey: Survey,
    methods: Sequence[Method],
    recipe: ExperimentRecipe,
    backbone: Backbone,
    cache: FeatureCache,
    runner: Runner,
    out: Path,
    reporter: Reporter,
) -> tuple[list[FoldResult], Timing]:
    """All folds, those of an earlier run included, in the order of the conversions and lots.

    Raises DataError, DivergedError, TrainError; what was finished before stays.
    """
    survey.refuse_copies()
    if missing := [LABELS[label] for label in recipe.learns_from if all(row.label != label for row in survey.rows)]:
        raise DataError(
            f"none of {len(survey.rows)} scans is {missing[0]}: no fold has anything to learn",
            hint="label scans of both classes; of normal ones alone learns the recipe `neighbours`",
        )
    folder = out / FOLDS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    experiment = experiment_digest(survey, recipe, backbone)
    there, others = _read_finished(folder, experiment)
    if others:
        reporter.say(f"{others} results in {folder} are of other scans, labels, weights or choices: they are not taken")
    results = {(r.method, r.lot): r for r in there}
    schedule = make_schedule(survey.rows, survey, methods, recipe, set(results))
    wanted_results = [(str(method), lot) for method in methods for lot in survey.lots]
    reporter.say(_announce(schedule, survey, len(wanted_results)))
    start = starting_layers(backbone.weights, recipe.seed) if recipe.head == "paper" else {}
    show_passes, show_folds = reporter.counter("backbone passes"), reporter.counter("folds")
    passes = folds = 0
    backbone_s = heads_s = 0.0
    sha256s = [scan.sha256 for scan in survey.scans]
    for conversion, ours in _by_conversion(schedule.folds):  # one conversion's features in memory at a time
        if recipe.fine_tune == "head":
            started = time.perf_counter()
            wanted = {conversion: schedule.wanted[conversion]}
            show = partial(_show_part, show_passes, passes, schedule.passes)
            table = compute_features(wanted, survey.rows, sha256s, backbone, cache, runner, show)[conversion]
            passes += sum(len(views) for views in schedule.wanted[conversion].values())
            backbone_s += time.perf_counter() - started
            # A fold's task holds the features of all its scans: each is made when a worker is free for it.
            finished = runner.map(
                run_fold, (_task(f, survey.rows, table, recipe, start, experiment, runner.threads_each) for f in ours)
            )
        else:
            images = [_image_task(f, survey.rows, recipe, backbone, experiment, runner.threads_each) for f in ours]
            finished = runner.map(run_image_fold, images)
        started = time.perf_counter()
        for _, result in finished:
            write_json(folder / f"{result.method}-{_safe(result.lot)}.json", asdict(result))
            results[result.method, result.lot] = result
            _say_of_classes(result, reporter)
            folds += 1
            show_folds(folds, len(schedule.folds))
        heads_s += time.perf_counter() - started
    return [results[key] for key in wanted_results], Timing(backbone_s, heads_s, folds)


def _by_conversion(folds: Sequence[Fold]) -> list[tuple[Conversion, list[Fold]]]:
    """Folds that share a conversion, in the order of the first of each."""
    found: dict[Conversion, list[Fold]] = {}
    for fold in folds:
        found.setdefault(fold.conversion, []).append(fold)
    return list(found.items())


def _say_of_classes(result: FoldResult, reporter: Reporter) -> None:
    where = f"fold {result.method} {result.lot}"
    if result.one_class:
        reporter.say(f"{where}: all training scans are {result.one_class}")
    elif len(set(result.labels)) < 2:
        reporter.say(f"{where}: all its scans are {LABELS[result.labels[0]]}; one rate stands for both")


def experiment_digest(survey: Survey, recipe: ExperimentRecipe, backbone: Backbone) -> str:
    """SHA-256 over everything a fold's result depends on but its conversion and lot."""
    values = {key: value for key, value in recipe_values(recipe).items() if key != "method"}
    facts = {
        "recipe": values,
        "data": survey.digest,
        "files": [(row.file, scan.sha256) for row, scan in zip(survey.rows, survey.scans, strict=True)],
        "disputed": [row.is_disputed for row in survey.rows],
        "weights": backbone.sha256,
        "size": list(backbone.size),
        "arithmetic": backbone.arithmetic,
        "format": FORMAT,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def samples_of(table: FeatureTable, rows: Sequence[Row], numbers: Sequence[int], views: Sequence[int]) -> Samples:
    """Some scans as the learner takes them."""
    chosen = [rows[number] for number in numbers]
    return Samples(
        whole=table.wholes(numbers, views),
        tiles=table.tiles(numbers, views),
        labels=np.array([row.label for row in chosen], np.int64),
        disputed=np.array([row.is_disputed for row in chosen], np.bool_),
        lots=tuple(row.lot for row in chosen),
        files=tuple(row.file for row in chosen),
    )


def _show_part(show: Callable[[int, int], None], before: int, total: int, done: int, _: int) -> None:
    show(before + done, total)


def _task(
    fold: Fold,
    rows: Sequence[Row],
    table: FeatureTable,
    recipe: ExperimentRecipe,
    start: dict[str, np.ndarray],
    experiment: str,
    threads: int,
) -> FoldTask:
    test = [number for number, row in enumerate(rows) if row.lot == fold.lot]
    training = [number for number, row in enumerate(rows) if row.lot != fold.lot]
    bounds = fold.conversion.bounds
    return FoldTask(
        method=str(fold.method),
        lot=fold.lot,
        bounds_counts=None if bounds is None else (bounds.lo_counts, bounds.hi_counts),
        recipe=recipe,
        start=start,
        training=samples_of(table, rows, training, recipe.views),
        test=samples_of(table, rows, test, (0,)),
        experiment=experiment,
        threads=threads,
    )


def _image_task(
    fold: Fold, rows: Sequence[Row], recipe: ExperimentRecipe, backbone: Backbone, experiment: str, threads: int
) -> ImageFoldTask:
    return ImageFoldTask(
        method=fold.method,
        lot=fold.lot,
        bounds=fold.conversion.bounds,
        recipe=recipe,
        backbone=backbone,
        training=tuple(row for row in rows if row.lot != fold.lot),
        test=tuple(row for row in rows if row.lot == fold.lot),
        experiment=experiment,
        threads=threads,
    )


def _read_finished(folder: Path, experiment: str) -> tuple[list[FoldResult], int]:
    """Results of this very experiment, and how many are of others; these, and damaged files, are made again."""
    results, others = [], 0
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["experiment"] == experiment:
                values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
                results.append(FoldResult(**values))
            else:
                others += 1
        except (ValueError, KeyError, TypeError):
            continue
    return results, others


def _announce(schedule: Schedule, survey: Survey, folds: int) -> str:
    abnormal = sum(row.label for row in survey.rows)
    there = folds - len(schedule.folds)
    text = (
        f"{len(survey.rows)} scans, {abnormal} abnormal, {len(survey.lots)} lots; "
        f"{len(schedule.folds)} folds to do" + (f", {there} there already" if there else "")
    )
    if not schedule.folds:
        return text
    return (
        f"{text}; backbone passes: {schedule.passes:,} instead of {schedule.passes_uncached:,}"
        f" ({schedule.passes_uncached / schedule.passes:.0f} times fewer), {len(schedule.wanted)} sets of bounds"
    )


def _safe(lot: str) -> str:
    """A lot's name as part of a file name."""
    return "".join(c if c.isalnum() or c in "-_." else f"%{ord(c):x}" for c in lot)
