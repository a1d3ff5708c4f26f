"""The command line: what a person types, and what comes back when it cannot be done."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edge.images.conversion import Bounds, Method
from edge.records import Size
from edge.system.progress import Reporter
from train.checkpoint import Checkpoint, save_checkpoint
from train.cli import main, parser
from train.commands.gate import image_of_gate
from train.errors import TrainError
from train.files import written_whole
from train.gate import training as gate_training
from train.recipe import ClassifierRecipe, GateRecipe, parse_size, usual_reduction


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


def test_an_error_is_two_lines_and_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bounds", str(tmp_path / "nowhere")]) == 65
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("edge-train: ")
    assert "nowhere" in lines[0]
    assert lines[1].startswith("  try: ")


def test_a_folder_that_cannot_be_written_is_two_lines_and_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    options = ["--bundles", "1", "--scans", "1", "--scale", "0.05"]
    assert main(["simulate", "--out", str(tmp_path / "lot"), *options]) == 0
    capsys.readouterr()
    assert main(["bounds", str(tmp_path / "lot"), "--out", str(tmp_path / "file" / "bounds.json")]) == 74
    first, second = capsys.readouterr().err.splitlines()[-2:]
    assert first.startswith("edge-train: ") and str(tmp_path / "file") in first
    assert second.startswith("  try: look at the folder")


class FullDisk(io.BytesIO):
    """Takes two megabytes."""

    def write(self, content: bytes) -> int:  # type: ignore[override]
        if self.tell() > 2_000_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(content)


def test_a_full_disk_is_said_and_leaves_the_checkpoint_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pt"
    path.write_text("before")
    monkeypatch.setattr("edge.system.files.open", lambda *_, **__: FullDisk(), raising=False)
    with pytest.raises(OSError, match=r"No space left on device.*model\.pt"), written_whole(path) as stream:
        torch.save({"weights": torch.zeros(1_000_000)}, stream)
    monkeypatch.undo()
    assert [one.read_text() for one in tmp_path.iterdir()] == ["before"]


def test_a_defect_is_logged_and_two_lines(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("train.commands.bounds.read_labels", lambda _: 1 / 0)
    assert main(["bounds", str(tmp_path)]) == 1
    first, second = capsys.readouterr().err.splitlines()[-2:]
    assert first == "edge-train: ZeroDivisionError: division by zero"
    assert second == "  try: report this with the log above"
    assert caplog.records[0].exc_info


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["classifier", "{}", "--out", "{}", "--weights", "none", "--size", "big"], "'big' is not a size"),
        (["classifier", "{}", "--out", "{}", "--weights", "{}/no.pth"], "no.pth cannot be read"),
        (["gate", "{}", "--out", "{}", "--like", "{}/no.pt"], "no checkpoint at"),
        (["gate", "{}", "--out", "{}", "--bounds", "{}/no.json"], "holds no bounds"),
        (["gate", "{}", "--out", "{}", "--device", "cuda:99"], "torch cannot compute on 'cuda:99'"),
        (["gate-benchmark", "{}", "--natural", "{}", "--out", "{}", "--device", "cuda:99"], "torch cannot compute on"),
        (["transfer", "{}", "--out", "{}", "--weights", "none", "--device", "cuda:99"], "torch cannot compute on"),
    ],
)
def test_a_senseless_request_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main([argument.replace("{}", str(tmp_path)) for argument in arguments]) != 0
    assert words in capsys.readouterr().err


def test_what_is_not_said_is_the_papers_recipe() -> None:
    said = parser().parse_args(["classifier", "DATA", "--out", "RUN"])
    recipe = ClassifierRecipe()
    for field in ("weights", "fine_tune", "epochs", "lr", "schedule", "step_epochs", "flip_p", "optimizer", "seed"):
        assert getattr(said, field) == getattr(recipe, field), field
    assert said.size == recipe.size


def test_the_gates_defaults_are_its_recipes() -> None:
    said = parser().parse_args(["gate", "DATA", "--out", "RUN"])
    recipe = GateRecipe()
    for field in (
        "patches",
        "calibrate_on",
        "image_fpr",
        "margin",
        "rotate",
        "steps",
        "batch",
        "lr",
        "scores",
        "bank",
    ):
        assert getattr(said, field) == getattr(recipe, field), field


@pytest.mark.parametrize(
    ("said", "perturbation"),
    [
        ([], "shapes"),
        (["--photos", "DIR"], "sni"),
        (["--perturbation", "none"], "none"),
        (["--photos", "DIR", "--perturbation", "foreign"], "foreign"),  # which the training refuses
    ],
)
def test_photographs_are_what_perturbs_when_they_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str], perturbation: str
) -> None:
    recipes: list[GateRecipe] = []
    monkeypatch.setattr(gate_training, "train_gate", lambda _data, _out, recipe, *_, **__: recipes.append(recipe))
    assert main(["gate", "DATA", "--out", str(tmp_path), *said]) == 0
    assert [recipe.perturbation for recipe in recipes] == [perturbation]


@pytest.mark.parametrize(("size", "reduction"), [("2000x1000", 2), ("1000x500", 1), ("280x280", 1)])
def test_the_gate_looks_at_half_the_resolution_of_the_full_format_alone(size: str, reduction: int) -> None:
    assert usual_reduction(parse_size(size)) == reduction


_WITHOUT_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in ("torch", "torchvision") else found(name, *rest)
from train.cli import main
sys.exit(main(sys.argv[1:]))
"""


