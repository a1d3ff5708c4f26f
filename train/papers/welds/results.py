"""Writes what a benchmark found: tables.md, tables.csv, tables.json, and the figures."""

from __future__ import annotations

import json
import platform
from typing import Any

import numpy as np
import torch

from train.device import device_name
from train.files import write_json, write_text
from train.papers.welds.benchmark import Benchmark
from train.papers.welds.curves import curves_csv
from train.papers.welds.equal_refusal import first_curves, refusal_tables
from train.papers.welds.plan import Request
from train.papers.welds.tables import tables_csv, tables_json, tables_markdown
from train.papers.welds.task import load_scores


def write_benchmark(request: Request, benchmark: Benchmark, command: str, wall_s: float) -> str:
    """Write the tables into `request.out`, named after the recipe; returns them as Markdown."""
    facts = facts_of(request, benchmark, command, wall_s)
    detectors = request.recipe.detectors
    folds = [
        f"{fold['name']}: tested on {', '.join(fold['test'])}; thresholds from {', '.join(fold['validation'])};"
        f" learnt from {', '.join(fold['training'])}."
        for fold in benchmark.folds
    ]
    training = benchmark.training
    notes = [
        *folds,
        "",
        f"Recipe `{request.recipe.name}`, {request.runs} runs, seed {request.seed},"
        f" {training.autoencoder_steps} autoencoder and {training.classifier_steps} classifier steps"
        f" of {training.batch} accepted patches and as many more,"
        f" {'bf16' if training.bf16 else 'fp32'}; data {benchmark.data_digest[:12]}; {facts['device_name']},"
        f" torch {torch.__version__}; {facts['training_s']:.0f} s of trainings, {wall_s:.0f} s for the last command:",
        "",
        f"    {command}",
    ]
    text = tables_markdown(benchmark, detectors, notes)
    files = {"tables.csv": tables_csv(benchmark, detectors)}
    if request.recipe.beside:
        tested_of = [fact["tested_of"] for fact in benchmark.folds]
        curves = first_curves(request.recipe.detectors, benchmark.tasks, load_scores, tested_of)
        text = "\n".join([text, *refusal_tables(curves, request.recipe.beside), ""])
        files["curves.csv"] = curves_csv(curves)
    for name, content in {"tables.md": text, **files}.items():
        write_text(request.out / name, content)
    write_json(request.out / "tables.json", {"facts": facts, "detectors": tables_json(benchmark, detectors)})
    return text


def facts_of(request: Request, benchmark: Benchmark, command: str, wall_s: float) -> dict[str, Any]:
    """Where the tables come from."""
    trained = [json.loads(task.stem.with_suffix(".json").read_text(encoding="utf-8")) for task in benchmark.tasks]
    return {
        "command": command,
        "recipe": request.recipe.name,
        "data_digest": benchmark.data_digest,
        "folds": list(benchmark.folds),
        "runs": request.runs,
        "seed": request.seed,
        "autoencoder_steps": benchmark.training.autoencoder_steps,
        "classifier_steps": benchmark.training.classifier_steps,
        "batch": benchmark.training.batch,
        "lr": benchmark.training.lr,
        "bf16": benchmark.training.bf16,
        "device_name": device_name(request.device),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "networks": len(trained),
        "training_s": round(sum(facts["seconds"] for facts in trained), 1),
        "wall_s": round(wall_s, 1),
        "seconds": {name: round(value, 1) for name, value in benchmark.seconds.items()},
        "trainings": [
            {"variant": facts["variant"]["name"]}
            | {name: facts[name] for name in ("fold", "run", "final_loss", "spread", "starts", "seconds")}
            for facts in trained
        ],
    }
