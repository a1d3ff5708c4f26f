"""Welds in no fold: what is tested on them, and by whose thresholds."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edge.validation.statistics import Rate
from tests.train.papers.welds.weld_images import three_welds
from train.papers.welds import other_welds
from train.papers.welds.data import PatchCounts
from train.papers.welds.evaluation import ACCEPTED, CHECKED, LEARNT, Detector, SetScores
from train.papers.welds.other_welds import outcomes_of, patches_of, scored, table_markdown
from train.papers.welds.scores import Scores
from train.papers.welds.task import EnsembleTask, Task
from train.papers.welds.variants import SNI, Training

DETECTOR = Detector("AE, SNI", SNI.name)
TOGETHER = Detector("two runs together", SNI.name, ensemble=True)


def test_their_test_sets_are_accepted_patches_and_defects_by_contrast() -> None:
    sets, of_welds = patches_of(three_welds(), PatchCounts(test_accepted=7, test_defects=3), seed=1)
    assert {name: len(found) for name, found in sets.items()} == {
        "accepted": 7,
        "defects-high": 3,
        "defects-mid": 3,
        "defects-low": 3,
    }
    assert {name: list(of.values()) for name, of in of_welds.items()}["defects-mid"] == [1, 1, 1]
    assert sum(of_welds["accepted"].values()) == 7
    again, _ = patches_of(three_welds(), PatchCounts(test_accepted=7, test_defects=3), seed=1)
    assert all(np.array_equal(sets[name], again[name]) for name in sets)


def test_each_folds_networks_judge_them_by_the_folds_own_thresholds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are the patches' grey level; fold 1 has seen accepted patches of up to 10, fold 2 of up to 90."""
    loaded: list[type] = []

    def of_accepted(task: Task | EnsembleTask) -> dict[str, Scores]:
        loaded.append(type(task))
        fold = task.fold if isinstance(task, Task) else task.runs[0].fold
        level = np.full((4, 60), 10 if fold == "fold-1" else 90, np.float32)
        return {CHECKED: level, LEARNT: level, ACCEPTED: level + 1000}

    def greys(models: list[int], _variant: object, sets: other_welds.Sets, _device: object) -> dict[str, Scores]:
        assert len(models) == (2 if loaded[-1] is EnsembleTask else 1)
        return {name: np.repeat(found.mean(axis=(1, 2))[:, None], 60, axis=1) for name, found in sets.items()}

    monkeypatch.setattr(other_welds, "load_scores", of_accepted)
    monkeypatch.setattr(other_welds, "load_network", lambda *_: 0)
    monkeypatch.setattr(other_welds, "score_sets", greys)
    tasks = [
        Task(fold, tmp_path, SNI, run, Training(), 0, "cpu", torch.get_num_threads(), tmp_path, "x", "y")
        for fold in ("fold-1", "fold-2")
        for run in (1, 2)
    ]
    sets = {ACCEPTED: np.full((3, 4, 4), 5, np.uint8), "defects-mid": np.full((2, 4, 4), 50, np.uint8)}
    sets |= {"defects-high": np.full((2, 4, 4), 99, np.uint8), "defects-low": np.zeros((0, 4, 4), np.uint8)}
    of_welds = {
        ACCEPTED: {"A7": 2, "B2": 1},
        "defects-mid": {"A7": 1, "B2": 1},
        "defects-high": {"A7": 2, "B2": 0},
        "defects-low": {"A7": 0, "B2": 0},
    }

    def judge(*together: Task) -> SetScores:
        return scored(together, sets, torch.device("cpu"))

    runs = outcomes_of(DETECTOR, tasks, judge, of_welds, lambda *_: None)
    assert len(runs) == 2
    assert loaded == [Task] * 4
    for run in runs:
        shares = {name: rate.share for name, rate in run.flagged.items() if rate.total}
        assert shares == {ACCEPTED: 0, "defects-mid": 0.5, "defects-high": 1, CHECKED: 0, LEARNT: 0}
        assert run.by_weld["defects-mid"] == {"A7": Rate(1, 2), "B2": Rate(1, 2)}  # of both folds
    (together,) = outcomes_of(TOGETHER, tasks, judge, of_welds, lambda *_: None)
    assert loaded[4:] == [EnsembleTask] * 2
    assert together.flagged["defects-mid"].share == 0.5
    text = table_markdown({"AE, SNI": runs}, of_welds, ["A7", "B2"])
    high, mid, low, refused = text.splitlines()[-1].split(" | ")[1:]
    assert high == "100.0 (0.0) [no interval: 1 weld]"
    assert (mid, low, refused) == ("50.0 (0.0) [0.6, 99.4; 2 welds]; worst A7", "-", "0.0 (0.0) [0.0, 97.1; 2 welds] |")
    assert "| detector | defects-high, 2 | defects-mid, 2 | defects-low, 0 | accepted, refused (FPR), 3 |" in text
