"""`edge-train ablation`: from the paper's recipe to the best one, a step at a time, by the same cross-validation.

Every step is one row. A step changes what its name says and keeps the rest of the recipe it builds on. The backbone's
features are shared, so most rows cost no backbone pass at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edge.conversion import Method
from train.classifier.crossval import cross_validate
from train.classifier.experiment import BEST, PAPER, ExperimentRecipe, recipe_values
from train.classifier.feature_cache import FeatureCache
from train.classifier.features import Backbone
from train.classifier.results import conditions
from train.classifier.tables import columns_of, summary
from train.dataset import Row
from train.files import write_json
from train.progress import Reporter
from train.runner import Runner
from train.survey import Survey

WITHOUT_FINE_TUNING = 14
"""Steps that live on the cached features; the two after them train the backbone, image by image."""
FINE_TUNING_LR = 1e-4
"""A tenth of the rate for new layers: at that one, all layers together end in one answer for every scan."""
FINE_TUNING_EPOCHS = 20
"""In later ones the rate is below 1e-6 and the losses stand still."""
OF_VOTES = (17, 18)
"""Steps that differ from the first only where labellers disagree."""


@dataclass(frozen=True, slots=True)
class Step:
    """A row of the table."""

    name: str
    recipe: ExperimentRecipe


def steps(seed: int) -> list[Step]:
    """All rows, in the order of the table."""
    paper = replace(PAPER, seed=seed)
    best = replace(BEST, seed=seed)
    tuned = replace(paper, lr=FINE_TUNING_LR, epochs=FINE_TUNING_EPOCHS)
    return [
        Step("paper", paper),
        Step("class weights", replace(paper, loss="balanced")),
        Step("real-world weights, a miss costs 5", replace(paper, loss="real-world", miss_cost=5.0)),
        Step("rotation, shear, shift", replace(paper, augmentation="warps")),
        Step("clahe", replace(paper, method=Method.CLAHE)),
        Step("dhe", replace(paper, method=Method.DHE)),
        Step("calibrated threshold", replace(paper, threshold="calibrated")),
        Step("mean and maximum", replace(paper, features="mean+max")),
        Step("mean and maximum of layers 2, 3, 4", replace(paper, features="layers")),
        Step("logistic head", replace(best, features="mean", threshold="half")),
        Step("logistic head, layers 2, 3, 4", replace(best, features="layers", threshold="half")),
        Step("logistic head, tiles that stand out", replace(best, threshold="half")),
        Step("best: the same, calibrated threshold", best),
        Step("best on dhe", replace(best, method=Method.DHE)),
        Step("paper, layer 4 trained too", replace(tuned, fine_tune="layer4")),
        Step("paper, all layers trained", replace(tuned, fine_tune="all")),
        Step("paper, disputed scans left out", replace(paper, undecided="drop")),
        Step("paper, undecidable as a class", replace(paper, undecided="class")),
    ]


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

    Raises DataError, DivergedError, TrainError.
    """
    lines = ["| step | balanced accuracy, % | 95 % interval | AUROC, % | escapes | false alarms |", "|---" * 6 + "|"]
    found, table = [], ""
    for number, step in enumerate(chosen, 1):
        reporter.say(f"step {number} of {len(chosen)}: {step.name}")
        folder = out / f"{number:02d}"
        method = [step.recipe.method]
        results, timing = cross_validate(survey, method, step.recipe, backbone, cache, runner, folder, reporter)
        facts = {"step": step.name, "recipe": recipe_values(step.recipe), "heads_s": timing.heads_s}
        row = summary(columns_of(results), str(step.recipe.method), survey.rows, facts)
        found.append({key: row[key] for key in ("step", "recipe", "overall", "kinds")})
        overall = row["overall"]
        low, high = overall["balanced_accuracy_interval"]
        area = "-" if overall["auroc"] is None else f"{100 * overall['auroc']:.2f}"
        lines.append(
            f"| {step.name} | {100 * overall['balanced_accuracy']:.2f} | {100 * low:.1f} to {100 * high:.1f}"
            f" | {area} | {overall['fn']} | {overall['fp']} |"
        )
        write_json(out / "ablation.json", found)
        table = "\n".join([*lines, "", conditions(survey, backbone, step.recipe.seed)]) + "\n"
        (out / "ablation.md").write_text(table, encoding="utf-8")
    return table
