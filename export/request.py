"""What a model is made of: what was asked for, and two checkpoints that belong together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from edge.records import Policy
from export.errors import ExportError
from export.precision import Precision
from export.storage import Storage
from train.checkpoint import Checkpoint, load_checkpoint


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What `edge-export model` is asked for."""

    classifier: Path
    gate: Path
    golden: Path
    """Folder of scans: two of them go into the model, and decisions on them may not change."""
    key: Path
    out: Path
    model_id: str
    precision: Precision = "fp32"
    """What the graphs compute in."""
    storage: Storage | None = None
    """How weights lie in the file of an fp32 model, None for int8."""
    calibrate: Path | None = None
    """Folder of scans, for int8 graphs."""
    review_band: tuple[float, float] | None = None
    """None for the one that `edge-train calibrate` found, if it did."""


@dataclass(frozen=True, slots=True)
class TrainedPair:
    """Two checkpoints that look at the same image, and what decides."""

    classifier: Checkpoint
    gate: Checkpoint
    policy: Policy


def storage_for(precision: Precision, storage: Storage | None) -> Storage:
    """How weights are stored: as asked for in an fp32 model, else in what computes. Raises ExportError."""
    if precision == "fp32":
        return storage or "int8"
    if storage is not None:
        raise ExportError(
            f"weights of an {precision} model are stored as {precision}, not as {storage}",
            hint="--weights-storage is for --precision fp32: it changes the file, not the arithmetic",
        )
    return precision


def load_pair(request: ExportRequest) -> TrainedPair:
    """Raises CheckpointError, and ExportError unless the two belong together."""
    classifier, gate = load_checkpoint(request.classifier, "classifier"), load_checkpoint(request.gate, "gate")
    check_pair(classifier, gate)
    policy = Policy(
        threshold=classifier.thresholds["threshold"],
        gate_mean_threshold=gate.thresholds["gate_mean_threshold"],
        gate_std_threshold=gate.thresholds["gate_std_threshold"],
        review_band=request.review_band or classifier.review_band,
    )
    return TrainedPair(classifier, gate, policy)


def check_pair(classifier: Checkpoint, gate: Checkpoint) -> None:
    """Raises ExportError unless both networks look at the same image and have their thresholds."""
    for what, of_classifier, of_gate in (
        ("conversion", classifier.method, gate.method),
        ("bounds", classifier.bounds, gate.bounds),
        ("size", tuple(classifier.size), tuple(gate.size)),
    ):
        if of_classifier != of_gate:
            raise ExportError(
                f"the classifier was trained with {what} {of_classifier}, the gate with {of_gate}",
                hint="one scan is converted once for both: train the gate after the classifier, into the same folder",
            )
    for checkpoint, names in ((classifier, ("threshold",)), (gate, ("gate_mean_threshold", "gate_std_threshold"))):
        for name in names:
            if not math.isfinite(checkpoint.thresholds.get(name, math.nan)):
                raise ExportError(
                    f"the {checkpoint.kind}'s {name} is {checkpoint.thresholds.get(name)}, expected a number",
                    hint=f"train the {checkpoint.kind} again with this release",
                )
