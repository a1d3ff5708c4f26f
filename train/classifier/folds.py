"""One fold: learn from all lots but one, judge that one. The same function on every machine.

A fold gets features, not images, and answers with a plain dictionary that is its JSON file.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from train.classifier.experiment import ExperimentRecipe
from train.classifier.heads import Start
from train.classifier.learner import HALF, Samples, learn, learnt_from


@dataclass(frozen=True)
class FoldTask:
    """Everything one fold needs."""

    method: str
    lot: str
    """Held out."""
    bounds_counts: tuple[int, int] | None
    recipe: ExperimentRecipe
    start: Start
    training: Samples
    test: Samples
    """View 0 alone."""
    experiment: str
    """Digest of recipe, data and backbone: a result of another experiment is not taken for this one's."""
    threads: int


@dataclass(frozen=True, slots=True)
class FoldResult:
    """What a fold leaves behind; its fields are those of the JSON file."""

    experiment: str
    method: str
    lot: str
    bounds_counts: tuple[int, int] | None
    threshold: float
    files: tuple[str, ...]
    labels: tuple[int, ...]
    p_abnormal: tuple[float, ...]
    epoch_losses: tuple[float, ...]
    one_class: str | None
    """The only class among the training scans, where there is only one: nothing can be learnt then."""
    seconds: float

    def scores(self) -> npt.NDArray[np.float64]:
        return np.array(self.p_abnormal, np.float64)

    def truth(self) -> npt.NDArray[np.int64]:
        return np.array(self.labels, np.int64)


def run_fold(task: FoldTask) -> FoldResult:
    """Learn and judge. Raises DivergedError."""
    torch.set_num_threads(task.threads)
    started = time.perf_counter()
    classes = {int(label) for label in learnt_from(task.training, task.recipe).labels}
    one_class = None
    losses: tuple[float, ...]
    if not {*task.recipe.learns_from} <= classes:
        # What remains is to call everything what the training scans were.
        one_class = "abnormal" if 1 in classes else "normal"
        p_abnormal = np.full(len(task.test.labels), float(1 in classes))
        threshold, losses = HALF, ()
    else:
        learnt = learn(task.training, task.recipe, task.start)
        p_abnormal = learnt.predict(task.test)
        threshold, losses = learnt.threshold, learnt.epoch_losses
    return FoldResult(
        experiment=task.experiment,
        method=task.method,
        lot=task.lot,
        bounds_counts=task.bounds_counts,
        threshold=threshold,
        files=task.test.files,
        labels=tuple(int(label) for label in task.test.labels),
        p_abnormal=tuple(float(p) for p in p_abnormal),
        epoch_losses=losses,
        one_class=one_class,
        seconds=time.perf_counter() - started,
    )
