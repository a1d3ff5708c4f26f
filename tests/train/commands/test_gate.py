"""Training of the gate from the command line: what it sees and what perturbs it."""

from pathlib import Path

import pytest

from edge.images.conversion import Bounds
from edge.images.method import Method
from edge.records import Size
from edge.system.progress import Reporter
from train.checkpoint import Checkpoint, save_checkpoint
from train.cli import main, parser
from train.commands.gate import image_of_gate
from train.errors import TrainError
from train.gate import training as gate_training
from train.recipe import GateRecipe, parse_size, usual_reduction


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
