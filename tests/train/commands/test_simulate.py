"""Lots from the command line, and the bounds that are found in them."""

import json
from pathlib import Path

import pytest

from train.cli import main
from train.errors import TrainError


def test_simulate_then_bounds_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lot = tmp_path / "lot"
    options = ["--bundles", "2", "--scans", "2", "--scale", "0.05", "--seed", "3", "--first-bundle", "7"]
    assert main(["simulate", "--out", str(lot), *options]) == 0
    assert capsys.readouterr().out.strip() == str(lot / "labels.csv")
    assert sorted(path.name for path in lot.glob("*.tif")) == [
        "B07_0001.tif",
        "B07_0002.tif",
        "B08_0001.tif",
        "B08_0002.tif",
    ]
    assert main(["bounds", str(lot), "--out", str(tmp_path / "b" / "bounds.json")]) == 0
    written = json.loads((tmp_path / "b" / "bounds.json").read_text())
    assert written["lo_counts"] < written["hi_counts"]
    assert main(["bounds", str(lot)]) == 0
    assert json.loads(capsys.readouterr().out) == written


def test_the_second_simulator_writes_lots_that_training_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lot = tmp_path / "lot"
    options = ["--simulator", "second", "--bundles", "2", "--scans", "2", "--scale", "0.05"]
    assert main(["simulate", "--out", str(lot), *options]) == 0
    assert len(list(lot.glob("*.tif"))) == 4
    assert main(["bounds", str(lot)]) == 0
    capsys.readouterr()
    assert main(["simulate", "--out", str(tmp_path / "other"), *options, "--regions"]) == TrainError.exit_code
    assert "--simulator first" in capsys.readouterr().err
