"""Writes what a cross-validation found: table1.md, table1.csv, summary.json, plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from train.classifier.crossval import Timing
from train.classifier.experiment import ExperimentRecipe, recipe_values
from train.classifier.features import Backbone
from train.classifier.folds import FoldResult
from train.classifier.plots import kinds_plot, roc_plot
from train.classifier.tables import columns_of, kind_recalls, severity_limit, summary, table_csv, table_markdown
from train.files import clear_results, write_json, write_text
from train.survey import Survey, lots_alike


def clear(out: Path) -> None:
    """Remove what `write_results` wrote for an earlier run; folds stay."""
    clear_results(out, "table1.md", "table1.csv", "summary.json", "timing.json", "roc.*", "kinds_*.*")


def conditions(survey: Survey, backbone: Backbone, seed: int) -> str:
    """What a table was made from, for the line below it."""
    size = f"{backbone.size.height_px} x {backbone.size.width_px} px"
    weights = f"weights {Path(backbone.weights).name} ({backbone.sha256[:12]})"
    left_out = f" Left out, unreadable: {'; '.join(survey.unreadable)}." if survey.unreadable else ""
    alike = "".join(f" {sentence[0].upper()}{sentence[1:]}." for sentence in lots_alike(survey.lots))
    return f"Data {survey.digest[:12]}, {weights}, {size}, {backbone.arithmetic}, seed {seed}.{left_out}{alike}"


def write_results(
    out: Path,
    results: Sequence[FoldResult],
    survey: Survey,
    recipe: ExperimentRecipe,
    backbone: Backbone,
    timing: Timing,
    beside: Mapping[str, ExperimentRecipe],
) -> str:
    """Write all files into `out`; returns the table as Markdown.

    `beside`: recipes of columns that are not `recipe`'s, by the name of the column.
    """
    columns = columns_of(results)
    notes = [
        conditions(survey, backbone, recipe.seed),
        f"Head `{recipe.head}`, features `{recipe.features}`, threshold {recipe.threshold}.",
        *(f"{name}: head `{r.head}`, features `{r.features}`, threshold {r.threshold}." for name, r in beside.items()),
    ]
    for column in columns:
        one_class = [f"{fold.lot} ({fold.one_class})" for fold in column.folds if fold.one_class]
        if one_class:
            notes.append(f"Nothing to learn under {column.method}, one class in training: {', '.join(one_class)}.")
    table = table_markdown(columns, notes, severity_limit(survey.rows))
    write_text(out / "table1.md", table)
    write_text(out / "table1.csv", table_csv(columns))
    facts = {
        "recipe": recipe_values(recipe),
        "beside": {name: recipe_values(other) for name, other in beside.items()},
        "data_digest": survey.digest,
        "scans": len(survey.rows),
        "bundles_held_out": list(survey.lots),
        "weights": Path(backbone.weights).name,
        "weights_sha256": backbone.sha256,
        "size": list(backbone.size),
        "arithmetic": backbone.arithmetic,
        "unreadable": list(survey.unreadable),
    }
    write_json(out / "summary.json", summary(columns, str(recipe.method), survey.rows, facts))
    write_json(
        out / "timing.json",
        {"backbone_s": timing.backbone_s, "heads_s": timing.heads_s, "folds_in_this_run": timing.folds},
    )
    roc_plot(columns, out / "roc")
    for column in columns:
        kinds = kind_recalls(column, survey.rows)
        if kinds:
            kinds_plot(kinds, f"{column.method}: recall by kind", out / f"kinds_{column.method}")
    return table
