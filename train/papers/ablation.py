"""`edge-train ablation`: from the paper's recipe to the best one, a step at a time, by the same cross-validation.

Every step is one row. A step changes what its name says and keeps the rest of the recipe it builds on. The backbone's
features are shared, so most rows cost no backbone pass at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge.images.method import Method
from edge.system.progress import Reporter
from edge.validation.lots import WorstLot
from train.classifier.crossval import cross_validate
from train.classifier.experiment import BEST, PAPER, ExperimentRecipe, recipe_values
from train.classifier.feature_cache import FeatureCache
from train.classifier.features import Backbone
from train.classifier.results import conditions
from train.classifier.tables import columns_of, summary
from train.dataset import Row
from train.files import clear_results, write_json, write_text
from train.report import percent_span, span_over, table, worst_of
from train.runner import Runner
from train.survey import Survey

WITHOUT_FINE_TUNING = 14
"""Steps that live on the cached features; the two after them train the backbone, image by image."""
FINE_TUNING_LR = 1e-4
"""A tenth of the rate for new layers: at that one, all layers together end in one answer for every scan."""
FINE_TUNING_EPOCHS = 20
"""In later ones the rate is below 1e-6 and the losses stand still."""
RESULTS_FILE, TABLE_FILE = "ablation.json", "ablation.md"
OF_VOTES = (17, 18)
"""Steps that differ from the first only where labellers disagree."""


@dataclass(frozen=True, slots=True)
class Step:
    """A row of the table."""

    number: int
    """From 1; names the folder of its folds, whichever steps are taken beside it."""
    name: str
    recipe: ExperimentRecipe


def steps(seed: int) -> list[Step]:
    """All rows, in the order of the table."""
    paper = replace(PAPER, seed=seed)
    best = replace(BEST, seed=seed)
    tuned = replace(paper, lr=FINE_TUNING_LR, epochs=FINE_TUNING_EPOCHS)
    recipes: list[tuple[str, ExperimentRecipe]] = [
        ("paper", paper),
        ("class weights", replace(paper, loss="balanced")),
        ("real-world weights, a miss costs 5", replace(paper, loss="real-world", miss_cost=5.0)),
        ("rotation, shear, shift", replace(paper, augmentation="warps")),
        ("clahe", replace(paper, method=Method.CLAHE)),
        ("dhe", replace(paper, method=Method.DHE)),
        ("calibrated threshold", replace(paper, threshold="calibrated")),
        ("mean and maximum", replace(paper, features="mean+max")),
        ("mean and maximum of layers 2, 3, 4", replace(paper, features="layers")),
        ("logistic head", replace(best, features="mean", threshold="half")),
        ("logistic head, layers 2, 3, 4", replace(best, features="layers", threshold="half")),
        ("logistic head, tiles that stand out", replace(best, threshold="half")),
        ("best: the same, calibrated threshold", best),
        ("best on dhe", replace(best, method=Method.DHE)),
        ("paper, layer 4 trained too", replace(tuned, fine_tune="layer4")),
        ("paper, all layers trained", replace(tuned, fine_tune="all")),
        ("paper, disputed scans left out", replace(paper, undecided="drop")),
        ("paper, undecidable as a class", replace(paper, undecided="class")),
    ]
    return [Step(number, name, recipe) for number, (name, recipe) in enumerate(recipes, 1)]


def usual_steps(rows: Sequence[Row]) -> list[int]:
    """Numbers, from 1, of the steps that are taken unasked: those without a GPU, on votes only where there are some."""
    return [*range(1, WITHOUT_FINE_TUNING + 1), *(OF_VOTES if any(row.is_disputed for row in rows) else ())]


def ablate(
    survey: Survey,
    backbone: Backbone,
    cache: FeatureCache,
    runner: Runner,
    out: Path,
    reporter: Reporter,
    chosen: Sequence[Step],
) -> str:
    """Cross-validate every step, resumable; writes ablation.md and ablation.json, returns the former.

    Rows that an earlier run found under the same conditions stay in both. Raises DataError, DivergedError, TrainError.
    """
    under = conditions(survey, backbone, chosen[0].recipe.seed)
    said = _digest_of_labels(survey)
    found, table = _found_before(out / RESULTS_FILE, under, said), ""
    clear_results(out, TABLE_FILE)
    for turn, step in enumerate(chosen, 1):
        reporter.say(f"step {step.number}, {turn} of {len(chosen)}: {step.name}")
        folder = out / f"{step.number:02d}"
        method = [step.recipe.method]
        results, timing = cross_validate(survey, method, step.recipe, backbone, cache, runner, folder, reporter)
        facts = {"step": step.name, "recipe": recipe_values(step.recipe), "heads_s": timing.heads_s}
        row = summary(columns_of(results), str(step.recipe.method), survey.rows, facts)
        kept = {key: row[key] for key in ("step", "recipe", "overall", "kinds")}
        found[step.number] = {"number": step.number, "conditions": under, "labels": said, **kept}
        rows = [found[number] for number in sorted(found)]
        write_json(out / RESULTS_FILE, rows)
        table = table_markdown(rows, under)
        write_text(out / TABLE_FILE, table)
    return table


def table_markdown(rows: Sequence[Mapping[str, Any]], under: str) -> str:
    """Rows of `ablation.json` as a table, and below it what it was made from."""
    found = []
    for row in rows:
        overall = row["overall"]
        share, interval = 100 * overall["balanced_accuracy"], percent_span(overall["balanced_accuracy_interval"])
        area = "-" if overall["auroc"] is None else f"{100 * overall['auroc']:.2f}"
        lots = overall.get("lots", 0)  # rows of an earlier release have none, or no number of them
        over = [
            f" ({percent_span(overall[name])})" if lots > 1 and name in overall else ""
            for name in ("auroc_interval_over_lots", "escape_rate_over_lots", "overkill_rate_over_lots")
        ]
        over_lots = overall.get("balanced_accuracy_interval_over_lots")
        unnumbered = "" if over_lots is None else percent_span(over_lots)
        balanced = span_over(over_lots, lots, "lot") if lots else unnumbered
        figures = [area, overall["fn"], overall["fp"]]
        shown = [f"{figure}{more}" for figure, more in zip(figures, over, strict=True)]
        worst = overall.get("worst_lot")
        named = "" if worst is None else worst_of(WorstLot(**worst))
        found.append([row["step"], f"{share:.2f}", interval, balanced, *shown, named])
    heads = [
        "step",
        "balanced accuracy, %",
        "95 % interval",
        "over lots",
        "AUROC, %",
        "escapes",
        "false alarms",
        "worst lot",
    ]
    about = (
        "In brackets: 95 % interval over lots of the AUROC, of the share of abnormal scans that escape and of the share"
        " of normal scans called abnormal, in %. Of the worst lot: scans decided wrongly."
    )
    return "\n".join([*table(heads, found), "", about, "", under]) + "\n"


def _digest_of_labels(survey: Survey) -> str:
    """SHA-256 over all that is said of each scan: votes, kinds and severities decide a row, too."""
    said = [
        (scan.sha256, row.file, row.lot, row.label, row.votes, row.kinds, row.severity)
        for row, scan in zip(survey.rows, survey.scans, strict=True)
    ]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _found_before(path: Path, under: str, labels: str) -> dict[int, dict[str, Any]]:
    """Rows of an earlier run by the step's number; of other conditions or labels, or an older release, none."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {int(row["number"]): row for row in rows if (row["conditions"], row["labels"]) == (under, labels)}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