def _without_torch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, *arguments], capture_output=True, text=True, check=False, timeout=100
    )


def test_simulate_and_bounds_run_without_torch(tmp_path: Path) -> None:
    lot = str(tmp_path / "lot")
    made = _without_torch("simulate", "--out", lot, "--bundles", "1", "--scans", "1", "--scale", "0.05")
    assert made.returncode == 0, made.stderr
    found = _without_torch("bounds", lot)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("verb", ["classifier", "gate"])
def test_learning_without_torch_says_what_to_install(tmp_path: Path, verb: str) -> None:
    refused = _without_torch(verb, str(tmp_path), "--out", str(tmp_path))
    assert refused.returncode == 1
    assert "needs torch, which is not installed" in refused.stderr
    assert "pip install electrode-line[train]" in refused.stderr


def test_a_gpu_that_is_not_there_is_said_at_once(
    small_lot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["classifier", str(small_lot), "--out", str(tmp_path / "run"), "--weights", "none", "--device", "cuda:77"]
    assert main(command) != 0
    assert "torch cannot compute on 'cuda:77'" in capsys.readouterr().err


def image_of(*said: str) -> tuple[object, ...]:
    with Reporter() as reporter:
        return image_of_gate(parser().parse_args(["gate", "DATA", *said]), reporter)


@pytest.mark.parametrize("how", ["beside", "like"])
def test_a_gate_sees_scans_as_the_classifier_it_stands_before_and_contradiction_is_refused(
    tmp_path: Path, how: str
) -> None:
    bounds, size = Bounds(2000, 3900), Size(400, 300)
    learnt = Checkpoint("classifier", {}, Method.MIXED, bounds, size, 0, "digest", (1, 2), (1, 2))
    path = tmp_path / ("classifier.pt" if how == "beside" else "other.pt")
    save_checkpoint(path, learnt)
    run = ["--out", str(tmp_path), *(["--like", str(path)] if how == "like" else [])]
    assert image_of(*run) == (Method.MIXED, size, bounds)
    assert image_of(*run, "--size", "400x300", "--method", "mixed") == (Method.MIXED, size, bounds)
    for said in (["--size", "200x300"], ["--conversion", "naive"]):
        with pytest.raises(TrainError, match=rf"{said[0]} says {said[1]}, .* trained with (400x300|mixed)"):
            image_of(*run, *said)
    (tmp_path / "bounds.json").write_text('{"lo_counts": 1900, "hi_counts": 3900}')
    with pytest.raises(TrainError, match=r"--bounds says 1900\.\.3900 counts"):
        image_of(*run, "--bounds", str(tmp_path / "bounds.json"))
    assert image_of("--out", str(tmp_path / "alone")) == (Method.GLOBAL, Size(2000, 1000), None)


@pytest.mark.parametrize("verb", ["classifier", "gate", "learn", "crossval"])
def test_a_folder_for_results_that_cannot_be_made_is_refused_before_a_scan_is_read(
    tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert main([verb, str(tmp_path / "no-data"), "--out", str(tmp_path / "file")]) == 74
    assert "File exists" in capsys.readouterr().err


def test_a_classifier_names_its_figure_after_the_scans_that_chose_it(
    small_lot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["classifier", str(small_lot), "--out", str(tmp_path), "--weights", "none", "--size", "64x64"]
    assert main([*command, "--epochs", "1"]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    assert "selection_balanced_accuracy" in metrics and "validation_balanced_accuracy" not in metrics
    assert "on the scans that chose it" in capsys.readouterr().err


@pytest.mark.parametrize(("verb", "old"), [("fine-tune", "classifier"), ("fit-features", "learn")])
def test_verbs_and_options_go_by_their_old_names_too(verb: str, old: str) -> None:
    found = [vars(parser().parse_args([name, "DATA", "--out", "RUN"])) for name in (verb, old)]
    assert [options.pop("verb") for options in found] == [verb, old]
    assert found[0] == found[1]
    options = [
        parser().parse_args(["gate", "DATA", "--out", "RUN", name, "local"]) for name in ("--conversion", "--method")
    ]
    assert options[0] == options[1]
