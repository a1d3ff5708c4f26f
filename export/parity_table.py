"""`edge-export parity`: models on every engine there is, and on torch, over the same scans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from rich.console import Console
from rich.table import Table

from edge.engines import PlanSettings
from edge.engines.choose import open_engine
from edge.errors import EngineError
from edge.model.manifest import CLASSIFIER_FILE, GATE_FILE
from edge.model.signed_model import SignedModel
from edge.records import Image, Scores
from edge.system.progress import Reporter
from export.comparison import MAX_LOSS_POINTS, Comparison, compare
from export.errors import ExportError
from export.layers import worst_layers
from export.parity import engine_scores, torch_scores
from export.scans import converted_scans, labels_of
from train.checkpoint import load_checkpoint
from train.classifier.models import classifier_of
from train.gate.network import gate_of

LAYER_SCANS = 2


def parity(
    models: Sequence[SignedModel],
    scans_folder: Path,
    *,
    labels: Path | None,
    classifier: Path | None,
    gate: Path | None,
    engines: Sequence[str],
    plans: PlanSettings,
    console: Console,
    reporter: Reporter,
) -> int:
    """Print the comparison; 0 where nothing flips outside the review band and no balanced accuracy is lost, else 1.

    1 also where one of `engines` does not open: what was not compared is not alike. `plans`: for TensorRT. The
    reference is torch where both checkpoints are given, else the first model on the first engine. Raises ExportError,
    EngineError, CheckpointError.
    """
    first = models[0]
    _check_alike(models)
    scans = converted_scans(scans_folder, first.method, first.bounds, first.size, labels=labels)
    images, files, truth = [scan.image for scan in scans], [scan.file for scan in scans], labels_of(scans)
    scored: dict[str, list[Scores]] = {}
    all_open = True
    if classifier is not None and gate is not None:
        scored["torch fp32"] = _torch(classifier, gate, first, images)
    for model, called in zip(models, _names(models), strict=True):
        for name in engines:
            try:
                engine = open_engine(model, name, plans=plans)
            except EngineError as error:
                console.print(f"{called} on {name}: {error.message}")
                all_open = False
                continue
            what = f"{called} on {name}"
            scored[what] = engine_scores(engine, reporter.track(images, what))
            engine.close()
    if not scored:
        raise ExportError(
            f"none of these engines opens: {', '.join(engines)}",
            hint="pip install 'electrode-line[openvino]', or leave --engines out",
        )
    reference = next(iter(scored))
    expected = scored.pop(reference)
    if not scored:
        raise ExportError(
            f"nothing to compare {reference} with",
            hint="name another model or engine, or --classifier and --gate for torch",
        )
    found = [compare(name, files, expected, scores, first.policy(), truth) for name, scores in scored.items()]
    _print(console, reference, found)
    plainest = next((model for model in models if model.precision == "fp32"), None)
    for model in models:
        if plainest is not None and model is not plainest:
            _print_layers(console, model, plainest, images[:LAYER_SCANS])
    is_alike = not any(each.hard_flips or each.loses_accuracy for each in found)
    return 0 if is_alike and all_open else 1


def _names(models: Sequence[SignedModel]) -> list[str]:
    """What each is called in the table; numbered where two would be called the same."""
    names = [f"{model.model_id} {model.precision}" for model in models]
    return [name if names.count(name) == 1 else f"{name} #{number}" for number, name in enumerate(names, start=1)]


def _check_alike(models: Sequence[SignedModel]) -> None:
    first = models[0]
    for model in models[1:]:
        for what in ("method", "bounds", "size"):
            if getattr(model, what) != getattr(first, what):
                raise ExportError(
                    f"{model.model_id} has {what} {getattr(model, what)}, {first.model_id} {getattr(first, what)}",
                    hint="compare models of the same checkpoints",
                )


def _torch(classifier: Path, gate: Path, model: SignedModel, images: Sequence[Image]) -> list[Scores]:
    network = classifier_of(load_checkpoint(classifier, "classifier"))
    return torch_scores(network, gate_of(load_checkpoint(gate, "gate")), model.method, images)


def _print(console: Console, reference: str, found: Sequence[Comparison]) -> None:
    accuracy = f"balanced accuracy {found[0].reference_accuracy:.4f}"
    table = Table(title=f"differences from {reference}, {accuracy}", title_justify="left")
    for column in ("what", "scans", "largest", "99th percentile", "flips", "of them in the band", "balanced accuracy"):
        table.add_column(column)
    for each in found:
        in_band = len(each.flips) - len(each.hard_flips)
        row = (each.name, each.scans, each.worst, each.p99, len(each.flips), in_band, f"{each.balanced_accuracy:.4f}")
        table.add_row(*map(str, row))
    console.print(table)
    for each in found:
        for flip in each.flips:
            console.print(f"{each.name}: {flip}")
        if each.loses_accuracy:
            console.print(f"{each.name}: loses {each.loss_points:.2f} points, allowed are {MAX_LOSS_POINTS}")


def _print_layers(console: Console, model: SignedModel, plainest: SignedModel, images: Sequence[Image]) -> None:
    for name in (CLASSIFIER_FILE, GATE_FILE):
        graphs = [onnx.load_from_string(each.contents[name]) for each in (model, plainest)]
        layers = worst_layers(graphs[0], graphs[1], images)
        listed = ", ".join(map(str, layers))
        console.print(f"{model.model_id} {model.precision}, {name}, layers that differ most: {listed}")
