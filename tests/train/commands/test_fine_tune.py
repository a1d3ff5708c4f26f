"""Training of the classifier from the command line."""

import json
from pathlib import Path

import pytest

from train.cli import main


def test_a_gpu_that_is_not_there_is_said_at_once(
    small_lot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["classifier", str(small_lot), "--out", str(tmp_path / "run"), "--weights", "none", "--device", "cuda:77"]
    assert main(command) != 0
    assert "torch cannot compute on 'cuda:77'" in capsys.readouterr().err


@pytest.mark.usefixtures("shallow")
def test_a_classifier_names_its_figure_after_the_scans_that_chose_it(
    small_lot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["classifier", str(small_lot), "--out", str(tmp_path), "--weights", "none", "--size", "64x64"]
    assert main([*command, "--epochs", "1"]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    assert "selection_balanced_accuracy" in metrics and "validation_balanced_accuracy" not in metrics
    said = capsys.readouterr().err
    assert "on the scans that chose it" in said and f"worst lot {metrics['selection_worst_lot']}" in said
    low, high = (metrics[f"selection_balanced_accuracy_lots_{end}"] for end in ("low", "high"))
    assert low <= metrics["selection_balanced_accuracy"] <= high
