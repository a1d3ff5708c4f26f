"""What the gate costs and finds at several resolutions: the same training and the same report for each."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from edge.images.conversion import Bounds
from edge.system.progress import Reporter
from train.checkpoint import load_checkpoint
from train.dataset import Row, read_labels
from train.errors import DataError
from train.files import clear_results, write_json, write_text
from train.gate.findings import find, pass_ms
from train.gate.foreign_sets import ForeignImage
from train.gate.network import gate_of
from train.gate.report import kinds_span, lots_span, write_report
from train.gate.training import train_gate
from train.recipe import GateRecipe, Reduction
from train.report import percent_span, table


def study(
    data: Path,
    test: Sequence[Row],
    foreign: Callable[[], Iterable[ForeignImage]],
    out: Path,
    recipe: GateRecipe,
    reductions: Sequence[Reduction],
    reporter: Reporter,
    *,
    bounds: Bounds | None,
    jobs: int,
    command: str,
) -> list[dict[str, Any]]:
    """Train on `data` and report on `test` and foreign images at each reduction; writes `gate_study.md` and `.json`.

    Raises DataError before any training where a lot is in both.
    """
    if both := sorted({row.lot for row in read_labels(data)} & {row.lot for row in test}):
        raise DataError(
            f"lots of these names are in both sets: {', '.join(both)}",
            hint="report on scans of other lots, kept back as a whole; where only the names are alike, change them",
        )
    clear_results(out, "gate_study.*")
    found = []
    for reduction in reductions:
        run = out / f"reduction-{reduction}"
        reporter.say(f"reduction {reduction}")
        start_s = time.perf_counter()
        one = dataclasses.replace(recipe, reduction=reduction)
        train_gate(data, run, one, reporter, bounds=bounds, jobs=jobs)
        training_s = time.perf_counter() - start_s
        content = write_report(find(run, test, foreign(), reporter, recipe.device), run, command)
        checkpoint = load_checkpoint(run / "gate.pt", "gate")
        found.append(
            {
                "reduction": reduction,
                "training_s": training_s,
                "device_pass_ms": content["pass_ms"],
                "cpu_pass_ms": pass_ms(gate_of(checkpoint), checkpoint),
                "cpu_threads": torch.get_num_threads(),
                **{name: content[name]["gate"] for name in ("normal", "foreign", "abnormal")},
                "normal_over_lots": content["normal"]["gate_over_lots"],
                "foreign_over_kinds": content["foreign"]["gate_over_kinds"],
                "abnormal_over_lots": content["abnormal"]["gate_over_lots"],
                "least_margin": min(entry["margin"] for entry in content["foreign"]["kinds"].values()),
            }
        )
    write_json(out / "gate_study.json", {"command": command, "device": recipe.device, "found": found})
    write_text(out / "gate_study.md", _table(found, recipe, command))
    return found


def _table(found: Sequence[dict[str, Any]], recipe: GateRecipe, command: str) -> str:
    size = recipe.size
    threads = found[0]["cpu_threads"]
    heads = ["resolution", "normal refused", "foreign refused", "least margin", "abnormal refused"]
    heads += [f"ms on {recipe.device}", f"ms on CPU, {threads} threads", "training s"]
    rows = []
    for one in found:
        over = {
            "normal": lots_span(one["normal_over_lots"]),
            "foreign": kinds_span(one["foreign_over_kinds"]),
            "abnormal": lots_span(one["abnormal_over_lots"]),
        }
        shares = [
            f"{one[name]['hits']} of {one[name]['total']} ({percent_span(one[name]['interval'])}; {span})"
            for name, span in over.items()
        ]
        times = f"{one['device_pass_ms']:.1f}", f"{one['cpu_pass_ms']:.0f}", f"{one['training_s']:.0f}"
        rows.append([f"1/{one['reduction']}", *shares[:2], f"{one['least_margin']:.2f}", shares[2], *times])
    about = f"`{command}`: scans of {size.height_px} x {size.width_px} px, torch {torch.__version__}, float32."
    about += " In brackets: 95 % intervals in %, Wilson's and the one over lots, of foreign images over their kinds."
    return "\n".join(["# The gate at several resolutions", "", about, "", *table(heads, rows)]) + "\n"
