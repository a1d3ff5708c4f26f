"""Welds that are in no fold, judged by the networks of every fold: what was found on one collection, on another film.

Their patches are test sets alone: thresholds stay those of each fold. A set's rate is the mean over the folds'
networks, which all judge the same patches; its interval is over the welds, and of one weld there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from edge.system.progress import Reporter
from train.files import write_text
from train.papers.welds.benchmark import Benchmark
from train.papers.welds.data import PatchCounts
from train.papers.welds.equal_refusal import first_curves, refusal_tables
from train.papers.welds.evaluation import (
    ACCEPTED,
    CHECKED,
    LEARNT,
    Detector,
    Outcome,
    SetScores,
    entry,
    evaluate,
    set_of,
)
from train.papers.welds.images import Weld
from train.papers.welds.patches import accepted_patches, clear_length_px, defect_patches, names_alike, shares
from train.papers.welds.plan import Request
from train.papers.welds.regions import CONTRASTS, find_regions, of_contrast
from train.papers.welds.scores import Scores
from train.papers.welds.tables import cell, worst_weld
from train.papers.welds.task import EnsembleTask, Task, load_network, load_scores, prepared, score_sets
from train.report import table

Sets = dict[str, npt.NDArray[np.uint8]]
"""Patches uint8 (n, 192, 192) by name: `accepted`, `defects-high`, `-mid`, `-low`; n may be 0 for one of these."""
OfWelds = dict[str, dict[str, int]]
"""Patches by set and weld, in the order they lie in the set."""
TABLE_FILE = "elsewhere.md"
_STREAM = 0xE15E
"""Sets these patches' random numbers apart from the folds'."""


def try_elsewhere(request: Request, benchmark: Benchmark, welds: Sequence[Weld], reporter: Reporter) -> str:
    """Score the welds of `other_welds`; writes `elsewhere.md`, returns it. Raises TrainError."""
    sets, of_welds = patches_of(welds, request.counts, request.seed)
    learnt_from = {name for fold in benchmark.folds for part in ("training", "validation") for name in fold[part]}
    names = [weld.name for weld in welds]

    @cache  # detectors that read the same networks
    def judge(*together: Task) -> SetScores:
        return scored(together, sets, prepared(request.device))

    detectors = request.recipe.detectors
    outcomes = {
        detector.name: outcomes_of(detector, benchmark.tasks, judge, of_welds, reporter.counter(detector.name))
        for detector in detectors
    }
    text = table_markdown(outcomes, of_welds, names, names_alike(names, learnt_from))
    if request.recipe.beside:
        curves = first_curves(detectors, benchmark.tasks, judge, [of_welds] * len(benchmark.folds))
        text = "\n".join([text, *refusal_tables(curves, request.recipe.beside), ""])
    write_text(request.out / TABLE_FILE, text)
    return text


def patches_of(welds: Sequence[Weld], counts: PatchCounts, seed: int) -> tuple[Sets, OfWelds]:
    """Test sets of masked welds, as many patches as a fold has, and how many of them are of each weld."""
    rng = np.random.default_rng((seed, _STREAM))
    clear_px = [clear_length_px(weld) for weld in welds]
    parts = [
        accepted_patches(weld, count, rng)
        for weld, count in zip(welds, shares(counts.test_accepted, clear_px), strict=True)
    ]
    drawn_of = {ACCEPTED: parts}
    regions = [find_regions(weld) for weld in welds]
    for contrast in CONTRASTS:
        split = shares(counts.test_defects, [len(of_contrast(found, contrast)) for found in regions])
        drawn = zip(welds, regions, split, strict=True)
        parts = [defect_patches(weld, found, count, rng, contrast)[0] for weld, found, count in drawn]
        drawn_of[f"defects-{contrast}"] = parts
    of_welds = {
        name: {weld.name: len(part) for weld, part in zip(welds, found, strict=True)}
        for name, found in drawn_of.items()
    }
    return {name: np.concatenate(found) for name, found in drawn_of.items()}, of_welds


def outcomes_of(
    detector: Detector,
    tasks: Sequence[Task],
    judge: Callable[..., SetScores],
    of_welds: OfWelds,
    progress: Callable[[int, int], None],
) -> tuple[Outcome, ...]:
    """The detector's outcome of every run, of an ensemble one in all: each fold's networks by its own thresholds.

    `judge` gives the scores of one fold's network, or of several together, as `scored` does.
    """
    of_variant = [task for task in tasks if task.variant.name == detector.variant]
    runs = sorted({task.run for task in of_variant})
    groups = [runs] if detector.ensemble else [[run] for run in runs]
    outcomes = []
    for done, group in enumerate(groups, 1):
        folds: list[SetScores] = []
        for fold in dict.fromkeys(task.fold for task in of_variant):
            together = [task for task in of_variant if task.fold == fold and task.run in group]
            folds.append(judge(*together))
        outcomes.append(evaluate(detector, folds, [of_welds] * len(folds)))
        progress(done, len(groups))
    return tuple(outcomes)


def scored(together: Sequence[Task], sets: Sets, device: torch.device) -> dict[str, Scores]:
    """Scores of the sets by one fold's network, or by several together, beside those its thresholds come from."""
    task = together[0]
    own = load_scores(task if len(together) == 1 else EnsembleTask(tuple(together)))
    models = [load_network(one, device) for one in together]
    calibrating = {name: found for name, found in own.items() if set_of(name) in (CHECKED, LEARNT)}
    return calibrating | score_sets(models, task, sets, device)


def table_markdown(
    outcomes: dict[str, tuple[Outcome, ...]], of_welds: OfWelds, welds: Sequence[str], notes: Sequence[str] = ()
) -> str:
    """Detectors down, sets across: mean over runs and folds (half spread of the runs) [interval over welds], in %.

    The worst weld is that of all runs.
    """
    names = [*(f"defects-{contrast}" for contrast in CONTRASTS), ACCEPTED]
    heads = [
        f"{'accepted, refused (FPR)' if name == ACCEPTED else name}, {sum(of_welds[name].values())}" for name in names
    ]
    about = f"{', '.join(welds)}; patches of each set stand in its head. 95 %: over other welds, first run."
    rows = []
    for detector, runs in outcomes.items():
        found = [entry([run.flagged[name] for run in runs], list(runs[0].by_weld[name].values())) for name in names]
        worst = [worst_weld([run.by_weld[name] for run in runs], name) for name in names]
        named = ["" if weld == "none" else f"; worst {weld}" for weld in worst]
        rows.append([detector, *(f"{cell(one)}{more}" for one, more in zip(found, named, strict=True))])
    return "\n".join(["## Welds that are in no fold", "", about, *notes, "", *table(["detector", *heads], rows)]) + "\n"
