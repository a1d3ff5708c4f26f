"""Options are the fields of the recipes: nothing is said twice, so nothing can differ."""

import argparse
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from edge.images.method import Method
from edge.records import Size
from train.cli import main, parser
from train.commands.options import add_fields, recipe_of
from train.recipe import ClassifierRecipe, GateRecipe, option


def test_a_classifiers_options_and_defaults_are_its_recipe() -> None:
    options = parser().parse_args(["fine-tune", "DATA", "--out", "RUN"])
    assert recipe_of(ClassifierRecipe, options) == ClassifierRecipe()


def test_a_gates_options_and_defaults_are_its_recipe_but_for_what_is_decided_later() -> None:
    options = parser().parse_args(["gate", "DATA", "--out", "RUN"])
    usual = GateRecipe()
    decided = {name: getattr(usual, name) for name in ("method", "size", "perturbation", "reduction")}
    assert [getattr(options, name) for name in decided] == [None] * 4
    assert recipe_of(GateRecipe, options, **decided) == usual


def test_what_is_typed_reaches_the_recipe_in_the_fields_own_type() -> None:
    typed = (
        "--conversion local --size 500x250 --epochs 3 --lr 0.01 --balanced --fine-tune all --start old/classifier.pt"
    )
    options = parser().parse_args(["fine-tune", "DATA", "--out", "RUN", *typed.split()])
    assert recipe_of(ClassifierRecipe, options) == ClassifierRecipe(
        method=Method.LOCAL,
        size=Size(500, 250),
        epochs=3,
        lr=0.01,
        balanced=True,
        fine_tune="all",
        start="old/classifier.pt",
    )
    assert not parser().parse_args(["gate", "DATA", "--out", "RUN", "--no-rotate"]).rotate


@pytest.mark.parametrize("recipe", [ClassifierRecipe(), GateRecipe()], ids=["classifier", "gate"])
def test_every_choice_of_a_recipe_is_described_where_it_is_declared(recipe: ClassifierRecipe | GateRecipe) -> None:
    assert [field.name for field in fields(recipe) if not field.metadata.get("help")] == []


def test_a_new_field_is_an_option_with_its_help_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass(frozen=True)
    class Recipe:
        depth_px: int = option(7, "depth of 100 % of the layers")
        internal: int = 3

    made = argparse.ArgumentParser()
    add_fields(made, Recipe())
    assert vars(made.parse_args(["--depth-px", "9"])) == {"depth_px": 9}
    assert "--depth-px N  depth of 100 % of the layers (default: 7)" in made.format_help()


@pytest.mark.parametrize("verb", ["classifier", "gate", "learn", "crossval"])
def test_a_folder_for_results_that_cannot_be_made_is_refused_before_a_scan_is_read(
    tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert main([verb, str(tmp_path / "no-data"), "--out", str(tmp_path / "file")]) == 74
    assert "File exists" in capsys.readouterr().err
