"""What is asked of a benchmark, and how many steps of which arithmetic fit the minutes it may take."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from train.files import write_json
from train.papers.welds.bank import open_bank
from train.papers.welds.data import PatchCounts
from train.papers.welds.fold_cache import mapped
from train.papers.welds.recipes import BenchmarkRecipe
from train.papers.welds.task import prepared
from train.papers.welds.training import train_network
from train.papers.welds.variants import CLASSIFIERS, SNI, Network, Training
from train.progress import Reporter

PLAN = "plan.json"
_CLASSIFIER_SHARE = 0.25
"""Of a budget of minutes, for the patch classifiers where there are any."""
_LEAST_STEPS = 20
_MEASURED_STEPS = 40
_MEASURED_STEPS_CPU = 3
_MEASURED_PATCHES = 500

Way = dict[str, bool | int]
"""Fields of `Training` that change how it is computed, not what."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a benchmark."""

    welds: Path
    natural: Path
    out: Path
    cache: Path
    """Folder of the folds' arrays, several GB."""
    networks: Path
    """Folder of the trained networks; recipes that share it share what they have in common."""
    recipe: BenchmarkRecipe
    training: Training
    counts: PatchCounts
    runs: int
    seed: int
    device: str
    jobs: int
    budget_minutes: float | None
    """Of all trainings together: the steps follow from the measured time of a step. None: those of `training`."""
    folds: tuple[int, ...]
    """Numbers from 1; empty: all."""


def planned(request: Request, digest: str, fold_folder: Path, folds: int, reporter: Reporter) -> Training:
    """The training with the steps that fit the budget; a plan made before for the same request is kept."""
    training = request.training
    if request.budget_minutes is None:
        return training
    path = request.out / PLAN
    asked = {
        "data": digest,
        "recipe": request.recipe.name,
        "runs": request.runs,
        "folds": folds,
        "device": request.device,
        "budget_minutes": request.budget_minutes,
        "batch": training.batch,
        "bf16": training.bf16,
    }
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        if plan["asked"] == asked:
            return replace(training, **plan["found"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found, step_ms = find_plan(request, fold_folder, folds)
    write_json(path, {"asked": asked, "found": found, "step_ms": step_ms})
    reporter.say(f"budget of {request.budget_minutes:g} minutes: {found}; step times in ms: {step_ms}")
    return replace(training, **found)


def find_plan(request: Request, fold_folder: Path, folds: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Fields of `Training` for the budget, and the step times in ms they follow from.

    The autoencoder, which most of the time goes to, decides which way of computing is the fastest.
    """
    networks = [variant.network for variant in request.recipe.variants]
    fastest: Way = {"bf16": request.training.bf16}
    step_ms: dict[str, float] = {}
    if "autoencoder" in networks:
        for way in ways(request):
            step_ms[_label("autoencoder", way)] = measured_ms(request, "autoencoder", way, fold_folder)
        fastest = min(ways(request), key=lambda way: step_ms[_label("autoencoder", way)])
    if "classifier" in networks:
        step_ms[_label("classifier", fastest)] = measured_ms(request, "classifier", fastest, fold_folder)
    found: dict[str, Any] = dict(fastest)
    for network in dict.fromkeys(networks):
        share = _CLASSIFIER_SHARE if network == "classifier" else 1 - _CLASSIFIER_SHARE
        if len(set(networks)) == 1:
            share = 1.0
        trainings = networks.count(network) * folds * request.runs
        budget_ms = 60_000 * (request.budget_minutes or 0.0) * share
        steps = int(budget_ms / trainings / step_ms[_label(network, fastest)])
        found[f"{network}_steps"] = max(_LEAST_STEPS, steps)
    return found, {label: round(value, 3) for label, value in step_ms.items()}


def ways(request: Request) -> list[Way]:
    """Ways to compute the same training, of which the fastest is taken; on a CPU there is one."""
    if not request.device.startswith("cuda"):
        return [{"bf16": request.training.bf16}]
    return [
        {"bf16": bf16, "channels_last": channels_last, "channel_multiple": multiple}
        for bf16 in ((False, True) if request.training.bf16 else (False,))
        for channels_last, multiple in ((True, 1), (True, 8), (False, 1))
    ]


def measured_ms(request: Request, network: Network, way: Way, fold_folder: Path) -> float:
    """Time of one step with perturbations, after a first few that do not count."""
    variant = SNI if network == "autoencoder" else CLASSIFIERS[-1]
    names = ["accepted", "defective", *(f"perturbation-{kind}" for kind in variant.perturbations)]
    arrays = {name: array[:_MEASURED_PATCHES] for name, array in mapped(fold_folder, names).items()}
    device = prepared(request.device)
    bank = open_bank(arrays, variant.perturbations, defective=variant.defective, device=device)
    training = replace(request.training, plain_share=0.0, **way)  # type: ignore[arg-type]
    steps = _MEASURED_STEPS if device.type == "cuda" else _MEASURED_STEPS_CPU
    train_network(bank, variant, training, seed=0, steps=2, where="first steps")
    return 1000 * train_network(bank, variant, training, seed=0, steps=steps, where="step time").seconds / steps


def _label(network: Network, way: Way) -> str:
    return " ".join([network, *(f"{name}={value}" for name, value in way.items())])
