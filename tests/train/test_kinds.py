"""The second task: which answers are asked for, and which are not known."""

from pathlib import Path

import numpy as np
import pytest
import torch

from train.dataset import LoadedScans, Row, ScanFacts
from train.errors import DataError
from train.kinds import WEIGHT, KindsTask


def _scans(*rows: tuple[int, tuple[str, ...]]) -> LoadedScans:
    facts = ScanFacts("", 8, 8, 0.0)
    return LoadedScans(
        tuple(Row(Path("x"), f"{i}", "B1", label, kinds) for i, (label, kinds) in enumerate(rows)),
        np.zeros((len(rows), 1, 8, 8), np.uint8),
        (facts,) * len(rows),
    )


def _set(task: KindsTask, logits: list[float]) -> None:
    with torch.no_grad():
        task.layer.weight.zero_()
        task.layer.bias.copy_(torch.tensor(logits))


def test_severe_kinds_are_those_of_abnormal_scans_and_mild_ones_those_of_normal() -> None:
    """Kinds a and b: the four answers are severe a, severe b, mild a, mild b."""
    task = KindsTask(_scans((1, ("b",)), (0, ("a",))))
    features = torch.zeros(1, 1000)
    sure = 20.0
    _set(task, [-sure, sure, -sure, -sure])
    assert float(task.loss(features, np.array([0])).detach()) == pytest.approx(0.0, abs=1e-5)
    _set(task, [-sure, -sure, sure, -sure])
    assert float(task.loss(features, np.array([1])).detach()) == pytest.approx(0.0, abs=1e-5)
    assert float(task.loss(features, np.array([0])).detach()) == pytest.approx(WEIGHT * sure, rel=1e-4)


def test_mild_kinds_of_an_abnormal_scan_do_not_count() -> None:
    task = KindsTask(_scans((1, ("a",)), (0, ("b",))))
    features = torch.zeros(1, 1000)
    losses = []
    for mild in (-9.0, 9.0):
        _set(task, [9.0, -9.0, mild, mild])
        losses.append(float(task.loss(features, np.array([0])).detach()))
    assert losses[0] == losses[1]


def test_labels_without_kinds_cannot_be_learnt_from() -> None:
    with pytest.raises(DataError, match="no scan names the kinds"):
        KindsTask(_scans((0, ()), (1, ())))
